"""The modes of conf/debug do what docs/debugging.md says of them."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from sam_train.cli import main
from sam_train.settings.compose import load_config
from sam_train.train.optim import learning_rate_factor

TIMES = ("images_per_second", "data_wait")


@pytest.fixture
def settings(tiny: Any, tmp_path: Path) -> list[str]:
    shard = tiny.pack(tmp_path / "sa_000000.tar", tiny.good(3))
    return [*tiny.settings, f"data.train={shard}"]


def figures(run_dir: Path) -> list[dict[str, str]]:
    with (run_dir / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    return [{k: v for k, v in row.items() if k not in TIMES} for row in rows]


def test_profile_writes_where_the_time_went(settings: list[str], tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    main(["fit", "+debug=profile", *settings, f"run_dir={run_dir}"])
    report = (run_dir / "fit-profile.txt").read_text()
    assert "run_training_batch" in report
    assert "Mean duration (s)" in report


def test_deterministic_runs_agree_in_every_figure(settings: list[str], tmp_path: Path) -> None:
    for name in ("one", "two"):
        run = ["fit", "+debug=deterministic", *settings, f"run_dir={tmp_path / name}"]
        main(run)
    one, two = figures(tmp_path / "one"), figures(tmp_path / "two")
    assert [row["step"] for row in one] == ["1", "2"]
    assert one == two
    assert one[0]["loss"] != one[1]["loss"]
    # Row s says what update s saw; the schedule counts updates from 0.
    optim = load_config(["+debug=deterministic", *settings]).optim
    factor = learning_rate_factor(optim, 2)
    rates = [float(row["lr"]) for row in one]
    assert rates == pytest.approx([optim.lr * factor(0), optim.lr * factor(1)], rel=1e-4)


def test_anomaly_names_the_operation(settings: list[str], tmp_path: Path) -> None:
    wild = ["optim.lr=1e30", "optim.warmup_steps=0", "trainer.max_steps=3"]
    run = ["fit", "+debug=anomaly", *settings, *wild, f"run_dir={tmp_path / 'run'}"]
    with pytest.raises(RuntimeError, match=r"Function '\w+' returned nan values"):
        main(run)


def test_overfit_learns_its_photos(settings: list[str], tmp_path: Path) -> None:
    steps = ["trainer.max_steps=40", "optim.lr=2e-3", "optim.warmup_steps=5"]
    run = ["fit", "+debug=overfit", *settings, *steps, f"run_dir={tmp_path / 'run'}"]
    main(run)
    losses = [float(row["loss"]) for row in figures(tmp_path / "run")]
    assert losses[-1] < 0.6 * losses[0]
