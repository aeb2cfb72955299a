"""Devices, precision and threads: what `trainer` says of them, for every verb that runs a model."""

from __future__ import annotations

import logging
import os
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

import torch

from sam_train.errors import UserError
from sam_train.settings.words import PRECISIONS as PRECISION_WORDS

log = logging.getLogger("sam_train")

ACCELERATORS = ("auto", "cpu", "gpu", "cuda")
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed", "64-true")
LOW_PRECISIONS = ("bf16-mixed", "16-mixed")
"""Products of two-byte numbers under autocast."""
MATMUL_PRECISIONS = ("highest", "high", "medium")
_AUTOCAST = {"32-true": None, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


class Compute(Protocol):
    """The settings of `trainer` that decide where and how precisely torch computes."""

    accelerator: str
    devices: str
    precision: str
    matmul_precision: str
    threads: int


def parse_devices(devices: str) -> str | int | list[int]:
    """Read `trainer.devices` into what Lightning takes.

    Raises:
        UserError: it is neither a number, `auto` nor a list of numbers.
    """
    text = devices.strip()
    if text in ("auto", "-1"):
        return "auto"
    try:
        if "," in text or text.startswith("["):
            if numbers := [int(part) for part in text.strip("[]").split(",") if part.strip()]:
                return numbers
            raise ValueError(text)
        return int(text)
    except ValueError:
        kind = "; trainer.accelerator=gpu or cpu says of which kind" if text[:1].isalpha() else ""
        raise UserError(
            f"trainer.devices={devices} is not understood: give a number, auto or [0,1]{kind}"
        ) from None


def uses_gpus(cfg: Compute) -> bool:
    """Tell whether this process computes on a GPU."""
    return cfg.accelerator != "cpu" and torch.cuda.is_available()


def lacks_bfloat16(cfg: Compute) -> str:
    """Return the name of a GPU that only emulates the bfloat16 of `trainer.precision`, or ""."""
    if cfg.precision != "bf16-mixed" or not uses_gpus(cfg):
        return ""
    # Volta (V100) has 7.0 and Turing (T4, RTX 20, GTX 16) 7.5; kernels came with Ampere, 8.0.
    major, _ = torch.cuda.get_device_capability()
    return torch.cuda.get_device_name() if major < 8 and not torch.version.hip else ""


def check_accelerator(cfg: Compute) -> None:
    """Refuse a device that is not there.

    Raises:
        UserError: a GPU was asked for and there is none, or too few.
    """
    if cfg.accelerator not in ("gpu", "cuda"):
        return
    have = torch.cuda.device_count()
    if have == 0:
        raise UserError(
            "trainer.accelerator=gpu, but torch sees no GPU: use trainer.accelerator=cpu, or "
            "install a CUDA build of torch and check nvidia-smi"
        )
    devices = parse_devices(cfg.devices)
    if isinstance(devices, int) and devices > have:
        raise UserError(f"trainer.devices={devices}, but torch sees {have} GPU(s)")


def check_compute(cfg: Compute) -> None:
    """Refuse words that nothing is called, and devices that are not there.

    Raises:
        UserError: names the setting and what it may be.
    """
    choices = {
        "accelerator": ACCELERATORS,
        "precision": PRECISIONS,
        "matmul_precision": MATMUL_PRECISIONS,
    }
    for name, allowed in choices.items():
        if getattr(cfg, name) not in allowed:
            meant = PRECISION_WORDS.get(cfg.precision.lower()) if name == "precision" else None
            hint = f"; did you mean {meant}?" if meant else ""
            raise UserError(
                f"trainer.{name}={getattr(cfg, name)}: use one of {', '.join(allowed)}{hint}"
            )
    check_accelerator(cfg)


def check_inference(cfg: Compute) -> None:
    """Refuse a device that is not there, and a precision that only training has.

    Raises:
        UserError: names the setting and what it may be.
    """
    check_compute(cfg)
    if cfg.precision not in _AUTOCAST:
        raise UserError(
            f"trainer.precision={cfg.precision} is fit's alone: use one of {', '.join(_AUTOCAST)}"
        )


def find_device(cfg: Compute) -> torch.device:
    """Return the one device of this process: by a launcher's local rank, else the first asked for.

    Raises:
        UserError: `trainer.devices` is not understood, or names a GPU that is not there.
    """
    asked = parse_devices(cfg.devices)
    have = torch.cuda.device_count()
    if cfg.accelerator == "cpu" or not have:
        return torch.device("cpu")
    numbers = asked if isinstance(asked, list) else list(range(have))
    if missing := [number for number in numbers if not 0 <= number < have]:
        raise UserError(f"trainer.devices={cfg.devices}: torch sees no GPU {missing[0]} of {have}")
    local = os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID"))
    if local is None and len(numbers) > 1 and asked != 1:
        log.info("one process uses one GPU, here the first of %d", len(numbers))
    return torch.device("cuda", numbers[int(local or 0) % len(numbers)])


def autocast(cfg: Compute, device: torch.device) -> AbstractContextManager[object]:
    """Apply `trainer.precision` to the forward passes inside."""
    dtype = _AUTOCAST.get(cfg.precision)
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype)


def set_arithmetic(cfg: Compute) -> None:
    """Apply `trainer.matmul_precision` and `trainer.threads` to this process.

    torch leaves cuDNN's convolutions (patch embedding, neck) in TF32 whatever matrix products are
    in; `highest` means float32 for both.
    """
    torch.set_float32_matmul_precision(cfg.matmul_precision)
    torch.backends.cudnn.allow_tf32 = cfg.matmul_precision != "highest"
    if cfg.threads:
        torch.set_num_threads(cfg.threads)
