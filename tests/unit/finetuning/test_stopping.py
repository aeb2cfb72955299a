"""A stop on request ends with its status, also where a library turns it into an error."""

from __future__ import annotations

import os
import signal

import pytest

from sam_train.finetuning.stopping import continue_later
from sam_train.train.watch.signals import STATUS_CONTINUE


def test_a_swallowed_exit_is_still_a_stop() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ended, continue_later():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except SystemExit:
            raise ValueError("a damaged file") from None
    assert ended.value.code == STATUS_CONTINUE
    assert signal.getsignal(signal.SIGTERM) == before


def test_an_error_without_a_stop_stays_one() -> None:
    with pytest.raises(ValueError, match="damaged"), continue_later():
        raise ValueError("a damaged file")
