"""The verb `fit`: from settings to a trained model in run_dir."""

from __future__ import annotations

import logging
import platform
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning import Trainer, seed_everything
from lightning.pytorch.callbacks import Callback
from omegaconf import DictConfig, OmegaConf

from sam_train.data.datamodule import SamDataModule
from sam_train.errors import UserError
from sam_train.model.checkpoints.init import initialise
from sam_train.model.config import photo_rule
from sam_train.runtime.devices import lacks_bfloat16, uses_gpus
from sam_train.runtime.log import rank_zero, start_log
from sam_train.runtime.mishaps import one_line
from sam_train.runtime.open_files import allow_many
from sam_train.runtime.run_owner import RunOwner, owned
from sam_train.settings.compose import compose_config, typed
from sam_train.settings.run import RunConfig, check_config
from sam_train.train.averaging import WeightAverage
from sam_train.train.averaging import check as check_average
from sam_train.train.checkpoints.config import CheckpointConfig
from sam_train.train.checkpoints.differences import report_differences
from sam_train.train.checkpoints.resume import Found, check_model, find_resume
from sam_train.train.checkpoints.retention import is_stalled, metric_of, scores_of
from sam_train.train.checkpoints.saving import Saver, ended_early
from sam_train.train.embeddings import use_embeddings
from sam_train.train.module import SamModule
from sam_train.train.report.callbacks import build_callbacks
from sam_train.train.report.loggers import Loggers, open_loggers
from sam_train.train.trained_parts import trained_parts
from sam_train.train.trainer import build_trainer
from sam_train.train.watch.memory import memory_advice
from sam_train.train.watch.signals import STATUS_CONTINUE, Notice, Stopped

log = logging.getLogger("sam_train")


def fit(overrides: Sequence[str]) -> None:
    """Train as `overrides` say, on top of conf/fit.yaml.

    Raises:
        UserError: settings, files or devices that the user can mend.
    """
    config = compose_config(overrides)
    cfg = typed(config)
    check_config(cfg)
    # Not among the settings' own checks: `averaging` imports Lightning, which takes seconds.
    check_average(cfg.optim.ema, strategy=cfg.trainer.strategy, deepspeed=cfg.trainer.deepspeed)
    # Before the first worker or connection takes a file.
    allow_many()
    run_dir = prepare_run_dir(Path(cfg.run_dir))
    # Before anything of an earlier run is read, added to or built.
    with owned(run_dir) as owner:
        train(cfg, config=config, run_dir=run_dir, owner=owner)


def train(cfg: RunConfig, *, config: DictConfig, run_dir: Path, owner: RunOwner | None) -> None:
    """Build the run of `cfg` and train, in a run_dir that no other run writes.

    Args:
        config: `cfg` as it was composed.
        owner: the lock on run_dir, in the first process.

    Raises:
        UserError: a fault that the user can mend.
    """
    plain: Any = OmegaConf.to_container(config, resolve=True, enum_to_str=True)
    start_log(run_dir / "log.txt")
    found = find_resume(cfg.resume, run_dir)
    # A resumed run keeps the config.yaml of its beginning; what differs now goes to the log.
    if rank_zero() and (found is None or not (run_dir / "config.yaml").exists()):
        with one_line(run_dir):
            (run_dir / "config.yaml").write_text(OmegaConf.to_yaml(config))

    # W&B refuses before a model is built, and draws from no generator that is seeded below.
    with open_loggers(
        cfg.logger,
        run_dir=run_dir,
        name=cfg.name,
        config=plain,
        resume=cfg.resume,
        found=found,
    ) as loggers:
        _train(cfg, plain, run_dir=run_dir, found=found, owner=owner, loggers=loggers)


