"""Check every sample of every shard: `python -m data_tools.verify SHARDS...`.

Pairs, the photo (header, or all of it with --decode), the JSON field for field, every mask's RLE
against size, area and bbox, and repeats. What is damaged is reported, and the rest goes on.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from data_tools import command
from data_tools.shard_scan import Kept, scan
from data_tools.verify_checks import KINDS
from data_tools.verify_report import (
    ShardReport,
    as_json,
    begin_report,
    examine_chunk,
    exclusions,
    find_repeats,
    repeated_shard_names,
    totals,
)
from sam_train.data.shards.patterns import resolve
from sam_train.errors import UserError
from sam_train.runtime.files import write_bytes, write_json
from sam_train.runtime.text import count

REVISION = 1
"""Revision of the checks: parts kept by another one are not taken."""
EXAMPLES = """examples:
  python -m data_tools.verify 'data/sa1b/*.tar' --report report.json --exclude exclude.txt
  python -m data_tools.verify data/sample/val --decode
  sam_train fit ... data.exclude=exclude.txt

With --report, finished shards are kept in REPORT.parts/: a stopped run goes on where it was, and
only shards that changed are checked again. Exit status: 0 nothing found, 1 problems, 2 an error."""


def parser() -> argparse.ArgumentParser:
    """Make the command's options."""
    parser = command.parser("verify", description=__doc__, examples=EXAMPLES)
    parser.add_argument(
        "shards", nargs="+", metavar="SHARDS",
        help="paths, folders, globs, brace patterns, URLs or list files, as data.train takes them",
    )  # fmt: skip
    parser.add_argument("--decode", action="store_true", help="decode every photo completely")
    parser.add_argument("--report", type=Path, metavar="JSON", help="write a full report")
    parser.add_argument(
        "--exclude", type=Path, metavar="TXT", help="write what training should leave out"
    )
    parser.add_argument("--fresh", action="store_true", help="check shards of earlier runs again")
    parser.add_argument("--dry-run", action="store_true", help="say what would be checked")
    command.add_workers(parser)
    return parser


def verify(args: argparse.Namespace) -> command.Answer:
    """Check the shards that the arguments name.

    Raises:
        UserError: no shard matches, or two shards of one name are to share an exclusion list.
    """
    paths = resolve(args.shards, option="SHARDS")
    repeated = repeated_shard_names(paths)
    if repeated and (args.report or args.exclude):
        raise UserError(
            f"several shards are named {repeated[0]}: an exclusion list could not tell them "
            "apart; verify each folder on its own"
        )
    if args.dry_run:
        return command.Answer(f"would check {count(len(paths), 'shard')}")
    reports = verify_shards(
        paths,
        decode=args.decode,
        workers=args.workers,
        parts=args.report and args.report.with_name(f"{args.report.name}.parts"),
        fresh=args.fresh,
    )
    lines = summary(reports)
    if args.report:
        write_json(args.report, as_json(reports, decoded=args.decode))
        lines.append(f"report: {args.report}")
    if args.exclude:
        text = "".join(f"{line}\n" for line in exclusions(reports)).encode("utf-8", "replace")
        args.exclude.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(args.exclude, text)
        lines.append(f"train without them: data.exclude={args.exclude}")
    found = any(report.findings for report in reports)
    return command.Answer("\n".join(lines), command.FOUND_PROBLEMS if found else 0)


def verify_shards(
    paths: Sequence[str],
    *,
    decode: bool = False,
    workers: int = 0,
    parts: Path | None = None,
    fresh: bool = False,
) -> list[ShardReport]:
    """Check shards; one report each, in their order.

    Args:
        decode: decode the photos completely.
        workers: processes beside this one; the result does not depend on it.
        parts: folder that keeps what was found in finished shards; None keeps nothing.
        fresh: do not take from `parts`, only write there.

    Raises:
        UserError: a process died.
    """
    settings = {"tool": "verify", "revision": REVISION, "decode": decode}
    kept = Kept(parts, ShardReport, settings) if parts else None
    if kept and fresh:
        kept.clear()
    stream = scan(
        paths,
        begin=begin_report,
        examine=partial(examine_chunk, decode=decode),
        kept=kept,
        workers=workers,
        what="verifying",
    )
    reports = [report for _, report in stream]
    find_repeats(reports)
    return reports


def summary(reports: list[ShardReport]) -> list[str]:
    """Summarise the findings: a line per kind of problem with its first example, and the counts."""
    lines = []
    for kind, finding in totals(reports).items():
        of = f" in {count(finding.samples, 'sample')}" if finding.samples else ""
        lines.append(f"{kind}: {finding.count:,}{of}: {KINDS[kind].what}")
        lines.append(f"    {finding.examples[0]}")
    samples = sum(len(report.keys) for report in reports)
    masks = sum(report.masks for report in reports)
    unusable = sum(len(report.unusable) for report in reports)
    verdict = f"{count(unusable, 'sample')} to exclude" if lines else "nothing wrong was found"
    lines.append(
        f"{count(len(reports), 'shard')}, {count(samples, 'sample')}, "
        f"{count(masks, 'mask')}: {verdict}"
    )
    return lines


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0 clean, 1 problems, 2 user error."""
    return command.run(
        lambda: verify(parser().parse_args(argv)),
        stopped="stopped; with --report, run again to go on with the next shard",
    )


if __name__ == "__main__":
    sys.exit(main())
