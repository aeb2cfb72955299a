"""One training step, top to bottom, as the paper tells it (A, "Training algorithm")."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import torch
import torch.distributed as dist
from lightning import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor

from sam_train.model import Sam, build_from_config
from sam_train.model.build import recompute_of
from sam_train.model.checkpoints.weight_files import MODEL_RECORD
from sam_train.prompts import Rounds
from sam_train.prompts.rng import Stream, uniform
from sam_train.settings.run import RunConfig
from sam_train.train.checkpoints.resume import align_batch_counters
from sam_train.train.losses import mask_losses
from sam_train.train.optim import build_optimizer, parameter_groups
from sam_train.train.parallel.full_state import grouped_names, name_parameters, number_parameters
from sam_train.train.parallel.loss_scale import HalfPrecision, LossScale
from sam_train.train.parallel.prepare import prepare, split
from sam_train.train.parallel.strategies import Fsdp2Strategy, clip_gradients
from sam_train.train.parallel.zero import ZeroStrategy
from sam_train.train.records import RoundLog
from sam_train.train.rounds_backward import Play, backward_round_by_round
from sam_train.train.watch.ranks import Stopwatch
from sam_train.train.watch.skipping import skip_if_nonfinite, spoil_if_nonfinite
from sam_train.types import MASK_ID_BITS, Batch


class SamModule(LightningModule):
    """SAM and its training step; everything of it that is saved lies in `.sam`."""

    def __init__(self, cfg: RunConfig, sam: Sam | None = None) -> None:
        super().__init__()
        self.cfg = cfg
        self.sam = sam if sam is not None else build_from_config(cfg.model)
        prepare(
            self.sam,
            optim=cfg.optim,
            recompute=recompute_of(cfg.model),
            compiled=cfg.trainer.compile,
        )
        groups = parameter_groups(self.sam, cfg=cfg.optim)
        # Noted while the parameters are whole: strategies change their shapes.
        self.optimizer_names = grouped_names(self, groups)
        self._split = False
        self.last_rounds: RoundLog | None = None
        self.last_grad_norm: Tensor | None = None
        self.stopwatch = Stopwatch()
        self.loss_scale: LossScale | None = None
        """Of 16-mixed."""

    def configure_model(self) -> None:
        """Split the model over the ranks where the strategy asks for it (Lightning calls it)."""
        strategy = self.trainer.strategy
        if isinstance(strategy, Fsdp2Strategy) and not self._split:
            mesh = strategy.device_mesh["data_parallel"]
            split(self.sam, mesh, precision=self.cfg.trainer.precision)
            self._split = True

    def on_fit_start(self) -> None:
        """Meet the loss scale, where there is one."""
        plugin = self.trainer.precision_plugin
        self.loss_scale = plugin.loss_scale if isinstance(plugin, HalfPrecision) else None

    def whole_sam(self) -> Sam:
        """The model for a rank to use as it likes: itself, or a copy where it is split.

        A forward pass of a split model needs all ranks at once. A collective where it is split.
        """
        strategy: Any = self.trainer.strategy
        if not getattr(strategy, "splits_weights", False):
            return self.sam
        weights = strategy.whole_weights(everywhere=True)
        with torch.device("meta"):
            copy = build_from_config(self.cfg.model)
        values = {name.removeprefix("sam."): value for name, value in weights.items()}
        copy.load_state_dict(values, assign=True)
        for name, buffer in self.sam.named_buffers():
            owner, _, own_name = name.rpartition(".")
            copy.get_submodule(owner).register_buffer(own_name, buffer, persistent=name in values)
        return copy.train(self.sam.training)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Encode each image once, then let a simulated person correct every mask for 11 rounds.

        Args:
            batch: B images and M masks, see `types.Batch`.
            batch_idx: counts turns (`trainer.accumulate` of them are a step); randomness is a
                function of (seed, step, mask).

        Returns:
            float32 scalar whose mean over ranks and turns is the loss: the mean over rounds and
            over the masks of the whole step.
        """
        embeddings = self.sam.encode(
            batch.images, batch.image_sizes, draws=self._drop_path_draws(batch)
        )
        rounds = Rounds(
            self.cfg.prompts,
            batch,
            seed=self.cfg.seed,
            step=self.global_step,
            progress=self.global_step / self.cfg.trainer.max_steps,
            image_size=self.sam.image_size,
            grid_size=self.sam.grid_size,
        )
        weight = self._weight_of_a_mask(batch) / rounds.number
        log = RoundLog()

        def play(embeddings: Tensor) -> Iterator[Tensor]:
            prompts = rounds.first()
            for r in range(rounds.number):
                prediction = self.sam.decode(
                    embeddings,
                    batch.image_index,
                    prompts,
                    multimask=rounds.multimask(r),
                    all_present=rounds.all_present(r),
                )
                terms = mask_losses(
                    prediction,
                    rounds.targets,
                    rounds.valid,
                    cfg=self.cfg.loss,
                    draw=rounds.draw,
                    r=r,
                )
                log.add(terms, prediction)
                yield terms.total.sum() * weight
                if r + 1 < rounds.number:
                    prompts = rounds.next(r + 1, prompts, prediction)

        # No rank waits for another in here: what they take can be compared.
        with self.stopwatch.measure(batch.num_masks, device=self.device):
            loss = self._sum_of_rounds(play, embeddings)
        if self.last_rounds is None or batch_idx % self.cfg.trainer.accumulate == 0:
            self.last_rounds = log
        else:
            self.last_rounds.add_turn(log)
        return spoil_if_nonfinite(loss)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW and its schedule, stepped once per update."""
        optimizer, schedule = build_optimizer(
            self.sam, cfg=self.cfg.optim, max_steps=self.cfg.trainer.max_steps
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Note the model's sizes in plain types, so that `ckpt=` needs no `model=` beside it."""
        checkpoint[MODEL_RECORD] = asdict(self.cfg.model)
        name_parameters(checkpoint, self.optimizer_names)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Let the run go on with whole updates, whatever `trainer.accumulate` is now."""
        align_batch_counters(checkpoint, accumulate=self.trainer.accumulate_grad_batches)
        number_parameters(checkpoint, self.optimizer_names)

    def configure_gradient_clipping(self, optimizer: Any, *_: Any, **__: Any) -> None:
        """Measure the gradient's norm at every update; limit it if `optim.grad_clip` says so.

        An update whose norm is not finite is skipped. DeepSpeed does all of it by itself.
        """
        if not isinstance(self.trainer.strategy, ZeroStrategy):
            self.last_grad_norm = clip_gradients(self, self.cfg.optim.grad_clip or math.inf)
            skip_if_nonfinite(optimizer, self.last_grad_norm)

    def _weight_of_a_mask(self, batch: Batch) -> Tensor:
        """What one mask's loss counts for, so that every mask of a step counts the same.

        Gradients are averaged over ranks and turns, so a turn's sum is divided by the global count
        and multiplied by the number of both. The count stays on the device: no host sync.
        """
        masks = batch.num_masks if batch.step_masks is None else batch.step_masks
        # Filled there: a tensor made on the host would wait for the encoder.
        count = torch.full((), float(masks), device=self.device)
        ranks = 1
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(count)
            ranks = dist.get_world_size()
        return ranks * self.cfg.trainer.accumulate / count

    def _drop_path_draws(self, batch: Batch) -> Tensor | None:
        """float32 [B, units, branches] of (seed, step, image): neither rank nor resume matters."""
        if self.cfg.model.drop_path == 0:
            return None
        encoder = self.sam.image_encoder
        shape = (len(batch.keys), len(encoder.units()), encoder.branches)
        # A mask's id is its image's place in the sample order and its own number, see types.Sample.
        places = batch.mask_ids >> MASK_ID_BITS
        ids = places.new_zeros(shape[0]).scatter_(0, batch.image_index, places)
        count = shape[1] * shape[2]
        draws = uniform(self.cfg.seed, self.global_step, Stream.DROP_PATH, ids, count=count)
        return draws.float().view(shape)

    def _sum_of_rounds(self, play: Play, embeddings: Tensor) -> Tensor:
        parts = (self.sam.prompt_encoder, self.sam.mask_decoder)
        scale = self.loss_scale
        return backward_round_by_round(
            play,
            embeddings=embeddings,
            parameters=[p for part in parts for p in part.parameters() if p.requires_grad],
            joined=self.cfg.prompts.feedback_gradient,
            loss_scale=None if scale is None else scale.on(embeddings.device),
        )
