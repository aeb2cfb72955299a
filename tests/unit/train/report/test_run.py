"""What a real, tiny run leaves behind, and what a resume adds to it."""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from lightning import Trainer, seed_everything
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from PIL import Image

from sam_train.data.datamodule import SamDataModule
from sam_train.data.shards.writer import ShardSample, annotation, write_shards
from sam_train.eval.clicks.scores import ClickScores
from sam_train.settings.run import RunConfig
from sam_train.train.module import SamModule
from sam_train.train.report.callbacks import build_callbacks
from sam_train.train.report.metrics_file import read_columns


@dataclass
class Run:
    """One call of fit."""

    run_dir: Path
    messages: list[str]

    def rows(self) -> list[dict[str, str]]:
        with (self.run_dir / "metrics.csv").open(newline="") as file:
            return list(csv.DictReader(file))


class _Messages(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@pytest.fixture
def messages() -> Iterator[list[str]]:
    logger, handler = logging.getLogger("sam_train"), _Messages()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield handler.lines
    logger.removeHandler(handler)
    logger.setLevel(level)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three photos of noise with two rectangles each, as SA-1B shards."""
    out, rng = tmp_path_factory.mktemp("scenes"), np.random.default_rng(0)
    samples = []
    for number in range(3):
        jpeg = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (64, 96, 3), dtype=np.uint8)).save(jpeg, "jpeg")
        masks = np.zeros((2, 64, 96), dtype=bool)
        masks[0, 8:40, 10 + number : 50] = True
        masks[1, 30:60, 60:90] = True
        annotations = [annotation(mask, id=2 * number + k) for k, mask in enumerate(masks)]
        samples.append(
            ShardSample(
                image_id=number, jpeg=jpeg.getvalue(), width=96, height=64, annotations=annotations
            )
        )
    write_shards(samples, out)
    return out


def config(scenes: Path, *, max_steps: int) -> RunConfig:
    cfg = RunConfig()
    cfg.model.name, cfg.model.image_size = "vit_t", 64
    cfg.data.train = cfg.data.val = str(scenes)
    cfg.data.batch_size, cfg.data.workers, cfg.data.masks_per_image = 1, 0, 2
    cfg.data.val_masks_per_image = 2
    cfg.trainer.max_steps = max_steps
    cfg.prompts.points, cfg.prompts.mask_only = 1, 1  # three rounds
    cfg.callbacks.validation.images, cfg.callbacks.validation.every = 2, 2
    cfg.callbacks.validation.clicks = [1, 2]
    cfg.callbacks.validation.film_rows = 1
    return cfg


def fit(cfg: RunConfig, run_dir: Path, *, ckpt: Path | None = None) -> None:
    seed_everything(0, verbose=False)
    module = SamModule(cfg)
    data = SamDataModule(
        cfg.data, image_size=module.sam.image_size, grid_size=module.sam.grid_size, seed=0
    )
    callbacks: list[Callback] = [
        ModelCheckpoint(run_dir, filename="{step}", every_n_train_steps=2, save_top_k=-1),
        *build_callbacks(cfg.callbacks, run_dir=run_dir, log_every=1),
    ]
    trainer = Trainer(
        accelerator="cpu",
        max_steps=cfg.trainer.max_steps,
        max_epochs=-1,
        log_every_n_steps=1,
        callbacks=callbacks,
        logger=False,
        use_distributed_sampler=False,
        limit_val_batches=0,
        enable_model_summary=False,
    )
    trainer.fit(module, datamodule=data, ckpt_path=ckpt, weights_only=True)


@pytest.fixture
def run(scenes: Path, tmp_path: Path, messages: list[str]) -> Run:
    fit(config(scenes, max_steps=3), tmp_path)
    return Run(run_dir=tmp_path, messages=messages)


def test_a_run_and_its_resume(run: Run, scenes: Path) -> None:
    rows = run.rows()
    assert [row["step"] for row in rows] == ["0", "1", "2", "3"]
    assert {f"{kind}_r02" for kind in ("loss", "iou", "predicted_iou")} <= set(rows[0])
    assert "loss_r03" not in rows[0]
    assert [bool(row["val/miou_2"]) for row in rows] == [True, False, True, True]
    assert all(float(row["grad_norm"]) > 0 for row in rows[1:])
    assert all(0 <= float(row["data_wait"]) <= 1 for row in rows[1:])
    columns = read_columns(run.run_dir / "metrics.csv")
    per_round = np.array([columns[f"loss_r{r:02d}"][1:] for r in range(3)])
    np.testing.assert_allclose(per_round.mean(0), columns["loss"][1:], rtol=1e-4)

    pictures = run.run_dir / "pictures"
    assert {picture.name for picture in pictures.iterdir()} == {
        "calibration.png",
        "curves.png",
        *(f"{kind}_{s:07d}.png" for kind in ("clicks", "rounds") for s in (0, 2, 3)),
    }
    for picture in pictures.iterdir():
        with Image.open(picture) as image:
            assert min(image.size) > 200
    before_text = (run.run_dir / "scores_before.json").read_text()
    before = ClickScores.from_json(before_text)
    assert before.images == 2
    assert float(rows[0]["val/miou_1"]) == pytest.approx(before.miou[1], abs=1e-5)
    assert before.box is not None
    assert float(rows[0]["val/box"]) == pytest.approx(before.box, abs=1e-5)
    assert float(rows[0]["val/box_low"]) == pytest.approx(before.intervals["box"].low, abs=1e-5)
    assert float(rows[0]["val/miou_2_high"]) == pytest.approx(
        before.intervals["miou_2"].high, abs=1e-5
    )

    said = "\n".join(run.messages)
    # Not a terminal: the first and the last step get a line, no more within line_seconds.
    assert sum(line.startswith("step") and "images/s" in line for line in run.messages) == 2
    assert "untrained" in said
    assert "trained" in said.replace("untrained", "")
    assert "95 % intervals by resampling 2 images" in said
    assert any(line.startswith("step 2  held-out") and "box: 0." in line for line in run.messages)
    assert str(pictures / "clicks_0000003.png") in said
    assert str(pictures / "curves.png") in said

    run.messages.clear()
    fit(config(scenes, max_steps=3), run.run_dir, ckpt=run.run_dir / "step=2.ckpt")
    again = run.rows()
    assert [row["step"] for row in again] == ["0", "1", "2", "3"]
    assert again[:3] == rows[:3]
    assert float(again[3]["iou_r00"]) == pytest.approx(float(rows[3]["iou_r00"]), abs=1e-3)
    assert (run.run_dir / "scores_before.json").read_text() == before_text
    assert any("untrained" in line for line in run.messages)


def test_without_data_val_nothing_is_validated(
    scenes: Path, tmp_path: Path, messages: list[str]
) -> None:
    cfg = config(scenes, max_steps=1)
    cfg.data.val = ""
    fit(cfg, tmp_path)
    assert any("data.val is not set" in line for line in messages)
    assert not (tmp_path / "scores_before.json").exists()
    assert (tmp_path / "pictures" / "curves.png").is_file()
