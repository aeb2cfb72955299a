"""The interface of an objective, and the loss that a training step makes of one.

An objective knows neither Lightning nor ranks nor how gradients are made. Training, the training
film, `plan` and the tests all run its one generator of rounds.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor

from sam_train.model import Sam
from sam_train.model.embedding_cache import BatchEncoder, encode_batch
from sam_train.prompts.rng import Stream, uniform
from sam_train.runtime.registry import Registry
from sam_train.train.losses import LossTerms
from sam_train.train.rounds_backward import backward_round_by_round
from sam_train.types import MASK_ID_BITS, Batch, Prediction, Prompts

if TYPE_CHECKING:
    from sam_train.settings.run import RunConfig
    from sam_train.train.records import RoundLog


@dataclass(frozen=True, slots=True, kw_only=True)
class At:
    """The moment of a run that all randomness is a function of."""

    seed: int
    step: int
    """Finished updates."""
    progress: float
    """Fraction of the training steps done, 0 to 1; it chooses the curriculum's stage."""


@dataclass(slots=True, kw_only=True)
class RoundOutcome:
    """A round for M masks: the prompts, the model's answer and its loss."""

    r: int
    """The round, from 0; it names the columns of metrics.csv."""
    prompts: Prompts
    prediction: Prediction
    terms: LossTerms


class Objective(ABC):
    """A way to turn a batch into losses.

    A step has two halves, because gradients are cut at the image embedding. The encoder runs once,
    and each round goes back to the embedding by itself (`backward_round_by_round`).
    """

    def __init__(self, cfg: RunConfig) -> None:
        self.cfg = cfg
        self.embed: BatchEncoder = encode_batch
        """Encodes a batch; a cache where the encoder is frozen (`embeddings.cache`)."""

    def encode(self, model: Sam, batch: Batch, at: At) -> Tensor:
        """Encode each image once, whatever the number of its masks: [B, C, h, w]."""
        draws = drop_path_draws(model, batch, at) if self.cfg.model.drop_path else None
        return self.embed(model, batch, draws=draws)

    @abstractmethod
    def number(self, at: At) -> int:
        """Return the number of rounds that `rounds` yields."""

    @abstractmethod
    def rounds(
        self, model: Sam, batch: Batch, at: At, embeddings: Tensor
    ) -> Iterator[RoundOutcome]:
        """Yield the rounds of a step, one outcome each.

        Must not wait for the device. What one round hands to the next carries no gradient, unless
        `joined`.

        Args:
            model: in training or in eval mode.
            batch: B images and M masks, M may be 0.
            at: the moment; on every number of ranks the same rounds follow from it.
            embeddings: of `encode`, or detached from it.
        """

    @property
    def joined(self) -> bool:
        """True where gradient flows from round to round, so that all graphs must be kept."""
        return False


OBJECTIVES: Registry[type[Objective]] = Registry("trainer.objective")
"""The objectives by name; `@OBJECTIVES.named("name")` above a class adds one."""


def build_objective(cfg: RunConfig) -> Objective:
    """Build the objective that `trainer.objective` names."""
    return OBJECTIVES[cfg.trainer.objective](cfg)


def loss_of_step(
    objective: Objective,
    model: Sam,
    batch: Batch,
    at: At,
    *,
    embeddings: Tensor,
    weight: Tensor,
    log: RoundLog,
    loss_scale: Tensor | None = None,
) -> Tensor:
    """Sum the loss over rounds and masks; memory does not grow with the rounds.

    Args:
        embeddings: of `objective.encode`, with its graph.
        weight: scalar, see `mask_weight`.
        log: takes the figures of each round.
        loss_scale: see `backward_round_by_round`.

    Returns:
        scalar; its backward reaches the embeddings and the decoder's parameters.
    """
    # The mean over rounds, so that their number does not act like a learning rate.
    share = weight / objective.number(at)

    def losses(embeddings: Tensor) -> Iterator[Tensor]:
        for outcome in objective.rounds(model, batch, at, embeddings):
            log.add(outcome)
            yield outcome.terms.total.sum() * share
            # Else this round's logits would live on beside those of the next.
            del outcome

    # Not the encoder: its gradient arrives through the embeddings, once for all rounds.
    parts = (model.prompt_encoder, model.mask_decoder)
    return backward_round_by_round(
        losses,
        embeddings=embeddings,
        parameters=[p for part in parts for p in part.parameters() if p.requires_grad],
        joined=objective.joined,
        loss_scale=loss_scale,
    )


def mask_weight(batch: Batch, *, accumulate: int, device: torch.device) -> Tensor:
    """Return the factor of one mask's loss that makes every mask of a step count the same.

    Gradients are averaged over ranks and micro-batches. The sum over a micro-batch is therefore
    divided by the number of masks of all, and multiplied by the number of ranks and micro-batches.
    The count stays on the device, so the host does not wait.
    """
    masks = batch.num_masks if batch.step_masks is None else batch.step_masks
    # Filled on the device: a tensor made on the host would wait for the encoder.
    count = torch.full((), float(masks), device=device)
    ranks = 1
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(count)
        ranks = dist.get_world_size()
    return ranks * accumulate / count


def drop_path_draws(model: Sam, batch: Batch, at: At) -> Tensor:
    """Draw float32 [B, units, branches] from (seed, step, image), whatever ranks there are."""
    # Per image, not per rank's batch: the draw must not depend on how a step is split.
    encoder = model.image_encoder
    shape = (len(batch.keys), len(encoder.units()), encoder.branches)
    # A mask's id is its image's place in the sample order and its own number, see types.Sample.
    places = batch.mask_ids >> MASK_ID_BITS
    # An image without masks keeps 0: nothing is learnt from it, so any draw will do.
    ids = places.new_zeros(shape[0]).scatter_(0, batch.image_index, places)
    count = shape[1] * shape[2]
    draws = uniform(at.seed, at.step, Stream.DROP_PATH, ids, count=count)
    return draws.float().view(shape)
