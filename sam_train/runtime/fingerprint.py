"""Short hashes that tell whether a record belongs to these settings and files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt


def settings_fingerprint(settings: Mapping[str, Any]) -> str:
    """Hash plain values, lists, dicts and dataclasses, in any order of their names."""
    text = json.dumps(settings, sort_keys=True, default=_plain)
    return text_fingerprint(text)


def text_fingerprint(text: str) -> str:
    """Hash a text into 16 hexadecimal digits."""
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def files_fingerprint(content: str, *, files: Iterable[Path] = ()) -> str:
    """Hash `content`, and the size and time of files without reading them.

    Another edit of a file is another time, and 10,000 photos take seconds. A missing file counts,
    too.
    """
    made = hashlib.blake2b(content.encode("utf-8", "surrogateescape"), digest_size=6)
    for path in files:
        try:
            status = path.stat()
            made.update(f"{status.st_size} {status.st_mtime_ns}\n".encode())
        except OSError:
            made.update(b"absent\n")
    return made.hexdigest()


def pixels_fingerprint(image: npt.NDArray[np.uint8]) -> bytes:
    """Hash the size and all bytes of an image, [h, w, channels]."""
    made = hashlib.blake2b(f"{image.shape}\n".encode(), digest_size=16)
    made.update(np.ascontiguousarray(image).data)
    return made.digest()


def _plain(value: Any) -> Any:
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else str(value)
