"""The Lightning Trainer, its strategy, loggers and callbacks, from the config."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.profilers import (
    AdvancedProfiler,
    Profiler,
    PyTorchProfiler,
    SimpleProfiler,
)

from sam_train.allocator import keep_freed_memory
from sam_train.engine.strategies import STRATEGIES, build_strategy
from sam_train.engine.zero import ZeroPrecision, ZeroStrategy
from sam_train.errors import UserError

ACCELERATORS = ("auto", "cpu", "gpu", "cuda")
PROFILERS: dict[str, type[Profiler]] = {
    "simple": SimpleProfiler,
    "advanced": AdvancedProfiler,
    "pytorch": PyTorchProfiler,
}
PRECISIONS = ("32-true", "bf16-mixed", "64-true")
MATMUL_PRECISIONS = ("highest", "high", "medium")


@dataclass
class TrainerConfig:
    """How long, on what and how precisely to train."""

    max_steps: int = 90_000
    """Updates of the weights (paper A: 90,000 for ViT-H)."""
    devices: str = "auto"
    """GPUs (or CPU processes) per node: a number, `auto`, or a list such as `[0,2]`."""
    num_nodes: int = 1
    """Machines."""
    accelerator: str = "auto"
    """auto, cpu or gpu; `gpu` where there is none is refused rather than trained on the CPU."""
    strategy: str = "auto"
    """auto: ddp where there is more than one process. ddp: every process holds everything. fsdp2:
    the encoder's weights, gradients and moments split over processes. deepspeed: ZeRO."""
    deepspeed: str = "zero2"
    """deepspeed: zero1, zero2 or zero3 of launch/deepspeed, or the path of another .json."""
    offload: bool = False
    """deepspeed: the optimizer's state and work on the CPU: less GPU memory, slower updates."""
    compile: bool = False
    """torch.compile for each encoder block: a minute at the start, faster steps on GPUs."""
    precision: str = "32-true"
    """32-true, bf16-mixed (float32 weights, losses, norms and softmax statistics) or 64-true."""
    matmul_precision: str = "highest"
    """Of float32 matrix products, as torch names it: highest, high (TF32 on GPUs) or medium (on
    many CPUs a kernel twice as fast, which rounds to bfloat16 only where there is AMX)."""
    accumulate: int = 1
    """Batches per update: `data.batch_size` images are split over ranks and this many turns. Every
    mask counts the same whichever turn it falls into."""
    log_every: int = 10
    """Steps between rows of metrics.csv; only these read values back from the device."""
    deterministic: bool = False
    """Refuse kernels whose results vary from run to run (slower on GPUs)."""
    detect_anomaly: bool = False
    """Name the forward operation whose backward gave NaN (much slower)."""
    profiler: str = ""
    """'' (off), simple, advanced or pytorch: Lightning's, into fit-profile.txt of run_dir."""
    threads: int = 0
    """CPU threads of torch in each process; 0 shares the cores out among them."""


@dataclass
class LoggerConfig:
    """Where figures go besides metrics.csv, which is always written."""

    tensorboard: bool = False
    """Event files in run_dir/tensorboard."""
    wandb: bool = False
    """Weights & Biases; WANDB_MODE=offline works without an account."""
    project: str = "sam_train"
    """W&B project."""
    entity: str | None = None
    """W&B team or user."""


def parse_devices(devices: str) -> str | int | list[int]:
    """`trainer.devices` as Lightning takes it.

    Raises:
        UserError: it is neither a number, `auto` nor a list of numbers.
    """
    text = devices.strip()
    if text in ("auto", "-1"):
        return "auto"
    try:
        if "," in text or text.startswith("["):
            return [int(part) for part in text.strip("[]").split(",") if part.strip()]
        return int(text)
    except ValueError:
        raise UserError(
            f"trainer.devices={devices} is not understood: give a number, auto or [0,1]"
        ) from None


def check_accelerator(cfg: TrainerConfig) -> None:
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


def check(cfg: TrainerConfig) -> None:
    """Refuse what no run can mean, and devices that are not there.

    Raises:
        UserError: names the setting and what it may be.
    """
    for name in ("max_steps", "accumulate", "log_every", "num_nodes"):
        if getattr(cfg, name) < 1:
            raise UserError(f"trainer.{name}={getattr(cfg, name)} must be at least 1")
    choices = {
        "accelerator": ACCELERATORS,
        "precision": PRECISIONS,
        "matmul_precision": MATMUL_PRECISIONS,
        "strategy": STRATEGIES,
        "profiler": ("", *PROFILERS),
    }
    for name, allowed in choices.items():
        if getattr(cfg, name) not in allowed:
            listed = ", ".join(choice or "''" for choice in allowed)
            raise UserError(f"trainer.{name}={getattr(cfg, name)}: use one of {listed}")
    check_accelerator(cfg)


def build_loggers(cfg: LoggerConfig, *, run_dir: Path, name: str, config: Any) -> list[Logger]:
    """The optional loggers; `config` is what W&B shows as the run's settings."""
    loggers: list[Logger] = []
    if cfg.tensorboard:
        loggers.append(TensorBoardLogger(run_dir, name="tensorboard", version=""))
    if cfg.wandb:
        loggers.append(
            WandbLogger(
                name=name, project=cfg.project, entity=cfg.entity, save_dir=run_dir, config=config
            )
        )
    return loggers


def build_profiler(name: str, *, run_dir: Path) -> Profiler | None:
    """Writes `fit-profile.txt` into run_dir: Lightning's own printing is silenced with its tips."""
    return PROFILERS[name](dirpath=run_dir, filename="profile") if name else None


def build_trainer(
    cfg: TrainerConfig,
    *,
    run_dir: Path,
    callbacks: list[Callback],
    loggers: list[Logger],
    grad_clip: float = 0.0,
) -> Trainer:
    """A Trainer that counts updates, not epochs; `cfg` has passed `check`.

    Raises:
        UserError: devices or a strategy that cannot be had here.
    """
    torch.set_float32_matmul_precision(cfg.matmul_precision)
    keep_freed_memory()
    if cfg.threads:
        torch.set_num_threads(cfg.threads)
        # Lightning would set it anew, and the processes that it starts read it.
        os.environ["OMP_NUM_THREADS"] = str(cfg.threads)
    accelerator = cfg.accelerator
    if accelerator == "auto":
        # Lightning's auto would take a Mac's GPU, which lacks the float64 of prompts/rng.py.
        accelerator = "gpu" if torch.cuda.is_available() else "cpu"
    strategy = build_strategy(
        cfg.strategy, deepspeed=cfg.deepspeed, offload=cfg.offload, clip=grad_clip
    )
    precision: dict[str, Any] = {"precision": cfg.precision}
    plugins: list[Any] = []
    if SLURMEnvironment.detect():
        # Signals and requeuing are those of engine/signals.py.
        plugins.append(SLURMEnvironment(auto_requeue=False))
    if isinstance(strategy, ZeroStrategy):
        device = "cpu" if accelerator == "cpu" else "cuda"
        plugins.append(ZeroPrecision(cfg.precision, device=device))
        precision = {}
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
            use_distributed_sampler=False,
            limit_val_batches=0,
            num_sanity_val_steps=0,
            enable_model_summary=False,
        )
    except (ValueError, MisconfigurationException) as error:
        raise UserError(f"trainer: {str(error).strip().splitlines()[0]}") from error
