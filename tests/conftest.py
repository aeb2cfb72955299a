"""The state that no test may leave to the next one of its process."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator

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
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


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
