"""The folder a conversion leaves: complete or not there at all, and never made twice.

sa_000000.tar ...   the shards
sources.tsv         N of `sa_N` and the original name, because SA-1B's JSON has no room for it
skipped.tsv         every image and mask that was left out, and why
convert.json        the settings, a digest of the input files, and the counts
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_tools import command
from data_tools.convert_run import Tally
from data_tools.readers.records import Listing
from sam_train.errors import UserError

STAMP = "convert.json"
SOURCES = "sources.tsv"
SKIPPED = "skipped.tsv"
NAMES_SHOWN = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """How many were left out for one reason."""

    kind: str
    reason: str
    count: int
    names: list[str]
    """The first few."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What the closing lines say."""

    images: int
    masks: int
    reasons: list[Reason]
    notes: list[str]
    """What the reader has to say about the source."""

    @classmethod
    def of(cls, tally: Tally) -> Summary:
        """The summary of a finished run, most frequent reasons first, images before masks."""
        counts = Counter((skip.kind, skip.reason) for skip in tally.skips)
        reasons = []
        for (kind, reason), count in sorted(counts.items(), key=lambda x: (x[0][0], -x[1], x[0])):
            names = (s.name for s in tally.skips if (s.kind, s.reason) == (kind, reason))
            shown = [name for name, _ in zip(names, range(NAMES_SHOWN), strict=False)]
            reasons.append(Reason(kind=kind, reason=reason, count=count, names=shown))
        return cls(images=tally.images, masks=tally.masks, reasons=reasons, notes=list(tally.notes))

    def lines(self) -> Iterator[str]:
        """The notes, one line per reason with the first names, then the line with the counts."""
        yield from (f"note: {note}" for note in self.notes)
        for reason in self.reasons:
            rest = reason.count - len(reason.names)
            more = f"; and {rest} more" if rest else ""
            yield (
                f"skipped {command.count(reason.count, reason.kind)}, {reason.reason}: "
                f"{'; '.join(reason.names)}{more}"
            )
        skipped = Counter({"image": 0, "mask": 0})
        for reason in self.reasons:
            skipped[reason.kind] += reason.count
        parts = [command.count(n, kind) for kind, n in skipped.items()]
        listed = " and ".join([", ".join(parts[:-1]), parts[-1]])
        yield (
            f"{command.count(self.images, 'image')}, {command.count(self.masks, 'mask')}; "
            f"skipped {listed}"
        )


def fingerprint(listing: Listing, settings: dict[str, Any]) -> dict[str, Any]:
    """The settings and a digest of the name, size and time of every input file."""
    digest = hashlib.sha256()
    paths = list(listing.inputs)
    for record in listing.records:
        digest.update(record.name.encode())
        paths += [record.image, *record.inputs()]
    # What is left out is in the lists beside the shards.
    for skip in listing.skips:
        digest.update(f"{skip.kind} {skip.reason} {skip.name}\n".encode(errors="surrogateescape"))
    for path in paths:
        state = path.stat() if path.is_file() else None
        seen = (state.st_size, state.st_mtime_ns) if state else None
        digest.update(f"{path.name} {seen}\n".encode())
    return {"settings": settings, "inputs": digest.hexdigest()}


def finished(out: Path, mark: dict[str, Any]) -> Summary | None:
    """The summary of the earlier run if `out` already holds exactly this conversion."""
    try:
        stamp = json.loads((out / STAMP).read_text())
        if {key: stamp[key] for key in mark} != mark:
            return None
        return Summary(
            images=stamp["images"],
            masks=stamp["masks"],
            reasons=[Reason(**reason) for reason in stamp["skipped"]],
            notes=[str(note) for note in stamp["notes"]],
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


@contextmanager
def replaced_folder(out: Path) -> Iterator[Path]:
    """An empty folder beside `out` that takes its place if the block succeeds.

    Raises:
        UserError: `out` holds files that no conversion wrote, or nothing can be written there.
    """
    if out.exists():
        _require_ours(out)
    # Absolute, so that `--out .` has a name too.
    out = out.absolute()
    work = out.with_name(f".{out.name}.partial")
    old = out.with_name(f".{out.name}.old")
    try:
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        yield work
        shutil.rmtree(old, ignore_errors=True)
        if out.exists():
            out.rename(old)
        work.rename(out)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise UserError(f"--out: cannot write {out}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _require_ours(out: Path) -> None:
    if not out.is_dir():
        raise UserError(f"--out: {out} is a file, not a folder")
    ours = {SOURCES, SKIPPED, STAMP}
    for path in sorted(out.iterdir()):
        is_ours = path.name in ours or path.match("sa_[0-9]*.tar")
        if not is_ours or not (out / STAMP).is_file():
            raise UserError(
                f"--out: {out} holds {path.name}, which no conversion wrote; "
                "choose a new or empty folder"
            )


def write_lists(out: Path, tally: Tally, mark: dict[str, Any]) -> None:
    """Write everything beside the shards; the stamp last."""
    write_tsv(out / SOURCES, ("image_id", "file_name"), tally.sources)
    rows = [(skip.kind, skip.reason, skip.name) for skip in tally.skips]
    write_tsv(out / SKIPPED, ("kind", "reason", "name"), rows)
    summary = Summary.of(tally)
    stamp = {
        **mark,
        "images": summary.images,
        "masks": summary.masks,
        "notes": summary.notes,
        "skipped": [
            {"kind": r.kind, "reason": r.reason, "count": r.count, "names": r.names}
            for r in summary.reasons
        ],
    }
    (out / STAMP).write_text(json.dumps(stamp, indent=1) + "\n")


def write_tsv(path: Path, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Write a table of one line a row, whatever characters names hold."""
    escapes = str.maketrans({"\t": "\\t", "\n": "\\n", "\r": "\\r"})
    with path.open("w", encoding="utf-8", errors="surrogateescape") as stream:
        for row in (header, *rows):
            stream.write("\t".join(str(cell).translate(escapes) for cell in row) + "\n")
