"""SIGTERM outside of training: nothing is lost that the same command would not do again."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from sam_train.train.watch.signals import SIGNALS, STATUS_CONTINUE


@contextmanager
def continue_later() -> Iterator[None]:
    """End with status 75 on SIGTERM or SIGUSR1; `fit` puts its own handlers above these.

    Only the main thread may have handlers; in another one nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    told: list[int] = []

    def end(number: int, frame: FrameType | None) -> None:
        told.append(number)
        raise SystemExit(STATUS_CONTINUE)

    before: dict[signal.Signals, Any] = {number: signal.signal(number, end) for number in SIGNALS}
    try:
        yield
    except Exception:
        # Raised while a library reads a file, the end comes out as an error about that file.
        if told:
            raise SystemExit(STATUS_CONTINUE) from None
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
