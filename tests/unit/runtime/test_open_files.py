"""The limit of open files is raised as far as it may be."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from sam_train.errors import UserError
from sam_train.runtime.open_files import ENOUGH, allow_many
from sam_train.train.fit import fit

NOFILE, UNLIMITED = resource.RLIMIT_NOFILE, resource.RLIM_INFINITY


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((1024, 4096), (4096, 4096)),
        ((1024, 1 << 30), (ENOUGH, 1 << 30)),
        ((1024, UNLIMITED), (ENOUGH, UNLIMITED)),
        ((1 << 20, 1 << 20), None),
        ((4096, 4096), None),
        ((UNLIMITED, UNLIMITED), None),
    ],
)
def test_as_far_as_useful(
    before: tuple[int, int], after: tuple[int, int] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: before)
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: said.append(limits))
    allow_many()
    assert said == ([] if after is None else [after])


@pytest.fixture
def few_files() -> Iterator[None]:
    """A limit as many systems have it."""
    soft, hard = resource.getrlimit(NOFILE)
    resource.setrlimit(NOFILE, (300, hard))
    yield
    resource.setrlimit(NOFILE, (soft, hard))


def test_training_begins_with_it(few_files: None, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        fit(["data.train=x.tar", "trainer.accelerator=cpu", f"run_dir={tmp_path / 'file'}"])
    assert resource.getrlimit(NOFILE)[0] > 300
