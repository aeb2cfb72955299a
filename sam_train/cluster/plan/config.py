"""Settings of `plan`: the machine it counts for, and what it cannot count."""

from __future__ import annotations

from dataclasses import dataclass

from sam_train.cluster.plan.gpus import gpu_of
from sam_train.errors import UserError
from sam_train.settings.sections import check_section, section, setting


@section("plan", order=170, resume="harmless")
@dataclass
class PlanConfig:
    """The machine that `plan` counts for."""

    gpu: str = "a100-80"
    """rtx3090, rtx4090, l4, a10g, a100-40, l40s, a6000, a100-80 (the paper's), h100, h200 or
    b200."""
    memory_gib: float = setting(0.0, minimum=0)
    """Memory of one GPU; 0: that of `gpu`."""
    mfu: float = 0.1
    """Share of the GPU's peak that the step's arithmetic reaches, recomputation included. An
    assumption: the rounds' way through the memory allows no more than 0.07 to 0.25 (`plan` prints
    that limit), and the paper reached 0.03. Measure yours over a hundred steps and put it here."""
    reserve_gib: float = setting(2.0, minimum=0)
    """Part of each GPU's memory for what no tensor holds: the CUDA context, NCCL's and cuBLAS's
    buffers. An assumption."""
    gaps: float = setting(0.05, minimum=0)
    """Share of the tensors' memory that the allocator loses between them. An assumption."""
    sample_mb: float = setting(1.0, above=0)
    """Megabytes of one photo with its masks in a shard (SA-1B: 11 GB hold about 11,000)."""
    samples_per_core: float = setting(0.0, minimum=0)
    """Samples that one CPU core prepares a second; 0: as measured on one 2.6 GHz core for photos
    of 1500 x 2250 with 64 masks, 43 with data.jpeg=exact, 75 with scaled
    (docs/benchmarks/data.md)."""
    disk_mbs: float = setting(1000.0, above=0)
    """MB/s at which run_dir's disk takes a checkpoint."""
    out: str | None = setting(None, path="one")
    """The path of plan.json; left out: in run_dir."""


def check(cfg: PlanConfig) -> None:
    """Refuse values that no machine has.

    Raises:
        UserError: names the setting and what it may be.
    """
    gpu_of(cfg.gpu)
    if not 0 < cfg.mfu <= 1:
        raise UserError(f"plan.mfu={cfg.mfu} is a share of the GPU's peak: above 0, at most 1")
    check_section(cfg)
