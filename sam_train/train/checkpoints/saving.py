"""Saves the whole state of a run: no more than the steps since the last save can be lost."""

from __future__ import annotations

import logging
import time
import zipfile
import zlib
from collections.abc import Mapping
from enum import IntEnum
from functools import partial
from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from sam_train.errors import UserError
from sam_train.runtime import dist
from sam_train.runtime.background import Background, snapshot
from sam_train.runtime.files import link
from sam_train.runtime.run_owner import RunOwner
from sam_train.train.checkpoints.config import CheckpointConfig
from sam_train.train.checkpoints.file import (
    PARTIAL,
    DamagedFileError,
    read_outline,
    remove_unfinished,
    write_checkpoint,
)
from sam_train.train.checkpoints.resume import RUN_RECORD, Found
from sam_train.train.checkpoints.retention import (
    GIVEN_UP,
    LAST,
    best_checkpoint,
    is_stalled,
    path_of,
    scores_of,
    steps_in,
    to_keep,
)
from sam_train.train.checkpoints.rng_state import rng_state, set_rng_state
from sam_train.train.parallel.full_state import full_state
from sam_train.train.report.meter import Recorder
from sam_train.train.watch.signals import Notice, Stopped, requeue

log = logging.getLogger("sam_train")

RNG_RECORD = "rng_states"
"""The checkpoint's entry with `rng_state()` of each rank."""


class Wish(IntEnum):
    """A rank's wish after a step; the largest one happens on all ranks."""

    NOTHING = 0
    SAVE = 1
    SAVE_AND_END = 2
    """Training has stalled."""
    SAVE_AND_STOP = 3
    FAIL = 4


