"""A data worker lives on when the cluster signals the whole job, and ends when its parent says."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import pytest
from torch.utils.data import Dataset
from waiting import PATIENCE, until

from sam_train.data.config import DataConfig
from sam_train.data.feed.loader import data_loader
from sam_train.data.feed.worker_signals import outlive_signals, sigterm_held_back


class Pids(Dataset[int]):
    def __len__(self) -> int:
        return 100

    def __getitem__(self, index: int) -> int:
        time.sleep(0.01)
        return os.getpid()


THREADS: list[threading.Thread] = []
"""Set to be started again in forked children, as OpenTelemetry does with its own."""


def start_threads_again() -> None:
    for _ in THREADS:
        threading.Thread(target=time.sleep, args=(3600,), daemon=True).start()


os.register_at_fork(after_in_child=start_threads_again)


@pytest.fixture(params=[0, 1])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """Start so many threads in each process that is forked."""
    THREADS.extend([threading.current_thread()] * request.param)
    yield request.param
    THREADS.clear()


def test_signals_of_others_change_nothing(threads: int) -> None:
    cfg = DataConfig(workers=1, start_method="fork")
    # Plain numbers: nothing that torch would hand over by a socket.
    batches: Any = iter(data_loader(Pids(), cfg=cfg, batch_size=None))
    worker = int(next(batches))
    for number in ("-USR1", "-TERM", "-USR1", "-TERM"):
        subprocess.run(["kill", number, str(worker)], check=True)
    (process,) = batches._workers
    try:
        pids = [int(pid) for pid in batches]
    except RuntimeError as error:
        raise AssertionError(f"the worker ended with status {process.exitcode}") from error
    assert pids == [worker] * 99


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc to see signals in")
def test_its_parent_ends_it(threads: int) -> None:
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    process = context.Process(target=_wait_for_ever, args=(ready,), daemon=True)
    with sigterm_held_back():
        process.start()
    assert signal.SIGTERM not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
    assert ready.wait(PATIENCE)
    subprocess.run(["kill", "-TERM", str(process.pid)], check=True)
    # Signals do not queue: its parent's would be lost while the other one is pending.
    until(lambda: not pending(process.pid), "the worker to take the signal")
    assert process.is_alive()
    process.terminate()
    process.join(PATIENCE)
    assert process.exitcode == 0


def pending(pid: int | None) -> bool:
    """Whether SIGTERM was sent to a living process and not yet taken."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    masks = [int(line.split()[1], 16) for line in lines if line.startswith(("ShdPnd", "SigPnd"))]
    return any(mask >> (signal.SIGTERM - 1) & 1 for mask in masks)


def _wait_for_ever(ready: Event) -> None:
    outlive_signals()
    ready.set()
    while True:
        signal.pause()
