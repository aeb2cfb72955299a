"""The Lightning adapter of the training step: splitting, optimizer, accumulation, checkpoints."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

import torch
from lightning import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor

from sam_train.model import Sam, build_from_config
from sam_train.model.build import recompute_of
from sam_train.model.checkpoints.weight_files import MODEL_RECORD
from sam_train.settings.run import RunConfig
from sam_train.train.checkpoints.resume import align_batch_counters
from sam_train.train.objectives import At
from sam_train.train.objectives.base import build_objective, loss_of_step, mask_weight
from sam_train.train.optim import build_optimizer, parameter_groups
from sam_train.train.parallel.full_state import grouped_names, name_parameters, number_parameters
from sam_train.train.parallel.loss_scale import HalfPrecision, LossScale
from sam_train.train.parallel.prepare import prepare, split, tune_as
from sam_train.train.parallel.strategies import Fsdp2Strategy, clip_gradients
from sam_train.train.parallel.zero import ZeroStrategy
from sam_train.train.records import RoundLog
from sam_train.train.watch.ranks import Stopwatch
from sam_train.train.watch.skipping import skip_if_nonfinite, spoil_if_nonfinite
from sam_train.types import Batch


class SamModule(LightningModule):
    """SAM and its objective for a Lightning Trainer; its saved weights all lie in `.sam`."""

    def __init__(self, cfg: RunConfig, sam: Sam | None = None) -> None:
        super().__init__()
        self.cfg = cfg
        self.sam = sam if sam is not None else build_from_config(cfg.model)
        self.objective = build_objective(cfg)
        prepare(
            self.sam,
            cfg=cfg,
            recompute=recompute_of(cfg.model),
            compiled=cfg.trainer.compile,
        )
        # After `prepare`, which decides what is trained.
        groups = parameter_groups(self.sam, cfg=cfg.optim)
        # Noted while the parameters are whole: strategies change their shapes.
        self.optimizer_names = grouped_names(self, groups)
        # Lightning calls `configure_model` once per verb, and a split model cannot be split again.
        self._split = False
        self.last_rounds: RoundLog | None = None
        self.last_grad_norm: Tensor | None = None
        self.stopwatch = Stopwatch()
        # Not a buffer: a checkpoint's tensors are the model's alone, and the plugin stores it.
        self.loss_scale: LossScale | None = None
        """The loss scale of 16-mixed; None with any other precision."""

    def configure_model(self) -> None:
        """Split the model over the ranks where the strategy asks for it (Lightning calls it)."""
        strategy = self.trainer.strategy
        if isinstance(strategy, Fsdp2Strategy) and not self._split:
            mesh = strategy.device_mesh["data_parallel"]
            split(self.sam, mesh, precision=self.cfg.trainer.precision)
            self._split = True

    def on_fit_start(self) -> None:
        """Take the loss scale from the precision plugin, where there is one."""
        plugin = self.trainer.precision_plugin
        self.loss_scale = plugin.loss_scale if isinstance(plugin, HalfPrecision) else None

    def whole_sam(self) -> Sam:
        """Return a model that a rank may use alone: `sam`, or a copy where it is split.

        A forward pass of a split model needs all ranks at once, and so does this call then.
        """
        strategy: Any = self.trainer.strategy
        if not getattr(strategy, "splits_weights", False):
            return self.sam
        weights = strategy.whole_weights(everywhere=True)
        # No memory and no initial values: all of them are replaced.
        with torch.device("meta"):
            copy = build_from_config(self.cfg.model)
        # With the adapters that the values have, and none of their initial draws.
        tune_as(copy, self.cfg)
        values = {name.removeprefix("sam."): value for name, value in weights.items()}
        # assign: meta tensors have no storage to copy into.
        copy.load_state_dict(values, assign=True)
        # Buffers that no checkpoint holds, such as position codes, exist on meta only.
        for name, buffer in self.sam.named_buffers():
            owner, _, own_name = name.rpartition(".")
            copy.get_submodule(owner).register_buffer(own_name, buffer, persistent=name in values)
        return copy.train(self.sam.training)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Compute the loss of a micro-batch; `objectives/interactive.py` has the paper's step.

        Args:
            batch: B images and M masks, see `types.Batch`.
            batch_idx: counts micro-batches (`trainer.accumulate` of them are a step); randomness is
                a function of (seed, step, mask).

        Returns:
            float32 scalar whose mean over ranks and micro-batches is the loss: the mean over rounds
            and over the masks of the whole step.
        """
        # Finished updates, the same for all micro-batches of a step, so a split step draws the
        # same.
        step = self.global_step
        at = At(seed=self.cfg.seed, step=step, progress=step / self.cfg.trainer.max_steps)
        embeddings = self.objective.encode(self.sam, batch, at)
        weight = mask_weight(batch, accumulate=self.cfg.trainer.accumulate, device=self.device)
        log = RoundLog()
        scale = self.loss_scale
        # No rank waits for another in here: the times can be compared.
        with self.stopwatch.measure(batch.num_masks, device=self.device):
            loss = loss_of_step(
                self.objective,
                self.sam,
                batch,
                at,
                embeddings=embeddings,
                weight=weight,
                log=log,
                loss_scale=None if scale is None else scale.on(embeddings.device),
            )
        # A multiple begins a step; a process that resumes within one has no log yet.
        if self.last_rounds is None or batch_idx % self.cfg.trainer.accumulate == 0:
            self.last_rounds = log
        else:
            self.last_rounds.add_micro_batch(log)
        return spoil_if_nonfinite(loss)

    def step_under_autocast(self, batch: Batch, batch_idx: int) -> Tensor:
        """Run `training_step` with autocast opened inside; `ZeroStrategy` calls it."""
        plugin: Any = self.trainer.precision_plugin
        with plugin.forward_context():
            return self.training_step(batch, batch_idx)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Build the optimizer and its schedule, which steps once per update."""
        optimizer, schedule = build_optimizer(
            self.sam, cfg=self.cfg.optim, max_steps=self.cfg.trainer.max_steps
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the model's sizes in plain types, so that `ckpt=` needs no `model=` beside it."""
        # In plain types: loading runs no code, so a dataclass could not come back.
        checkpoint[MODEL_RECORD] = asdict(self.cfg.model)
        name_parameters(checkpoint, self.optimizer_names)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Align the run to whole updates, whatever `trainer.accumulate` is now."""
        # Before Lightning reads the counters, which it does right after this hook.
        align_batch_counters(checkpoint, accumulate=self.trainer.accumulate_grad_batches)
        number_parameters(checkpoint, self.optimizer_names)

    def configure_gradient_clipping(self, optimizer: Any, *_: Any, **__: Any) -> None:
        """Measure the gradient's norm at every update; limit it if `optim.grad_clip` says so.

        An update whose norm is not finite is skipped. DeepSpeed clips and skips by itself.
        """
        if not isinstance(self.trainer.strategy, ZeroStrategy):
            # inf measures without limiting: the norm is needed to skip, whatever grad_clip says.
            self.last_grad_norm = clip_gradients(self, self.cfg.optim.grad_clip or math.inf)
            skip_if_nonfinite(optimizer, self.last_grad_norm)
