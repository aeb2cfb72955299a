"""Settings of the optimizer and its schedule."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sam_train.errors import UserError
from sam_train.settings.sections import check_section, run_check, section, setting

if TYPE_CHECKING:
    from sam_train.settings.run import RunConfig

OPTIMIZERS = ("adamw", "muon")
SCHEDULES = ("step", "cosine", "linear")


@section("optim", order=150)
@dataclass
class OptimConfig:
    """Defaults are the paper's ViT-H (A, "Training recipe") unless a line says otherwise."""

    name: str = setting("adamw", choices=OPTIMIZERS, resume="refused")
    """adamw: the paper's. muon: Muon for the matrices inside the encoder's blocks and the decoder,
    AdamW for the rest; for training from scratch on few steps (`docs/log.md` has the comparison).
    """
    # Lightning restores the optimizer's parameter groups, which hold the values marked `restored`.
    lr: float = setting(8e-4, above=0, resume="restored")
    """Learning rate after warm-up, of the parameters that stand last (neck, prompts, decoder)."""
    muon_lr: float = setting(1e-2, above=0, resume="restored")
    """Like `lr`, for the matrices that Muon updates. An update's root mean square is 0.2 times the
    rate, about AdamW's, whatever the matrix's shape."""
    muon_momentum: float = setting(0.95, minimum=0, below=1, resume="restored")
    """Muon's decay of the gradient's moving sum (its author's)."""
    betas: list[float] = setting([0.9, 0.999], resume="restored")
    """Adam's decay of the gradient's first and second moments."""
    weight_decay: float = setting(0.1, minimum=0, resume="restored")
    """Decoupled decay; never on norms, biases and position tables."""
    layer_decay: float = setting(0.8, above=0, resume="restored")
    """Ratio of an encoder block's learning rate to that of the block after it."""
    tune: str = setting("all", resume="refused")
    """Part of the image encoder that is trained beside prompt encoder and decoder: all (the
    paper's; full is the same); decoder: none; last_blocks: the last `last_blocks` blocks and the
    neck; norm_bias: norms and biases, 0.1 % of vit_b; lora: low-rank adapters, see the section
    `lora`. The last three can be joined: lora+last_blocks, lora+norm_bias."""
    last_blocks: int = setting(2, minimum=1, resume="refused")
    """Blocks that `tune=last_blocks` trains, counted from the neck."""
    frozen_blocks: int = setting(0, resume="refused")
    """The patch and position tables and this many first encoder blocks keep their weights; 0
    freezes none, as the paper. For fine-tuning on few photos: it also spares their backward
    pass, two thirds of their time."""
    warmup_steps: int = setting(250, minimum=0, resume="applies")
    """The rate rises linearly from 0 to `lr` over this many steps."""
    schedule: str = setting("step", choices=SCHEDULES, resume="applies")
    """step: the paper's; cosine, linear: from `lr` to `final_lr_fraction * lr` at max_steps, for
    small runs, where a long tail at a small rate is worth more than a long stretch at a large."""
    milestones: list[float] = setting([60_000 / 90_000, 86_666 / 90_000], resume="applies")
    """Fractions of max_steps at which `step` divides the rate (60,000 and 86,666 of 90,000)."""
    decay_factor: float = setting(0.1, above=0, resume="applies")
    """Factor of the rate at each milestone."""
    final_lr_fraction: float = setting(0.0, minimum=0, resume="applies")
    """End of cosine and linear, as a fraction of `lr`."""
    grad_clip: float = setting(0.0, minimum=0, resume="applies")
    """Largest gradient norm; 0 leaves gradients alone (the paper names no clipping)."""
    ema: float = setting(0.0, minimum=0, below=1, resume="applies")
    """Above 0, for instance 0.999: what is measured, validated and exported is an average of the
    weights, which keeps this much of itself at each step (less in the first hundreds). Training
    itself does not see it. The paper names none."""


def check(cfg: OptimConfig) -> None:
    """Refuse values that no run can mean.

    Raises:
        UserError: names the setting and what it may be.
    """
    check_section(cfg)
    # What tunings there are, the model's files say, and importing those takes a second.
    from sam_train.model.adapters import ways_of  # noqa: PLC0415

    ways_of(cfg.tune)
    if len(cfg.betas) != 2 or not all(0 <= beta < 1 for beta in cfg.betas):
        raise UserError(f"optim.betas={cfg.betas} must be two numbers from 0 to below 1")
    # Fractions, so that the schedule follows `trainer.max_steps`; steps here would be above 1.
    if any(not 0 < m <= 1 for m in cfg.milestones):
        raise UserError(f"optim.milestones={cfg.milestones} are fractions of max_steps, 0 to 1")


@run_check
def _check_run(cfg: RunConfig) -> None:
    check(cfg.optim)
