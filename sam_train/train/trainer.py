"""The Lightning Trainer and its strategy, from the config."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins.precision import Precision
from lightning.pytorch.profilers import (
    AdvancedProfiler,
    Profiler,
    PyTorchProfiler,
    SimpleProfiler,
)

from sam_train.errors import UserError
from sam_train.runtime.allocator import keep_freed_memory
from sam_train.runtime.devices import parse_devices, set_arithmetic
from sam_train.train.config import TrainerConfig
from sam_train.train.parallel.loss_scale import HalfPrecision
from sam_train.train.parallel.strategies import build_strategy
from sam_train.train.parallel.zero import ZeroPrecision, ZeroStrategy

PROFILERS: dict[str, type[Profiler]] = {
    "simple": SimpleProfiler,
    "advanced": AdvancedProfiler,
    "pytorch": PyTorchProfiler,
}


def build_profiler(name: str, *, run_dir: Path) -> Profiler | None:
    """Build a profiler that writes `fit-profile.txt` into run_dir.

    Lightning would also print it; that is silenced with its tips.
    """
    return PROFILERS[name](dirpath=run_dir, filename="profile") if name else None


def accelerator_of(cfg: TrainerConfig) -> str:
    """Return `trainer.accelerator` with auto decided."""
    if cfg.accelerator != "auto":
        return cfg.accelerator
    # Lightning's auto would take a Mac's GPU, which lacks the float64 of prompts/rng.py.
    return "gpu" if torch.cuda.is_available() else "cpu"


def precision_plugin(name: str, *, strategy: Any, device: str) -> Precision | None:
    """Return our own plugin for a precision; None where Lightning's does what is meant."""
    if isinstance(strategy, ZeroStrategy):
        return ZeroPrecision(name, device=device)
    if name == "16-mixed":
        # Lightning's own would take bfloat16 on a CPU, and leave fused optimizers to unscale.
        return HalfPrecision(device)
    return None


def build_trainer(
    cfg: TrainerConfig,
    *,
    run_dir: Path,
    callbacks: list[Callback],
    loggers: list[Logger],
    grad_clip: float = 0.0,
) -> Trainer:
    """Build a Trainer that counts updates, not epochs; `cfg` has passed `check`.

    Raises:
        UserError: devices or a strategy that cannot be had here.
    """
    set_arithmetic(cfg)
    keep_freed_memory()
    if cfg.threads:
        # Lightning would set it otherwise, and the processes that it starts inherit it.
        os.environ["OMP_NUM_THREADS"] = str(cfg.threads)
    accelerator = accelerator_of(cfg)
    strategy = build_strategy(
        cfg.strategy, deepspeed=cfg.deepspeed, offload=cfg.offload, clip=grad_clip
    )
    plugins: list[Any] = []
    if SLURMEnvironment.detect():
        # Signals and requeuing are those of train/watch/signals.py.
        plugins.append(SLURMEnvironment(auto_requeue=False))
    device = "cpu" if accelerator == "cpu" else "cuda"
    own = precision_plugin(cfg.precision, strategy=strategy, device=device)
    plugins += [own] if own is not None else []
    # Lightning refuses a precision beside a plugin of one.
    precision: dict[str, Any] = {} if own is not None else {"precision": cfg.precision}
    try:
        return Trainer(
            accelerator=accelerator,
            devices=parse_devices(cfg.devices),
            num_nodes=cfg.num_nodes,
            strategy=strategy,
            **precision,
            max_steps=cfg.max_steps,
            max_epochs=-1,
            accumulate_grad_batches=cfg.accumulate,
            log_every_n_steps=cfg.log_every,
            deterministic=cfg.deterministic,
            detect_anomaly=cfg.detect_anomaly,
            profiler=build_profiler(cfg.profiler, run_dir=run_dir),
            default_root_dir=run_dir,
            callbacks=callbacks,
            plugins=plugins,
            logger=loggers or False,
            # The order is our own (seed, epoch, position), and is split over ranks already.
            use_distributed_sampler=False,
            # Validation is a callback, so that it can measure clicks.
            limit_val_batches=0,
            num_sanity_val_steps=0,
            enable_model_summary=False,
        )
    # Only its first line: the rest is advice about Lightning's own arguments.
    except (ValueError, MisconfigurationException) as error:
        raise UserError(f"trainer: {str(error).strip().splitlines()[0]}") from error