class Saver(Checkpoint):
    """Writes `step=N.ckpt` and `last.ckpt` into run_dir/checkpoints.

    A `Checkpoint` to Lightning, so it comes behind all other callbacks: whatever they note of a
    step is noted before the step is saved.
    """

    def __init__(
        self,
        cfg: CheckpointConfig,
        *,
        run_dir: Path,
        notice: Notice | None = None,
        record: Mapping[str, Any] | None = None,
        resume_from: Found | None = None,
        owner: RunOwner | None = None,
    ) -> None:
        """Args:
        cfg: when to save and what to keep.
        run_dir: its `checkpoints` are written, its `metrics.csv` says which are the best.
        notice: asked after each step whether the run has to end.
        record: settings and versions, in plain types, kept in each checkpoint.
        resume_from: the checkpoint from which it resumes; the ranks must agree on it.
        owner: the right to write run_dir; where it is lost the run ends.
        """
        self.cfg = cfg
        self.run_dir = run_dir
        self.folder = run_dir / "checkpoints"
        self.notice = notice
        self.record = dict(record or {})
        self.resume_from = resume_from
        self.owner = owner
        self._writer = Background()
        self._recorder: Recorder | None = None
        self._seen = self._saved_at = -1
        self._saved_time = 0.0
        self._rng: dict[str, Any] | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Ensure that all ranks resume from the same file.

        Raises:
            UserError: they found different ones.
        """
        dist.start()
        found = "none" if self.resume_from is None else identity(self.resume_from)
        if not dist.same(found):
            raise UserError(
                f"the processes of this run found different checkpoints to continue (rank "
                f"{trainer.global_rank}: {found}): is run_dir={self.run_dir} one folder for all "
                "machines? resume=PATH names one file for all"
            )

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Remember the generators' state of this rank; another number of ranks has none for it."""
        states = checkpoint.get(RNG_RECORD, [])
        # Training draws nothing from them, so a run on other ranks loses nothing.
        if len(states) == trainer.world_size:
            self._rng = states[trainer.global_rank]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock; clear away the files of a course that is given up."""
        self._seen = self._saved_at = trainer.global_step
        self._saved_time = time.monotonic()
        found = [c for c in trainer.callbacks if isinstance(c, Recorder)]  # type: ignore[attr-defined]
        # Looked up, not passed in: its figures decide whether a measured step is saved.
        self._recorder = found[0] if found else None
        if trainer.is_global_zero:
            begin_course(self.folder, step=trainer.global_step)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Set the generators, once the loaders have started."""
        if self._rng is not None:
            # Not in on_train_start: the start of the loaders draws from them.
            set_rng_state(self._rng)
            self._rng = None

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Decide with the other ranks what to do after an update, and do it.

        Raises:
            UserError: a checkpoint could not be written, or another process took run_dir over.
            Stopped: the run was stopped on request and is saved.
        """
        step = trainer.global_step
        if step == self._seen:
            return
        self._seen = step
        # Clocks and signals differ between ranks, and a rank that saves alone waits for ever.
        agreed = dist.largest(self._wish(trainer, step))
        if agreed == Wish.FAIL:
            self._fail()
        if agreed == Wish.NOTHING:
            return
        stop = agreed in {Wish.SAVE_AND_END, Wish.SAVE_AND_STOP}
        # In the foreground before a stop: the process must not end with a file half written.
        self._save(trainer, step, background=self.cfg.background and not stop)
        if agreed == Wish.SAVE_AND_STOP:
            self._stop(trainer, step)
        if agreed == Wish.SAVE_AND_END:
            # Lightning leaves its loop after this batch, on every rank, as at the last step.
            trainer.should_stop = True

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Finish writing, and apply retention by the last measurement."""
        self._writer.wait()
        self._agree_on_failure()
        # The last measurement may have made another file the best.
        if trainer.is_global_zero and self._saved_at >= 0:
            self._retain()
            if trainer.should_stop and trainer.global_step < trainer.max_steps:
                log.info("%s", ended_early(self.run_dir, self.cfg, step=trainer.global_step))

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Let the writer finish: its checkpoint is complete and may be the newest."""
        self._writer.wait()

    def _wish(self, trainer: Trainer, step: int) -> Wish:
        """Decide what this rank wants; only the first looks at the clock and at the figures."""
        if self.notice is not None and self.notice.received is not None:
            return Wish.SAVE_AND_STOP
        if not trainer.is_global_zero:
            return Wish.NOTHING
        if self._writer.error is not None or self._is_lost():
            return Wish.FAIL
        cfg, minutes = self.cfg, (time.monotonic() - self._saved_time) / 60
        # Figures of this very step: validation comes before this callback.
        figures = self._recorder.latest if self._recorder is not None else {}
        measured = figures.get("step") == step and cfg.metric in figures
        if cfg.patience and measured and is_stalled(scores_of(self.run_dir, cfg.metric), cfg):
            return Wish.SAVE_AND_END
        due = (
            step >= trainer.max_steps
            or (cfg.every_steps > 0 and step % cfg.every_steps == 0)
            or (cfg.keep_every > 0 and step % cfg.keep_every == 0)
            or (cfg.every_minutes > 0 and minutes >= cfg.every_minutes)
            or (cfg.keep_best > 0 and measured)
        )
        return Wish.SAVE if due else Wish.NOTHING

    def _save(self, trainer: Trainer, step: int, *, background: bool) -> None:
        self._saved_at, self._saved_time = step, time.monotonic()
        # Collectives on every rank, in the same order; only the first one writes.
        content = full_state(trainer)
        content[RNG_RECORD] = dist.gather(rng_state())
        content[RUN_RECORD] = {**self.record, "processes": trainer.world_size}
        if trainer.is_global_zero:
            # The copy before is in memory until it is written: one at a time.
            self._writer.wait()
            if background and self._writer.error is None:
                content = snapshot(content)
            # In a thread either way, so that an error of the disk takes one path.
            self._writer.start(partial(self._write, content, step))
        if not background:
            self._writer.wait()
            self._agree_on_failure()

    def _write(self, content: dict[str, Any], step: int) -> None:
        write_checkpoint(content, path_of(self.folder, step), also=self.folder / LAST)
        self._retain()

    def _retain(self) -> None:
        """Apply the retention: remove what is neither new nor good nor permanent."""
        # From the file, not from memory: retention must not depend on how often the run resumed.
        scores = scores_of(self.run_dir, self.cfg.metric) if self.cfg.keep_best else {}
        steps_here = steps_in(self.folder)
        for step in set(steps_here) - to_keep(steps_here, scores=scores, cfg=self.cfg):
            path_of(self.folder, step).unlink(missing_ok=True)

    def _agree_on_failure(self) -> None:
        failed = self._writer.error is not None
        if dist.largest(Wish.FAIL if failed else Wish.NOTHING) == Wish.FAIL:
            self._fail()

    def _is_lost(self) -> bool:
        return self.owner is not None and bool(self.owner.lost)

    def _fail(self) -> None:
        if self.owner is not None and self.owner.lost:
            raise UserError(self.owner.lost)
        error = self._writer.error
        if error is None:
            # The first rank says it, once.
            raise SystemExit(2)
        # A fault of the program: a traceback is worth more than a line.
        if not isinstance(error, OSError):
            raise error
        raise UserError(
            f"run_dir={self.run_dir} cannot be written any more ({error.strerror}), the checkpoint "
            f"of step {self._saved_at} is not saved: make room there and give the same command "
            "again, it goes on from the newest checkpoint"
        ) from error

    def _stop(self, trainer: Trainer, step: int) -> None:
        reason = "another process"
        if self.notice is not None and self.notice.received is not None:
            # This rank's signal; the others learn of the stop through `dist.largest`.
            reason = self.notice.received.name
        if trainer.is_global_zero:
            log.info("%s: saved at step %d; the same command goes on from there", reason, step)
        asked = self.notice is not None and self.notice.requeues
        # One rank alone may have been told; the first one acts.
        if dist.largest(int(asked)) and trainer.is_global_zero:
            requeue()
        # Nobody leaves before: the end of one ends the others.
        dist.barrier()
        raise Stopped(step=step, reason=reason)


def ended_early(run_dir: Path, cfg: CheckpointConfig, *, step: int) -> str:
    """Return a line about a run that has stalled, with its best checkpoint and the way on."""
    best = best_checkpoint(run_dir, cfg)
    named = "" if best is None else f"; the best checkpoint is {best}"
    return (
        f"ended at step {step}: {cfg.patience} measurements brought no better {cfg.metric} "
        f"(checkpoint.patience){named}; with a higher checkpoint.patience, or 0, the same command "
        "goes on"
    )


def identity(found: Found) -> str:
    """Describe a checkpoint by name, step and content, to tell it from others of its name."""
    with zipfile.ZipFile(found.path) as archive:
        # The zip's directory alone: a few kilobytes of a file that may have 8 GB.
        records = [(info.filename, info.CRC) for info in archive.infolist()]
    content = zlib.crc32(repr(records).encode())
    return f"{found.path.name} of step {found.step}, checksum {content:08x}"


def begin_course(folder: Path, *, step: int) -> None:
    """Make `step` the newest in a folder of checkpoints.

    Files beyond it belong to a course that was given up by resume=never, by going back to an
    earlier file, or because they are damaged. They would be taken for the newest, so they get
    another name.
    """
    if not folder.is_dir():
        return
    remove_unfinished(folder)
    # Renamed, never removed: going back may itself be the mistake.
    beyond = [path_of(folder, s) for s in steps_in(folder) if s > step]
    last, here = folder / LAST, path_of(folder, step)
    if last.is_file() and _step_of(last) == step:
        if not here.exists():
            # Killed between the two names.
            link(last, here, ending=PARTIAL)
    elif last.is_file():
        # The run went back to an older file, which is the newest of its course now.
        if here.is_file():
            link(here, last, ending=PARTIAL)
        else:
            beyond.append(last)
    for path in beyond:
        path.replace(path.with_name(path.name + GIVEN_UP))
    if beyond:
        names = ", ".join(path.name for path in beyond)
        log.info("not continued, renamed to *%s: %s", GIVEN_UP, names)


def _step_of(path: Path) -> int | None:
    try:
        step = read_outline(path)["global_step"]
    except (DamagedFileError, OSError, KeyError, TypeError):
        return None
    return step if isinstance(step, int) else None
