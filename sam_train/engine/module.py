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

from sam_train.config import RunConfig
from sam_train.engine.records import RoundLog
from sam_train.engine.resume import align_batch_counters
from sam_train.engine.rounds_backward import backward_round_by_round
from sam_train.losses import mask_losses
from sam_train.model import Sam, build_from_config
from sam_train.model.weight_files import MODEL_RECORD
from sam_train.optim import build_optimizer, freeze
from sam_train.prompts import Rounds
from sam_train.prompts.rng import Stream, uniform
from sam_train.types import MASK_ID_BITS, Batch


class SamModule(LightningModule):
    """SAM and its training step; everything of it that is saved lies in `.sam`."""

    def __init__(self, cfg: RunConfig, sam: Sam | None = None) -> None:
        super().__init__()
        self.cfg = cfg
        self.sam = sam if sam is not None else build_from_config(cfg.model)
        freeze(
            self.sam.named_parameters(),
            blocks=cfg.optim.frozen_blocks,
            depth=len(self.sam.image_encoder.blocks),
        )
        self.last_rounds: RoundLog | None = None
        self.last_grad_norm: Tensor | None = None

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Encode each image once, then let a simulated person correct every mask for 11 rounds.

        Args:
            batch: B images and M masks, see `types.Batch`.
            batch_idx: not used; randomness is a function of (seed, step, mask).

        Returns:
            float32 scalar: the mean over rounds and over the masks of all ranks.
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

        loss = backward_round_by_round(
            play, embeddings=embeddings, parameters=self._decoder_parameters()
        )
        self.last_rounds = log
        return loss

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW and its schedule, stepped once per update."""
        optimizer, schedule = build_optimizer(
            self.sam.named_parameters(),
            cfg=self.cfg.optim,
            depth=len(self.sam.image_encoder.blocks),
            max_steps=self.cfg.trainer.max_steps,
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Note the model's sizes in plain types, so that `ckpt=` needs no `model=` beside it."""
        checkpoint[MODEL_RECORD] = asdict(self.cfg.model)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Let the run go on with whole updates, whatever `trainer.accumulate` is now."""
        align_batch_counters(checkpoint, accumulate=self.trainer.accumulate_grad_batches)

    def configure_gradient_clipping(self, optimizer: Any, *_: Any, **__: Any) -> None:
        """Measure the gradient's norm at every update; limit it if `optim.grad_clip` says so."""
        limit = self.cfg.optim.grad_clip or math.inf
        self.last_grad_norm = torch.nn.utils.clip_grad_norm_(self.parameters(), limit)

    def _weight_of_a_mask(self, batch: Batch) -> Tensor:
        """What one mask's loss counts for, so that every mask of every rank counts the same.

        DDP averages gradients over ranks, so a rank's sum is divided by the global count and
        multiplied by the number of ranks. The count stays on the device: no host sync.
        """
        # Filled there: a tensor made on the host would wait for the encoder.
        count = torch.full((), float(batch.num_masks), device=self.device)
        ranks = 1
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(count)
            ranks = dist.get_world_size()
        return ranks / count

    def _drop_path_draws(self, batch: Batch) -> Tensor | None:
        """float32 [B, depth, 2] of (seed, step, image), so that neither rank nor resume matters."""
        if self.cfg.model.drop_path == 0:
            return None
        images, depth = len(batch.keys), len(self.sam.image_encoder.blocks)
        # A mask's id is its image's place in the sample order and its own number, see types.Sample.
        places = batch.mask_ids >> MASK_ID_BITS
        ids = places.new_zeros(images).scatter_(0, batch.image_index, places)
        draws = uniform(self.cfg.seed, self.global_step, Stream.DROP_PATH, ids, count=2 * depth)
        return draws.float().view(images, depth, 2)

    def _decoder_parameters(self) -> list[Tensor]:
        return [
            p
            for part in (self.sam.prompt_encoder, self.sam.mask_decoder)
            for p in part.parameters()
            if p.requires_grad
        ]
