"""Note where every sample of many shards lies, so that training opens them at once.

The index is one file for all shards, about 20 bytes a sample. It is made from the headers of the
tars; photos and JSONs are not read. Run again, only new and changed shards are looked at, and what
a stopped run had finished is kept.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec

from data_tools import command
from sam_train.data.shards.index import (
    FILE_NAME,
    Index,
    ShardPart,
    build_index,
    compact,
    open_index,
)
from sam_train.data.shards.patterns import resolve
from sam_train.data.shards.walk import index_shard
from sam_train.data.storage.sources import Facts, is_remote, open_source, short_name
from sam_train.errors import UserError
from sam_train.runtime.files import write_atomically
from sam_train.runtime.text import count, one_line

log = logging.getLogger(__name__)

EXAMPLES = """examples:
  python -m data_tools.index /data/sa1b
  python -m data_tools.index 's3://bucket/sa1b/sa_*.tar' --out sa1b.bin --workers 32

Training finds sa_index.bin beside the shards; for another place say data.index=FILE. Walking a
remote shard takes about one small request a sample, so many --workers help."""

_ASKING = 16
"""Threads that ask for sizes and times."""
SAVE_EVERY = 60.0
"""Seconds after which what was walked is saved."""


@dataclass(slots=True, kw_only=True)
class _Plan:
    """The shards that are indexed already and those to be read, by path."""

    paths: list[str]
    kept: dict[str, ShardPart] = field(default_factory=dict)
    walk: dict[str, int] = field(default_factory=dict)
    """Sizes in bytes."""
    failed: dict[str, str] = field(default_factory=dict)
    """Why a shard is not in the index."""
    gone: int = 0
    """Shards that the old index had and this one will not."""


def _facts(path: str) -> Facts | str:
    try:
        return open_source(path).facts()
    except OSError as error:
        return str(error.strerror) if error.strerror else one_line(error)


def _walked(path: str) -> ShardPart | str:
    try:
        return compact(index_shard(path))
    except UserError as error:
        return str(error)


def _stored_name(path: str, folder: Path) -> str:
    """Name a shard as the index of `folder` does: it may move with what lies below it."""
    if is_remote(path):
        return path
    place = Path(os.path.abspath(path))  # noqa: PTH100 - links stay links
    return str(place.relative_to(folder) if place.is_relative_to(folder) else place)


def _default_out(paths: Sequence[str]) -> Path:
    folders = {Path(path).parent for path in paths if not is_remote(path)}
    if len(folders) != 1 or any(is_remote(path) for path in paths):
        raise UserError("these shards share no local folder: say where the index goes, --out FILE")
    return folders.pop() / FILE_NAME


def _plan(paths: list[str], old: Index | None, *, folder: Path) -> _Plan:
    plan = _Plan(paths=paths)
    known = {} if old is None else {row.name: shard for shard, row in enumerate(old.rows)}
    with ThreadPoolExecutor(_ASKING) as pool:
        answers = pool.map(_facts, paths)
        with command.progress("looking at shards", total=len(paths)) as bar:
            for path, facts in zip(paths, answers, strict=True):
                bar.advance()
                shard = known.get(_stored_name(path, folder))
                if isinstance(facts, str):
                    plan.failed[path] = facts
                elif old is None or shard is None or _facts_of(old, shard) != facts:
                    plan.walk[path] = facts.size
                else:
                    plan.kept[path] = old.part(shard)
    plan.gone = len(known.keys() - {_stored_name(path, folder) for path in paths})
    return plan


def _facts_of(old: Index, shard: int) -> Facts:
    return Facts(old.rows[shard].size, old.rows[shard].stamp)


def _opened(out: Path) -> Index | None:
    if not out.exists():
        return None
    try:
        return open_index(out)
    except UserError as error:
        log.warning("%s: it is made anew", error)
        return None


def _walk(plan: _Plan, save: Callable[[], object], *, workers: int) -> None:
    """Move every shard of `plan.walk` to `kept` or `failed`."""
    saved = time.monotonic()
    results = command.parallel(_walked, plan.walk, workers=workers)
    with command.progress("walking headers", total=len(plan.walk), unit="shards") as bar:
        try:
            for path, part in zip(plan.walk, results, strict=True):
                bar.advance()
                if isinstance(part, str):
                    plan.failed[path] = part
                    continue
                plan.kept[path] = part
                if time.monotonic() - saved > SAVE_EVERY:
                    save()
                    saved = time.monotonic()
        except KeyboardInterrupt:
            save()
            raise


def _write(plan: _Plan, out: Path) -> Index:
    folder = Path(os.path.abspath(out.parent))  # noqa: PTH100 - links stay links
    parts = [
        replace(part, row=msgspec.structs.replace(part.row, name=_stored_name(path, folder)))
        for path in plan.paths
        if (part := plan.kept.get(path)) is not None
    ]
    index = build_index(parts)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, index.write)
    return index


def _problems(plan: _Plan) -> list[str]:
    """Write a line about each shard that is not usable as a whole, and the lost ones."""
    lines = [f"not in the index: {path}: {reason}" for path, reason in plan.failed.items()]
    for path in plan.paths:
        part = plan.kept.get(path)
        if part is None:
            continue
        row = part.row
        problems = [row.damage] if row.damage else []
        problems += ["no complete sample"] if not row.samples else []
        problems += [f"{row.without_json:,} photos without JSON"] if row.without_json else []
        problems += [f"{row.without_jpeg:,} JSONs without photo"] if row.without_jpeg else []
        problems += [f"{row.others:,} other files"] if row.others else []
        if problems:
            lines.append(f"{short_name(path)}: {'; '.join(problems)}")
    if plan.gone:
        lines.append(f"{count(plan.gone, 'shard')} of the old index left out: not given")
    return lines


def index(args: argparse.Namespace) -> command.Answer:
    """Do what the arguments say.

    Raises:
        UserError: the patterns match nothing, or there is no place for the index.
    """
    paths = resolve(args.shards, option="SHARDS")
    out: Path = args.out or _default_out(paths)
    old = _opened(out)
    plan = _plan(paths, old, folder=Path(os.path.abspath(out.parent)))  # noqa: PTH100
    todo = f"{count(len(plan.walk), 'shard')} to walk, {len(plan.kept):,} unchanged"
    if args.dry_run:
        return _answer(plan, f"{todo}; dry run: {out} was not written")
    if not plan.walk and not plan.gone and not plan.failed and old is not None:
        return _answer(plan, f"{out} is up to date: {_size_of(old)}")
    unchanged = len(plan.kept)
    _walk(plan, lambda: _write(plan, out), workers=args.workers)
    if not plan.kept:
        raise UserError(f"no shard could be read; {' | '.join(_problems(plan)[:3])}")
    written = _write(plan, out)
    return _answer(
        plan, f"wrote {out}: {_size_of(written)}; {len(plan.kept) - unchanged:,} shards walked, "
        f"{unchanged:,} unchanged",
    )  # fmt: skip


def _size_of(made: Index) -> str:
    return f"{count(len(made.rows), 'shard')}, {count(len(made), 'sample')}"


def _answer(plan: _Plan, last: str) -> command.Answer:
    lines = _problems(plan)
    status = command.FOUND_PROBLEMS if plan.failed else 0
    return command.Answer("\n".join([*lines, last]), status=status)


def parser() -> argparse.ArgumentParser:
    """Make the command line's parser."""
    parser = command.parser("index", description=__doc__, examples=EXAMPLES)
    parser.add_argument(
        "shards", nargs="+", metavar="SHARDS",
        help="tars: paths, folders, globs, brace patterns, lists (.txt), URLs",
    )  # fmt: skip
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help=f"default: {FILE_NAME} beside the shards"
    )
    parser.add_argument("--dry-run", action="store_true", help="say what is to do, write nothing")
    command.add_workers(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status: 1 where a shard could not be read, see
    `command.run`."""
    return command.run(
        lambda: index(parser().parse_args(argv)),
        stopped="stopped; run it again, and it goes on from here",
    )


if __name__ == "__main__":
    sys.exit(main())
