"""The machine that a recipe must fit."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

import torch

from sam_train.runtime.devices import uses_gpus
from sam_train.settings.run import RunConfig

GIB = 2.0**30
_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """One GPU, or the CPU."""

    gpu: str
    """The GPU's name; "" on a CPU."""
    room: int
    """Bytes for training: the GPU's free memory, or most of what this machine has free."""
    ram: int
    """Bytes of the machine's memory, or of its container's."""
    cores: int
    bfloat16: bool = False
    """True where the GPU multiplies bfloat16 itself."""

    def line(self) -> str:
        """Return a line for people."""
        if self.gpu:
            return f"{self.gpu} with {self.room / GIB:.3g} GiB free, {self.cores} CPU cores"
        return f"{self.cores} CPU cores, {self.room / GIB:.3g} GiB of memory free; no GPU"


def this_machine(cfg: RunConfig) -> Machine:
    """Look at the machine, by what `trainer.accelerator` asks for."""
    total, free = _memory()
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    if not uses_gpus(cfg.trainer):
        return Machine(gpu="", room=int(0.8 * free), ram=int(total), cores=cores)
    major, _ = torch.cuda.get_device_capability()
    return Machine(
        gpu=torch.cuda.get_device_name(),
        room=torch.cuda.mem_get_info()[0],
        ram=int(total),
        cores=cores,
        bfloat16=major >= 8 or bool(torch.version.hip),
    )


def _memory() -> tuple[float, float]:
    """Return the bytes of memory in all and free, as far as a container may use them."""
    known: dict[str, float] = {}
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            name, _, value = line.partition(":")
            known[name] = float(value.split()[0]) * 1024
    except (OSError, ValueError, IndexError):
        # Not Linux: half a laptop's memory, so that a recipe is chosen at all.
        return 8 * GIB, 4 * GIB
    total, free = known.get("MemTotal", 8 * GIB), known.get("MemAvailable", 4 * GIB)
    for path in _LIMITS:
        try:
            limit = float(Path(path).read_text())
        except (OSError, ValueError):
            continue
        total, free = min(total, limit), min(free, limit)
    return (total, free) if math.isfinite(total) else (8 * GIB, 4 * GIB)
