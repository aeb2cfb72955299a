"""Measure a data set: `python -m data_tools.stats SHARDS... --out DIR`.

Masks per image, relative mask sizes, concavity, centres (as the paper's Figs. 5 and 6), image
sizes and scores: stats.json and PNG plots. Shards are read once, in a stream, in parallel.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from data_tools import command
from data_tools.shard_scan import Kept, scan
from data_tools.stats_part import AXES, COUNTS, Axis, Quantity, Stats, begin_stats, examine_chunk
from data_tools.stats_plots import write_plots
from sam_train.data.shards.patterns import resolve
from sam_train.errors import UserError
from sam_train.runtime.files import write_json
from sam_train.runtime.text import count

REVISION = 1
"""Revision of the figures: parts kept by another one are not taken."""
PERCENTILES = (1, 5, 25, 50, 75, 95, 99)
EXAMPLES = """examples:
  python -m data_tools.stats 'data/sa1b/*.tar' --out stats
  python -m data_tools.stats 'data/sa1b/sa_{000000..000009}.tar' --out stats --workers 8

Finished shards are kept in OUT/parts/: a stopped run goes on where it was, and only shards that
changed are read again."""


def parser() -> argparse.ArgumentParser:
    """Make the command's options."""
    parser = command.parser("stats", description=__doc__, examples=EXAMPLES)
    parser.add_argument(
        "shards", nargs="+", metavar="SHARDS",
        help="paths, folders, globs, brace patterns, URLs or list files, as data.train takes them",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="for the results")
    parser.add_argument("--fresh", action="store_true", help="read shards of earlier runs again")
    parser.add_argument("--dry-run", action="store_true", help="say what would be read")
    command.add_workers(parser)
    return parser


def stats(args: argparse.Namespace) -> command.Answer:
    """Measure the shards that the arguments name, and write the figures.

    Raises:
        UserError: no shard matches, or none holds a usable sample.
    """
    paths = resolve(args.shards, option="SHARDS")
    if args.dry_run:
        return command.Answer(f"would read {count(len(paths), 'shard')}")
    total = measure(paths, workers=args.workers, parts=args.out / "parts", fresh=args.fresh)
    if not total.images:
        raise UserError(f"no usable sample in {count(len(paths), 'shard')}: try verify")
    summary = as_json(total, shards=len(paths))
    write_json(args.out / "stats.json", summary)
    plots = write_plots(total, args.out)
    lines = [*_lines(summary), f"{args.out}: stats.json, {', '.join(p.name for p in plots)}"]
    return command.Answer("\n".join(lines))


def measure(
    paths: Sequence[str], *, workers: int = 0, parts: Path | None = None, fresh: bool = False
) -> Stats:
    """Measure all shards together.

    Args:
        workers: processes beside this one; the result does not depend on it.
        parts: folder that keeps the figures of finished shards; None keeps nothing.
        fresh: do not take from `parts`, only write there.

    Raises:
        UserError: a process died.
    """
    settings = {"tool": "stats", "revision": REVISION}
    kept = Kept(parts, Stats, settings) if parts else None
    if kept and fresh:
        kept.clear()
    total = Stats()
    for _, part in scan(
        paths, begin=begin_stats, examine=examine_chunk, kept=kept, workers=workers,
        what="measuring",
    ):  # fmt: skip
        total.merge(part)
    return total


def as_json(total: Stats, *, shards: int) -> dict[str, Any]:
    """Return the content of stats.json."""
    return {
        "format": "sam_train stats 1",
        "shards": shards,
        **{name: getattr(total, name) for name in COUNTS},
        "masks_per_image": total.masks / max(total.images, 1),
        "quantities": {
            name: _describe(total.quantities[name], axis) for name, axis in AXES.items()
        },
        "centres": total.centres.tolist(),
    }


def _describe(quantity: Quantity, axis: Axis) -> dict[str, Any]:
    number = int(quantity.bins.sum())
    if not number:
        return {"count": 0}
    mean = quantity.total / number
    return {
        "count": number,
        "mean": mean,
        "std": math.sqrt(max(quantity.squares / number - mean * mean, 0.0)),
        "min": quantity.low,
        "max": quantity.high,
        "percentiles": {str(p): percentile(quantity, axis, p) for p in PERCENTILES},
        "histogram": {**asdict(axis), "counts": quantity.bins.tolist()},
    }


def percentile(quantity: Quantity, axis: Axis, percent: float) -> float:
    """Find a percentile, exact to the width of a bin (whole numbers: exact)."""
    below = np.cumsum(quantity.bins)
    rank = percent / 100 * below[-1]
    place = int(np.searchsorted(below, rank))
    inside = (
        0.5
        if axis.whole
        else (rank - (below[place] - quantity.bins[place])) / max(quantity.bins[place], 1)
    )
    value = axis.low + (place + inside) * (axis.high - axis.low) / axis.bins
    return float(min(max(value, quantity.low), quantity.high))


def _lines(summary: dict[str, Any]) -> list[str]:
    lines = [
        f"{count(summary['images'], 'image')}, {count(summary['masks'], 'mask')} "
        f"in {count(summary['shards'], 'shard')}"
    ]
    for name, found in summary["quantities"].items():
        if found["count"]:
            middle = found["percentiles"]["50"]
            lines.append(
                f"{name:>16}: mean {found['mean']:.4g}, median {middle:.4g}, "
                f"from {found['min']:.4g} to {found['max']:.4g}"
            )
    left_out = [
        count(summary[f"bad_{what}s"], f"bad {what}")
        for what in ("sample", "mask", "shard")
        if summary[f"bad_{what}s"]
    ]
    if left_out:
        lines.append(f"left out: {', '.join(left_out)} (`python -m data_tools.verify` says why)")
    return lines


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    return command.run(
        lambda: stats(parser().parse_args(argv)), stopped="stopped; run it again to go on"
    )


if __name__ == "__main__":
    sys.exit(main())
