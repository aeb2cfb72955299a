"""The source of bytes behind a path or URL."""

from __future__ import annotations

from pathlib import Path

from sam_train.data.shards.unpacked import FolderSource
from sam_train.data.storage.sources import (
    PIPE,
    LocalSource,
    ObjectSource,
    Source,
    is_http,
    is_remote,
    is_sample_file,
)
from sam_train.errors import UserError


def open_source(path: str) -> Source:
    """Make the source for a path or URL; nothing is read yet.

    Raises:
        UserError: a `pipe:` has no parts to read.
    """
    if path.startswith(PIPE):
        raise UserError(f"{path} can only be read front to back: set data.mode=stream.")
    if is_http(path):
        # Start-up time: its libraries load only where a URL is read.
        from sam_train.data.storage.http import HttpSource  # noqa: PLC0415

        return HttpSource(path)
    if is_remote(path):
        return ObjectSource(path)
    # A pattern of names in a folder, such as `photos/sa_1*.json`, ends like a sample and need not
    # exist.
    if is_sample_file(path) or Path(path).is_dir():
        return FolderSource(path)
    return LocalSource(path)
