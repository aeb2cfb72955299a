"""Copy shards to a disk of this machine, and list them for `data.train=DIR/shards.txt`.

Run again, only what is missing or has another size is copied. The order of the list, and with it
the order in which training sees the samples, is that of the originals. The copies get an index of
their own: from that of the originals where there is one, or else by walking their headers once.
"""

from __future__ import annotations

import argparse
import logging
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence, Set
from concurrent.futures import CancelledError, ThreadPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path
from threading import Event

import msgspec

from data_tools import command
from sam_train.data.shards.index import FILE_NAME, Index, ShardPart, build_index, compact
from sam_train.data.shards.patterns import resolve
from sam_train.data.shards.reader import indexed
from sam_train.data.shards.unpacked import is_unpacked
from sam_train.data.shards.walk import index_shard
from sam_train.data.storage.sources import open_source, short_name
from sam_train.errors import UserError
from sam_train.runtime.files import atomic, write_atomically, write_bytes
from sam_train.runtime.text import count

log = logging.getLogger(__name__)

EXAMPLES = """examples:
  python -m data_tools.stage_in '/lustre/sa1b/sa_{000000..000019}.tar' --to /scratch/sa1b
  python -m sam_train fit +experiment=vit_b data.train=/scratch/sa1b/shards.txt ...

launch/slurm.sbatch does it on every node where STAGE_TO=/scratch/sa1b is set."""

LIST = "shards.txt"
_CHUNK = 1 << 24
_ASKING = 16
"""Threads that ask for sizes."""


def staged_names(paths: Sequence[str]) -> list[str]:
    """Name the copies: as the originals where that keeps their order, which is that of
    their whole paths; else with their number in front."""
    names = [short_name(path) for path in paths]
    if len(set(names)) == len(names) and names == sorted(names):
        return names
    return [f"{number:06d}-{name}" for number, name in enumerate(names)]


def stage_in(args: argparse.Namespace) -> str:
    """Do what the arguments say.

    Raises:
        UserError: no such shard, or no room.
        OSError: a shard cannot be read, or the folder cannot be written.
    """
    paths = resolve(args.shards, option="SHARDS")
    if folders := [path for path in paths if is_unpacked(path)]:
        raise UserError(
            f"{folders[0]} is a folder of photos and JSONs; pack it first: "
            f"`python -m data_tools.reshard {folders[0]} --out DIR`, and stage DIR"
        )
    folder: Path = args.to
    folder.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(_ASKING) as pool:
        sizes = list(pool.map(lambda path: open_source(path).size(), paths))
    places = [folder / name for name in staged_names(paths)]
    todo = [
        (path, place, size)
        for path, place, size in zip(paths, places, sizes, strict=True)
        if not (place.is_file() and place.stat().st_size == size)
    ]
    need = sum(size for _, _, size in todo)
    if need > (free := shutil.disk_usage(folder).free):
        raise UserError(
            f"{folder} has {free / 1e9:.1f} GB free, {need / 1e9:.1f} GB are to be copied: choose "
            "fewer shards or another --to"
        )
    with command.progress("copying", total=need, is_bytes=True) as bar:
        _copy_all(todo, bar.advance, parallel=args.parallel)
    lines = "".join(f"{place.name}\n" for place in places)
    write_bytes(folder / LIST, lines.encode())
    copies = {str(place): path for place, path in zip(places, paths, strict=True)}
    fresh = {str(place) for _, place, _ in todo}
    index = index_of_copies(copies, fresh=fresh, parallel=args.parallel)
    write_atomically(folder / FILE_NAME, index.write)
    return (
        f"{folder / LIST}: {count(len(paths), 'shard')}, {len(todo):,} copied "
        f"({need / 1e9:.1f} GB); {count(len(index), 'sample')} in {FILE_NAME}"
    )


def index_of_copies(copies: Mapping[str, str], *, fresh: Set[str], parallel: int) -> Index:
    """Without it every rank would walk the headers at every start.

    Args:
        copies: each copy's original.
        fresh: copies that were made just now, whatever an older index says.
    """
    known = _indexed([copy for copy in copies if copy not in fresh])
    originals = _indexed([path for copy, path in copies.items() if copy not in known])
    walk = [copy for copy, path in copies.items() if copy not in known and path not in originals]
    with ThreadPoolExecutor(parallel) as pool:
        walked = dict(
            zip(walk, pool.map(lambda copy: compact(index_shard(copy)), walk), strict=True)
        )
    parts = []
    for copy, path in copies.items():
        part = known.get(copy) or originals.get(path) or walked[copy]
        stamp = open_source(copy).facts().stamp
        row = msgspec.structs.replace(part.row, name=short_name(copy), stamp=stamp)
        parts.append(replace(part, row=row))
    return build_index(parts)


def _indexed(paths: Sequence[str]) -> dict[str, ShardPart]:
    try:
        return indexed(paths)
    except UserError as error:  # damaged: training would not begin with it
        log.warning("%s: not used", error)
        return {}


def _copy_all(
    todo: Sequence[tuple[str, Path, int]], advance: Callable[[float], None], *, parallel: int
) -> None:
    """Once a copy fails, or Ctrl-C comes, those under way are left and no other is begun: a shard
    is 10 GB, and the error would be said when the last of them is there."""
    ending = Event()

    def on(length: float) -> None:
        advance(length)
        if ending.is_set():
            raise CancelledError

    with ThreadPoolExecutor(parallel) as pool:
        try:
            for done in as_completed([pool.submit(_copy, *each, on) for each in todo]):
                done.result()
        except BaseException:
            ending.set()
            pool.shutdown(cancel_futures=True)
            raise


def _copy(path: str, place: Path, size: int, on: Callable[[float], None]) -> None:
    source = open_source(path)

    with atomic(place, durable=True) as unfinished, unfinished.open("wb") as stream:
        for offset in range(0, size, _CHUNK):
            length = min(_CHUNK, size - offset)
            stream.write(source.read(offset, length))
            on(length)


def parser() -> argparse.ArgumentParser:
    """Make the command line's parser."""
    parser = command.parser("stage_in", description=__doc__, examples=EXAMPLES)
    parser.add_argument(
        "shards", nargs="+", metavar="SHARDS",
        help="tars: paths, folders, globs, brace patterns, lists (.txt), URLs",
    )  # fmt: skip
    parser.add_argument("--to", type=Path, required=True, metavar="DIR", help="on a local disk")
    parser.add_argument(
        "--parallel", type=command.between(1, 64, int), default=4, metavar="N",
        help="shards at a time (default: %(default)s)",
    )  # fmt: skip
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status, see `command.run`."""
    return command.run(
        lambda: stage_in(parser().parse_args(argv)),
        stopped="stopped; run it again, and it goes on from here",
    )


if __name__ == "__main__":
    sys.exit(main())
