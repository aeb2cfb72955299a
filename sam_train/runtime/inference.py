"""What the verbs that run a model without training it share: folder, log, device and precision."""

from __future__ import annotations

import logging
import os
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch

from sam_train.errors import UserError
from sam_train.runtime.arithmetic import set_arithmetic
from sam_train.runtime.log import start_log
from sam_train.runtime.parts import Part
from sam_train.settings.run import RunConfig
from sam_train.train.config import TrainerConfig, check, parse_devices

log = logging.getLogger("sam_train")

_AUTOCAST = {"32-true": None, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


def check_inference(cfg: TrainerConfig) -> None:
    """Refuse a device that is not there, and what only training can mean.

    Raises:
        UserError: names the setting and what it may be.
    """
    check(cfg)
    if cfg.precision not in _AUTOCAST:
        raise UserError(
            f"trainer.precision={cfg.precision} is fit's alone: use one of {', '.join(_AUTOCAST)}"
        )


def start_inference(cfg: RunConfig, part: Part | None = None) -> Path:
    """Make run_dir, with a log of its own for each part; set threads and matrix products.

    Raises:
        UserError: the folder cannot be written.
    """
    run_dir = Path(cfg.run_dir)
    index = part.index if part is not None else 0
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        start_log(run_dir / (f"log_{index}.txt" if index else "log.txt"))
    except OSError as error:
        raise UserError(
            f"run_dir={run_dir} cannot be written ({error.strerror}): choose another with run_dir="
        ) from error
    set_arithmetic(cfg.trainer)
    return run_dir


def find_device(cfg: TrainerConfig) -> torch.device:
    """The one device of this process: what a launcher's local rank says, else the first asked for.

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


def autocast(cfg: TrainerConfig, device: torch.device) -> AbstractContextManager[object]:
    """`trainer.precision` for the forward passes inside."""
    dtype = _AUTOCAST.get(cfg.precision)
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype)
