"""What can be set of the Trainer, its strategy and its loggers, and what of it no run can mean.

Apart from what builds them, because every verb reads the settings and Lightning takes seconds to
import.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sam_train.errors import UserError
from sam_train.runtime.devices import check_compute

PROFILERS = ("simple", "advanced", "pytorch")
STRATEGIES = ("auto", "ddp", "fsdp2", "deepspeed")


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
    """32-true, bf16-mixed (float32 weights, losses, norms and softmax statistics), 16-mixed (the
    same with float16 and a loss scale, for GPUs without bfloat16) or 64-true."""
    matmul_precision: str = "highest"
    """Of float32 matrix products and convolutions, as torch names it: highest, high (TF32 on GPUs)
    or medium (on many CPUs a kernel twice as fast, which rounds to bfloat16 only where there is
    AMX)."""
    accumulate: int = 1
    """Batches per update: `data.batch_size` images are split over ranks and this many turns. Every
    mask counts the same whichever turn it falls into."""
    log_every: int = 10
    """Steps between rows of metrics.csv; only these read values back from the device (fsdp2 and
    muon also read whether the gradient is finite, at every update)."""
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


def check(cfg: TrainerConfig) -> None:
    """Refuse what no run can mean, and devices that are not there.

    Raises:
        UserError: names the setting and what it may be.
    """
    for name in ("max_steps", "accumulate", "log_every", "num_nodes"):
        if getattr(cfg, name) < 1:
            raise UserError(f"trainer.{name}={getattr(cfg, name)} must be at least 1")
    choices = {
        "strategy": STRATEGIES,
        "profiler": ("", *PROFILERS),
    }
    for name, allowed in choices.items():
        if getattr(cfg, name) not in allowed:
            listed = ", ".join(choice or "''" for choice in allowed)
            raise UserError(f"trainer.{name}={getattr(cfg, name)}: use one of {listed}")
    check_compute(cfg)


def check_strategy(
    name: str, *, optimizer: str, precision: str, deepspeed: str, offload: bool
) -> None:
    """Refuse what a strategy cannot do.

    Args:
        name, precision, deepspeed, offload: of `trainer`.
        optimizer: `optim.name`.

    Raises:
        UserError: names the two settings.
    """
    if offload and name != "deepspeed":
        raise UserError("trainer.offload is DeepSpeed's: set trainer.strategy=deepspeed, too")
    if name not in ("fsdp2", "deepspeed"):
        return
    if optimizer == "muon":
        raise UserError(
            f"optim.name=muon needs whole matrices, and trainer.strategy={name} splits them: use "
            "optim.name=adamw, or trainer.strategy=ddp"
        )
    if precision == "64-true":
        raise UserError(
            f"trainer.precision=64-true does not go with trainer.strategy={name}: use ddp"
        )
    if name == "deepspeed" and precision == "16-mixed":
        raise UserError(
            "trainer.precision=16-mixed does not go with trainer.strategy=deepspeed: use ddp or "
            "fsdp2, or trainer.precision=bf16-mixed where the GPUs have it"
        )
    if name == "deepspeed":
        deepspeed_config(deepspeed, offload=offload, clip=0.0)


def deepspeed_config(name: str, *, offload: bool, clip: float) -> dict[str, Any]:
    """DeepSpeed's settings: a file of launch/deepspeed by its name, or any by its path.

    Raises:
        UserError: there is none, or it is not JSON.
    """
    path = Path(name)
    if path.suffix != ".json":
        package = Path(__file__).resolve().parents[1]
        folders = [root / "launch" / "deepspeed" for root in (package.parent, package)]
        known = next((f for f in folders if f.is_dir()), folders[0])
        path = known / f"{name}.json"
    try:
        config: dict[str, Any] = json.loads(path.read_text())
    except OSError as error:
        raise UserError(
            f"trainer.deepspeed={name}: {path} cannot be read ({error.strerror}); use zero1, "
            "zero2, zero3 or a path to a .json"
        ) from error
    except ValueError as error:
        raise UserError(f"trainer.deepspeed={name}: {path} is not JSON: {error}") from error
    config.setdefault("gradient_clipping", clip)
    if offload:
        zero = config.setdefault("zero_optimization", {})
        config["zero_force_ds_cpu_optimizer"] = False
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    return config
