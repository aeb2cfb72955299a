"""The start of a verb that runs a model without training it."""

from __future__ import annotations

from pathlib import Path

from sam_train.errors import UserError
from sam_train.runtime.devices import Compute, set_arithmetic
from sam_train.runtime.log import start_log
from sam_train.runtime.parts import Share


def start_inference(run_dir: str, cfg: Compute, part: Share | None = None) -> Path:
    """Make run_dir, with a log of its own for each part; set threads and matrix products.

    Raises:
        UserError: the folder cannot be written.
    """
    folder = Path(run_dir)
    index = part.index if part is not None else 0
    try:
        folder.mkdir(parents=True, exist_ok=True)
        start_log(folder / (f"log_{index}.txt" if index else "log.txt"))
    except OSError as error:
        raise UserError(
            f"run_dir={folder} cannot be written ({error.strerror}): choose another with run_dir="
        ) from error
    set_arithmetic(cfg)
    return folder
