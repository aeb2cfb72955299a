"""When memory ends: what was in use, and the settings that would fit."""

from __future__ import annotations

import errno
import math
import resource
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from sam_train.errors import UserError
from sam_train.model.build import recompute_of, resolve
from sam_train.runtime.devices import LOW_PRECISIONS
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
_KILLED = "killed by signal: Killed"
"""What torch says of a data worker that the kernel ended, which it does where memory ends."""
GIB = 2.0**30
_ROOM = 0.9
"""Share of all there is that a suggestion may take: allocators leave gaps."""
_ON_CPU = 2.7
"""On a CPU a step takes so many times the estimate, which knows only what GPU kernels keep: 2.3 to
2.7 measured over accumulation and recomputation (vit_t at 512 pixels, float32)."""

# Saved for the backward pass, in values per token and feature of a block: first those that stay
# float32 under autocast (the residual stream and norms), then those that become bfloat16.
_SAVED = {"none": (3.0, 14.0), "selective": (1.0, 9.0), "full": (1.0, 0.0)}
_DECODER_TENSORS = 45
"""Of size grid x C that one round of one mask keeps, see rounds_backward.py."""


@dataclass(frozen=True, kw_only=True)
class Load:
    """What decides how much memory a process's turn takes."""

    images: int
    masks: int
    """Per image."""
    recompute: str
    low: bool
    """bfloat16 or float16 under autocast."""
    split: bool
    """The encoder's weights, gradients and moments are divided over the ranks."""


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes of the device (or of this process, on a CPU)."""

    used: float
    """At most."""
    total: float
    """There are for this process."""
    base: float = 0.0
    """In use before the first step: weights, on a CPU the program, too."""
    floor: float = 1.0
    """Least factor between `estimate` and what is needed: measured."""


class MemoryBase(Callback):
    """Notes what is in use before the first step: settings change what is added to it."""

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Once."""
        if not PULSE.in_use:
            PULSE.in_use.update(_in_use())


@contextmanager
def memory_advice(cfg: RunConfig) -> Iterator[None]:
    """Around training: out of memory ends in what was in use and what would fit.

    Raises:
        UserError: memory ended.
    """
    try:
        yield
    except (RuntimeError, MemoryError, OSError) as error:
        if _KILLED in str(error):
            raise UserError(
                "a data worker was killed: this machine's memory is full; lower data.workers, set "
                "data.cache=false, or ask the cluster for more memory"
            ) from error
        if not is_out_of_memory(error):
            raise
        # What the step held lies in the frames of the error, and to say what happened takes room.
        _let_go(error)
        raise UserError(advice(cfg, measure())) from error


def _let_go(error: BaseException | None) -> None:
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__context__


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocator, of the GPU or of the host, had nothing left."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS)


def measure() -> Memory:
    """The most that was in use and all there is: of the GPU, else of what this process may take."""
    base = PULSE.in_use
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return Memory(
            used=torch.cuda.max_memory_allocated(),
            # Without what other programs and the driver hold.
            total=torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved(),
            base=base.get("gpu", 0.0),
        )
    status = _kibibytes("/proc/self/status")
    resident = {"used": status.get("VmHWM", 0.0), "base": base.get("resident", 0.0)}
    totals = [_kibibytes("/proc/meminfo").get("MemTotal", math.inf)]
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):
            totals.append(float(Path(path).read_text()))
    found = [Memory(**resident, total=total, floor=_ON_CPU) for total in totals]
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit != resource.RLIM_INFINITY:
        mapped = {"used": status.get("VmPeak", 0.0), "base": base.get("mapped", 0.0)}
        found.append(Memory(**mapped, total=float(limit), floor=_ON_CPU))
    # The one that it came closest to.
    return max(found, key=lambda memory: memory.used / memory.total)


def _in_use() -> dict[str, float]:
    status = _kibibytes("/proc/self/status")
    found = {"resident": status.get("VmRSS", 0.0), "mapped": status.get("VmSize", 0.0)}
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        found["gpu"] = torch.cuda.memory_allocated()
    return found


