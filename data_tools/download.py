"""Fetch SA-1B, or any list of files: the TSV of links of the licence page to shards in a folder.

    python -m data_tools.download links.tsv --out /data/sa1b

Accept the licence at https://ai.meta.com/datasets/segment-anything-downloads and save the text
file with the links. Safe to stop and to run again at any time, also with a newer list: files that
are there are kept, parts are continued where they ended. Files that could not be had are listed
at the end and in failed.tsv, which is a list to run this command with; the exit status is then 1.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from data_tools import command
from data_tools.command import Answer
from data_tools.download_checks import read_checksums
from data_tools.download_fetch import Policy
from data_tools.download_links import Failure, read_links, select, write_failed
from data_tools.download_part import only_one
from data_tools.download_plan import checksums_fit
from data_tools.download_run import Downloader, Outcome, ways_out
from sam_train.errors import UserError
from sam_train.runtime.text import count

_SHOWN = 20
_EXAMPLES = """examples:
  python -m data_tools.download links.tsv --out /data/sa1b --only 0-9
  python -m data_tools.download links.tsv --out /data/sa1b --parallel 16
  python -m data_tools.download /data/sa1b/failed.tsv --out /data/sa1b
"""


def parser() -> argparse.ArgumentParser:
    """Make the command line's parser."""
    policy = Policy()
    p = command.parser("download", description=__doc__, examples=_EXAMPLES)
    p.add_argument("links", type=Path, help="TSV with the columns file_name and cdn_link")
    p.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the files")
    p.add_argument(
        "--only", metavar="WHICH", help="numbers of files (0-9,42) or a pattern ('sa_00000?.tar')"
    )
    p.add_argument(
        "--limit", type=command.between(1, sys.maxsize, int), metavar="N", help="the first N files"
    )
    p.add_argument(
        "--parallel", type=command.between(1, 256, int), default=8, metavar="N",
        help="files at once (%(default)s)",
    )  # fmt: skip
    p.add_argument(
        "--checksums", type=Path, metavar="FILE",
        help="lines of md5sum, sha1sum or sha256sum to verify by; Meta's list comes without",
    )  # fmt: skip
    p.add_argument(
        "--retries", type=command.between(0, 1000, int), default=policy.retries, metavar="N",
        help="tries in a row without progress that are forgiven (%(default)s)",
    )  # fmt: skip
    p.add_argument(
        "--stall-seconds", type=command.between(0.1, 86400, float), default=policy.stall_seconds,
        metavar="S", help="silence after which a connection is given up (%(default)g)",
    )  # fmt: skip
    p.add_argument(
        "--no-tar-check", action="store_true", help="do not walk the headers of each tar"
    )
    p.add_argument("--dry-run", action="store_true", help="print the plan and stop")
    return p


def download(args: argparse.Namespace) -> Answer:
    """Download as the command line says.

    Raises:
        UserError: the list, the folder or the space does not allow it, or the disk became full.
    """
    links = select(read_links(args.links), only=args.only, limit=args.limit)
    checksums = {}
    if args.checksums:
        checksums = read_checksums(args.checksums)
        checksums_fit(links, checksums, args.checksums)
    folder: Path = args.out
    policy = Policy(
        retries=args.retries, stall_seconds=args.stall_seconds, check_tars=not args.no_tar_check
    )

    def downloader() -> Downloader:
        return Downloader(folder, policy=policy, parallel=args.parallel, checksums=checksums)

    if args.dry_run:
        plan = downloader().plan(links)
        return Answer(f"{plan.table()}\n{plan.summary(folder)}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make {folder}: {error.strerror}; choose another --out") from None
    with only_one(folder):
        worker = downloader()
        plan = worker.plan(links)
        plan.require_space(folder)
        print(plan.summary(folder), file=sys.stderr, flush=True)
        outcome = worker.fetch(plan)
        return _answer(outcome, folder=folder, files=len(links))


def _answer(outcome: Outcome, *, folder: Path, files: int) -> Answer:
    failed = sorted(outcome.failed, key=lambda failure: failure[0].file_name)
    retry = write_failed(folder, [Failure(link, str(error)) for link, error in failed])
    lines: list[str] = []
    damaged = sorted((a for a in outcome.complete if a.note), key=lambda a: a.file_name)
    if damaged:
        lines.append(f"whole, but damaged on the server too ({count(len(damaged), 'tar')}):")
        lines += _first([f"  {a.file_name}  {a.note}" for a in damaged])
        lines.append("training takes what lies before the damage")
    if retry is None:
        lines.append(f"{folder}: all {count(files, 'file')} complete")
        return Answer("\n".join(lines))
    lines.append(f"{len(failed):,} of {count(files, 'file')} could not be had:")
    lines += _first([f"  {link.file_name}  {error}" for link, error in failed])
    lines.append(ways_out(failed, retry=retry, folder=folder))
    return Answer("\n".join(lines), status=command.FOUND_PROBLEMS)


def _first(lines: list[str]) -> list[str]:
    more = len(lines) - _SHOWN
    return lines if more <= 0 else [*lines[:_SHOWN], f"  and {more:,} more"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return 0, 1 where files are missing, 2 after an error the user can mend."""
    return command.run(
        lambda: download(parser().parse_args(argv)),
        stopped="stopped; what arrived is kept: run the same command again to go on",
    )


if __name__ == "__main__":
    sys.exit(main())
