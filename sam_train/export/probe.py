"""A random photo with a click, and a model's answer: the same question for every format."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from sam_train.model.encoded_photos import Pixels, encode_photos, point_prompts
from sam_train.model.sam import Sam
from sam_train.types import Prompts


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A photo that fills three quarters of the input frame, and one click on it.

    Its longer side is S, so no reader's resizing comes between.
    """

    pixels: Pixels
    """uint8 [h, S, 3] RGB."""
    point: Tensor
    """float32 [1, 2] (x, y), input frame."""

    @property
    def photo(self) -> Tensor:
        """uint8 [3, h, S], without the padding."""
        return torch.from_numpy(self.pixels).permute(2, 0, 1)

    @property
    def images(self) -> Tensor:
        """uint8 [1, 3, S, S], zeros outside the photo."""
        below = self.pixels.shape[1] - self.pixels.shape[0]
        return F.pad(self.photo, (0, 0, 0, below))[None]

    @property
    def image_sizes(self) -> Tensor:
        """int64 [1, 2] (h, w)."""
        return torch.tensor([self.pixels.shape[:2]])

    @property
    def prompts(self) -> Prompts:
        """The point and the PAD token that belongs to it."""
        return point_prompts(self.point)


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
    """Return the largest difference, relative to the largest expected value.

    It is inf where shapes differ or a value is not finite.
    """
    if found.shape != expected.shape or not bool(found.isfinite().all()):
        return float("inf")
    largest = expected.abs().max().clamp(min=torch.finfo(torch.float32).tiny)
    return float((found.float() - expected).abs().max() / largest)


def random_probe(size: int, *, channels: int = 3, seed: int = 0) -> Question:
    """Draw a probe for models of input size S = `size`."""
    draws = torch.Generator().manual_seed(seed)
    h = max(1, 3 * size // 4)
    photo = torch.randint(256, (h, size, channels), generator=draws, dtype=torch.uint8)
    point = torch.rand(1, 2, generator=draws) * torch.tensor([size - 1, h - 1])
    return Question(pixels=photo.numpy(), point=point)


@torch.no_grad()
def answer(sam: Sam, probe: Question) -> Answer:
    """Ask one of our own models."""
    photo = encode_photos(sam, [probe.pixels])
    found = photo.decode(probe.prompts, multimask=True)
    return Answer(embeddings=photo.embeddings, logits=found.mask_logits, iou=found.iou)
