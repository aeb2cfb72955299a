"""What `fit` does before it trains."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from sam_train.errors import UserError
from sam_train.train.fit import prepare_run_dir


def test_processes_of_one_number_on_two_machines_try_one_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Containers: in each of them the first process has the same number."""
    both, touch = threading.Barrier(2), Path.touch
    refused: list[UserError] = []

    def touch_together(path: Path, *arguments: Any) -> None:
        touch(path, *arguments)
        both.wait(timeout=60)

    def prepare() -> None:
        try:
            prepare_run_dir(tmp_path / "run")
        except UserError as error:
            refused.append(error)

    monkeypatch.setattr(Path, "touch", touch_together)
    threads = [threading.Thread(target=prepare) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert refused == []
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"checkpoints", "pictures"}
