"""metrics.csv over steps, new columns, resumes and crashes."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from sam_train.train.report.metrics_file import MetricsFile, read_columns


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "metrics.csv"


def test_values_of_one_step_share_a_row_and_columns_may_join(path: Path) -> None:
    file = MetricsFile(path)
    file.resume_at(0)
    file.write(10, {"loss": 2.5, "loss_r00": 3.0})
    file.write(20, {"loss": 1.25})
    file.write(20, {"val/miou_1": 0.5, "lr": 1e-5})
    file.write(30, {"loss": 1.0})
    rows = rows_of(path)
    assert list(rows[0]) == ["step", "loss", "lr", "loss_r00", "val/miou_1"]
    assert [row["step"] for row in rows] == ["10", "20", "30"]
    assert rows[1] == {
        "step": "20", "loss": "1.25", "lr": "1e-05", "loss_r00": "", "val/miou_1": "0.5",
    }  # fmt: skip
    assert rows[0]["val/miou_1"] == ""


@pytest.mark.parametrize("step", [20, 25])
def test_a_resume_neither_loses_nor_repeats_rows(path: Path, step: int) -> None:
    first = MetricsFile(path)
    first.resume_at(0)
    for s in (10, 20, 30, 40):
        first.write(s, {"loss": 100.0 + s})
    second = MetricsFile(path)
    second.resume_at(step)
    second.write(20 if step == 20 else 30, {"val/oracle": 0.5})
    second.write(30, {"loss": 230.0})
    second.write(40, {"loss": 240.0})
    rows = rows_of(path)
    assert [row["step"] for row in rows] == ["10", "20", "30", "40"]
    assert [float(row["loss"]) for row in rows] == [110, 120, 230, 240]
    assert [row["val/oracle"] for row in rows].count("0.5") == 1


def test_a_fresh_start_begins_anew(path: Path) -> None:
    first = MetricsFile(path)
    first.resume_at(0)
    first.write(10, {"loss": 1.0})
    second = MetricsFile(path)
    second.resume_at(0)
    second.write(0, {"val/miou_1": 0.1})
    assert [row["step"] for row in rows_of(path)] == ["0"]


def test_a_line_cut_off_by_a_crash_is_dropped(path: Path) -> None:
    path.write_text("step,loss\n10,1.5\n20,1.2")
    file = MetricsFile(path)
    file.resume_at(20)
    file.write(20, {"loss": 1.25})
    assert [(row["step"], row["loss"]) for row in rows_of(path)] == [("10", "1.5"), ("20", "1.25")]


def test_columns_as_numbers(path: Path) -> None:
    file = MetricsFile(path)
    file.resume_at(0)
    file.write(1, {"loss": 2.0})
    file.write(2, {"lr": 0.1})
    columns = read_columns(path)
    assert list(columns) == ["step", "loss", "lr"]
    np.testing.assert_allclose(columns["loss"], [2.0, np.nan])
    np.testing.assert_allclose(columns["lr"], [np.nan, 0.1])
    assert read_columns(path.with_name("none.csv")) == {}
