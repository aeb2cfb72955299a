"""The settings of a run: those at the root, and the sections that the rooms register.

No room is imported by name. Every module called `config.py` or `*_config.py` below sam_train
registers its sections when it is imported; the YAML files in conf/ say only what differs.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, fields, make_dataclass
from typing import TYPE_CHECKING, Any

from sam_train.errors import UserError
from sam_train.settings.plugins import import_rooms, load_plugins
from sam_train.settings.sections import Section, check_section, run_checks, sections, setting

if TYPE_CHECKING:
    from sam_train.cluster.doctor.config import DoctorConfig
    from sam_train.cluster.plan.config import PlanConfig
    from sam_train.data.config import DataConfig
    from sam_train.eval.config import EvalConfig
    from sam_train.eval.tasks.edges.config import EdgesConfig
    from sam_train.eval.tasks.fairness.config import FairnessConfig
    from sam_train.eval.tasks.instances.config import InstancesConfig
    from sam_train.eval.tasks.points.config import PointsConfig
    from sam_train.eval.tasks.probe.config import ProbeConfig
    from sam_train.eval.tasks.proposals.config import ProposalsConfig
    from sam_train.export.config import CardConfig, OnnxConfig
    from sam_train.finetuning.config import FinetuneConfig
    from sam_train.generate.config import GenerateConfig
    from sam_train.model.checkpoints.config import InitConfig
    from sam_train.model.config import ModelConfig
    from sam_train.model.lora_config import LoraConfig
    from sam_train.prompts.config import PromptsConfig
    from sam_train.train.checkpoints.config import CheckpointConfig
    from sam_train.train.config import LoggerConfig, TrainerConfig
    from sam_train.train.embeddings_config import EmbeddingsConfig
    from sam_train.train.loss_config import LossConfig
    from sam_train.train.optim_config import OptimConfig
    from sam_train.train.report.config import CallbacksConfig
    from sam_train.train.watch.config import HealthConfig


@dataclass
class RootConfig:
    """The settings that belong to no section."""

    name: str = setting("fit", resume="silent")
    """The run's name in run_dir and in loggers."""
    run_dir: str = setting("runs/${name}", path="one", resume="silent")
    """Folder of everything that the run writes."""
    seed: int = setting(0, resume="applies")
    """Decides initial weights, sample order, mask draws and prompts."""
    resume: str = setting("auto", path="one", resume="silent")
    """auto: continue the newest checkpoint in run_dir, if any; never; or a checkpoint's path."""
    init_from: str | None = setting(None, path="one", resume="harmless")
    """Weights to start from: an official SAM .pth, a Hugging Face folder or safetensors, one of
    our checkpoints, mae:PATH or dinov2:PATH."""
    ckpt: str | None = setting(None, path="one", resume="silent")
    """validate, evaluate, generate, export: the checkpoint to look at, of any kind that `init_from`
    takes. It must hold the whole model; `init_from` beside it names a second file for the rest."""
    task: Any = setting(None, resume="silent")
    """evaluate: a task (points, edges, ...), a list of them, or all."""
    out: str | None = setting(None, path="one", resume="silent")
    """export: the file or folder to write."""
    format: str | None = setting(None, resume="silent")
    """export: safetensors, segment_anything (.pth), huggingface (a folder), onnx, onnx_pair (a
    folder for annotation tools), lora (a folder of the adapters alone, in peft's layout) or all (a
    folder with the first three). Left out: by the ending of `out`."""
    dtype: str | None = setting(None, resume="silent")
    """export: float16 or float32. Left out: float16 for safetensors, else float32."""
    push: str | None = setting(None, resume="silent")
    """export: USER/NAME, the model repository of the hub that the Hugging Face folder goes to."""


if TYPE_CHECKING:

    @dataclass
    class RunConfig(RootConfig):
        """The types of the sections, for type checkers alone; a test compares them."""

        onnx: OnnxConfig = field(default_factory=OnnxConfig)
        card: CardConfig = field(default_factory=CardConfig)
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
        embeddings: EmbeddingsConfig = field(default_factory=EmbeddingsConfig)
        lora: LoraConfig = field(default_factory=LoraConfig)
        trainer: TrainerConfig = field(default_factory=TrainerConfig)
        plan: PlanConfig = field(default_factory=PlanConfig)
        checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
        health: HealthConfig = field(default_factory=HealthConfig)
        doctor: DoctorConfig = field(default_factory=DoctorConfig)
        finetune: FinetuneConfig = field(default_factory=FinetuneConfig)
        callbacks: CallbacksConfig = field(default_factory=CallbacksConfig)
        logger: LoggerConfig = field(default_factory=LoggerConfig)


def _assemble(found: Iterable[Section], base: type) -> type:
    """Return `base` with a field for each section."""
    added = [(one.name, one.cls, field(default_factory=one.cls)) for one in found]
    about = {"__doc__": "All settings of one run.", "__module__": __name__}
    return make_dataclass("RunConfig", added, bases=(base,), namespace=about)


if not TYPE_CHECKING:
    import_rooms("config.py", "*_config.py")
    RunConfig = _assemble(sections(), RootConfig)


def schema() -> type[RunConfig]:
    """Return the class that the command line is read into: `RunConfig`, or a subclass of it that
    has the sections of plug-ins, too.

    Plug-ins are imported here and not with this module, so that they can import it themselves.
    """
    load_plugins()
    own = {one.name for one in fields(RunConfig)}
    added = [one for one in sections() if one.name not in own]
    return _assemble(added, RunConfig) if added else RunConfig


def check_config(cfg: RunConfig) -> None:
    """Refuse settings of a training run that are out of range or do not go together.

    Nothing is built before. The rooms' own checks are those registered with `run_check`.

    Raises:
        UserError: names the setting and what it may be.
    """
    if cfg.dtype or cfg.format:
        raise UserError("format and dtype are export's; trainer.precision is the training's")
    for check in run_checks():
        check(cfg)
    for one in sections():
        # A run that was made in Python may lack the sections of plug-ins.
        if (section := getattr(cfg, one.name, None)) is not None:
            check_section(section, one.name)
