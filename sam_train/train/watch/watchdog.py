"""Ends a stalled run, and says which process hangs where, instead of waiting in silence.

A thread in each process publishes a heartbeat every few seconds. If its main thread made no
progress for `health.hang_minutes`, it reads the others' heartbeats. Once all processes that live
are stuck, each writes its stacks to run_dir/hang/rank=N.txt. The first of them names the cause, and
all end. A rank that merely waits for a busy one does not end the run: the busy one is not stuck.
"""

from __future__ import annotations

import faulthandler
import os
import socket
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from sam_train.train.watch.config import HealthConfig
from sam_train.train.watch.heartbeats import (
    Heartbeat,
    Heartbeats,
    kill,
    main_frame,
    place,
    silent,
    stacks,
    started,
)
from sam_train.train.watch.pulse import PULSE
from sam_train.train.watch.verdict import sentence

STATUS_HUNG = 70
"""EX_SOFTWARE of sysexits.h: the exit status of a run that hung."""
FOLDER = "hang"
"""The folder of the stacks in run_dir."""
_LONGEST_INTERVAL = 15.0


class Watchdog(Callback):
    """Watches this process's main thread, with those of the other ranks. It comes first."""

    def __init__(self, cfg: HealthConfig, *, run_dir: Path) -> None:
        self.limit = 60 * cfg.hang_minutes
        self.run_dir = run_dir
        # A tenth of the limit: a silent rank must be told from a slow one well within it.
        self.interval = min(_LONGEST_INTERVAL, self.limit / 10)
        self._beats = Heartbeats(run_dir / "beats")
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self._file: IO[str] | None = None
        self._beat = Heartbeat(rank=0, host=socket.gethostname(), pid=os.getpid())
        self._world_size = 1

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Start watching: the processes have met, and from here on may lose one another."""
        if self.limit == 0 or self._thread is not None:
            return
        self._world_size = trainer.world_size
        self._beat.rank, self._beat.pid = trainer.global_rank, os.getpid()
        self._beat.started = started(os.getpid())
        self._beats.folder.mkdir(exist_ok=True)
        (self.run_dir / FOLDER).mkdir(exist_ok=True)
        # Open from now on: what writes it when no Python code can run any more opens no files.
        self._file = self._stack_file(self._beat.rank).open("a")
        PULSE.restart()
        self._say_state("running")
        # A daemon: a main thread that dies of an error must not wait for its own watchdog.
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._thread.start()

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Note that a batch has arrived."""
        PULSE.beat("forward", step=trainer.global_step)

    def on_before_backward(
        self, trainer: Trainer, pl_module: LightningModule, loss: Tensor
    ) -> None:
        """Note that the forward pass is over."""
        PULSE.beat("backward")

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Any
    ) -> None:
        """Note that the gradients are there."""
        PULSE.beat("update")

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Note the end of the step; measuring, saving or waiting for a batch comes next."""
        PULSE.beat("between steps", step=trainer.global_step)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note the end of training; the last measurement may be long, too."""
        PULSE.beat("end")

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Tell the other ranks that this process has ended; its own error says why."""
        self._stop()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Stop watching at the end of training."""
        self._stop()

    def _stop(self) -> None:
        if self._thread is None:
            return
        self._over.set()
        self._thread.join()
        self._thread = None
        # It would write into the file that is closed next.
        faulthandler.cancel_dump_traceback_later()
        rank = self._beat.rank
        if self._file is not None:
            self._file.close()
        with suppress(OSError):
            path = self._stack_file(rank)
            # A run without a hang leaves no folder; rmdir fails while another rank's file is in it.
            if path.stat().st_size == 0:
                path.unlink()
            (self.run_dir / FOLDER).rmdir()
        self._say_state("ended")
        self._beats.close(self._world_size)

    def _watch(self) -> None:
        asleep_since = time.monotonic()
        while not self._over.wait(self.interval):
            late = time.monotonic() - asleep_since - self.interval
            asleep_since = time.monotonic()
            if late > self.interval:
                # All of this process stood still, as a suspended job does: it lost no time.
                PULSE.forgive(late)
            patience = PULSE.patience(self.limit)
            self._rearm(patience)
            self._say_state("running", stuck=PULSE.stalled > patience)
            if not self._beat.stuck:
                continue
            # Two looks, four intervals apart: a rank is silent if its counter stands at both.
            before = self._beats.read(self._world_size)
            if self._pause(4):
                return
            after = self._beats.read(self._world_size)
            lost = silent(before, after, self._world_size)
            live = [b for r, b in after.items() if r not in lost and b.state != "ended"]
            # Asked again: the main thread may have moved during the pause.
            if PULSE.stalled > patience and all(b.stuck for b in live):
                self._alarm(lost)

    def _rearm(self, patience: float) -> None:
        """Let C code write the stacks, should this thread never get to run again."""
        if self._file is not None:
            # Code in C that keeps the interpreter's lock stops this thread too. Armed anew at each
            # heartbeat, so it fires only then.
            faulthandler.dump_traceback_later(patience + 10 * self.interval, file=self._file)

    def _say_state(self, state: str, *, stuck: bool = False) -> None:
        beat = self._beat
        beat.count += 1
        beat.state, beat.stuck = state, stuck
        beat.step, beat.stage = PULSE.step, PULSE.stage
        beat.where, beat.waits = place(main_frame())
        self._beats.write(beat)

    def _pause(self, intervals: int, *, state: str = "running") -> bool:
        """Publish heartbeats for some intervals; return True as soon as training is over."""
        for _ in range(intervals):
            if self._over.wait(self.interval):
                return True
            self._say_state(state, stuck=True)
        return False

    def _alarm(self, lost: list[int]) -> None:
        """Write the stacks, let the first living rank name the cause, and end this process."""
        self._write_stacks()
        self._say_state("alarm", stuck=True)
        live = [r for r in range(self._world_size) if r not in lost]
        speaker = min(live, default=self._beat.rank)
        # A bounded wait: the ranks that should answer may die meanwhile.
        for _ in range(10):
            if self._pause(1, state="alarm"):
                return
            beats = self._beats.read(self._world_size)
            states = {r: beats[r].state for r in live if r in beats}
            if speaker == self._beat.rank:
                # Their stacks are written, so the line may point to them.
                if all(state != "running" for state in states.values()):
                    break
            elif states.get(speaker) == "spoken":
                break
        if speaker == self._beat.rank:
            self._speak(self._beats.read(self._world_size), lost)
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        # The main thread hangs in C code: nothing that unwinds it would return.
        os._exit(STATUS_HUNG)

    def _write_stacks(self) -> None:
        beat = self._beat
        head = (
            f"{time.strftime('%Y-%m-%d %H:%M:%S')} rank {beat.rank} on {beat.host}, pid {beat.pid},"
            f" behind step {PULSE.step}, {PULSE.stage}, {PULSE.stalled:.0f} s without progress\n\n"
        )
        if self._file is not None:
            with suppress(OSError):
                self._file.write(head + stacks() + "\n")
                self._file.flush()

    def _speak(self, beats: dict[int, Heartbeat], lost: list[int]) -> None:
        host = self._beat.host
        text = sentence(
            beats,
            lost,
            world_size=self._world_size,
            host=host,
            minutes=PULSE.stalled / 60,
        )
        folder = self.run_dir / FOLDER
        for rank in lost:
            # It cannot write its own: what it did when it was last seen.
            beat = beats.get(rank)
            seen = f"last seen in {beat.where}" if beat is not None else "never seen"
            with suppress(OSError), self._stack_file(rank).open("a") as file:
                file.write(f"{text}\nrank {rank}: {seen}\n\n")
        text += f"; stacks in {folder}, the newest checkpoint continues the run"
        print(f"error: {text}", file=sys.stderr)
        # Only the first rank's logger has a file, and it may be the one that hangs.
        with suppress(OSError), (self.run_dir / "log.txt").open("a") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} ERROR {text}\n")
        self._say_state("spoken", stuck=True)
        for rank in lost:
            if rank in beats and beats[rank].host == host:
                # Last: a process that is gone can no longer be described. Slurm ends those of other
                # machines.
                kill(beats[rank])

    def _stack_file(self, rank: int) -> Path:
        return self.run_dir / FOLDER / f"rank={rank}.txt"
