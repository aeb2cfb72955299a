"""SIGTERM and SIGUSR1: the job's time is over or another job comes first.

The run finishes its step, saves and ends with status 75, "run the same command again". `Saver`
asks `Notice.received` after each step; Lightning's own handling is off.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import threading
from dataclasses import dataclass
from types import FrameType
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

log = logging.getLogger("sam_train")

STATUS_CONTINUE = 75
"""EX_TEMPFAIL of sysexits.h: nothing is wrong, run the same command again."""
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


@dataclass(slots=True)
class Stopped(Exception):  # noqa: N818 - the end of a run, not an error
    """Training has ended early, as it was asked to, with everything saved."""

    step: int
    reason: str


class Notice(Callback):
    """Notes the first signal. Belongs before every other callback.

    With `grace_seconds` above 0 the process ends by itself when that time is over, saved or not:
    a job that is killed first cannot requeue itself any more.
    """

    def __init__(self, *, grace_seconds: float) -> None:
        self.grace_seconds = grace_seconds
        self.received: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}
        self._timer: threading.Timer | None = None
        self._owner = os.getpid()

    def install(self) -> None:
        """Take the signals over, from Lightning too. Only the main thread may call it."""
        for number in SIGNALS:
            # `install` runs twice, before and after Lightning; only the first finds what was there
            # before.
            before = signal.signal(number, self._handle)
            self._before.setdefault(number, before)

    def restore(self) -> None:
        """Give the signals back to whoever had them before the first `install`."""
        if self._timer is not None:
            self._timer.cancel()
        for number, handler in self._before.items():
            # None stands for a handler that C code installed, which Python cannot put back.
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        self._before.clear()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the signals back from Lightning, which installs its own handler meanwhile."""
        # Lightning's handler broadcasts from within, in the middle of any collective, and two
        # different collectives deadlock.
        self.install()
        loop: Any = trainer.fit_loop.epoch_loop
        # Its loop would ask the GPU before each step whether any rank got one: a wait that `Saver`
        # does without.
        loop._broadcast_sigterm_tensor = lambda: None

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._owner:
            # A data worker, whom Slurm signals like everyone: it must outlive the step that needs
            # its photos, but not its parent, who ends workers by SIGTERM.
            signal.alarm(max(1, round(self.grace_seconds)))
            return
        # A second SIGTERM changes nothing: the deadline counts from the first.
        if self.received is not None:
            return
        self.received = signal.Signals(number)
        if self.grace_seconds > 0:
            self._timer = threading.Timer(self.grace_seconds, self._give_up)
            self._timer.daemon = True
            self._timer.start()

    def _give_up(self) -> None:
        log.error(
            "checkpoint.grace_seconds=%g are over before the step was finished and saved: the "
            "newest checkpoint continues the run",
            self.grace_seconds,
        )
        # One process of the job only, and before the end: the first to leave ends the others.
        if self.requeues and int(os.environ.get("SLURM_PROCID", "0")) == 0:
            requeue()
        # Not sys.exit: this is a timer's thread, and the main thread may hang in a collective.
        os._exit(STATUS_CONTINUE)

    @property
    def requeues(self) -> bool:
        """True where the run has to put its own job back into the queue.

        Only for SIGUSR1, which `sbatch --signal=USR1@120` sends before the time is over. SIGTERM
        comes with pre-emption and `scontrol requeue`, where Slurm requeues by itself, and with
        `scancel`, where a person wants the job gone.
        """
        return self.received == signal.SIGUSR1 and "SLURM_JOB_ID" in os.environ


def requeue() -> None:
    """Put this job back into Slurm's queue, and log the success or the reason of a failure."""
    job = os.environ["SLURM_JOB_ID"]
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        # One task's own SLURM_JOB_ID is the array's, and scontrol would requeue all of it.
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    try:
        done = subprocess.run(
            ["scontrol", "requeue", job], capture_output=True, text=True, timeout=30, check=False
        )
        reason = done.stderr.strip() if done.returncode else ""
    except (OSError, subprocess.TimeoutExpired) as error:
        reason = str(error)
    if reason:
        log.warning("job %s is not requeued (%s): submit it again, it goes on", job, reason)
    else:
        log.info("job %s is requeued", job)
