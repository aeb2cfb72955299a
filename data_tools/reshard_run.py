"""Write the planned shards of one folder: in parallel, each once, and with a journal.

reshard.jsonl   what is being made, then a line for every shard that is finished
skipped.tsv     every sample and mask that was left out, and why
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from data_tools import command
from data_tools.convert_output import SKIPPED, write_tsv
from data_tools.convert_run import Tally
from data_tools.reshard_sample import Size, remake
from sam_train.data.left_out import Skip
from sam_train.data.shards.part import SamplePlace
from sam_train.data.shards.writer import TarEntry, shard_path, write_entries
from sam_train.errors import UserError
from sam_train.runtime.files import write_bytes
from sam_train.runtime.jobs import append_line, read_journal

JOURNAL = "reshard.jsonl"
UNREADABLE = "unreadable"
"""Reason of samples whose bytes could not be read: the next run tries their shard again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedShard:
    """A shard to be written."""

    number: int
    places: Sequence[SamplePlace]


@dataclass(slots=True, kw_only=True)
class Done:
    """A line of the journal: one shard that is finished."""

    number: int
    samples: int = 0
    masks: int = 0
    size: int = 0
    """Bytes of the tar; 0 if no sample was left for it."""
    skips: list[Skip] = field(default_factory=list)

    @property
    def is_final(self) -> bool:
        """Return whether another run would find the same."""
        return not any(skip.reason == UNREADABLE for skip in self.skips)


class _Header(msgspec.Struct):
    settings: dict[str, Any]
    digest: str


class Journal:
    """Shards that a folder already holds."""

    def __init__(self, out: Path, *, settings: dict[str, Any], digest: str) -> None:
        """Read the journal of an earlier run, or begin one.

        Raises:
            UserError: the folder holds something else, or the result of other settings.
        """
        self._path = out / JOURNAL
        self._out = out
        header = _Header(settings=settings, digest=digest)
        self.done: dict[int, Done] = {}
        if self._path.is_file():
            self._load(header)
        elif out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise UserError(f"{out} holds what this tool did not write; choose a new folder")
        out.mkdir(parents=True, exist_ok=True)
        # What a killed run was just writing.
        for left in out.glob(".sa_*.tar.*.part"):
            left.unlink()
        # Written anew: the last line may be half a line, and shards may have been deleted.
        lines = [msgspec.json.encode(header), *map(msgspec.json.encode, self.done.values())]
        content = b"".join(line + b"\n" for line in lines)
        write_bytes(self._path, content)

    def _load(self, header: _Header) -> None:
        with self._path.open("rb") as file:
            first = file.readline()
        try:
            found = msgspec.json.decode(first, type=_Header)
        except ValueError:
            raise UserError(
                f"{self._path} is damaged; remove {self._out} or choose another"
            ) from None
        if found != header:
            before, now = found.settings, header.settings
            changed = sorted(name for name in now if now[name] != before.get(name))
            what = f"another {', '.join(changed)}" if changed else "other input"
            raise UserError(
                f"{self._out} holds shards made with {what}; remove it or choose another folder"
            )
        # The header lacks a number, so it is passed over like an unfinished line.
        for done in read_journal(self._path, msgspec.json.Decoder(Done).decode):
            path = shard_path(self._out, done.number)
            size = path.stat().st_size if path.is_file() else 0
            if done.is_final and size == done.size:
                self.done[done.number] = done

    def add(self, done: Done) -> None:
        """Note a finished shard."""
        self.done[done.number] = done
        with self._path.open("a+b") as stream:
            append_line(stream, msgspec.json.encode(done))


def write_part(part: PlannedShard, *, out: Path, size: Size) -> Done:
    """Write one shard; what is wrong with a sample becomes a skip.

    Raises:
        OSError: the shard cannot be written.
    """
    done = Done(number=part.number)
    path = shard_path(out, part.number)
    stream = _entries(part, size=size, done=done)
    # Not begun before there is a sample for it: an empty tar is no shard.
    first = next(stream, None)
    if first is None:
        path.unlink(missing_ok=True)
        return done
    done.samples = write_entries(_chain(first, stream), path)
    done.size = path.stat().st_size
    return done


def _chain(first: TarEntry, rest: Iterator[TarEntry]) -> Iterator[TarEntry]:
    yield first
    yield from rest


def _entries(part: PlannedShard, *, size: Size, done: Done) -> Iterator[TarEntry]:
    seen: set[str] = set()
    for place in part.places:
        if place.key in seen:
            # Readers take one of two members of the same name.
            done.skips.append(Skip(kind="image", reason="duplicate name", name=place.name))
            continue
        try:
            entry = place.read()
        except OSError as error:
            name = f"{place.name} ({error})"
            done.skips.append(Skip(kind="image", reason=UNREADABLE, name=name))
            continue
        old = TarEntry(key=place.key, jpeg=entry.jpeg, json=entry.json)
        remade = remake(old, name=place.name, size=size)
        done.skips += remade.skips
        done.masks += remade.masks
        if remade.entry is not None:
            seen.add(place.key)
            yield remade.entry


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """Contents of a folder at the end."""

    tally: Tally
    shards: int
    kept: int
    """Shards that an earlier run had finished."""
    size: int
    """Bytes."""


def write_parts(
    parts: Iterator[PlannedShard],
    *,
    total: int,
    out: Path,
    journal: Journal,
    size: Size,
    workers: int,
) -> Written:
    """Write the shards that the journal lacks, then the list of what was left out.

    Args:
        parts: made as they are needed.
        total: their number.

    Raises:
        OSError: a shard cannot be written; those that are finished stay.
        UserError: a worker process died.
    """
    kept = len(journal.done)
    todo = (part for part in parts if part.number not in journal.done)
    work = partial(write_part, out=out, size=size)
    with command.progress(f"writing {out.name}", total=total, unit="shards") as bar:
        bar.reach(kept)
        for done in command.parallel(work, todo, workers=workers):
            journal.add(done)
            bar.advance()
    tally = Tally()
    ordered = [journal.done[number] for number in sorted(journal.done)]
    for done in ordered:
        tally.images += done.samples
        tally.masks += done.masks
        tally.skips += done.skips
    rows = [(skip.kind, skip.reason, skip.name) for skip in tally.skips]
    write_tsv(out / SKIPPED, ("kind", "reason", "name"), rows)
    return Written(
        tally=tally,
        shards=sum(done.size > 0 for done in ordered),
        kept=kept,
        size=sum(done.size for done in ordered),
    )


def require_space(out: Path, needed: float) -> None:
    """Refuse to begin what cannot fit.

    Raises:
        UserError: the disk has too little room.
    """
    folder = next(parent for parent in [out.absolute(), *out.absolute().parents] if parent.exists())
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"{out}: about {needed / 1e9:,.1f} GB are needed and {free / 1e9:,.1f} GB are free; "
            "choose another disk, a smaller --fraction or --long-side"
        )
