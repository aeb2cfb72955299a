"""Settings of the Trainer, its strategy and its loggers.

They stand apart from the code that builds these, because every verb reads the settings and
Lightning takes seconds to import.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from sam_train.errors import UserError
from sam_train.runtime.devices import (
    ACCELERATORS,
    MATMUL_PRECISIONS,
    PRECISIONS,
    check_compute,
)
from sam_train.settings.sections import check_section, run_check, section, setting

if TYPE_CHECKING:
    from sam_train.settings.run import RunConfig

PROFILERS = ("simple", "advanced", "pytorch")
STRATEGIES = ("auto", "ddp", "fsdp2", "deepspeed")


@section("trainer", order=160, resume="harmless")
@dataclass
class TrainerConfig:
    """Length, machines and precision of training."""

    max_steps: int = setting(90_000, minimum=1, resume="applies")
    """Updates of the weights (paper A: 90,000 for ViT-H)."""
    objective: str = setting("interactive", resume="applies")
    """interactive: the paper's rounds, all learnt from. one_round: one of them, drawn for each
    step. A plug-in file can register others."""
    devices: str = "auto"
    """GPUs (or CPU processes) per node: a number, `auto`, or a list such as `[0,2]`."""
    num_nodes: int = setting(1, minimum=1)
    """Machines."""
    accelerator: str = setting("auto", choices=ACCELERATORS)
    """auto, cpu or gpu; `gpu` where there is none is refused rather than trained on the CPU."""
    strategy: str = setting("auto", choices=STRATEGIES)
    """auto: ddp where there is more than one process. ddp: every process holds everything. fsdp2:
    the encoder's weights, gradients and moments split over processes. deepspeed: ZeRO."""
    deepspeed: str = setting("zero2", path="one")
    """deepspeed: zero1, zero2 or zero3 of launch/deepspeed, or the path of another .json."""
    offload: bool = False
    """deepspeed: the optimizer's state and work on the CPU; less GPU memory, slower updates."""
    compile: bool = False
    """torch.compile for each encoder block: a minute at the start, faster steps on GPUs."""
    precision: str = setting("32-true", choices=PRECISIONS, resume="applies")
    """32-true, bf16-mixed (float32 weights, losses, norms and softmax statistics), 16-mixed (the
    same with float16 and a loss scale, for GPUs without bfloat16) or 64-true."""
    matmul_precision: str = setting("highest", choices=MATMUL_PRECISIONS, resume="applies")
    """Precision of float32 matrix products and convolutions, as torch names it: highest, high (TF32
    on GPUs) or medium (on many CPUs a kernel twice as fast, which rounds to bfloat16 only where
    there is AMX)."""
    accumulate: int = setting(1, minimum=1)
    """Micro-batches per update: `data.batch_size` images are split over ranks and these. A mask
    counts the same in any of them."""
    log_every: int = setting(10, minimum=1)
    """Steps between rows of metrics.csv; only these read values back from the device (fsdp2 and
    muon also read whether the gradient is finite, at every update)."""
    deterministic: bool = False
    """Refuse kernels whose results vary from run to run (slower on GPUs)."""
    detect_anomaly: bool = False
    """Name the forward operation whose backward gave NaN (much slower)."""
    profiler: str = setting("", choices=("", *PROFILERS))
    """'' (off), simple, advanced or pytorch: Lightning's, into fit-profile.txt of run_dir."""
    threads: int = 0
    """CPU threads of torch in each process; 0 shares the cores out among them."""


@section("logger", order=220, resume="harmless")
@dataclass
class LoggerConfig:
    """Places where figures go besides metrics.csv, which is always written."""

    tensorboard: bool = False
    """Event files in run_dir/tensorboard."""
    wandb: bool = False
    """Weights & Biases; WANDB_MODE=offline works without an account."""
    project: str = "sam_train"
    """W&B project."""
    entity: str | None = None
    """W&B team or user."""


def check(cfg: TrainerConfig) -> None:
    """Refuse values that no run can mean, and devices that are not there.

    Raises:
        UserError: names the setting and what it may be.
    """
    # Words of other programs get a hint that no list of choices gives, so these come first.
    check_compute(cfg)
    check_section(cfg)
    # Objectives stand beside what trains by them, and importing that takes a second.
    from sam_train.train.objectives import OBJECTIVES  # noqa: PLC0415

    OBJECTIVES[cfg.objective]


def check_strategy(
    name: str, *, optimizer: str, precision: str, deepspeed: str, offload: bool
) -> None:
    """Refuse what a strategy cannot do.

    Args:
        name, precision, deepspeed, offload: the settings of `trainer`.
        optimizer: `optim.name`.

    Raises:
        UserError: names the two settings.
    """
    if offload and name != "deepspeed":
        raise UserError("trainer.offload is DeepSpeed's: set trainer.strategy=deepspeed, too")
    # auto and ddp keep whole tensors on every rank, so everything works with them.
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
    """Read DeepSpeed's settings: a file of launch/deepspeed by its name, or any by its path.

    Raises:
        UserError: there is none, or it is not JSON.
    """
    path = Path(name)
    if path.suffix != ".json":
        # `launch` lies beside the package in a checkout and inside it when installed.
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
    # A value in the file stands: a person who wrote one there meant it.
    config.setdefault("gradient_clipping", clip)
    if offload:
        zero = config.setdefault("zero_optimization", {})
        # DeepSpeed would else insist on its own CPU Adam, which is compiled at the first start.
        config["zero_force_ds_cpu_optimizer"] = False
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    return config


@run_check
def _check_run(cfg: RunConfig) -> None:
    check(cfg.trainer)
    check_strategy(
        cfg.trainer.strategy,
        optimizer=cfg.optim.name,
        precision=cfg.trainer.precision,
        deepspeed=cfg.trainer.deepspeed,
        offload=cfg.trainer.offload,
    )
    # Ranks are divided out later, when their number is known.
    if cfg.data.batch_size % cfg.trainer.accumulate:
        raise UserError(
            f"data.batch_size={cfg.data.batch_size} is not divisible by "
            f"trainer.accumulate={cfg.trainer.accumulate}"
        )
