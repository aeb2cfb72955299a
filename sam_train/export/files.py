"""What every format's writer shares: tensors as they are stored, and files that are whole."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sam_train.errors import UserError
from sam_train.model.checkpoints.state_dicts import StateDict
from sam_train.runtime.files import atomic


def stored(state: Mapping[str, Tensor], dtype: torch.dtype, *, path: Path) -> StateDict:
    """Copies on the CPU as `dtype`, none sharing memory with another.

    Raises:
        UserError: a value that is not finite (any more).
    """
    tensors = {n: t.detach().to("cpu", dtype, copy=True).contiguous() for n, t in state.items()}
    if bad := [name for name, tensor in tensors.items() if not tensor.isfinite().all()]:
        raise UserError(f"{path}: {bad[0]} is not finite in {dtype}; take an earlier checkpoint")
    return tensors


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A name to write a file under, which then becomes `path`, in place of an earlier one: whoever
    reads `path` meanwhile sees the old file or the new one, whole.

    Raises:
        UserError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Some writers look at the ending.
        with atomic(path, ending=path.suffix) as unfinished:
            yield unfinished
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error})") from error


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """`content` as a file for people and programs.

    Raises:
        UserError: it cannot be written.
    """
    with whole(path) as unfinished:
        unfinished.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
