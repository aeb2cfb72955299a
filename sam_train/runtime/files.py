"""Files that are whole or not there."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

Result = TypeVar("Result")


def write_atomically(path: Path, fill: Callable[[BinaryIO], Result]) -> Result:
    """Let `fill` write a temporary file beside `path`, then rename it; returns fill's answer."""
    # Not ending in .tar: a glob for shards must not pick up a half-written one.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with temporary.open("wb") as stream:
            result = fill(stream)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return result


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically; the folder is made if absent."""
    text = json.dumps(value, indent=1).encode() + b"\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda stream: stream.write(text))
