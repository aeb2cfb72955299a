"""Cut large photos with masks into tiles, as SA-1B shards: `python -m data_tools.tile KIND ...`.

Takes every kind of source that data_tools.convert takes, and photos without masks. A tile without a
mask is left out and counted; an object on a tile's border is cut there, and whole in a neighbour if
it is no larger than the overlap."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_tools import command
from data_tools.convert import add_kinds, common_options, complete_listing
from data_tools.convert_output import fingerprint, replaced_folder
from data_tools.photo_options import photo_rule
from data_tools.tiles.cut import TileConfig, TileTally, cut_scenes
from data_tools.tiles.output import closing_lines, finished_lines, write_tile_lists
from data_tools.tiles.split import validation_scenes
from sam_train.data.formats.records import Listing, MasksRead, Record, list_images, require_folder
from sam_train.data.shards.writer import ShardSample, write_shards
from sam_train.errors import UserError
from sam_train.runtime.text import count

EXAMPLES = """examples:
  python -m data_tools.tile masks --images ortho --masks labels --out tiles --size 1024
  python -m data_tools.tile coco --images ortho --annotations a.json --out tiles --split val=0.1
  python -m data_tools.tile photos --images ortho --out tiles  # no masks yet: for generate.input

With --split, the shards lie in OUT/train and OUT/val; all tiles of a scene in one of them.
tiles.tsv says where each tile lies in its scene and, of a GeoTIFF, on Earth; objects.tsv, which
object each mask is a part of."""

NOT_IN_THE_RESULT = ("list", "out", "dry_run", "workers")
MIN_SIZE = 16


def parser() -> argparse.ArgumentParser:
    """Make the parser of the command line."""
    parser = command.parser("tile", description=__doc__, examples=EXAMPLES)
    default = TileConfig()
    common = common_options()
    group = common.add_argument_group("tiles")
    group.add_argument(
        "--size", type=command.between(MIN_SIZE, 65_535, int), default=default.size, metavar="N",
        help="pixels of a tile's side (default: %(default)s)",
    )  # fmt: skip
    group.add_argument(
        "--overlap", type=command.between(0, 65_534, int), metavar="N",
        help="pixels that neighbours share; larger objects may be whole in no tile "
        "(default: an eighth of --size)",
    )  # fmt: skip
    group.add_argument(
        "--min-visible", type=command.between(0, 1, float), default=default.min_visible,
        metavar="SHARE",
        help="leave out the part of an object in a tile if it is less than this share of the "
        "object and of the tile (default: %(default)s)",
    )  # fmt: skip
    group.add_argument(
        "--split", metavar="val=SHARE|FILE",
        help="validation scenes, by share or by a file with a name a line",
    )  # fmt: skip
    kinds = add_kinds(parser, common)
    photos = kinds.add_parser("photos", parents=[common], help="photos without masks")
    photos.set_defaults(list=lambda a: list_unmasked(a.images))
    return parser


@dataclass(frozen=True, slots=True, kw_only=True)
class UnmaskedRecord(Record):
    """A photo without masks."""

    def masks(self) -> MasksRead:
        """Return none."""
        return MasksRead()


def list_unmasked(images: Path) -> Listing:
    """List the photos below a folder.

    Raises:
        UserError: it is missing.
    """
    require_folder(images, "--images")
    return Listing(
        records=[
            UnmaskedRecord(name=path.relative_to(images).as_posix(), image=path)
            for path in list_images(images)
        ]
    )


def tile(args: argparse.Namespace) -> str:
    """Cut as the arguments say and return what to print.

    Raises:
        UserError: as `Format.list`; options that do not go together; nothing could be cut.
    """
    config = _config(args)
    listing = complete_listing(args)
    listing.records = listing.records[: args.limit]
    settings = {k: str(v) for k, v in sorted(vars(args).items()) if k not in NOT_IN_THE_RESULT}
    if args.split is None:
        return _write(listing, config, settings, args, args.out)
    chosen = validation_scenes(args.split, listing.records)
    answers = []
    for side in ("train", "val"):
        part = copy(listing)
        part.records = [r for r in listing.records if (r.name in chosen) == (side == "val")]
        # What the reader left out is counted once.
        part.skips = listing.skips if side == "train" else []
        answers.append(_write(part, config, {**settings, "side": side}, args, args.out / side))
    return "\n".join(answers)


def _config(args: argparse.Namespace) -> TileConfig:
    overlap = args.size // 8 if args.overlap is None else args.overlap
    if overlap >= args.size:
        raise UserError(f"--overlap {overlap} must be below --size {args.size}")
    return TileConfig(
        size=args.size,
        overlap=overlap,
        min_visible=args.min_visible,
        min_area=args.min_area,
        jpeg_quality=args.jpeg_quality,
        photos=photo_rule(args),
        keeps_empty=args.kind == "photos",
        threads=max(1, args.workers),
    )


def _write(
    listing: Listing,
    config: TileConfig,
    settings: dict[str, str],
    args: argparse.Namespace,
    out: Path,
) -> str:
    """Cut the scenes of one folder of shards; returns what to print."""
    mark: dict[str, Any] = fingerprint(listing, settings)
    if not args.dry_run and (earlier := finished_lines(out, mark)) is not None:
        return "\n".join([*earlier, f"{out} has them already: nothing to do"])
    tally = TileTally(skips=list(listing.skips))
    stream = _with_progress(cut_scenes(listing.records, config, tally), tally, listing)
    if args.dry_run:
        for _ in stream:
            pass
        return "\n".join([*closing_lines(tally, config), "dry run: nothing was written"])
    with replaced_folder(out) as folder:
        shards = write_shards(stream, folder, samples_per_shard=args.shard_size)
        if not shards:
            raise UserError(" | ".join(["nothing to cut", *closing_lines(tally, config)]))
        lines = write_tile_lists(folder, tally, config, mark)
    return "\n".join([*lines, f"wrote {count(len(shards), 'shard')} to {out}"])


def _with_progress(
    stream: Iterator[ShardSample], tally: TileTally, listing: Listing
) -> Iterator[ShardSample]:
    with command.progress("cutting", total=len(listing.records), unit="scenes") as bar:
        for sample in stream:
            bar.reach(len(tally.scenes) - 1, note=f"scenes, {len(tally.tiles):,} tiles")
            yield sample
        bar.reach(len(listing.records))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status: 0, or 2 for what the user must mend."""
    return command.run(
        lambda: tile(parser().parse_args(argv)), stopped="stopped; nothing was left behind"
    )


if __name__ == "__main__":
    sys.exit(main())
