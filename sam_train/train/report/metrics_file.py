"""`metrics.csv`: one file per run with a row per logged step, complete across resumes."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping
from pathlib import Path

from sam_train.runtime.files import write_text

_FIRST_COLUMNS = ("step", "loss", "lr", "grad_norm", "images_per_second", "data_wait")


class MetricsFile:
    """The file of a run; columns may join later, and a step's values may come in several parts.

    `step` counts finished updates of the weights. Row s holds the figures of update s, and a
    checkpoint of step s has all rows up to s behind it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._columns: list[str] = []
        self._last: dict[str, str] = {}
        self._last_at = 0

    def resume_at(self, step: int) -> None:
        """Keep the rows up to `step` and drop later ones.

        Steps behind the checkpoint that is now resumed run again and would be there twice.
        """
        rows = [row for row in read_rows(self.path) if int(row["step"]) <= step] if step else []
        self._columns = _ordered({name for row in rows for name in row})
        self._rewrite(rows)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Add values to the row of `step`, which must not lie before the last one written."""
        row = {"step": str(step), **{name: _text(value) for name, value in values.items()}}
        if new := row.keys() - set(self._columns):
            rows = read_rows(self.path)
            # A new column changes the header, so the file is written anew; it happens a few times a
            # run.
            self._columns = _ordered({*self._columns, *new})
            self._rewrite(rows)
        if self._last.get("step") == row["step"]:
            row = {**self._last, **row}
        else:
            self._last_at = self.path.stat().st_size
        # The last row is overwritten in place while its step still gets values.
        with self.path.open("r+", newline="") as file:
            file.seek(self._last_at)
            file.truncate()
            file.write(self._line(row))
        self._last = row

    def _rewrite(self, rows: list[dict[str, str]]) -> None:
        head = self._line({name: name for name in self._columns}) if self._columns else ""
        lines = [self._line(row) for row in rows]
        # An atomic write: a crash must not leave half a history.
        write_text(self.path, head + "".join(lines))
        self._last = rows[-1] if rows else {}
        self._last_at = self.path.stat().st_size - len(lines[-1].encode()) if lines else 0

    def _line(self, row: Mapping[str, str]) -> str:
        # Through csv, because a name may hold a comma or a quote.
        out = io.StringIO()
        csv.writer(out, lineterminator="\n").writerow(row.get(name, "") for name in self._columns)
        return out.getvalue()


def read_rows(path: Path) -> list[dict[str, str]]:
    """Read the rows without their empty cells; none where there is no file.

    A last line that was cut off by a crash is left out.
    """
    if not path.is_file():
        return []
    text = path.read_text()
    complete = text[: text.rfind("\n") + 1]
    rows = ({k: v for k, v in row.items() if v} for row in csv.DictReader(io.StringIO(complete)))
    return [row for row in rows if row.get("step", "").isdigit()]


def read_columns(path: Path) -> dict[str, list[float]]:
    """Read every column as numbers, all of the same length, NaN where a row has no value."""
    rows = read_rows(path)
    names = _ordered({name for row in rows for name in row})
    return {name: [float(row.get(name, math.nan)) for row in rows] for name in names}


def _text(value: float) -> str:
    # Six digits, as many as a float32 holds for certain.
    return f"{value:.6g}"


def _ordered(names: Iterable[str]) -> list[str]:
    def place(name: str) -> tuple[int, int, str]:
        if name in _FIRST_COLUMNS:
            return 0, _FIRST_COLUMNS.index(name), name
        # Scores such as val/box come last: their names have a slash.
        return (2 if "/" in name else 1), 0, name

    return sorted(names, key=place)
