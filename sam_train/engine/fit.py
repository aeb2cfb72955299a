"""The verb `fit`: from settings to a trained model in run_dir."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning import seed_everything
from lightning.pytorch.callbacks import Callback
from omegaconf import OmegaConf

from sam_train.config import RunConfig, check_config, compose_config, typed
from sam_train.data.datamodule import SamDataModule
from sam_train.engine.build import build_loggers, build_trainer, checkpoint_callback
from sam_train.engine.callbacks import build_callbacks
from sam_train.engine.log import rank_zero, start_log
from sam_train.engine.mishaps import check_resumable, one_line
from sam_train.engine.module import SamModule
from sam_train.errors import UserError
from sam_train.model.init import initialise

log = logging.getLogger("sam_train")


def fit(overrides: Sequence[str]) -> None:
    """Train as `overrides` say; see `config.RunConfig` and conf/.

    Raises:
        UserError: whatever the user can mend: settings, files, devices.
    """
    config = compose_config(overrides)
    cfg = typed(config)
    check_config(cfg)
    run_dir = prepare_run_dir(Path(cfg.run_dir))
    start_log(run_dir / "log.txt")
    resume_from = find_resume(cfg.resume, run_dir)
    if rank_zero() and (resume_from is None or not (run_dir / "config.yaml").exists()):
        (run_dir / "config.yaml").write_text(OmegaConf.to_yaml(config))

    seed_everything(cfg.seed, verbose=False)
    module = SamModule(cfg)
    report_start(cfg, module, run_dir)
    if resume_from is not None:
        check_resumable(resume_from, module)
        report_resume(cfg, resume_from)
    if cfg.init_from and resume_from is None:
        log.info("%s", initialise(module.sam, cfg.init_from, cfg.init))
    data = SamDataModule(
        cfg.data,
        image_size=module.sam.image_size,
        grid_size=loss_grid(cfg, module),
        seed=cfg.seed,
    )
    callbacks: list[Callback] = [
        checkpoint_callback(cfg.trainer, run_dir),
        *build_callbacks(cfg.callbacks, run_dir=run_dir, log_every=cfg.trainer.log_every),
    ]
    plain: Any = OmegaConf.to_container(config, resolve=True)
    trainer = build_trainer(
        cfg.trainer,
        run_dir=run_dir,
        callbacks=callbacks,
        loggers=build_loggers(cfg.logger, run_dir=run_dir, name=cfg.name, config=plain),
    )
    # weights_only: a checkpoint is data, nothing in it is ever run.
    with one_line():
        trainer.fit(module, datamodule=data, ckpt_path=resume_from, weights_only=True)


def loss_grid(cfg: RunConfig, module: SamModule) -> int:
    """Side of the masks that the loss compares with, see `losses.LossConfig.resolution`."""
    return module.sam.grid_size if cfg.loss.resolution == "grid" else module.sam.image_size


def prepare_run_dir(run_dir: Path) -> Path:
    """The folder, made if need be and proved writable.

    Raises:
        UserError: it cannot be made or written.
    """
    try:
        (run_dir / "checkpoints").mkdir(parents=True, exist_ok=True)
        (run_dir / "pictures").mkdir(exist_ok=True)
        probe = run_dir / f".writable-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(
            f"run_dir={run_dir} cannot be written ({error.strerror}): choose another with run_dir="
        ) from error
    return run_dir


def find_resume(resume: str, run_dir: Path) -> str | None:
    """The checkpoint to continue, or None to start afresh.

    Raises:
        UserError: `resume` names a file that is not there.
    """
    if resume == "never":
        return None
    if resume == "auto":
        last = run_dir / "checkpoints" / "last.ckpt"
        return str(last) if last.is_file() else None
    if not Path(resume).is_file():
        raise UserError(f"resume={resume} is not a file: use resume=auto, never or a checkpoint")
    return resume


def report_resume(cfg: RunConfig, path: str) -> None:
    """Say what is continued, or that there is nothing left to do."""
    saved = torch.load(path, map_location="meta", weights_only=True, mmap=True)
    finished = int(saved["global_step"])
    if finished >= cfg.trainer.max_steps:
        log.info(
            "already trained: %s has %d of %d steps behind it; raise trainer.max_steps to go on, "
            "resume=never starts afresh",
            path,
            finished,
            cfg.trainer.max_steps,
        )
        return
    log.info("continuing %s at step %d (resume=never starts afresh)", path, finished)


def report_start(cfg: RunConfig, module: SamModule, run_dir: Path) -> None:
    """Say in a few lines what is about to happen."""
    parameters = sum(p.numel() for p in module.parameters())
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
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
    log.info("everything of this run lies in %s", run_dir)
