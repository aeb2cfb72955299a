"""From settings and `ckpt=` to a trained model, for the verbs that only look at one."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from sam_train.config import RunConfig, load_config
from sam_train.errors import UserError
from sam_train.model import ModelConfig, Sam, build_from_config
from sam_train.model.init import initialise
from sam_train.model.load import recorded_model

log = logging.getLogger("sam_train")

_FOREIGN = ("mae:", "dinov2:")


@dataclass(slots=True, kw_only=True)
class Loaded:
    """A model and the settings that it was loaded under."""

    cfg: RunConfig
    sam: Sam
    source: str
    """What `ckpt` or `init_from` said."""


def settings_for_checkpoint(overrides: Sequence[str]) -> RunConfig:
    """The settings, with the model's sizes taken from `ckpt` where it records them.

    Our own checkpoints do; what the command line says about the model comes after and wins.

    Raises:
        UserError: settings that do not fit, neither `ckpt` nor `init_from`, or a missing file.
    """
    cfg = load_config(overrides)
    source = cfg.ckpt or cfg.init_from
    if not source:
        raise UserError(
            "no checkpoint is named: give ckpt=PATH, an official SAM .pth, a Hugging Face folder, "
            "one of our .ckpt or .safetensors files"
        )
    if source.startswith(_FOREIGN):
        return cfg
    record = recorded_model(Path(source).expanduser())
    if record is None or any(word.startswith("model=") for word in overrides):
        return cfg
    return load_config([*_as_overrides(record), *overrides])


def load_checkpoint(cfg: RunConfig) -> Loaded:
    """The model that `cfg` describes with the weights of `ckpt`, else of `init_from`.

    Raises:
        UserError: an unreadable file, or one of another size than the model.
    """
    source = cfg.ckpt or cfg.init_from or ""
    # What the file does not hold keeps its random values: the same ones in every call.
    torch.manual_seed(cfg.seed)
    sam = build_from_config(cfg.model)
    log.info("%s", initialise(sam, source, cfg.init))
    return Loaded(cfg=cfg, sam=sam.eval(), source=source)


def _as_overrides(model: ModelConfig) -> list[str]:
    # JSON's literals are Hydra's, too.
    return [f"model.{name}={json.dumps(value)}" for name, value in asdict(model).items()]


__all__ = ["Loaded", "load_checkpoint", "settings_for_checkpoint"]
