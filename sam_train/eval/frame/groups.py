"""A table that says which masks belong to which groups, from a CSV."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from sam_train.errors import UserError
from sam_train.runtime.fingerprint import text_fingerprint

IMAGE, MASK, DATASET = "image", "mask", "dataset"
MAX_GROUPS = 50
"""Values of one column; more are no groups but names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """A row of the table."""

    dataset: str
    """"" means any."""
    mask: str
    """The mask's name or its last word (an annotation's id, a label's value); "" means every mask
    of the image."""
    groups: dict[str, str]
    """Attribute -> group; without those that the row leaves empty."""

    def means(self, mask: str) -> bool:
        """Tell whether the row is about this mask of its image."""
        # Names may end in a number ("mask 7", "a.png: label 7"), which a table may give alone.
        return self.mask in ("", mask, mask.rpartition(" ")[2])


@dataclass(slots=True, kw_only=True)
class Groups:
    """The rows of a table, by image."""

    path: Path
    columns: list[str]
    """Attributes, in the file's order."""
    labels: dict[str, list[Label]]
    fingerprint: str
    """Hash of the file and the columns taken."""

    def found_as(self, dataset: str, name: str) -> str | None:
        """Find the file's name of an image: the whole name, else its last part, else the stem.

        Args:
            name: path below the photos' folder, or `shard.tar/sa_12`.
        """
        path = PurePosixPath(name)
        for candidate in (name, path.name, path.stem):
            if any(label.dataset in ("", dataset) for label in self.labels.get(candidate, [])):
                return candidate
        return None

    def of_image(self, dataset: str, name: str) -> list[Label]:
        """Return the rows about an image."""
        labels = self.labels.get(self.found_as(dataset, name) or "", [])
        return [label for label in labels if label.dataset in ("", dataset)]

    def entries(self) -> set[tuple[str, str]]:
        """Return (image, data set) as the rows name them; "" stands for any data set."""
        return {(name, label.dataset) for name, labels in self.labels.items() for label in labels}

    def of_masks(self, dataset: str, name: str, masks: Sequence[str]) -> dict[int, dict[str, str]]:
        """Return the groups by position in `masks`, without masks that have none.

        A row about a mask overrides one about its image.
        """
        labels = self.of_image(dataset, name)
        found: dict[int, dict[str, str]] = {}
        for position, mask in enumerate(masks):
            groups: dict[str, str] = {}
            # Rows about the whole image first; later rows overwrite earlier ones.
            for label in sorted(labels, key=lambda each: bool(each.mask)):
                if label.means(mask):
                    groups |= label.groups
            if groups:
                found[position] = groups
        return found


def read_groups(path: str | Path, *, columns: Sequence[str] = (), option: str) -> Groups:
    """Read a CSV (commas, semicolons or tabs) with a header.

    Args:
        columns: attributes to take; all if empty.
        option: the setting that named it, for messages.

    Raises:
        UserError: it cannot be read, has no column `image` or no attribute, lacks one of
            `columns`, or a column has so many values that they are no groups.
    """
    path = Path(path).expanduser()
    try:
        # Spreadsheets write a byte order mark, which would become part of the first column's name.
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{option}={path}: cannot be read ({error})") from None
    head = text.partition("\n")[0]
    # Of the header alone: cells below may hold commas.
    delimiter = max(",;\t", key=head.count)
    rows = list(csv.reader(text.splitlines(), delimiter=delimiter))
    header = [cell.strip() for cell in rows[0]] if rows else []
    if IMAGE not in header or len(set(header)) != len(header):
        raise UserError(
            f"{option}={path}: its first line must name the columns, each once, one of them "
            f"`{IMAGE}`; it is {head.strip()[:60]!r}"
        )
    attributes = [name for name in header if name and name not in (IMAGE, MASK, DATASET)]
    taken = list(columns) or attributes
    if missing := [name for name in taken if name not in attributes]:
        raise UserError(
            f"{option}={path}: has no column {missing[0]}, only {', '.join(attributes)}"
        )
    if not taken:
        raise UserError(f"{option}={path}: has no column with groups beside {', '.join(header)}")
    labels = _labels(rows[1:], header, taken, where=f"{option}={path}")
    for name in taken:
        values = {k.groups[name] for each in labels.values() for k in each if name in k.groups}
        if len(values) > MAX_GROUPS:
            raise UserError(
                f"{option}={path}: column {name} has {len(values)} values, more than "
                f"{MAX_GROUPS} are no groups; name the columns that are "
                f"({option.partition('.')[0]}.columns)"
            )
    return Groups(
        path=path, columns=taken, labels=labels, fingerprint=text_fingerprint(f"{taken}\n{text}")
    )


def _labels(
    rows: Sequence[Sequence[str]], header: Sequence[str], taken: Sequence[str], *, where: str
) -> dict[str, list[Label]]:
    labels: dict[str, list[Label]] = {}
    for line, row in enumerate(rows, start=2):
        if not any(cell.strip() for cell in row):
            continue
        if len(row) != len(header):
            raise UserError(f"{where}, line {line}: {len(row)} cells, the header has {len(header)}")
        cells = {name: cell.strip() for name, cell in zip(header, row, strict=True)}
        groups = {name: cells[name] for name in taken if cells[name]}
        if cells[IMAGE] and groups:
            label = Label(dataset=cells.get(DATASET, ""), mask=cells.get(MASK, ""), groups=groups)
            labels.setdefault(cells[IMAGE], []).append(label)
    return labels
