"""The moving average of the weights: against its definition, and over a stop."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.utils.data import DataLoader, TensorDataset

from sam_train.errors import UserError
from sam_train.model.checkpoints.copies import choose
from sam_train.model.checkpoints.weight_files import AVERAGE_RECORD, MODEL_RECORD, read_weights
from sam_train.train.averaging import WeightAverage, averaged
from sam_train.train.averaging import check as check_average
from sam_train.train.checkpoints.retention import CheckpointConfig
from sam_train.train.checkpoints.saving import Saver
from sam_train.train.optim import OptimConfig, check
from sam_train.train.parallel.strategies import Fsdp2Strategy, whole_tensor

DECAY, STEPS = 0.5, 12
"""From step 8 on the average keeps DECAY of itself, before less."""


class Line(LightningModule):
    """Two weights and one that is not trained."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.line = nn.Linear(2, 1, bias=False)
        self.frozen = nn.Parameter(torch.ones(2), requires_grad=False)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        """Moves a lot at each step."""
        return (self.line(batch[0]) * self.frozen.sum() - 3).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Plain, so that only the average has a memory."""
        return torch.optim.SGD([self.line.weight], lr=0.002)


class SplitLine(Line):
    """The same as fsdp2 has it."""

    def configure_model(self) -> None:
        """Called by Lightning once the process knows of its mesh."""
        assert self.device_mesh is not None
        fully_shard(self.line, mesh=self.device_mesh["data_parallel"])
        assert isinstance(self.line.weight, DTensor)


class History(Callback):
    """The weights after each update, and what `averaged` shows of them."""

    def __init__(self) -> None:
        self.weights: list[Tensor] = []
        self.shown: list[Tensor] = []

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Before the first, too."""
        self.note(trainer, pl_module)

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        """Behind the average."""
        self.note(trainer, pl_module)

    def note(self, trainer: Trainer, module: Line) -> None:
        """With a look at what comes back afterwards."""
        before = whole_tensor(module.line.weight.detach()).clone()
        with averaged(trainer, module):
            self.shown.append(whole_tensor(module.line.weight.detach()).clone())
        assert torch.equal(whole_tensor(module.line.weight), before)
        self.weights.append(before)


def train(
    folder: Path, *, until: int, ckpt: Path | None = None, ema: bool = True, split: bool = False
) -> History:
    history = History()
    data = DataLoader(TensorDataset(torch.arange(8.0).view(4, 2)), batch_size=4)
    averages: list[Callback] = [WeightAverage(DECAY)] if ema else []
    trainer = Trainer(
        max_steps=until,
        accelerator="cpu",
        devices=1,
        strategy=Fsdp2Strategy() if split else "auto",
        logger=False,
        callbacks=[*averages, history, Saver(CheckpointConfig(), run_dir=folder)],
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(SplitLine() if split else Line(), data, ckpt_path=ckpt, weights_only=True)
    return history


def test_it_is_what_its_definition_says(tmp_path: Path) -> None:
    history = train(tmp_path, until=STEPS)
    expected = history.weights[0].double()
    assert torch.equal(history.shown[0], history.weights[0])
    for step in range(1, STEPS + 1):
        keep = min(DECAY, (1 + step) / (10 + step))
        expected = keep * expected + (1 - keep) * history.weights[step].double()
        torch.testing.assert_close(history.shown[step].double(), expected, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(history.shown[STEPS], history.weights[STEPS], rtol=1e-4)


def test_it_goes_on_over_a_stop_bit_for_bit(tmp_path: Path) -> None:
    whole = train(tmp_path / "whole", until=STEPS)
    train(tmp_path / "broken", until=5)
    last = tmp_path / "broken" / "checkpoints" / "last.ckpt"
    rest = train(tmp_path / "broken", until=STEPS, ckpt=last)
    assert torch.equal(torch.stack(rest.shown), torch.stack(whole.shown[5:]))


@pytest.fixture
def _no_group_left() -> Iterator[None]:
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("_no_group_left")
def test_split_weights_have_the_same_average_and_go_on_with_it(tmp_path: Path) -> None:
    whole = train(tmp_path / "whole", until=STEPS)
    train(tmp_path / "one", until=5)
    saved = tmp_path / "one" / "checkpoints" / "last.ckpt"
    middle = train(tmp_path / "two", until=8, ckpt=saved, split=True)
    assert torch.equal(torch.stack(middle.shown), torch.stack(whole.shown[5:9]))
    saved = tmp_path / "two" / "checkpoints" / "last.ckpt"
    rest = train(tmp_path / "three", until=STEPS, ckpt=saved)
    assert torch.equal(torch.stack(rest.shown), torch.stack(whole.shown[8:]))


def test_a_run_may_begin_to_average_and_cease_to(tmp_path: Path) -> None:
    train(tmp_path, until=2, ema=False)
    last = tmp_path / "checkpoints" / "last.ckpt"
    assert AVERAGE_RECORD not in torch.load(last, weights_only=True)
    begun = train(tmp_path, until=4, ckpt=last)
    assert torch.equal(begun.shown[0], begun.weights[0])
    assert not torch.equal(begun.shown[-1], begun.weights[-1])
    train(tmp_path, until=5, ckpt=last, ema=False)
    assert AVERAGE_RECORD not in torch.load(last, weights_only=True)


def test_whoever_uses_a_checkpoint_gets_the_average(tmp_path: Path) -> None:
    history = train(tmp_path, until=STEPS)
    saved = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved[AVERAGE_RECORD].keys() == {"line.weight"}
    path = tmp_path / "ours.ckpt"
    torch.save(saved | {MODEL_RECORD: {"name": "vit_t"}}, path)
    choice = choose(read_weights(path), re.compile("line"))
    assert choice is not None
    weights = choice.tensors
    assert weights.keys() == {"line.weight", "frozen"}
    assert torch.equal(weights["line.weight"], history.shown[-1])


@pytest.mark.parametrize("decay", [-0.1, 1.0, float("nan")])
def test_fractions_that_mean_nothing(decay: float) -> None:
    with pytest.raises(UserError, match=r"optim\.ema="):
        check(OptimConfig(ema=decay))


def test_weights_that_come_and_go_cannot_be_averaged() -> None:
    check_average(0.9, strategy="ddp", deepspeed="zero3")
    check_average(0.9, strategy="deepspeed", deepspeed="zero2")
    check_average(0.0, strategy="deepspeed", deepspeed="zero3")
    with pytest.raises(UserError, match=r"optim\.ema does not go with trainer\.deepspeed=zero3"):
        check_average(0.9, strategy="deepspeed", deepspeed="zero3")
