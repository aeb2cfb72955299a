"""Other shards from SA-1B shards: smaller ones, smaller photos, a subset, a validation part.

Names, ids and scores stay. Which samples a fraction means is the rule of `data_tools.subset`; the
validation images are those from the other end of it, so the two folders never share one. A run
that was stopped goes on where it was: finished shards are kept, nothing is made twice.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_tools import command
from data_tools.convert_output import Summary
from data_tools.reshard_plan import Chosen, Split, choose, cut, shrinkage
from data_tools.reshard_run import Journal, PlannedShard, require_space, write_parts
from data_tools.reshard_sample import QUALITY, Size
from data_tools.subset import Rule, read_names
from sam_train.data.shards.groups_file import write_groups
from sam_train.data.shards.reader import Shards, open_shards
from sam_train.data.shards.writer import SHARD_NAME
from sam_train.errors import UserError
from sam_train.runtime.text import count

EXAMPLES = """examples:
  python -m data_tools.reshard 'sa1b/*.tar' --long-side 1024 --out sa1b_1024
  python -m data_tools.reshard 'sa1b/*.tar' --fraction 0.01 --shard-size 1000 --out sa1b_1pc
  python -m data_tools.reshard 'sa1b/*.tar' --out train --val-fraction 0.002 --val-out val
  python -m data_tools.reshard 'sa1b/*.tar' --ids lists/subset_0.01.txt --out sa1b_1pc"""

SAMPLES_PER_SHARD = 1000
MB = 1_000_000
NAMES_SHOWN = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class _Folder:
    """An output folder."""

    name: str
    out: Path
    split: Split


def reshard(args: argparse.Namespace) -> command.Answer:
    """Write the shards that the arguments ask for; returns the closing lines.

    Raises:
        UserError: a path or option is wrong, or the disk is too small.
    """
    if bool(args.val_fraction) != (args.val_out is not None):
        raise UserError("--val-fraction and --val-out need each other")
    if args.val_out is not None and args.val_out.resolve() == args.out.resolve():
        raise UserError("--val-out must be another folder than --out")
    ids = None if args.ids is None else read_names(args.ids, option="--ids")
    rule = Rule(fraction=args.fraction, val_fraction=args.val_fraction)
    shards = open_shards(args.shards, option="SHARDS", index=args.index, exclude=args.exclude)
    chosen = choose(shards, rule, ids=ids)
    folders = [_Folder(name="train", out=args.out, split=chosen.train)]
    if args.val_out is not None:
        folders.append(_Folder(name="val", out=args.val_out, split=chosen.val))
    if not any(len(folder.split.samples) for folder in folders):
        raise UserError(f"none of the {len(shards):,} samples was chosen")
    lines = [_missing(chosen)] if chosen.missing else []
    status = 0
    for folder in folders:
        lines += (
            _write(folder, shards, args, groups=chosen.groups)
            if not args.dry_run
            else [_planned(folder, shards, args)]
        )
        status |= any(line.startswith("skipped") for line in lines)
    if args.dry_run:
        lines.append("dry run: nothing was written")
    return command.Answer("\n".join(lines), status=command.FOUND_PROBLEMS if status else 0)


def _missing(chosen: Chosen) -> str:
    names = chosen.missing
    more = f"; and {len(names) - NAMES_SHOWN:,} more" if len(names) > NAMES_SHOWN else ""
    return (
        f"not in these shards: {count(len(names), 'name')} of --ids: "
        f"{'; '.join(names[:NAMES_SHOWN])}{more}"
    )


def _size(args: argparse.Namespace) -> Size:
    return Size(long_side=args.long_side, quality=args.quality)


def _cut(folder: _Folder, args: argparse.Namespace, *, ratio: float) -> list[range]:
    if args.shard_size is not None:
        return cut(folder.split.sizes, size=args.shard_size * MB / ratio)
    return cut(folder.split.sizes, samples=args.samples_per_shard)


def _planned(folder: _Folder, shards: Shards, args: argparse.Namespace) -> str:
    ratio = shrinkage(shards, folder.split, _size(args))
    parts = _cut(folder, args, ratio=ratio)
    gigabytes = int(folder.split.sizes.sum()) * ratio / 1e9
    return (
        f"{folder.name}: {count(len(folder.split.samples), 'sample')} in "
        f"{count(len(parts), 'shard')}, about {gigabytes:,.3g} GB, to {folder.out}"
    )


def _write(
    folder: _Folder, shards: Shards, args: argparse.Namespace, *, groups: Mapping[int, str]
) -> list[str]:
    split, size = folder.split, _size(args)
    settings: dict[str, Any] = {
        "--long-side": args.long_side,
        "--quality": args.quality,
        "--shard-size": args.shard_size,
        "--samples-per-shard": args.samples_per_shard,
    }
    journal = Journal(folder.out, settings=settings, digest=split.digest)
    ratio = shrinkage(shards, split, size)
    ranges = _cut(folder, args, ratio=ratio)
    todo = [span for number, span in enumerate(ranges) if number not in journal.done]
    require_space(folder.out, sum(int(split.sizes[s.start : s.stop].sum()) for s in todo) * ratio)

    def parts() -> Iterator[PlannedShard]:
        for number, span in enumerate(ranges):
            if number not in journal.done:
                samples = split.samples[span.start : span.stop].tolist()
                yield PlannedShard(
                    number=number, places=[shards.place(sample) for sample in samples]
                )

    written = write_parts(
        parts(), total=len(ranges), out=folder.out, journal=journal, size=size, workers=args.workers
    )
    if kept_groups := _groups(split, ranges, shards, groups):
        write_groups(folder.out, kept_groups)
    *reasons, counts = Summary.of(written.tally).lines()
    kept = f" ({written.kept:,} were there already)" if written.kept else ""
    return [
        *reasons,
        f"{folder.name}: {counts}",
        f"{count(written.shards, 'shard')}{kept}, {written.size / 1e9:,.3g} GB, in {folder.out}",
    ]


def _groups(
    split: Split, ranges: Sequence[range], shards: Shards, groups: Mapping[int, str]
) -> dict[str, str]:
    """Return the lines of the new folder's `groups.tsv`; with the new shard's name, because names
    of several folders may be the same."""
    return {
        f"{SHARD_NAME.format(number)}/{shards.place(sample).key}": groups[sample]
        for number, span in enumerate(ranges)
        for sample in split.samples[span.start : span.stop].tolist()
        if sample in groups
    }


def parser() -> argparse.ArgumentParser:
    """Make the command's options."""
    parser = command.parser("reshard", description=__doc__, examples=EXAMPLES)
    whole = command.between(1, sys.maxsize, int)
    part = command.between(0, 1, float)
    add = parser.add_argument
    add("shards", nargs="+", metavar="SHARDS", help="tars, folders, globs, lists or URLs")
    add("--out", type=Path, required=True, metavar="DIR", help="for the shards")
    add("--index", metavar="FILE", help="of data_tools.index, if it is not beside the shards")
    add("--exclude", metavar="FILE", help="samples to leave out, as data.exclude")
    size = parser.add_mutually_exclusive_group()
    size.add_argument(
        "--samples-per-shard", type=whole, default=SAMPLES_PER_SHARD, metavar="N",
        help="samples per tar (default: %(default)s)",
    )  # fmt: skip
    size.add_argument(
        "--shard-size", type=command.between(0.001, sys.maxsize, float), metavar="MB",
        help="megabytes per tar, about, instead",
    )  # fmt: skip
    add(
        "--long-side", type=command.between(16, 4096, int), metavar="PIXELS",
        help="make larger photos this large, with their masks (default: they stay as they are)",
    )  # fmt: skip
    add(
        "--quality", type=command.between(1, 100, int), default=QUALITY, metavar="Q",
        help="of JPEGs made smaller (default: %(default)s)",
    )  # fmt: skip
    add("--fraction", type=part, default=1.0, metavar="F", help="by the rule of data_tools.subset")
    add("--ids", type=Path, metavar="FILE", help="only the samples of a list, a name a line")
    add("--val-fraction", type=part, default=0.0, metavar="F", help="of all samples, never trained")
    add("--val-out", type=Path, metavar="DIR", help="for the validation shards")
    add("--dry-run", action="store_true", help="plan and estimate only, write nothing")
    command.add_workers(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0, 1 if something was left out, 2 for an error
    that the user must mend."""
    return command.run(
        lambda: reshard(parser().parse_args(argv)),
        stopped="stopped; the same command goes on with the shards that are missing",
    )


if __name__ == "__main__":
    raise SystemExit(main())
