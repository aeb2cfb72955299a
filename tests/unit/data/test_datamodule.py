"""Under a real Trainer: accumulation, the counter in the checkpoint, an exact resume."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn

from sam_train.data.config import DataConfig
from sam_train.data.datamodule import SamDataModule
from sam_train.types import Batch


class Recorder(LightningModule):
    """Remembers what every micro-batch consumed."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.positions: list[list[int]] = []
        self.validated: list[str] = []

    def training_step(self, batch: Batch) -> Tensor:
        self.positions.append(batch.positions)
        return self.weight * batch.points.mean()

    def validation_step(self, batch: Batch) -> None:
        self.validated += batch.keys

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def run(cfg: DataConfig, folder: Path, *, steps: int, accumulate: int, **fit: Any) -> Recorder:
    trainer = Trainer(
        max_steps=steps,
        accumulate_grad_batches=accumulate,
        default_root_dir=folder,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        val_check_interval=2 * accumulate,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
    )
    recorder = Recorder()
    data = SamDataModule(cfg, image_size=32, grid_size=8, seed=0)
    trainer.fit(recorder, datamodule=data, weights_only=True, **fit)
    trainer.save_checkpoint(folder / "last.ckpt")
    skipped = data.skipped()
    assert skipped.pop("small_mask") > 0
    assert skipped == {"without_json": 1}
    return recorder


def test_a_resumed_run_sees_what_an_unbroken_one_sees(
    shard: Callable[..., Path], tmp_path: Path
) -> None:
    path = str(shard(5, ("lonely.jpg", b"x")))
    # The limit is a GPU's: on a CPU it refuses nothing.
    cfg = DataConfig(train=path, batch_size=4, masks_per_image=2, workers=0, masks_per_gpu=1)
    whole = run(cfg, tmp_path, steps=5, accumulate=2)
    assert whole.positions == [[2 * k, 2 * k + 1] for k in range(10)]
    run(cfg, tmp_path, steps=3, accumulate=2)
    rest = run(cfg, tmp_path, steps=5, accumulate=1, ckpt_path=tmp_path / "last.ckpt")
    assert rest.positions == [list(range(12, 16)), list(range(16, 20))]
    # Half the batch from here on: the counter goes on from where the order stands.
    cfg.batch_size = 2
    more = run(cfg, tmp_path, steps=7, accumulate=1, ckpt_path=tmp_path / "last.ckpt")
    assert more.positions == [[20, 21], [22, 23]]


def test_validation_runs_and_training_goes_on(shard: Callable[..., Path], tmp_path: Path) -> None:
    path = str(shard(5))
    lonely = str(shard(3, ("lonely.jpg", b"x"), name="val.tar"))
    cfg = DataConfig(train=path, val=lonely, batch_size=2, masks_per_image=2, workers=1)
    recorder = run(cfg, tmp_path, steps=4, accumulate=1)
    assert recorder.positions == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert recorder.validated == [f"val.tar/sa_{k}" for k in range(3)] * 2
