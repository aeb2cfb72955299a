"""The end of memory: a line that says how much was in use."""

from __future__ import annotations

import errno
import math
import resource
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from sam_train.errors import MemoryInUse, OutOfMemoryError, UserError
from sam_train.runtime.dist import rank, world_size
from sam_train.train.watch.pulse import PULSE

if TYPE_CHECKING:
    from sam_train.settings.run import RunConfig

# What allocators say; torch.OutOfMemoryError covers the GPU's.
_SIGNS = (
    "DefaultCPUAllocator",
    "not enough memory",
    "out of memory",
    "std::bad_alloc",
    "ALLOC_FAILED",
    "Cannot allocate memory",
    "can't start new thread",
)
# Lightning passes the text of torch's loader on; no exception class tells this death from another.
_KILLED = "killed by signal: Killed"
"""torch's words for a data worker that the kernel ended, as it does where memory ends."""
GIB = 2.0**30


class MemoryBase(Callback):
    """Notes the memory in use before the first step: settings change what is added to it."""

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Measure once, before the first step of this process."""
        if not PULSE.in_use:
            PULSE.in_use.update(_in_use())


@contextmanager
def memory_advice(cfg: RunConfig) -> Iterator[None]:
    """Turn an allocator's error during training into one line.

    Raises:
        OutOfMemoryError: memory ended; the verb's caller may add what would fit.
        UserError: the kernel ended a data worker.
    """
    try:
        yield
    except (RuntimeError, MemoryError, OSError) as error:
        # First: this text is no allocator's, and nothing of this process's memory explains it.
        if _KILLED in str(error):
            raise UserError(
                "a data worker was killed: this machine's memory is full; lower data.workers, set "
                "data.cache=false, or ask the cluster for more memory"
            ) from error
        if not is_out_of_memory(error):
            raise
        # What the step held lies in the frames of the error, and to say what happened takes room.
        _let_go(error)
        raise out_of_memory(cfg, measure()) from error


def _let_go(error: BaseException | None) -> None:
    # An error in a handler keeps the first one's frames as its context.
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__context__


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an allocator, of the GPU or of the host, had nothing left."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    # Allocators below torch raise a bare RuntimeError, so its text is all there is.
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS)


def measure() -> MemoryInUse:
    """Return the peak and the limit of the GPU's memory, else of this process's."""
    base = PULSE.in_use
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return MemoryInUse(
            used=torch.cuda.max_memory_allocated(),
            # Free plus ours: what other programs and the driver hold is not to be had.
            total=torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved(),
            base=base.get("gpu", 0.0),
            on_gpu=True,
        )
    status = _kibibytes("/proc/self/status")
    totals = [_kibibytes("/proc/meminfo").get("MemTotal", math.inf)]
    # A container's limit, in cgroup v2 and v1; "max" is no number and means none.
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):
            totals.append(float(Path(path).read_text()))
    # The peak of resident pages: by now the step's memory is free again.
    used, resident = status.get("VmHWM", 0.0), base.get("resident", 0.0)
    found = [MemoryInUse(used=used, base=resident, total=total) for total in totals]
    # `ulimit -v` counts mapped pages, resident or not, so it has a measure of its own.
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit != resource.RLIM_INFINITY:
        used, mapped = status.get("VmPeak", 0.0), base.get("mapped", 0.0)
        found.append(MemoryInUse(used=used, base=mapped, total=float(limit)))
    # The limit that it came closest to is the one that it hit.
    return max(found, key=lambda memory: memory.used / memory.total)


def _in_use() -> dict[str, float]:
    status = _kibibytes("/proc/self/status")
    found = {"resident": status.get("VmRSS", 0.0), "mapped": status.get("VmSize", 0.0)}
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        found["gpu"] = torch.cuda.memory_allocated()
    return found


def out_of_memory(cfg: RunConfig, memory: MemoryInUse) -> OutOfMemoryError:
    """Describe the end of memory in a line, and keep the figures that a way out is counted from."""
    ranks = world_size()
    # The images of one micro-batch of one rank; `data.batch_size` counts those of a whole step.
    images = max(1, cfg.data.batch_size // (ranks * cfg.trainer.accumulate))
    return OutOfMemoryError(
        f"out of memory on rank {rank()} behind step {PULSE.step}, {PULSE.stage}: "
        f"{_gib(memory.used)} of {_gib(memory.total)} were in use, with {images} image(s) of "
        f"{cfg.data.masks_per_image} masks per process at a time",
        memory=memory,
        ranks=ranks,
    )


def _gib(size: float) -> str:
    return f"{size / GIB:.3g} GiB"


def _kibibytes(path: str) -> dict[str, float]:
    """Read bytes by name from a file of the kernel that says `Name: 123 kB`."""
    found: dict[str, float] = {}
    with suppress(OSError):
        for line in Path(path).read_text().splitlines():
            name, _, value = line.partition(":")
            if value.endswith(" kB"):
                found[name] = 1024 * float(value.removesuffix(" kB"))
    return found
