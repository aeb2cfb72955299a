"""The typed schema of everything that can be set, and how the command line becomes one.

Each part's dataclass stands beside the code that it configures and states its defaults there,
once; the YAML files in conf/ say only what differs. Hydra checks every key and type against this
schema, so a misspelt key is refused, here with the nearest one that exists.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sam_train.data.config import DataConfig
from sam_train.engine.build import LoggerConfig, TrainerConfig
from sam_train.engine.callbacks import CallbacksConfig
from sam_train.errors import UserError
from sam_train.losses import LossConfig
from sam_train.model.build import ModelConfig
from sam_train.model.init import InitConfig
from sam_train.optim import OptimConfig
from sam_train.prompts import PromptsConfig


@dataclass
class RunConfig:
    """Everything of one run."""

    name: str = "fit"
    """What the run is called: in run_dir and in loggers."""
    run_dir: str = "runs/${name}"
    """Where everything of the run is written."""
    seed: int = 0
    """Decides initial weights, sample order, mask draws and prompts."""
    resume: str = "auto"
    """auto: continue the newest checkpoint in run_dir, if any; never; or a checkpoint's path."""
    init_from: str | None = None
    """Weights to start from: an official SAM .pth, a Hugging Face folder or safetensors, one of
    our checkpoints, mae:PATH or dinov2:PATH."""
    ckpt: str | None = None
    """validate: the checkpoint to measure, of any kind that `init_from` takes."""
    init: InitConfig = field(default_factory=InitConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    prompts: PromptsConfig = field(default_factory=PromptsConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    callbacks: CallbacksConfig = field(default_factory=CallbacksConfig)
    logger: LoggerConfig = field(default_factory=LoggerConfig)


def config_dir() -> Path:
    """The folder of recipes: conf/ of a checkout, or the copy that an installed wheel carries."""
    package = Path(__file__).resolve().parent
    for folder in (package.parent / "conf", package / "conf"):
        if (folder / "fit.yaml").is_file():
            return folder
    raise UserError(f"no conf/fit.yaml beside {package}: reinstall sam_train")


def compose_config(overrides: Sequence[str]) -> DictConfig:
    """conf/fit.yaml with `overrides` (Hydra's grammar), checked against `RunConfig`.

    Raises:
        UserError: a key, group or value that does not fit, with the nearest valid one.
    """
    ConfigStore.instance().store(name="schema", node=RunConfig)
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        try:
            return compose("fit", overrides=list(overrides))
        except (HydraException, OmegaConfBaseException) as error:
            raise UserError(explain(error)) from error


def typed(config: DictConfig) -> RunConfig:
    """The composed config as dataclasses, interpolations resolved."""
    try:
        return cast(RunConfig, OmegaConf.to_object(config))
    except OmegaConfBaseException as error:
        raise UserError(explain(error)) from error


def load_config(overrides: Sequence[str]) -> RunConfig:
    """`compose_config` and `typed` in one."""
    return typed(compose_config(overrides))


def explain(error: Exception) -> str:
    """One line for a person: what does not fit and the nearest thing that does."""
    root: BaseException = error
    while root.__cause__ is not None:
        root = root.__cause__
    text = str(error)
    if isinstance(error, MissingConfigException):
        return _explain_missing_option(error)
    key = _offending_key(text) or _offending_key(str(root))
    first_line = str(root).strip().splitlines()[0]
    if key is None or "type" in first_line or "could not be converted" in first_line:
        where = f"{key}: " if key else ""
        return f"{where}{first_line}. See `python -m sam_train fit --cfg job` for valid settings"
    near = difflib.get_close_matches(key, _valid_keys(), n=1, cutoff=0.5)
    hint = f": did you mean {near[0]}?" if near else ""
    return f"no setting is called {key}{hint}"


def _offending_key(text: str) -> str | None:
    for pattern in (r"full_key: (\S+)", r"Key '([\w.]+)' is not in struct", r"Could not override '([\w.@/]+)'"):
        if match := re.search(pattern, text):
            return match.group(1)
    return None


def _explain_missing_option(error: MissingConfigException) -> str:
    wanted = str(error.missing_cfg_file)
    group, _, name = wanted.rpartition("/")
    options = sorted(error.options or [])
    near = difflib.get_close_matches(name, options, n=1, cutoff=0.4)
    hint = f": did you mean {group}={near[0]}?" if near else ""
    return f"{group} has no {name}{hint} There are: {', '.join(options)}"


def _valid_keys() -> list[str]:
    keys: list[str] = []

    def walk(node: Any, prefix: str) -> None:
        for name in node:
            path = f"{prefix}{name}"
            keys.append(path)
            value = OmegaConf.to_container(node, resolve=False)[name]  # type: ignore[index,call-overload]
            if isinstance(value, dict):
                walk(node[name], f"{path}.")

    walk(OmegaConf.structured(RunConfig), "")
    return keys
