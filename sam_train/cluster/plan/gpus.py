"""Graphics cards that people train on: what a card's maker says, and what torch finds free."""

from __future__ import annotations

from dataclasses import dataclass

from sam_train.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """A kind of card, at its data sheet's dense figures."""

    title: str
    memory_gib: float
    """The total of `torch.cuda.mem_get_info`, which is below the GB on the box."""
    bf16: float
    """TFLOP/s of bfloat16 products with float32 sums."""
    tf32: float
    """TFLOP/s of `trainer.matmul_precision=high`."""
    fp32: float
    """TFLOP/s of full float32."""
    bandwidth: float
    """TB/s of its memory."""


# Dense figures: data sheets print twice as much with 2:4 sparsity, which training has not.
GPUS: dict[str, Gpu] = {
    "rtx3090": Gpu(
        title="RTX 3090", memory_gib=23.6, bf16=71, tf32=35.6, fp32=35.6, bandwidth=0.936
    ),
    "rtx4090": Gpu(
        title="RTX 4090", memory_gib=23.5, bf16=165, tf32=82.6, fp32=82.6, bandwidth=1.008
    ),
    "l4": Gpu(title="L4", memory_gib=22.0, bf16=121, tf32=60, fp32=30.3, bandwidth=0.300),
    "a10g": Gpu(title="A10G", memory_gib=22.0, bf16=70, tf32=35, fp32=31.2, bandwidth=0.600),
    "a100-40": Gpu(
        title="A100 40 GB", memory_gib=39.4, bf16=312, tf32=156, fp32=19.5, bandwidth=1.555
    ),
    "l40s": Gpu(title="L40S", memory_gib=44.4, bf16=362, tf32=183, fp32=91.6, bandwidth=0.864),
    "a6000": Gpu(title="RTX A6000", memory_gib=47.5, bf16=155, tf32=77, fp32=38.7, bandwidth=0.768),
    "a100-80": Gpu(
        title="A100 80 GB", memory_gib=79.1, bf16=312, tf32=156, fp32=19.5, bandwidth=2.039
    ),
    "h100": Gpu(
        title="H100 80 GB SXM", memory_gib=79.1, bf16=989, tf32=494, fp32=67, bandwidth=3.35
    ),
    "h200": Gpu(title="H200 141 GB", memory_gib=139.8, bf16=989, tf32=494, fp32=67, bandwidth=4.8),
    "b200": Gpu(
        title="B200 180 GB", memory_gib=178.0, bf16=2250, tf32=1125, fp32=75, bandwidth=7.7
    ),
}


def gpu_of(name: str) -> Gpu:
    """Return the card that `plan.gpu` names.

    Raises:
        UserError: it is not in the table.
    """
    if name not in GPUS:
        raise UserError(f"plan.gpu={name} is not one of {', '.join(GPUS)}")
    return GPUS[name]
