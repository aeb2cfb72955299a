"""Results as files and as text."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from sam_train.errors import UserError
from sam_train.eval.frame.result import Picture, Row, TaskResult


def result() -> TaskResult:
    return TaskResult(
        task="points",
        title="Points",
        figures={"miou_1": 0.5, "noc": None, "masks": 1200},
        columns=["masks", "1 click"],
        rows=[
            Row(name="coco", values={"masks": 1200, "1 click": 0.51234}),
            Row(name="empty", values={"masks": 0, "1 click": float("nan")}),
            Row(name="SAM", values={"1 click": 0.581}, source="paper §7.1"),
        ],
        pictures=[Picture(path="points/clicks.png", title="curves")],
        notes=["a note"],
        skipped={"no mask": 2},
        details={"curve": [0.1, 0.2]},
    )


def test_json_is_lossless_but_for_what_is_no_number(tmp_path: Path) -> None:
    found = result()
    found.write(tmp_path)
    assert "NaN" not in (tmp_path / "result.json").read_text()
    read = TaskResult.read(tmp_path)
    assert read.rows[1].values["1 click"] is None
    read.rows[1].values["1 click"] = found.rows[1].values["1 click"]
    assert read == found


def test_csv_has_every_row_in_full_precision(tmp_path: Path) -> None:
    result().write(tmp_path)
    with (tmp_path / "table.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == ["coco", "empty", "SAM"]
    assert [row["1 click"] for row in rows] == ["0.51234", "", "0.581"]
    assert rows[2]["source"] == "paper §7.1"


def test_table_for_people() -> None:
    assert result().table().splitlines() == [
        "                  masks  1 click",
        "coco              1,200    0.512",
        "empty                 0        -",
        "-" * 32,
        "SAM (paper §7.1)      -    0.581",
        "left out: 2 (no mask)",
        "a note",
    ]


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"task": 1}', json.dumps({"rows": [{"a": 1}]})])
def test_damaged_files_are_said(tmp_path: Path, text: str) -> None:
    (tmp_path / "result.json").write_text(text)
    with pytest.raises(UserError, match=r"result\.json: no result"):
        TaskResult.read(tmp_path)
