"""Loading of a trained model from settings and `ckpt=`, for the verbs that only use one."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from sam_train.errors import UserError
from sam_train.model import ModelConfig, Sam, build_from_config
from sam_train.model.checkpoints.init import initialise, load_whole
from sam_train.model.checkpoints.kinds import ENCODER_ONLY
from sam_train.model.checkpoints.report import InitReport
from sam_train.model.load import recorded_model
from sam_train.settings.compose import load_config
from sam_train.settings.run import RunConfig

log = logging.getLogger("sam_train")

_FOREIGN = tuple(f"{kind}:" for kind in ENCODER_ONLY)


@dataclass(slots=True, kw_only=True)
class LoadedModel:
    """A model and the settings that it was loaded under."""

    cfg: RunConfig
    sam: Sam
    source: str
    """The text of `ckpt` or `init_from`, or both where both were needed."""
    reports: list[InitReport]
    """The fate of every tensor of each file; already in the log."""


def settings_for_checkpoint(overrides: Sequence[str]) -> RunConfig:
    """Compose the settings, with the model's sizes from `ckpt` where it records them.

    Our own checkpoints do, and if it does not, `init_from` may: the file for what `ckpt` lacks.
    What the command line says about the model comes after and wins.

    Raises:
        UserError: settings that do not fit, neither `ckpt` nor `init_from`, or a missing file.
    """
    cfg = load_config(overrides)
    sources = [source for source in (cfg.ckpt, cfg.init_from) if source]
    if not sources:
        raise UserError(
            "no checkpoint is named: give ckpt=PATH, an official SAM .pth, a Hugging Face folder, "
            "one of our .ckpt or .safetensors files"
        )
    own = [source for source in sources if not source.startswith(_FOREIGN)]
    # A generator: the second file is read only where the first records nothing.
    records = (recorded_model(Path(source).expanduser()) for source in own)
    record = next((record for record in records if record is not None), None)
    # A named model is meant whole, and single sizes of the record would change it.
    if record is None:
        return cfg
    if any(word.startswith("model=") for word in overrides):
        # The window belongs to the weights, not to the sizes.
        window = f"model.window={json.dumps(record.window)}"
        return load_config([window, *overrides]) if record.window else cfg
    return load_config([*_as_overrides(record), *overrides])


def load_checkpoint(cfg: RunConfig, *, untrained: bool = False) -> LoadedModel:
    """Build the model that `cfg` describes with the weights of `ckpt`, all of them.

    `init.modules` chooses the modules that come from `ckpt`. What it does not give comes from
    `init_from`. Without `ckpt`, `init_from` is the file.

    Args:
        untrained: whether `init_from` alone may leave weights random, as at a run's first step;
            that is then a warning.

    Raises:
        UserError: an unreadable file, one of another size than the model, or files that leave
            weights random.
    """
    source = cfg.ckpt or cfg.init_from or ""
    # Initial values that a run would begin with: the same ones in every call.
    torch.manual_seed(cfg.seed)
    sam = build_from_config(cfg.model)
    if untrained and not cfg.ckpt:
        reports = [initialise(sam, source, cfg.init)]
        if left := reports[0].at_random:
            log.warning(
                "%s leaves %d tensors random: this is the model before a run's first step, seed=%d",
                *(source, len(left), cfg.seed),
            )
    else:
        beneath = cfg.init_from if cfg.ckpt else None
        reports = load_whole(sam, source, cfg.init, beneath=beneath)
    for report in reports:
        log.info("%s", report)
    source = " over ".join(report.source for report in reports)
    return LoadedModel(cfg=cfg, sam=sam.eval(), source=source, reports=reports)


def _as_overrides(model: ModelConfig) -> list[str]:
    # JSON's literals are Hydra's, too.
    return [f"model.{name}={json.dumps(value)}" for name, value in asdict(model).items()]
