"""The folder that a conversion leaves: complete or not there at all, and never made twice.

sa_000000.tar ...   the shards
photos.tsv          what was done to every photo: bands, stretch, missing values, transparency
sources.tsv         N of `sa_N` and the original name, because SA-1B's JSON has no room for it
skipped.tsv         every image and mask that was left out, and why
convert.json        the settings, a digest of the input files, and the counts
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_tools.convert_run import Tally
from sam_train.data.formats.records import Listing
from sam_train.data.left_out import Reason, Skip, reasons_of
from sam_train.data.photos.files import locate
from sam_train.data.photos.rule import Taken
from sam_train.errors import UserError
from sam_train.runtime.text import count

STAMP = "convert.json"
SOURCES = "sources.tsv"
SKIPPED = "skipped.tsv"
PHOTOS = "photos.tsv"
TILE_LISTS = ("tiles.tsv", "objects.tsv")
"""Written by data_tools.tile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """The content of the closing lines."""

    images: int
    masks: int
    reasons: list[Reason]
    photos: list[Reason]
    """The treatment of photos, as far as a person should know."""
    notes: list[str]
    """Sentences of the reader about the source."""

    @classmethod
    def of(cls, tally: Tally) -> Summary:
        """Sum up a finished run: most frequent reasons first, images before masks."""
        return cls(
            images=tally.images,
            masks=tally.masks,
            reasons=reasons_of(tally.skips),
            photos=reasons_of(
                Skip(kind="photo", reason=remark, name=name)
                for (_, name), taken in zip(tally.sources, tally.photos, strict=True)
                for remark in taken.remarks
            ),
            notes=list(tally.notes),
        )

    def lines(self) -> Iterator[str]:
        """Yield the notes, a line per reason with the first names, and the line with the counts."""
        yield from (f"note: {note}" for note in self.notes)
        yield from (reason.line("read") for reason in self.photos)
        yield from (reason.line("skipped") for reason in self.reasons)
        skipped = {"image": 0, "mask": 0}
        for reason in self.reasons:
            skipped[reason.kind] = skipped.get(reason.kind, 0) + reason.count
        counts = [count(n, kind) for kind, n in skipped.items()]
        # Commas before the last two: 2 images, 1 mask and 3 files.
        listed = " and ".join([", ".join(counts[:-1]), counts[-1]])
        yield (f"{count(self.images, 'image')}, {count(self.masks, 'mask')}; skipped {listed}")


def fingerprint(listing: Listing, settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings and a digest of the name, size and time of every input file."""
    digest = hashlib.sha256()
    paths = list(listing.inputs)
    for record in listing.records:
        digest.update(record.name.encode())
        paths += [record.image, *record.inputs()]
    # What is left out is in the lists beside the shards.
    for skip in listing.skips:
        digest.update(f"{skip.kind} {skip.reason} {skip.name}\n".encode(errors="surrogateescape"))
    for named in paths:
        path = locate(named).file
        state = path.stat() if path.is_file() else None
        seen = (state.st_size, state.st_mtime_ns) if state else None
        digest.update(f"{path.name} {seen}\n".encode())
    return {"settings": settings, "inputs": digest.hexdigest()}


def finished(out: Path, mark: dict[str, Any]) -> Summary | None:
    """Return the earlier run's summary if `out` already holds exactly this conversion."""
    try:
        stamp = json.loads((out / STAMP).read_text())
        if {key: stamp[key] for key in mark} != mark:
            return None
        return Summary(
            images=stamp["images"],
            masks=stamp["masks"],
            reasons=[Reason(**reason) for reason in stamp["skipped"]],
            photos=[Reason(kind="photo", **photo) for photo in stamp["photos"]],
            notes=[str(note) for note in stamp["notes"]],
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


@contextmanager
def replaced_folder(out: Path) -> Iterator[Path]:
    """Make an empty folder beside `out` that takes its place if the block succeeds.

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
    ours = {SOURCES, SKIPPED, PHOTOS, STAMP, *TILE_LISTS}
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
    write_photos(out / PHOTOS, tally.sources, tally.photos)
    rows = [(skip.kind, skip.reason, skip.name) for skip in tally.skips]
    write_tsv(out / SKIPPED, ("kind", "reason", "name"), rows)
    summary = Summary.of(tally)
    stamp = {
        **mark,
        "images": summary.images,
        "masks": summary.masks,
        "photos": [
            {"reason": p.reason, "count": p.count, "names": p.names} for p in summary.photos
        ],
        "notes": summary.notes,
        "skipped": [
            {"kind": r.kind, "reason": r.reason, "count": r.count, "names": r.names}
            for r in summary.reasons
        ],
    }
    (out / STAMP).write_text(json.dumps(stamp, indent=1) + "\n")


def write_photos(
    path: Path,
    sources: Sequence[tuple[int, str]],
    photos: Sequence[Taken],
    *,
    number: str = "image_id",
) -> None:
    """Write what was done to each photo; black and white stand for each band that is shown."""
    header = (number, "file_name", "stored", "bands", "black", "white", "nodata", "remarks")
    rows = [
        (
            *source,
            taken.stored,
            _numbers(taken.bands),
            _numbers(taken.low),
            _numbers(taken.high),
            _numbers(taken.nodata),
            "copied byte for byte" if taken.copied else "; ".join(taken.remarks),
        )
        for source, taken in zip(sources, photos, strict=True)
    ]
    write_tsv(path, header, rows)


def _numbers(values: Sequence[float]) -> str:
    return " ".join(f"{value:.9g}" for value in values)


def write_tsv(path: Path, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Write a table of one line a row, whatever characters names hold."""
    escapes = str.maketrans({"\t": "\\t", "\n": "\\n", "\r": "\\r"})
    with path.open("w", encoding="utf-8", errors="surrogateescape") as stream:
        for row in (header, *rows):
            stream.write("\t".join(str(cell).translate(escapes) for cell in row) + "\n")
