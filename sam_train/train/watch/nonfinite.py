"""Counts skipped updates, records the cause of each, and ends a run that is lost."""

from __future__ import annotations

import json
import logging
import math
import socket
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from sam_train.errors import UserError
from sam_train.runtime import dist
from sam_train.train.parallel.loss_scale import BACKOFF
from sam_train.train.records import RoundLog
from sam_train.train.watch.config import HealthConfig
from sam_train.train.watch.skipping import OnHost
from sam_train.types import Batch

log = logging.getLogger("sam_train")

FOLDER = "nonfinite"
"""The folder in run_dir that has `step=N.json` for each skipped update N."""


@dataclass(slots=True)
class _MicroBatch:
    """The marks by which a micro-batch is found again."""

    keys: list[str]
    positions: list[int]
    mask_ids: Tensor


@dataclass(slots=True, kw_only=True)
class _Update:
    """An update of which the host does not know yet whether it was skipped."""

    step: int
    norm: OnHost
    names: list[str]
    each: Tensor | None
    rounds: RoundLog | None
    scale: OnHost | None = None
    """The loss scale that its gradients were made under, with 16-mixed."""
    micro_batches: list[_MicroBatch] = field(default_factory=list)


class NonfiniteWatch(Callback):
    """Looks at each update's gradient norm, on a GPU one step later, so that nothing waits for it.

    On logging steps, and when a checkpoint is made, it looks at once. Belongs before the callbacks
    that show or save a step.
    """

    def __init__(self, cfg: HealthConfig, *, run_dir: Path, log_every: int) -> None:
        self.cfg = cfg
        self.folder = run_dir / FOLDER
        self.log_every = log_every
        self.skipped = 0
        """Updates skipped since the run's beginning, resumed or not."""
        self.in_a_row = 0
        self._seen = -1
        self._micro_batches: list[_MicroBatch] = []
        self._names: list[str] = []
        self._each: Tensor | None = None
        self._pending: _Update | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Connect to the other ranks, which exchange records when an update was skipped."""
        dist.start()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin at the step from which the run resumes."""
        self._seen = trainer.global_step

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        """Keep each gradient's norm, on the device."""
        # By the time the norm is read the gradients are gone; one number each says which were bad.
        found = [(n, p.grad) for n, p in pl_module.named_parameters() if p.grad is not None]
        self._names = [name for name, _ in found]
        # A collective in here would stall the backward pass that it follows; this rank's part names
        # the layer as well.
        local = [g.to_local() if isinstance(g, DTensor) else g for _, g in found]
        self._each = torch.stack(torch._foreach_norm(local)).detach() if local else None

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """Check the update before this one, and this one too where it is needed now.

        Raises:
            UserError: too many in a row were skipped.
        """
        self._micro_batches.append(_MicroBatch(batch.keys, batch.positions, batch.mask_ids))
        step = trainer.global_step
        # Between two micro-batches nothing was updated.
        if step == self._seen:
            return
        self._seen = step
        self._judge(trainer)
        # Modules other than `SamModule` are watched too, and have no norm.
        norm = getattr(pl_module, "last_grad_norm", None)
        scaling = getattr(pl_module, "loss_scale", None)
        if norm is not None:
            self._pending = _Update(
                step=step,
                norm=OnHost(norm),
                names=self._names,
                each=self._each,
                rounds=getattr(pl_module, "last_rounds", None),
                scale=None if scaling is None else OnHost(scaling.used),
                micro_batches=self._micro_batches,
            )
        self._micro_batches, self._each = [], None
        # As in `StepMeter`: the row of a step must hold its own skip.
        shown = step % self.log_every == 0 or step in (1, trainer.max_steps)
        if self._pending is not None and (shown or not self._pending.norm.later):
            self._judge(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check the last update, too."""
        self._judge(trainer)

    def state_dict(self) -> dict[str, int]:
        """Return the counts, with the update that is not yet judged."""
        bad = self._pending is not None and not _finite(self._pending)
        if self._pending is None:
            return {"skipped": self.skipped, "in_a_row": self.in_a_row}
        return {"skipped": self.skipped + bad, "in_a_row": self.in_a_row + 1 if bad else 0}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the counts of the run that is resumed."""
        self.skipped = state_dict["skipped"]
        self.in_a_row = state_dict["in_a_row"]

    def _judge(self, trainer: Trainer) -> None:
        # Cleared first: the error below must not leave an update that is judged twice.
        update, self._pending = self._pending, None
        if update is None:
            return
        if _finite(update):
            self.in_a_row = 0
            return
        self.skipped += 1
        self.in_a_row += 1
        # Every rank comes here together, because the norm is the same on all of them.
        records = dist.gather(_record(trainer.global_rank, update))
        text = _summary(update.step, records)
        scale = None if update.scale is None else float(update.scale.read())
        if scale is not None:
            text += f"; loss scale {scale:.0f}, now {scale * BACKOFF:.0f}"
        path = self.folder / f"step={update.step}.json"
        if trainer.is_global_zero:
            self.folder.mkdir(exist_ok=True)
            content = {"step": update.step, "in_a_row": self.in_a_row, "ranks": records}
            if scale is not None:
                content["loss_scale"] = scale
            path.write_text(json.dumps(content, indent=1))
            log.warning("%s: skipped, %d in a row; %s", text, self.in_a_row, path)
        # A sound loss whose gradient leaves float16's range is what a scale is lowered for.
        searching = scale is not None and scale > 1 and _loss_is_finite(records)
        if self.in_a_row >= self.cfg.max_nonfinite and not searching:
            self._stop(trainer, text, path)

    def _stop(self, trainer: Trainer, text: str, path: Path) -> None:
        if not trainer.is_global_zero:
            # The first rank says it, once; to leave before would end it in mid-sentence.
            with suppress(RuntimeError):
                dist.barrier()
            raise SystemExit(2)
        raise UserError(
            f"{self.in_a_row} updates in a row were skipped (health.max_nonfinite), the last "
            f"because {text}: see {path.parent}; lower optim.lr, set optim.grad_clip=1, or find "
            "the operation with +debug=anomaly"
        )


def _finite(update: _Update) -> bool:
    return bool(update.norm.read().isfinite().all())


def _record(rank: int, update: _Update) -> dict[str, Any]:
    """Describe a skipped update as this rank saw it, in plain types."""
    losses: list[float] = []
    if update.rounds is not None:
        sums = torch.stack(update.rounds.sums).cpu()
        # Columns of `RoundLog.sums`: the loss's sum and the number of masks.
        losses = (sums[:, 0] / sums[:, 3].clamp(min=1)).tolist()
    spoilt: list[str] = []
    if update.each is not None:
        finite = update.each.isfinite().tolist()
        spoilt = [name for name, good in zip(update.names, finite, strict=True) if not good]
    return {
        "rank": rank,
        "host": socket.gethostname(),
        "keys": [key for each in update.micro_batches for key in each.keys],
        "positions": [place for each in update.micro_batches for place in each.positions],
        "mask_ids": [number for each in update.micro_batches for number in each.mask_ids.tolist()],
        # JSON knows neither NaN nor infinity.
        "loss_by_round": [x if math.isfinite(x) else str(x) for x in losses],
        "nonfinite_gradients": spoilt,
    }


def _loss_is_finite(records: list[dict[str, Any]]) -> bool:
    return not any(isinstance(x, str) for record in records for x in record["loss_by_round"])


def _summary(step: int, records: list[dict[str, Any]]) -> str:
    for record in records:
        for r, loss in enumerate(record["loss_by_round"]):
            if isinstance(loss, str):
                return (
                    f"the loss of step {step} is {loss} on rank {record['rank']} "
                    f"({record['host']}) from round {r + 1} on"
                )
    names = {name: None for record in records for name in record["nonfinite_gradients"]}
    first = f" ({next(iter(names))} and {len(names) - 1} more)" if names else ""
    return f"the loss of step {step} is finite, but its gradient is not{first}"
