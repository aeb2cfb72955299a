"""The typed schema of everything that can be set, and how the command line becomes one.

Each part's dataclass stands beside the code that it configures and states its defaults there,
once; the YAML files in conf/ say only what differs. Hydra checks every key and type against this
schema, so a misspelt key is refused, here with the nearest one that exists.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sam_train.cluster.doctor.config import DoctorConfig
from sam_train.cluster.doctor.config import check as check_doctor
from sam_train.cluster.plan.config import PlanConfig
from sam_train.data.config import DataConfig
from sam_train.data.config import check as check_data
from sam_train.errors import UserError
from sam_train.eval.config import EvalConfig
from sam_train.eval.tasks.edges.config import EdgesConfig
from sam_train.eval.tasks.fairness.config import FairnessConfig
from sam_train.eval.tasks.instances.config import InstancesConfig
from sam_train.eval.tasks.points.config import PointsConfig
from sam_train.eval.tasks.probe.config import ProbeConfig
from sam_train.eval.tasks.proposals.config import ProposalsConfig
from sam_train.export.config import OnnxConfig
from sam_train.generate.config import GenerateConfig
from sam_train.model.build import ModelConfig, resolve
from sam_train.model.checkpoints.init import InitConfig
from sam_train.prompts import PromptsConfig
from sam_train.prompts.rounds import check as check_prompts
from sam_train.settings.explain import explain, flat_keys, unknown_setting, unreadable
from sam_train.train.checkpoints.retention import CheckpointConfig
from sam_train.train.checkpoints.retention import check as check_checkpoint
from sam_train.train.config import LoggerConfig, TrainerConfig, check_strategy
from sam_train.train.config import check as check_trainer
from sam_train.train.losses import LossConfig
from sam_train.train.losses import check as check_loss
from sam_train.train.optim import OptimConfig
from sam_train.train.optim import check as check_optim
from sam_train.train.report.config import CallbacksConfig, check_validation
from sam_train.train.watch import HealthConfig
from sam_train.train.watch import check as check_health

# What people type as paths, see `readable`: those that can only be one, then all.
ONE_PATH = ("run_dir", "resume", "init_from", "ckpt", "out", "generate.output")
PATHS = (
    *(*ONE_PATH, "data.train", "data.val"),
    *("eval.datasets", "edges.images", "edges.maps", "edges.ground_truth"),
    *("proposals.ground_truth", "proposals.images", "proposals.results"),
    *("instances.ground_truth", "instances.images", "instances.boxes", "instances.results"),
    *("generate.input", "generate.existing"),
    *("fairness.groups", "probe.groups"),
)


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
    """validate, evaluate, generate, export: the checkpoint to look at, of any kind that `init_from`
    takes. It must hold the whole model; `init_from` beside it names a second file for the rest."""
    task: Any = None
    """evaluate: a task (points, edges, ...), a list of them, or all."""
    out: str | None = None
    """export: the file or folder to write."""
    format: str | None = None
    """export: safetensors, segment_anything (.pth), huggingface (a folder) or onnx. Left out: by
    the ending of `out`."""
    dtype: str | None = None
    """export: float16 or float32. Left out: float16 for safetensors, else float32."""
    onnx: OnnxConfig = field(default_factory=OnnxConfig)
    init: InitConfig = field(default_factory=InitConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    prompts: PromptsConfig = field(default_factory=PromptsConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    points: PointsConfig = field(default_factory=PointsConfig)
    edges: EdgesConfig = field(default_factory=EdgesConfig)
    proposals: ProposalsConfig = field(default_factory=ProposalsConfig)
    instances: InstancesConfig = field(default_factory=InstancesConfig)
    fairness: FairnessConfig = field(default_factory=FairnessConfig)
    probe: ProbeConfig = field(default_factory=ProbeConfig)
    generate: GenerateConfig = field(default_factory=GenerateConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    plan: PlanConfig = field(default_factory=PlanConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    health: HealthConfig = field(default_factory=HealthConfig)
    doctor: DoctorConfig = field(default_factory=DoctorConfig)
    callbacks: CallbacksConfig = field(default_factory=CallbacksConfig)
    logger: LoggerConfig = field(default_factory=LoggerConfig)


def config_dir() -> Path:
    """The folder of recipes: conf/ of a checkout, or the copy that an installed wheel carries."""
    package = Path(__file__).resolve().parents[1]
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
    valid = flat_keys(_schema())
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        try:
            config = compose("fit", overrides=[readable(text) for text in overrides])
            # Hydra lets `+key=` and `++key=` past the schema; nothing here would ever read it.
            plain = OmegaConf.to_container(config, resolve=False)
            for key in flat_keys(cast(dict[str, Any], plain)):
                if key not in valid:
                    raise UserError(unknown_setting(key, valid))
            return config
        except (HydraException, OmegaConfBaseException) as error:
            raise UserError(explain(error, valid)) from error


def typed(config: DictConfig) -> RunConfig:
    """The composed config as dataclasses, interpolations resolved.

    Raises:
        UserError: an interpolation that leads nowhere.
    """
    try:
        return cast(RunConfig, OmegaConf.to_object(config))
    except OmegaConfBaseException as error:
        raise UserError(explain(error, flat_keys(_schema()))) from error


def load_config(overrides: Sequence[str]) -> RunConfig:
    """`compose_config` and `typed` in one."""
    return typed(compose_config(overrides))


def readable(override: str) -> str:
    """`override` for Hydra's grammar, with quotes around paths that it would trip over.

    Braces, `=` and brackets mean something in that grammar, paths have them, and the shell takes
    quotes away: data.train=[/sa1b/sa_{000000..000999}.tar], resume=checkpoints/step=500.ckpt.

    Raises:
        UserError: it cannot be read even so.
    """
    key, equals, value = override.partition("=")
    candidates = [override]
    if key in PATHS and equals:
        listed = value.startswith("[") and value.endswith("]")
        # Not at the commas inside braces: `{a,b}.tar` is one pattern.
        parts = re.split(r",(?![^{]*\})", value[1:-1]) if listed else [value]
        quoted = ",".join(f"'{part.strip()}'" for part in parts)
        candidates.append(f"{key}=[{quoted}]" if listed else f"{key}={quoted}")
    for candidate in candidates:
        try:
            sweeps = OverridesParser.create().parse_override(candidate).is_sweep_override()
        except HydraException:
            continue
        if not sweeps or key not in PATHS:
            return candidate
        # a,b: to Hydra two runs, to people a name with a comma or a list without its brackets.
        if key not in ONE_PATH and not Path(value).exists():
            raise UserError(f"{key}: several paths stand in brackets: '{key}=[{value}]'")
    raise UserError(unreadable(override))


def check_config(cfg: RunConfig) -> None:
    """What no single value shows: settings that do not go together, before anything is built.

    Raises:
        UserError: names the setting and what it may be.
    """
    if cfg.dtype or cfg.format:
        raise UserError("format and dtype are export's; trainer.precision is the training's")
    check_trainer(cfg.trainer)
    check_checkpoint(cfg.checkpoint)
    check_health(cfg.health)
    check_doctor(cfg.doctor)
    check_optim(cfg.optim)
    check_data(cfg.data)
    check_strategy(
        cfg.trainer.strategy,
        optimizer=cfg.optim.name,
        precision=cfg.trainer.precision,
        deepspeed=cfg.trainer.deepspeed,
        offload=cfg.trainer.offload,
    )
    resolve(cfg.model)
    check_prompts(cfg.prompts)
    check_loss(cfg.loss)
    if not cfg.data.train:
        raise UserError(
            "data.train is not set: give shards, such as data.train=/sa1b/sa_{000000..000999}.tar "
            "(`python -m data_tools.sample --out DIR` makes some to try)"
        )
    check_validation(cfg.callbacks.validation)
    if cfg.data.batch_size % cfg.trainer.accumulate:
        raise UserError(
            f"data.batch_size={cfg.data.batch_size} is not divisible by "
            f"trainer.accumulate={cfg.trainer.accumulate}"
        )


def _schema() -> dict[str, Any]:
    plain = OmegaConf.to_container(OmegaConf.structured(RunConfig), resolve=False)
    return cast(dict[str, Any], plain)
