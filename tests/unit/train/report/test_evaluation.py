"""Tasks of `evaluate` inside a real, tiny run."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from PIL import Image

from data_tools.sample import SampleConfig, write_sample
from sam_train.cli import main
from sam_train.errors import UserError
from sam_train.eval.frame.result import TaskResult
from sam_train.train.fit import fit
from sam_train.train.report.evaluation import draw_trend, trend_figures
from sam_train.train.report.metrics_file import read_columns


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    write_sample(SampleConfig(scenes=6, height=64, width=64, zoom=2.0), folder, workers=0)
    return folder


def settings(scenes: Path, run_dir: Path, *more: str) -> list[str]:
    return [
        *("model=vit_t", "model.image_size=64", "model.depth=2", "model.global_blocks=[1]"),
        *("prompts.points=1", "prompts.mask_only=0", "data.batch_size=2", "data.workers=0"),
        *(f"data.train={scenes}", "data.masks_per_image=2", "trainer.accelerator=cpu"),
        *("trainer.max_steps=3", "trainer.log_every=1", f"run_dir={run_dir}"),
        *("callbacks.evaluate.every=2", "callbacks.evaluate.images=2"),
        *(f"eval.datasets=scenes=shards:{scenes}", "points.clicks=[1,2]", "points.film_rows=1"),
        *more,
    ]


def test_figures_trend_and_newest_result(scenes: Path, tmp_path: Path) -> None:
    fit(settings(scenes, tmp_path))
    columns = read_columns(tmp_path / "metrics.csv")
    measured = [not math.isnan(value) for value in columns["eval/points/miou_1"]]
    assert dict(zip(columns["step"], measured, strict=True)) == {
        0: True,
        1: False,
        2: True,
        3: True,
    }
    newest = TaskResult.read(tmp_path / "evaluate" / "points")
    assert newest.checkpoint == "step 3"
    assert newest.rows[0].values["images"] == 2
    assert columns["eval/points/miou_2"][-1] == pytest.approx(newest.figures["miou_2"], abs=1e-5)
    # A record's weights are those of its step.
    assert len(list((tmp_path / "evaluate" / "points" / "records").iterdir())) == 3
    with Image.open(tmp_path / "pictures" / "evaluation.png") as picture:
        assert min(picture.size) > 300
    # Two masks of an image are trained on after it was in evaluation mode as before.
    assert all(math.isfinite(loss) for loss in columns["loss"][1:])


def test_what_is_learnt_does_not_depend_on_it(scenes: Path, tmp_path: Path) -> None:
    losses = []
    for every in (0, 1):
        run_dir = tmp_path / str(every)
        fit(settings(scenes, run_dir, f"callbacks.evaluate.every={every}", "model.drop_path=0.5"))
        losses.append(
            [v for v in read_columns(run_dir / "metrics.csv")["loss"] if math.isfinite(v)]
        )
    assert len(losses[0]) == 3
    assert losses[0] == losses[1]


def test_a_task_that_cannot_be_is_refused_before_training(scenes: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"callbacks\.evaluate: .*eval\.datasets"):
        fit(settings(scenes, tmp_path, "eval.datasets=[]"))
    with pytest.raises(SystemExit):
        main(["fit", *settings(scenes, tmp_path, "callbacks.evaluate.tasks=[pionts]")])


def test_only_lines_worth_drawing(tmp_path: Path) -> None:
    figures = trend_figures({"miou_1": 0.5, "miou_1_low": 0.4, "masks": 7, "a/miou_1": None})
    assert figures == {"miou_1": 0.5}
    (tmp_path / "metrics.csv").write_text("step,loss\n1,2\n")
    draw_trend(tmp_path / "metrics.csv", tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()
