"""`groups.tsv` beside shards: which photos show the same scene, patient or slide.

Two columns, `name` and `group`, separated by a tab. A name is a sample's (`sa_12`) or a shard's and
a sample's (`sa_000000.tar/sa_12`); a group is any text. Photos of one group are not independent, so
intervals resample groups. Equal text is the same group in every folder.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path

from sam_train.data.shards.reader import Shards
from sam_train.errors import UserError
from sam_train.runtime.files import write_text

NAME = "groups.tsv"
COLUMNS = ("name", "group")

_MAX_SIZE = 1 << 30
"""Bytes; the names of SA-1B take a fifth."""


def write_groups(folder: Path, groups: Mapping[str, str]) -> Path:
    """Write `folder/groups.tsv` atomically and return its path.

    Args:
        folder: of the shards; must exist.
        groups: sample name -> group, in the order in which the lines shall stand.

    Raises:
        ValueError: a name or a group is empty or holds a tab or a line break.
    """
    for text in (*groups, *groups.values()):
        if not text.strip() or any(mark in text for mark in "\t\n\r"):
            raise ValueError(f"{text!r} cannot stand in a cell of {NAME}")
    path = folder / NAME
    lines = ["\t".join(COLUMNS), *(f"{name}\t{group}" for name, group in groups.items())]
    write_text(path, "\n".join(lines) + "\n")
    return path


def read_groups(folder: Path) -> dict[str, str]:
    """Read `folder/groups.tsv`: sample name -> group, empty where there is no such file.

    Lines with an empty group are left out: such a photo counts alone. Endings `.jpg` and `.json`
    are taken off names.

    Raises:
        UserError: the file cannot be read, lacks a column, or gives a name two groups.
    """
    path = folder / NAME
    if not path.is_file():
        return {}
    try:
        if path.stat().st_size > _MAX_SIZE:
            raise UserError(f"{path} is too large for a list of samples and groups.")
        # Spreadsheets put a byte order mark in front, which would become part of the first column's
        # name.
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}); mend or remove it.") from None
    return parse_groups(text, where=str(path))


def groups_of(shards: Shards, *, samples: int) -> dict[int, str]:
    """Return the groups of the first samples of `shards`, from the files beside them.

    Where none names it, a slice belongs to its volume, a page to its stack, a tile to its photo.
    Shards on servers have no file: their photos count alone.

    Args:
        shards: of one or several folders.
        samples: how many of them are asked about.

    Returns:
        Sample number -> group, without those that no file names.

    Raises:
        UserError: as `read_groups`.
    """
    folders = [part.folder for part in shards.parts]
    files = {folder: read_groups(folder) for folder in set(folders) if folder is not None}
    found: dict[int, str] = {}
    places = zip(shards.parts, folders, shards.first[:-1], shards.first[1:], strict=True)
    for part, folder, first, end in places:
        named = files.get(folder) if folder is not None else None
        for sample in range(int(first), min(int(end), samples)) if part.has_groups else ():
            if (own := shards.group(sample)) is not None:
                found[sample] = own
        # Folders without a file cost nothing, whatever they hold.
        for sample in range(int(first), min(int(end), samples)) if named else ():
            key = shards.key(sample)
            # Of a data set of another format, keys are names of files, with their ending.
            stem = key.removesuffix(".jpg")
            # A name with its shard comes first: the same `sa_1` may lie in several shards.
            group = named.get(stem, named.get(stem.partition("/")[2])) if named else None
            if group is not None:
                found[sample] = group
    return found


def parse_groups(text: str, *, where: str) -> dict[str, str]:
    """Return what the text of a `groups.tsv` says; as `read_groups`.

    Args:
        text: the whole file.
        where: its path, for messages.
    """
    # No quoting: a group may be any text without a tab.
    rows = csv.reader(io.StringIO(text), delimiter="\t", quoting=csv.QUOTE_NONE)
    header = [cell.strip().lower() for cell in next(rows, [])]
    if any(header.count(column) != 1 for column in COLUMNS):
        raise UserError(
            f"{where}: the first line must name the columns `name` and `group`, with a tab "
            f"between them; it is {text.partition(chr(10))[0].strip()[:60]!r}"
        )
    name_at, group_at = (header.index(column) for column in COLUMNS)
    groups: dict[str, str] = {}
    for line, row in enumerate(rows, start=2):
        if not any(cell.strip() for cell in row):
            continue
        if len(row) <= max(name_at, group_at):
            raise UserError(f"{where}, line {line}: needs a name, a tab and a group")
        name, group = row[name_at].strip(), row[group_at].strip()
        # People copy names of files; samples have none of the two endings.
        name = name.removesuffix(".jpg").removesuffix(".json")
        if group and groups.setdefault(name, group) != group:
            raise UserError(
                f"{where}, line {line}: {name} is in group {groups[name]!r} already; "
                "give each name one group"
            )
    return groups
