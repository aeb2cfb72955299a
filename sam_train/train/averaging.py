"""A moving average of the weights, which is measured and handed on if `optim.ema` is set."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.distributed.tensor import DTensor

from sam_train.errors import UserError
from sam_train.model.checkpoints.weight_files import AVERAGE_RECORD
from sam_train.train.config import deepspeed_config
from sam_train.train.parallel.strategies import part_for, whole_tensor

log = logging.getLogger("sam_train")


class WeightAverage(Callback):
    """Follows the weights after each update; training never sees it.

    It comes before the callbacks that measure. Each rank averages the weights that it holds: all of
    them, or its part under fsdp2.
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self._weights: dict[str, Tensor] = {}
        self._average: dict[str, Tensor] = {}
        self._stored: dict[str, Tensor] | None = None
        self._seen = -1

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep the run's average until the weights have their places."""
        # Whole tensors: they can be split only when the strategy has split the weights.
        self._stored = checkpoint.get(AVERAGE_RECORD)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Store whole tensors by parameter name; a collective where the weights are split."""
        # On every rank, before the first one is asked: gathering is a collective.
        whole = {name: whole_tensor(value) for name, value in self._average.items()}
        if trainer.is_global_zero:
            checkpoint[AVERAGE_RECORD] = whole

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin at the run's average, or at the weights as they are."""
        self._seen = trainer.global_step
        if trainer.global_step and self._stored is None:
            log.info("optim.ema: the checkpoint holds no average, it begins at its weights")
        self._begin(pl_module)

    @torch.no_grad()
    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Move the average towards the weights after an update."""
        step = trainer.global_step
        # Between two micro-batches the weights are as they were.
        if step == self._seen:
            return
        self._seen = step
        # The random weights of the beginning must not weigh on it for 1 / (1 - decay) steps.
        decay = min(self.decay, (1 + step) / (10 + step))
        average = [_own(value) for value in self._average.values()]
        # Elementwise, so every rank can do it on its own part.
        torch._foreach_lerp_(average, [_own(w) for w in self._weights.values()], 1 - decay)

    @contextmanager
    def in_place(self, pl_module: LightningModule) -> Iterator[None]:
        """Put the average into the model while open, then its own weights again, bit for bit."""
        # A run that had finished before it resumed never called `on_train_start`.
        self._begin(pl_module)
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def _begin(self, pl_module: LightningModule) -> None:
        if self._average:
            return
        stored = self._stored or {}
        # Frozen weights are their own average.
        trained = ((n, p.detach()) for n, p in pl_module.named_parameters() if p.requires_grad)
        self._weights = dict(trained)
        self._average = {
            name: (part_for(weight, stored[name]) if name in stored else weight).clone()
            for name, weight in self._weights.items()
        }
        self._stored = None

    @torch.no_grad()
    def _exchange(self) -> None:
        # One tensor after the other: there need not be room for a third copy of the model.
        for name, weight in self._weights.items():
            here, there = _own(weight), _own(self._average[name])
            kept = here.clone()
            here.copy_(there)
            there.copy_(kept)


def _own(value: Tensor) -> Tensor:
    """Return the part of a tensor that this rank holds."""
    return value.to_local() if isinstance(value, DTensor) else value


def check(decay: float, *, strategy: str, deepspeed: str) -> None:
    """Refuse an average of weights that come and go with each block's work.

    Args:
        decay: `optim.ema`.
        strategy, deepspeed: the settings of `trainer`.

    Raises:
        UserError: names the two settings.
    """
    # Under ZeRO 3 a parameter holds nothing between two passes.
    if not decay or strategy != "deepspeed":
        return
    zero = deepspeed_config(deepspeed, offload=False, clip=0.0).get("zero_optimization", {})
    if zero.get("stage") == 3:
        raise UserError(
            f"optim.ema does not go with trainer.deepspeed={deepspeed}, ZeRO 3: use zero2, or "
            "trainer.strategy=fsdp2"
        )


def averaged(trainer: Trainer, pl_module: LightningModule) -> AbstractContextManager[None]:
    """Put the averaged weights into the model while open, where the run keeps any."""
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    found = [one for one in callbacks if isinstance(one, WeightAverage)]
    return found[0].in_place(pl_module) if found else nullcontext()