def _train(
    cfg: RunConfig,
    plain: Any,
    *,
    run_dir: Path,
    found: Found | None,
    owner: RunOwner | None,
    loggers: Loggers,
) -> None:
    # Initial weights are drawn from this; training itself draws from (seed, step, id) alone.
    seed_everything(cfg.seed, verbose=False)
    restore_window(cfg, plain, found)
    module = SamModule(cfg)
    report_start(cfg, module, run_dir)
    if found is not None:
        # Before the data are opened: a wrong model shows within seconds, not after minutes.
        check_model(found, module)
        cfg = shortened(cfg, run_dir=run_dir, found=found)
        report_resume(cfg, found)
        report_differences(found.settings, plain, source=str(found.path))
    # A checkpoint replaces all weights, so initial ones are not even read.
    if cfg.init_from and found is None:
        log.info("%s", initialise(module.sam, cfg.init_from, cfg.init))
    data = _open_data(cfg, plain, module=module, found=found)
    notice = Notice(grace_seconds=cfg.checkpoint.grace_seconds)
    trainer = build_trainer(
        cfg.trainer,
        run_dir=run_dir,
        callbacks=run_callbacks(
            cfg,
            run_dir=run_dir,
            notice=notice,
            plain=plain,
            found=found,
            owner=owner,
            also=loggers.record,
        ),
        loggers=loggers.all,
        grad_clip=cfg.optim.grad_clip,
    )
    use_embeddings(cfg, module=module, data=data, trainer=trainer, run_dir=run_dir)
    # weights_only: a checkpoint is data, nothing in it is ever run.
    path = str(found.path) if found else None
    # Late: until here a SIGTERM may end the process at once, nothing would be lost.
    notice.install()
    try:
        with one_line(run_dir), memory_advice(cfg):
            trainer.fit(module, datamodule=data, ckpt_path=path, weights_only=True)
    except Stopped:
        # An asked-for stop is no error, but a status of 0 would tell the cluster that all is done.
        raise SystemExit(exit_status(trainer)) from None
    finally:
        notice.restore()


def shortened(cfg: RunConfig, *, run_dir: Path, found: Found) -> RunConfig:
    """Return settings that end at the checkpoint's step where the run had stalled there.

    It is then a finished run that was started again, and nothing is trained.
    """
    own = checkpoints_of(cfg)
    scores = scores_of(run_dir, own.metric)
    # Rows beyond the checkpoint belong to steps that would be trained again.
    if not is_stalled({step: v for step, v in scores.items() if step <= found.step}, own):
        return cfg
    log.info("%s", ended_early(run_dir, own, step=found.step))
    return replace(cfg, trainer=replace(cfg.trainer, max_steps=found.step))


def checkpoints_of(cfg: RunConfig) -> CheckpointConfig:
    """Return the settings of checkpoints with the column's name in place of `metric=auto`."""
    # Decided here, where prompts and clicks are known; the Saver reads a column's name.
    clicks = cfg.callbacks.validation.clicks
    metric = metric_of(cfg.checkpoint, prompts=cfg.prompts, clicks=clicks)
    return replace(cfg.checkpoint, metric=metric)


def _open_data(
    cfg: RunConfig, plain: Any, *, module: SamModule, found: Found | None
) -> SamDataModule:
    """Make the loaders' owner; a new run also decides the window of its photos here."""
    data = SamDataModule(
        cfg.data,
        image_size=module.sam.image_size,
        grid_size=loss_grid(cfg, module),
        seed=cfg.seed,
        photos=photo_rule(cfg.model),
    )
    if found is None and not cfg.model.window and cfg.data.window == "dataset":
        _set_window(cfg, plain, data.find_window())
    return data


def run_callbacks(
    cfg: RunConfig,
    *,
    run_dir: Path,
    notice: Notice,
    plain: Any,
    found: Found | None,
    owner: RunOwner | None = None,
    also: Mapping[str, Any] | None = None,
) -> list[Callback]:
    """Build the callbacks that watch, measure and save a run, in the order of their calls.

    Args:
        plain: the settings as they go into each checkpoint.
        found: the checkpoint from which the run resumes.
        owner: the lock on run_dir, in the first process.
        also: further entries of each checkpoint.
    """
    return [
        notice,
        # Before everything that measures: those put the average in place, of this very step.
        *([WeightAverage(cfg.optim.ema)] if cfg.optim.ema else []),
        *build_callbacks(
            cfg.callbacks, run_dir=run_dir, log_every=cfg.trainer.log_every, health=cfg.health
        ),
        Saver(
            checkpoints_of(cfg),
            run_dir=run_dir,
            notice=notice,
            record={"config": plain, "versions": versions(), **(also or {})},
            resume_from=found,
            owner=owner,
        ),
    ]


