"""A stop on request is told from an error, also where a library takes it for one."""

from __future__ import annotations

import os
import signal

import pytest

from sam_train.errors import UserError
from sam_train.finetuning.stopping import continue_later


def test_a_stop_that_a_library_takes_for_a_damaged_file_is_a_stop() -> None:
    with pytest.raises(SystemExit) as ended, continue_later():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except SystemExit:
            raise UserError("the file is damaged") from None
    assert ended.value.code == 75


def test_an_error_stays_an_error_and_the_handlers_are_put_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(UserError, match="damaged"), continue_later():
        raise UserError("the file is damaged")
    assert signal.getsignal(signal.SIGTERM) == before
