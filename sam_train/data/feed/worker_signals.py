"""A data worker's handling of the signals that a cluster sends to every process of a job."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


def outlive_signals() -> None:
    """Leave SIGTERM and SIGUSR1 to the training process, unless SIGTERM comes from it.

    It needs this worker's photos to finish the step that it then saves. torch's own handler ends a
    worker whoever sent the signal; the sender is known to `sigwaitinfo` alone, hence a thread that
    waits. A worker whose parent is gone ends by itself, by torch's watchdog. To be called in a
    worker that was started within `sigterm_held_back`.
    """
    # SLURM's warning before the time limit, which only the training process acts on.
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    if not hasattr(signal, "sigwaitinfo"):  # macOS
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    # Not `os.getppid`: under forkserver that is the server.
    parent = multiprocessing.parent_process()
    assert parent is not None, "called in the training process"
    threading.Thread(target=_wait, args=(parent.pid,), daemon=True).start()


@contextmanager
def sigterm_held_back() -> Iterator[None]:
    """Start workers that take no SIGTERM in any thread; this process gets its own afterwards.

    A signal goes to whichever thread does not block it, and some libraries start threads in a
    forked child before anybody can block anything there (OpenTelemetry, which wandb uses). They
    inherit the mask of the thread that forks.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _wait(parent: int | None) -> None:
    while True:
        if signal.sigwaitinfo({signal.SIGTERM}).si_pid == parent:
            # `sys.exit` would end this thread alone.
            os._exit(0)
