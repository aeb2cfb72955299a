"""The state that no test may leave to the next one of its process."""

from __future__ import annotations

import logging
import multiprocessing.spawn
import os
import signal
import sys
from collections.abc import Iterator
from typing import Any

import forked
import pytest
import torch
import torch.distributed as dist

from sam_train.runtime.lean_start import postpone_torchmetrics


def pytest_configure() -> None:
    """Set the same surroundings on every machine, for the tests and for all that they start.

    One thread: its sums do not depend on the number of cores. Ctrl-C: a suite that is started in
    the background ignores it. No import of metrics, as in every verb."""
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    postpone_torchmetrics()
    forked.restore_executable()
    # Asked for at each start: the server of forks begins with the first process that is spawned.
    multiprocessing.spawn.get_executable = lambda: os.fsencode(forked.python())
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes(specs: list[Any]) -> None:
    """Fork pytest-xdist's workers from one process that has imported everything."""
    program = forked.python()
    os.environ[forked.VARIABLE], os.environ[forked.FRESH] = program, sys.executable
    for spec in specs:
        if spec.popen and not spec.python:
            spec.python = program


@pytest.fixture(autouse=True)
def _nothing_left_behind() -> Iterator[None]:
    """Restore what a test changes in its process.

    The environment: child processes inherit it, and Lightning leaves a rank there. Lightning's
    process group: it keeps that until the process ends. The log's handlers: they would write to the
    captured stdout of a test that is over. torch's precision and threads: a recipe sets them.
    """
    logger = logging.getLogger("sam_train")
    environment = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(environment)
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    logger.propagate = True
    logger.setLevel(logging.NOTSET)
    # Not what was found: a fixture of the whole file may have run a recipe before.
    torch.set_float32_matmul_precision("highest")
    torch.set_num_threads(1)