def exit_status(trainer: Trainer) -> int:
    """Return the exit status of a process whose run was stopped on request and saved.

    It is 75, "run the same command again". Processes that Lightning started return 0: at any other
    status of theirs it kills the first process, whose status is the run's.
    """
    # A single process has none.
    environment = getattr(trainer.strategy, "cluster_environment", None)
    started_by_us = environment is not None and not environment.creates_processes_externally
    return 0 if started_by_us and trainer.global_rank else STATUS_CONTINUE


def versions() -> dict[str, str]:
    """Return the versions of everything that decides the numbers, for each checkpoint."""
    return {
        "sam_train": version("sam_train"),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "lightning": str(lightning.__version__),
    }


def restore_window(cfg: RunConfig, plain: Any, found: Found | None) -> None:
    """Take the window of the run that is resumed, before its settings are compared with these."""
    if found is not None and not cfg.model.window:
        _set_window(cfg, plain, (found.settings.get("model") or {}).get("window") or [])


def _set_window(cfg: RunConfig, plain: Any, window: list[float]) -> None:
    """Set `model.window` in the settings and in their plain copy, which checkpoints record."""
    if window:
        cfg.model.window = plain["model"]["window"] = list(window)
        pairs = zip(window[::2], window[1::2], strict=True)
        said = ", ".join(f"{low:g} to {high:g}" for low, high in pairs)
        log.info("photos of more than 8 bits are shown from %s (model.window)", said)


def loss_grid(cfg: RunConfig, module: SamModule) -> int:
    """Return R, the side of the masks that the loss compares with, by `loss.resolution`."""
    return module.sam.grid_size if cfg.loss.resolution == "grid" else module.sam.image_size


def prepare_run_dir(run_dir: Path) -> Path:
    """Make the folder if need be, and prove that it is writable.

    Raises:
        UserError: it cannot be made or written.
    """
    try:
        (run_dir / "checkpoints").mkdir(parents=True, exist_ok=True)
        (run_dir / "pictures").mkdir(exist_ok=True)
        # Every process tries, and in containers on several machines process ids are the same.
        probe = run_dir / f".writable-{uuid.uuid4().hex}"
        probe.touch()
        probe.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(
            f"run_dir={run_dir} cannot be written ({error.strerror}): choose another with run_dir="
        ) from error
    return run_dir


def report_resume(cfg: RunConfig, found: Found) -> None:
    """Log which checkpoint the run resumes, or that there is nothing left to do."""
    if found.step >= cfg.trainer.max_steps:
        log.info(
            "already trained: %s has %d of %d steps behind it; raise trainer.max_steps to go on, "
            "resume=never starts afresh",
            found.path,
            found.step,
            cfg.trainer.max_steps,
        )
        return
    log.info("continuing %s at step %d (resume=never starts afresh)", found.path, found.step)


def report_start(cfg: RunConfig, module: SamModule, run_dir: Path) -> None:
    """Log the run's model, length and device, and its folder."""
    parameters = sum(p.numel() for p in module.parameters())
    device = torch.cuda.get_device_name() if uses_gpus(cfg.trainer) else "CPU"
    log.info(
        "%s: %s at %d px, %.1f M parameters, %d steps of %d images on %s",
        cfg.name,
        cfg.model.name,
        module.sam.image_size,
        parameters / 1e6,
        cfg.trainer.max_steps,
        cfg.data.batch_size,
        device,
    )
    log.info("optim.tune=%s: %s", cfg.optim.tune, trained_parts(module.sam, cfg=cfg.optim))
    log.info("everything of this run lies in %s", run_dir)
    if card := lacks_bfloat16(cfg.trainer):
        log.warning("%s only emulates bfloat16: trainer.precision=16-mixed is faster", card)
