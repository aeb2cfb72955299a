"""A data worker lives on when the cluster signals the whole job, and ends when its parent says."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import time
from multiprocessing.synchronize import Event
from typing import Any

from torch.utils.data import DataLoader, Dataset

from sam_train.data.feed.worker_signals import outlive_signals


class Pids(Dataset[int]):
    def __len__(self) -> int:
        return 100

    def __getitem__(self, index: int) -> int:
        time.sleep(0.01)
        return os.getpid()


def start(_worker: int) -> None:
    outlive_signals()


def test_signals_of_others_change_nothing() -> None:
    loader = DataLoader(
        Pids(),
        batch_size=None,  # plain numbers: nothing that torch would hand over by a socket
        num_workers=1,
        worker_init_fn=start,
        multiprocessing_context="fork",
    )
    batches: Any = iter(loader)
    worker = int(next(batches))
    for number in ("-USR1", "-TERM", "-USR1", "-TERM"):
        subprocess.run(["kill", number, str(worker)], check=True)
    (process,) = batches._workers
    try:
        pids = [int(pid) for pid in batches]
    except RuntimeError as error:
        raise AssertionError(f"the worker ended with status {process.exitcode}") from error
    assert pids == [worker] * 99


def test_its_parent_ends_it() -> None:
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    process = context.Process(target=_wait_for_ever, args=(ready,), daemon=True)
    process.start()
    assert ready.wait(20)
    subprocess.run(["kill", "-TERM", str(process.pid)], check=True)
    time.sleep(0.2)
    assert process.is_alive()
    process.terminate()
    process.join(20)
    assert process.exitcode == 0


def _wait_for_ever(ready: Event) -> None:
    outlive_signals()
    ready.set()
    while True:
        signal.pause()
