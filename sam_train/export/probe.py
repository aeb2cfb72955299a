"""One random photo and click, and what a model answers: the same question for every format."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sam_train.model.sam import Sam
from sam_train.types import FOREGROUND, PAD, Prompts


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """A photo that fills three quarters of the input frame, and one click on it."""

    images: Tensor
    """uint8 [1, 3, S, S], zeros outside the photo."""
    image_sizes: Tensor
    """int64 [1, 2] (h, w)."""
    prompts: Prompts
    """A point and the padding that belongs to it."""

    @property
    def photo(self) -> Tensor:
        """uint8 [3, h, w], without the padding."""
        h, w = self.image_sizes[0].tolist()
        return self.images[0, :, :h, :w]

    @property
    def coords(self) -> Tensor:
        """float32 [1, 1, 2], the point alone."""
        return self.prompts.coords[:, :1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A model's answer to a probe."""

    embeddings: Tensor
    """[1, C, h, w]."""
    logits: Tensor
    """[1, 3, g, g]."""
    iou: Tensor
    """[1, 3]."""

    def difference(self, other: Answer) -> float:
        """Return the largest difference, each kind of value relative to its largest."""
        pairs = (
            (self.embeddings, other.embeddings),
            (self.logits, other.logits),
            (self.iou, other.iou),
        )
        return max(relative(a, b) for a, b in pairs)


def relative(found: Tensor, expected: Tensor) -> float:
    """Return the largest difference, relative to the largest value; inf if incomparable."""
    if found.shape != expected.shape or not bool(found.isfinite().all()):
        return float("inf")
    largest = expected.abs().max().clamp(min=torch.finfo(torch.float32).tiny)
    return float((found.float() - expected).abs().max() / largest)


def random_probe(size: int, *, seed: int = 0) -> Probe:
    """Draw a probe for models of input size S = `size`."""
    draws = torch.Generator().manual_seed(seed)
    h = max(1, 3 * size // 4)
    images = torch.randint(256, (1, 3, size, size), generator=draws, dtype=torch.uint8)
    images[:, :, h:] = 0
    point = torch.rand(1, 1, 2, generator=draws) * torch.tensor([size - 1, h - 1])
    return Probe(
        images=images,
        image_sizes=torch.tensor([[h, size]]),
        prompts=Prompts(
            coords=torch.cat([point, torch.zeros(1, 1, 2)], dim=1),
            labels=torch.tensor([[FOREGROUND, PAD]]),
        ),
    )


@torch.no_grad()
def answer(sam: Sam, probe: Probe) -> Answer:
    """Ask our own model."""
    embeddings = sam.encode(probe.images, probe.image_sizes)
    found = sam.decode(embeddings, torch.tensor([0]), probe.prompts, multimask=True)
    return Answer(embeddings=embeddings, logits=found.mask_logits, iou=found.iou)
