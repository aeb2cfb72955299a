"""Which photos fairness takes: those that its CSV names."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sam_train.errors import UserError
from sam_train.eval.config import EvalConfig
from sam_train.eval.frame.tasks import Run
from sam_train.eval.tasks.fairness.task import Fairness
from sam_train.runtime.parts import Share
from sam_train.settings.run import RunConfig


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data set of twelve photos with a mask each, and a CSV of three of them and two others."""
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
        for k in range(12):
            Image.fromarray(np.eye(8, dtype=np.uint8)).save(tmp_path / name / f"p{k:02d}.png")
    (tmp_path / "groups.csv").write_text(
        "dataset,image,age\n,p01.png,old\n,p05,old\nmasks,p11,young\nmasks,p77,old\nelse,p05,old\n"
    )
    return tmp_path


def items(folder: Path, **settings: Any) -> tuple[list[str], dict[str, int]]:
    cfg = RunConfig(eval=EvalConfig(datasets=f"masks:{folder}", **settings))
    cfg.fairness.groups = str(folder / "groups.csv")
    task = Fairness()
    found = task.items(Run(cfg=cfg, run_dir=folder / "run", part=Share()))
    return [item.name for item in found], dict(task._listed)


def test_nobody_is_cut_away_before_the_csv_is_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    absent = {"image: named in the CSV, not in the data": 2}
    # A default that would end after two photos.
    monkeypatch.setattr(EvalConfig, "masks", 2)
    with caplog.at_level(logging.WARNING):
        assert items(folder, masks=2) == (["p01.png", "p05.png", "p11.png"], absent)
    assert "2 of its images are not in the data, p05, p77 among them" in caplog.text


@pytest.mark.parametrize("setting", ["masks", "images"])
def test_what_a_person_cuts_is_counted(folder: Path, setting: str) -> None:
    names, listed = items(folder, **{setting: 1})
    assert len(names) == 1
    assert listed["image: named in the CSV, beyond eval.masks or eval.images"] == 2


def test_a_csv_about_other_photos_is_refused(folder: Path) -> None:
    (folder / "groups.csv").write_text("image,age\nq.png,old\n")
    with pytest.raises(UserError, match=r"names none of the 12 images; .*'q.png'.*'p00.png'"):
        items(folder)
