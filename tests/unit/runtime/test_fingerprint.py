"""Fingerprints of settings and files."""

from __future__ import annotations

import os
from pathlib import Path

from sam_train.eval.tasks.points.config import PointsConfig
from sam_train.runtime.fingerprint import files_fingerprint, settings_fingerprint


def test_settings_count_by_value() -> None:
    one = settings_fingerprint({"a": 1, "points": PointsConfig(clicks=[1, 2])})
    assert one == settings_fingerprint({"points": PointsConfig(clicks=[1, 2]), "a": 1})
    assert one != settings_fingerprint({"a": 1, "points": PointsConfig(clicks=[1, 3])})


def test_recorded_fingerprints_stay() -> None:
    """Folders of earlier runs are named after them."""
    assert settings_fingerprint({"seed": 0, "task": "points"}) == "cfa4ef41e85fb3f3"
    assert files_fingerprint("a", files=[Path("/nowhere")]) == "58fd5cb2f73e"


def test_an_edit_of_a_file_counts(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("{}")
    before = files_fingerprint("", files=[path])
    assert before == files_fingerprint("", files=[path])
    os.utime(path, ns=(1, 1))
    assert before != files_fingerprint("", files=[path])
