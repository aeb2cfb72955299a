"""TensorBoard and Weights & Biases, opened before anything is built and continued on resume."""

from __future__ import annotations

import logging
import netrc
import os
import re
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from sam_train.errors import UserError
from sam_train.runtime.log import rank_zero
from sam_train.train.checkpoints.resume import RUN_RECORD, Found
from sam_train.train.config import LoggerConfig

log = logging.getLogger("sam_train")

WANDB_RECORD = "wandb_id"
"""The W&B run: a file of run_dir, and this name beside the settings in each checkpoint."""
_WAY_OUT = (
    "`wandb login` once, WANDB_API_KEY=..., WANDB_MODE=offline (`wandb sync` sends it later), or "
    "leave logger=wandb out: metrics.csv is always written"
)


@dataclass(slots=True, kw_only=True)
class Loggers:
    """The loggers of a run, and what its checkpoints must remember of them."""

    all: list[Logger] = field(default_factory=list)
    record: dict[str, Any] = field(default_factory=dict)


class RunWandb(WandbLogger):
    """W&B's run with our steps for its own, so that steps which are done again are no new rows."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Add to the row of `step`, unless an earlier process of the run sent it already."""
        # W&B ignores rows below its own newest step, with a warning for each.
        first = getattr(self.experiment, "starting_step", 0)
        if step is not None and isinstance(first, int) and step < first:
            return
        self.experiment.log({**metrics, "trainer/global_step": step}, step=step)


@contextmanager
def open_loggers(
    cfg: LoggerConfig, *, run_dir: Path, name: str, config: Any, resume: str, found: Found | None
) -> Iterator[Loggers]:
    """Open the chosen loggers, and close them at the run's end, however that comes.

    Args:
        name, config: what W&B calls the run and shows as its settings.
        resume: the setting; `never` starts a new run in both.
        found: the checkpoint from which the run resumes.

    Raises:
        UserError: W&B is asked for and has no account, or does not take the run.
    """
    loggers = Loggers()
    if cfg.tensorboard:
        folder = tensorboard_folder(run_dir / "tensorboard", fresh=resume == "never")
        # Readers drop what an earlier process wrote beyond the step of the checkpoint.
        purge = found.step + 1 if found is not None else 0
        loggers.all.append(TensorBoardLogger(folder, name="", version="", purge_step=purge))
    if not cfg.wandb:
        yield loggers
        return
    logger = _open_wandb(cfg, run_dir=run_dir, name=name, config=config, resume=resume, found=found)
    loggers.all.append(logger)
    if logger.version:
        loggers.record[WANDB_RECORD] = logger.version
    # Until the run has ended well: a crash must not look like a success on W&B's page.
    status = 1
    try:
        yield loggers
        status = 0
    except SystemExit as end:
        # 75 of a run that is resumed later, so that W&B does not call it finished.
        status = end.code if isinstance(end.code, int) else 1
        raise
    finally:
        if rank_zero():
            import wandb  # noqa: PLC0415 - takes seconds

            wandb.finish(exit_code=status)


def tensorboard_folder(root: Path, *, fresh: bool) -> Path:
    """Return the folder of the newest course in `root`, or that of a new one.

    The first course lies in `root` itself, later ones in `version_1`, `version_2`, ...
    """
    matches = [re.fullmatch(r"version_(\d+)", path.name) for path in root.glob("version_*")]
    newest = max((int(match[1]) for match in matches if match), default=0)
    if fresh and (newest or any(root.glob("events.out.tfevents.*"))):
        newest += 1
    return root / f"version_{newest}" if newest else root


def wandb_id(run_dir: Path, *, resume: str, found: Found | None) -> str:
    """Return the W&B run to resume: run_dir's, else the checkpoint's, else a new one's."""
    if resume == "never":
        return uuid.uuid4().hex[:8]
    # run_dir first: the checkpoint may be another run's, given by resume=PATH.
    path = run_dir / WANDB_RECORD
    known = path.read_text().strip() if path.is_file() else ""
    if not known and found is not None:
        record = found.outline.get(RUN_RECORD)
        known = str(record.get(WANDB_RECORD, "")) if isinstance(record, dict) else ""
    return known or uuid.uuid4().hex[:8]


def _open_wandb(
    cfg: LoggerConfig, *, run_dir: Path, name: str, config: Any, resume: str, found: Found | None
) -> RunWandb:
    try:
        import wandb  # noqa: PLC0415 - takes seconds
    except ImportError as error:
        raise UserError(f"logger=wandb: {error}: pip install wandb") from error
    number = wandb_id(run_dir, resume=resume, found=found)
    logger = RunWandb(
        name=name,
        project=cfg.project,
        entity=cfg.entity,
        save_dir=run_dir,
        config=config,
        id=number,
    )
    # On other ranks the logger opens no run, but must exist as on the first.
    if not rank_zero():
        return logger
    try:
        # W&B would ask for a key on the terminal, and a batch job waits for ever.
        disabled = _check_account(wandb.setup().settings)
        run: Any = logger.experiment
    except wandb.errors.Error as error:
        line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"logger=wandb: {line}: {_WAY_OUT}") from error
    if not disabled:
        # At once: a run that dies before its first checkpoint must resume the same W&B run.
        (run_dir / WANDB_RECORD).write_text(f"{number}\n")
        begun, first = getattr(run, "starting_step", 0), found.step + 1 if found is not None else 0
        if isinstance(begun, int) and begun > first:
            log.info("W&B has the steps below %d already: they are not sent again", begun)
    return logger


def _check_account(settings: Any) -> bool:
    """Refuse a missing account, before W&B asks for one; return True where W&B is off.

    Raises:
        UserError: W&B is to go online, and there is no key for it anywhere.
    """
    mode = str(settings.mode)
    if mode in ("disabled", "offline", "dryrun"):
        return mode == "disabled"
    token = os.environ.get("WANDB_IDENTITY_TOKEN_FILE")
    if os.environ.get("WANDB_API_KEY") or token or settings.api_key or _in_netrc(settings.base_url):
        return False
    raise UserError(f"logger=wandb needs an account, and there is no API key here: {_WAY_OUT}")


def _in_netrc(address: str) -> bool:
    named = os.environ.get("NETRC")
    paths = [Path(named)] if named else [Path("~/.netrc"), Path("~/_netrc")]
    for path in paths:
        try:
            hosts = netrc.netrc(path.expanduser()).hosts
        except (OSError, netrc.NetrcParseError, RuntimeError):
            continue
        # W&B has had several addresses, and knows them all.
        if any(h == urlsplit(address).netloc or "wandb" in h or "coreweave" in h for h in hosts):
            return True
    return False
