"""Look at samples: `python -m data_tools.view SHARDS --out FILE.png`.

One photo with its masks (filled, outlined, numbered), or a contact sheet of photos that lie evenly
over the shards. A sample that cannot be read is a tile that says why.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from data_tools import command
from sam_train.data.sample.decode import BadSample
from sam_train.data.sample.draw import draw_entry
from sam_train.data.sample.sheet import Tile, arranged, tile_of
from sam_train.data.shards.reader import Shards, open_shards
from sam_train.errors import UserError
from sam_train.runtime.files import write_atomically
from sam_train.runtime.text import count

EXAMPLES = """examples:
  python -m data_tools.view data/sample/val --out sample.png
  python -m data_tools.view 'data/sa1b/*.tar' --key sa_12 --out sa_12.png
  python -m data_tools.view 'data/sa1b/*.tar' --sheet 24 --out sheet.png"""


def parser() -> argparse.ArgumentParser:
    """Make the command's options."""
    parser = command.parser("view", description=__doc__, examples=EXAMPLES)
    parser.add_argument(
        "shards", nargs="+", metavar="SHARDS",
        help="paths, folders, globs, brace patterns, URLs or list files, as data.train takes them",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, required=True, metavar="PNG", help="the picture")
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--key", metavar="KEY", help="the sample, as sa_12 or shard.tar/sa_12 (default: the first)"
    )
    which.add_argument(
        "--sheet", type=command.between(1, 400, int), metavar="N", help="a sheet of N samples"
    )
    parser.add_argument(
        "--side", type=command.between(32, 4096, int), metavar="PIXELS",
        help="longest side of a photo (default: 1024, on a sheet 256)",
    )  # fmt: skip
    parser.add_argument("--index", metavar="FILE", help="index of the shards, as data.index")
    parser.add_argument("--exclude", metavar="FILE", help="leave these out, as data.exclude")
    parser.add_argument("--dry-run", action="store_true", help="say what would be drawn")
    command.add_workers(parser)
    return parser


def view(args: argparse.Namespace) -> str:
    """Draw the samples that the arguments name.

    Raises:
        UserError: no such shard or key, or the one sample cannot be drawn.
    """
    shards = open_shards(args.shards, option="SHARDS", index=args.index, exclude=args.exclude)
    if args.sheet:
        number = min(args.sheet, len(shards))
        chosen = np.linspace(0, len(shards) - 1, number).round().astype(np.int64).tolist()
    else:
        chosen = [find_key(shards, args.key) if args.key else 0]
    what = count(len(chosen), "sample")
    if args.dry_run:
        return f"would draw {what} of {len(shards):,} to {args.out}"
    if args.sheet:
        workers = min(args.workers, len(chosen) // 8)
        picture = sheet(shards, chosen, side=args.side or 256, workers=workers)
    else:
        picture = single(shards, chosen[0], side=args.side or 1024)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(args.out, lambda stream: picture.save(stream, "PNG"))
    return f"{args.out}: {what}, {picture.width} x {picture.height} pixels"


def find_key(shards: Shards, key: str) -> int:
    """Find the sample called `sa_12` or `shard.tar/sa_12`.

    Raises:
        UserError: there is none.
    """
    for sample in range(len(shards)):
        name = shards.key(sample)
        if key in {name, name.rpartition(".tar/")[2], name.partition("/")[2]}:
            return sample
    raise UserError(
        f"no sample is called {key}; there are {len(shards):,}, from {shards.key(0)} "
        f"to {shards.key(len(shards) - 1)}"
    )


def single(shards: Shards, sample: int, *, side: int) -> Image.Image:
    """Draw the photo beside itself with its masks, and a caption.

    Raises:
        UserError: it cannot be drawn.
    """
    try:
        drawn = draw_entry(shards.read(sample), side=side, numbers=True)
    except (BadSample, OSError) as error:
        raise UserError(f"{shards.key(sample)} cannot be drawn: {error}") from None
    return arranged(
        [Tile(drawn.photo, shards.key(sample)), Tile(drawn.masks, drawn.caption)], columns=2
    )


def sheet(shards: Shards, samples: Sequence[int], *, side: int, workers: int = 0) -> Image.Image:
    """Draw the samples with their masks in rows."""
    draw = partial(tile_of, shards, side=side)
    tiles = []
    with command.progress("drawing", total=len(samples), unit="samples") as bar:
        for tile in command.parallel(draw, samples, workers=workers):
            tiles.append(tile)
            bar.advance()
    rows = max(round(math.sqrt(len(tiles) / 1.4)), 1)
    return arranged(tiles, columns=math.ceil(len(tiles) / rows))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    return command.run(lambda: view(parser().parse_args(argv)))


if __name__ == "__main__":
    sys.exit(main())