def estimate(cfg: RunConfig, load: Load, *, ranks: int) -> float:
    """Bytes that a step adds to the weights: gradients, moments and activations. Right within a
    factor, the same for all settings of a model, which `advice` takes out.

    Args:
        cfg: the model's sizes.
        load: of one process and turn.
        ranks: number of processes.
    """
    arch = resolve(cfg.model)
    size = cfg.model.image_size or arch.image_size
    tokens = (size / arch.patch_size) ** 2
    encoder = 12 * arch.depth * arch.embed_dim**2
    decoder = 4e6 * (arch.prompt_dim / 256) ** 2
    # float32: gradients and two moments; the decoder's are whole everywhere.
    fixed = 12 * (encoder / (ranks if load.split else 1) + decoder)
    whole, half = _SAVED[load.recompute]
    width = 2 if load.low else 4
    per_image = arch.depth * (4 * whole + width * half) * tokens * arch.embed_dim
    if load.recompute == "full":
        # The block that is being computed once more.
        per_image += (12 + width * 14) * tokens * arch.embed_dim
    per_mask = _DECODER_TENSORS * tokens * arch.prompt_dim * width
    return fixed + load.images * (per_image + load.masks * per_mask)


def advice(cfg: RunConfig, memory: Memory, *, ranks: int | None = None) -> str:
    """Two lines: what was in use, and settings that would fit, the ones that cost least first."""
    ranks = ranks or (world_size())
    now = Load(
        images=max(1, cfg.data.batch_size // (ranks * cfg.trainer.accumulate)),
        masks=cfg.data.masks_per_image,
        recompute=recompute_of(cfg.model),
        low=cfg.trainer.precision in LOW_PRECISIONS,
        split=cfg.trainer.strategy in ("fsdp2", "deepspeed"),
    )
    head = (
        f"out of memory on rank {rank()} behind step {PULSE.step}, {PULSE.stage}: "
        f"{_gib(memory.used)} of {_gib(memory.total)} were in use, with {now.images} image(s) of "
        f"{now.masks} masks per process at a time"
    )
    # It needed more than it had: what the estimate misses counts for the others, too.
    factor = max(memory.floor, (memory.used - memory.base) / estimate(cfg, now, ranks=ranks))
    fitting: list[str] = []
    for words, load in choices(cfg, now, ranks=ranks):
        need = memory.base + factor * estimate(cfg, load, ranks=ranks)
        if need < _ROOM * memory.total:
            fitting.append(f"{words} (about {_gib(need)})")
    if not fitting:
        return f"{head}\nno setting of these would fit: a smaller model, or more memory"
    return f"{head}\nwould fit, by estimate: {'; or '.join(fitting[:3])}"


def choices(cfg: RunConfig, now: Load, *, ranks: int) -> Iterator[tuple[str, Load]]:
    """Settings that take less, each kind once at its mildest and harder steps after it: first those
    that train the same, then bfloat16, then fewer masks."""
    own = cfg.data.batch_size // ranks
    turns = [
        (
            f"trainer.accumulate={number}",
            replace(now, images=own // number),
        )
        for number in range(cfg.trainer.accumulate + 1, own + 1)
        if cfg.data.batch_size % (ranks * number) == 0
    ]
    modes = ("none", "selective", "full")
    blocks = [
        (f"model.checkpoint_blocks={mode}", replace(now, recompute=mode))
        for mode in modes[modes.index(now.recompute) + 1 :]
    ]
    split = []
    if ranks > 1 and not now.split:
        split = [("trainer.strategy=fsdp2", replace(now, split=True))]
    low = [] if now.low else [("trainer.precision=bf16-mixed", replace(now, low=True))]
    masks = [
        (f"data.masks_per_image={number} (trains on fewer masks)", replace(now, masks=number))
        for number in (now.masks // 2, now.masks // 4, now.masks // 8)
        if number
    ]
    yield from turns
    yield from blocks
    yield from split
    yield from low
    both = [*turns[-1:], *blocks[-1:], *split, *low]
    if len(both) > 1:
        load = Load(
            images=(turns[-1][1] if turns else now).images,
            masks=now.masks,
            recompute=(blocks[-1][1] if blocks else now).recompute,
            low=True,
            split=now.split or bool(split),
        )
        yield " ".join(words for words, _ in both), load
    yield from masks


def _gib(size: float) -> str:
    return f"{size / GIB:.3g} GiB"


def _kibibytes(path: str) -> dict[str, float]:
    """Bytes by name, of the kernel's files that say `Name: 123 kB`."""
    found: dict[str, float] = {}
    with suppress(OSError):
        for line in Path(path).read_text().splitlines():
            name, _, value = line.partition(":")
            if value.endswith(" kB"):
                found[name] = 1024 * float(value.removesuffix(" kB"))
    return found
