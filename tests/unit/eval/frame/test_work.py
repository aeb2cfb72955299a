"""The frame: records, going on, sharing, merging. The task here counts pixels of real files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sam_train.errors import UserError
from sam_train.eval.frame.result import Row, TaskResult
from sam_train.eval.frame.tasks import Run, Task, load_task, task_names
from sam_train.eval.frame.work import run_task
from sam_train.runtime.jobs import SkipItem
from sam_train.runtime.parts import Share
from sam_train.settings.run import RunConfig


@dataclass(frozen=True)
class Grey:
    """A picture."""

    key: str
    path: Path


class Brightness(Task[Grey]):
    """Mean grey value of the pictures of a folder."""

    name = "brightness"
    summary = "mean grey value"

    def __init__(self, folder: Path, threshold: int = 0) -> None:
        self.folder, self.threshold = folder, threshold
        self.measured: list[str] = []

    def check(self, cfg: RunConfig) -> None:
        """Nothing to set."""

    def settings(self, cfg: RunConfig) -> Mapping[str, Any]:
        """See `Task`."""
        return {"threshold": self.threshold}

    def items(self, run: Run) -> Sequence[Grey]:
        """See `Task`."""
        return [Grey(f"set/{path.stem}", path) for path in sorted(self.folder.glob("*.png"))]

    def load(self, run: Run, item: Grey) -> Any:
        """See `Task`."""
        try:
            return np.asarray(Image.open(item.path)).astype(int)
        except OSError as error:
            raise SkipItem("unreadable", str(error)) from None

    def measure(self, run: Run, item: Grey, loaded: Any) -> dict[str, Any]:
        """See `Task`."""
        self.measured.append(item.key)
        return {"grey": float(loaded[loaded >= self.threshold].mean())}

    def summarise(self, run: Run, records: Sequence[Mapping[str, Any]]) -> TaskResult:
        """See `Task`."""
        grey = [record["grey"] for record in records]
        return TaskResult(
            task=self.name,
            title="Brightness",
            figures={"grey": float(np.mean(grey))},
            columns=["grey"],
            rows=[Row(name=r["key"], values={"grey": r["grey"]}) for r in records],
        )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Seven pictures."""
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for k in range(7):
        pixels = np.random.default_rng(k).integers(0, 256, (8, 9), dtype=np.uint8)
        Image.fromarray(pixels).save(pictures / f"{k}.png")
    return pictures


def run(tmp_path: Path, name: str = "run", *, index: int = 0, count: int = 1) -> Run:
    return Run(
        cfg=RunConfig(), run_dir=tmp_path / name, part=Share(index=index, count=count), source="x"
    )


def test_records_are_complete_in_order_and_written(folder: Path, tmp_path: Path) -> None:
    task = Brightness(folder)
    result = run_task(task, run(tmp_path))
    assert result is not None
    expected = [np.asarray(Image.open(path)).mean() for path in sorted(folder.glob("*.png"))]
    assert [row.values["grey"] for row in result.rows] == pytest.approx(expected, abs=1e-12)
    assert result.figures["grey"] == pytest.approx(np.mean(expected))
    assert TaskResult.read(tmp_path / "run/brightness") == result
    assert result.checkpoint == "x"


def test_figures_are_of_the_model_only_where_one_was_measured(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other tasks of the same command may have loaded one."""
    monkeypatch.setattr(Run, "weights", "digest")
    with_model = run_task(Brightness(folder), run(tmp_path))
    assert with_model is not None
    assert (with_model.checkpoint, with_model.weights) == ("x", "digest")
    finished = Brightness(folder)
    monkeypatch.setattr(finished, "needs_model", lambda cfg: False)
    result = run_task(finished, run(tmp_path))
    assert result is not None
    assert (result.checkpoint, result.weights) == ("", "")
    assert result.fingerprint != with_model.fingerprint


def test_a_run_that_was_killed_goes_on(folder: Path, tmp_path: Path) -> None:
    whole = run_task(Brightness(folder), run(tmp_path, "whole"))
    first = Brightness(folder)
    first.measure = lambda run, item, loaded: (_ for _ in ()).throw(KeyboardInterrupt)  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        run_task(first, run(tmp_path))
    begun = Brightness(folder)
    run_task(begun, run(tmp_path, index=1, count=3))
    (path,) = (tmp_path / "run/brightness/records").rglob("part_1_of_3.jsonl")
    lines = path.read_bytes().splitlines(keepends=True)
    # As a process leaves it that is killed while it writes.
    path.write_bytes(b"".join(lines[:-1]) + lines[-1][:9])
    again = Brightness(folder)
    assert run_task(again, run(tmp_path, index=1, count=3)) is None
    assert again.measured == begun.measured[-1:]
    rest = Brightness(folder)
    assert run_task(rest, run(tmp_path)) == whole
    assert sorted(rest.measured) == sorted(f"set/{k}" for k in range(7) if k % 3 != 1)


def test_the_last_of_several_processes_makes_the_result(folder: Path, tmp_path: Path) -> None:
    alone = run_task(Brightness(folder), run(tmp_path, "alone"))
    results = [run_task(Brightness(folder), run(tmp_path, index=k, count=3)) for k in (2, 0, 1)]
    assert results == [None, None, alone]
    late = Brightness(folder)
    assert run_task(late, run(tmp_path)) == alone
    assert not late.measured


def test_other_settings_have_other_records(folder: Path, tmp_path: Path) -> None:
    run_task(Brightness(folder), run(tmp_path))
    bright = Brightness(folder, threshold=128)
    result = run_task(bright, run(tmp_path))
    assert result is not None
    assert len(bright.measured) == 7
    assert result.figures["grey"] > 128


def test_what_cannot_be_used_is_counted_and_tried_again(folder: Path, tmp_path: Path) -> None:
    whole = (folder / "2.png").read_bytes()
    (folder / "2.png").write_bytes(whole[:50])
    result = run_task(Brightness(folder), run(tmp_path))
    assert result is not None
    assert result.skipped == {"unreadable": 1}
    assert len(result.rows) == 6
    (folder / "2.png").write_bytes(whole)
    mended = Brightness(folder)
    result = run_task(mended, run(tmp_path))
    assert mended.measured == ["set/2"]
    assert result is not None
    assert (result.skipped, len(result.rows)) == ({}, 7)


def test_nothing_usable_is_an_error(folder: Path, tmp_path: Path) -> None:
    for path in folder.glob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(UserError, match=r"none of 7 items .*7 times: unreadable.*set/0"):
        run_task(Brightness(folder), run(tmp_path))
    with pytest.raises(UserError, match="nothing to measure"):
        run_task(Brightness(tmp_path / "absent"), run(tmp_path))


def test_every_listed_task_is_there() -> None:
    for name in task_names():
        task = load_task(name)
        assert task.name == name
        assert task.summary
    with pytest.raises(UserError, match=r"task=point is unknown: use points,"):
        load_task("point")
