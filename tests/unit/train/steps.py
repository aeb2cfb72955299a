"""A training step outside a Trainer, and the same on several processes.

As a program, `python steps.py RANK RANKS RENDEZVOUS OUT`, it is one process of a DDP run over
gloo; it writes the gradients that every rank has afterwards.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from sam_train.settings.run import RunConfig
from sam_train.train.module import SamModule
from sam_train.train.objectives.base import mask_weight
from sam_train.types import Batch

SIDE, GRID = 64, 16
MASKS = (3, 1)
"""Masks of each image: very different numbers, so that a mean of means is far off."""
HAND = ((1.0, 2.0, 3.0), (10.0,))
"""One number per mask: d loss / d parameter of the one-parameter example."""


class StepModule(SamModule):
    """A module that believes to be at a step of its choice without a Trainer."""

    at = 0

    @property
    def global_step(self) -> int:  # type: ignore[override]
        """Finished updates."""
        return self.at

    def forward(self, batch: Batch) -> Tensor:
        """What DDP calls."""
        return self.training_step(batch, 0)


def build(*, dtype: torch.dtype = torch.float64, **prompts: object) -> StepModule:
    """A vit_t at 64 px, always the same, with no parameter at zero."""
    torch.manual_seed(0)
    cfg = RunConfig()
    cfg.model.name, cfg.model.image_size = "vit_t", SIDE
    cfg.trainer.max_steps = 100
    for name, value in prompts.items():
        setattr(cfg.prompts, name, value)
    module = StepModule(cfg).to(dtype)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
    return module


def batch_of(images: list[int]) -> Batch:
    """Some images of a fixed set, with MASKS rectangles each."""
    parts: dict[str, list[Tensor]] = {
        name: [] for name in ("images", "masks", "points", "boxes", "ids", "index")
    }
    for place, image in enumerate(images):
        generator = torch.Generator().manual_seed(image)
        pixels = torch.randint(0, 256, (3, SIDE, SIDE), generator=generator, dtype=torch.uint8)
        parts["images"].append(pixels)
        for k in range(MASKS[image]):
            mask = torch.zeros(GRID, GRID, dtype=torch.uint8)
            x0, y0 = 1 + 2 * k, 2 + image
            mask[y0 : y0 + 6, x0 : x0 + 5] = 1
            parts["masks"].append(mask)
            parts["points"].append(torch.tensor([4.0 * x0 + 5, 4.0 * y0 + 7]))
            box = [4.0 * x0, 4.0 * y0, 4.0 * x0 + 19, 4.0 * y0 + 23]
            parts["boxes"].append(torch.tensor(box))
            parts["ids"].append(torch.tensor(100 * image + k))
            parts["index"].append(torch.tensor(place))
    tensors = {name: torch.stack(items) for name, items in parts.items()}
    sizes = torch.tensor([[SIDE, SIDE]] * len(images))
    return Batch(
        images=tensors["images"],
        image_sizes=sizes,
        original_sizes=sizes,
        masks=tensors["masks"],
        image_index=tensors["index"],
        points=tensors["points"],
        boxes=tensors["boxes"],
        mask_ids=tensors["ids"],
        keys=[str(image) for image in images],
        positions=list(images),
    )


def gradients(module: StepModule) -> dict[str, Tensor]:
    """Those that there are, by name."""
    return {n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None}


class _OneParameter(nn.Module):
    """The sum of parameter x number over a rank's masks, weighted as the step weighs them."""

    def __init__(self, module: StepModule) -> None:
        super().__init__()
        self.parameter = nn.Parameter(torch.zeros(()))
        self.accumulate = module.cfg.trainer.accumulate

    def forward(self, batch: Batch, numbers: Tensor) -> Tensor:
        """One rank's loss."""
        device = self.parameter.device
        weight = mask_weight(batch, accumulate=self.accumulate, device=device)
        return (self.parameter * numbers).sum() * weight


def main(rank: int, ranks: int, rendezvous: str, out: Path) -> None:
    """One image per rank."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=ranks)
    module = build(points=2)
    batch = batch_of([rank])
    # Kept by name: a wrapper that is collected before the backward averages nothing.
    wrapped = DistributedDataParallel(module)
    wrapped(batch).backward()
    hand = _OneParameter(build())
    wrapped_hand = DistributedDataParallel(hand)
    wrapped_hand(batch, torch.tensor(HAND[rank])).backward()
    assert module.last_rounds is not None
    figures = module.last_rounds.figures()
    torch.save(
        {"gradients": gradients(module), "hand": hand.parameter.grad, "iou": figures.iou}, out
    )
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], Path(sys.argv[4]))
