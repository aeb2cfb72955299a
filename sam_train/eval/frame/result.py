"""The result of a task of `evaluate`: figures, a table with the published rows, pictures."""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sam_train.errors import UserError
from sam_train.runtime.files import write_text

MEASURED = "measured"
Value = float | int | None


@dataclass(slots=True, kw_only=True)
class Row:
    """A line of a task's table."""

    name: str
    """Subject of the row: a data set, a group or a model."""
    values: dict[str, Value]
    """Values by column; one that is missing or None is shown as a dash. IoU, AP and the like are
    fractions of 1, in published rows too."""
    source: str = MEASURED
    """"measured", or the source of a published row, such as "paper §7.1"."""


@dataclass(slots=True, kw_only=True)
class Picture:
    """An image file that belongs to the result."""

    path: str
    """Relative to run_dir."""
    title: str
    kind: str = "plot"
    """plot, bars, film (clicks and masks), worst (the worst cases) or photo."""


@dataclass(slots=True, kw_only=True)
class TaskResult:
    """The result of one task on all its data."""

    task: str
    title: str
    """A few words for headings."""
    figures: dict[str, Value]
    """Flat names to numbers: `miou_1`, `coco/miou_1`, `miou_1_low`."""
    columns: list[str]
    """The table's columns, in order."""
    rows: list[Row]
    """Measured rows first, then published ones."""
    pictures: list[Picture] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """Sentences for people about the meaning of the figures and its limits."""
    skipped: dict[str, int] = field(default_factory=dict)
    """Items that were left out, by reason; the frame fills it in."""
    details: dict[str, Any] = field(default_factory=dict)
    """Further content of the JSON: curves, figures per category."""
    checkpoint: str = ""
    """The subject of measurement: `ckpt`, which the frame fills in, or another program's files."""
    weights: str = ""
    """Fingerprint of the model's weights, as `last.ckpt` is another model each hour; "" where no
    model was measured. The frame fills it in."""
    fingerprint: str = ""
    """Fingerprint of weights and settings; the frame fills it in."""

    def to_json(self) -> str:
        """Return everything as indented JSON; NaN and infinities become null."""
        return json.dumps(_finite(asdict(self)), indent=2, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> TaskResult:
        """Read the output of `to_json`.

        Raises:
            ValueError: the text is not such a JSON.
        """
        try:
            raw = json.loads(text)
            raw["rows"] = [Row(**row) for row in raw["rows"]]
            raw["pictures"] = [Picture(**picture) for picture in raw["pictures"]]
            return cls(**raw)
        except (TypeError, KeyError) as error:
            raise ValueError(f"not the result of a task ({error})") from None

    def to_csv(self) -> str:
        """Return the table as CSV, one line per row, in full precision."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(["name", "source", *self.columns])
        for row in self.rows:
            values = (row.values.get(column) for column in self.columns)
            cells = ["" if _finite(v) is None else v for v in values]
            writer.writerow([row.name, row.source, *cells])
        return out.getvalue()

    def table(self) -> str:
        """Format the rows as text for people, published ones below a line."""
        names = [_label(row) for row in self.rows]
        cells = [[shown(row.values.get(c)) for c in self.columns] for row in self.rows]
        left = max(map(len, names), default=0)
        widths = [
            2 + max(len(head), *(len(line[k]) for line in cells)) if cells else 2 + len(head)
            for k, head in enumerate(self.columns)
        ]
        heads = "".join(f"{head:>{w}}" for head, w in zip(self.columns, widths, strict=True))
        lines = [" " * left + heads]
        published = False
        for row, name, line in zip(self.rows, names, cells, strict=True):
            if row.source != MEASURED and not published:
                published = True
                lines.append("-" * (left + sum(widths)))
            body = "".join(f"{cell:>{w}}" for cell, w in zip(line, widths, strict=True))
            lines.append(f"{name:<{left}}{body}")
        lines += [f"left out: {count} ({reason})" for reason, count in self.skipped.items()]
        return "\n".join([*lines, *self.notes])

    def write(self, folder: Path) -> None:
        """Write `table.csv` and `result.json` in `folder`, each atomically."""
        folder.mkdir(parents=True, exist_ok=True)
        # result.json last: where it exists, the table does, too.
        for name, text in (("table.csv", self.to_csv()), ("result.json", self.to_json())):
            write_text(folder / name, text)

    @classmethod
    def read(cls, folder: Path) -> TaskResult:
        """Read the result that `write` left in `folder`.

        Raises:
            UserError: it is missing or damaged.
        """
        path = folder / "result.json"
        try:
            return cls.from_json(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: no result of evaluate can be read there ({error})") from None


def shown(value: Value) -> str:
    """Format a number for people, with a dash where there is none."""
    if value is None or _finite(value) is None:
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else f"{value:,}"


def _label(row: Row) -> str:
    return row.name if row.source == MEASURED else f"{row.name} ({row.source})"


def _finite(tree: Any) -> Any:
    # JSON knows no NaN; python would write one that other programs cannot read.
    if isinstance(tree, float):
        return tree if math.isfinite(tree) else None
    if isinstance(tree, dict):
        return {str(key): _finite(value) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [_finite(value) for value in tree]
    return tree
