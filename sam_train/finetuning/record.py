"""The record of a fine-tuning in run_dir/finetune.json, by which a stopped one continues."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sam_train.errors import UserError
from sam_train.runtime.files import write_json

NAME = "finetune.json"


@dataclass(slots=True, kw_only=True)
class Record:
    """The findings, choices and scores so far."""

    typed: list[str]
    """The settings as the user typed them."""
    found: list[str] = field(default_factory=list)
    """The lines about the data."""
    choices: list[dict[str, str]] = field(default_factory=list)
    """Settings with their reasons."""
    fit: list[str] = field(default_factory=list)
    """The settings of the equivalent `fit`."""
    scores: dict[str, Any] = field(default_factory=dict)
    """The finished measurements by name."""
    best: str = ""
    """The checkpoint that was measured and exported; "" before training has ended."""
    written: list[str] = field(default_factory=list)
    """Files that hold the result."""

    def save(self, run_dir: Path) -> None:
        """Write the record atomically."""
        try:
            write_json(run_dir / NAME, asdict(self))
        except OSError as error:
            raise UserError(
                f"run_dir={run_dir} cannot be written ({error.strerror}): choose another run_dir="
            ) from error


def read_record(run_dir: Path) -> Record | None:
    """Read the record of an earlier call; None where there is none.

    Raises:
        UserError: it is damaged.
    """
    path = run_dir / NAME
    if not path.is_file():
        return None
    try:
        return Record(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            f"{path} cannot be read ({error}): remove it, or choose another run_dir="
        ) from None
