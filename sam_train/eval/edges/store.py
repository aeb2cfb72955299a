"""Counts of finished images on disk, so that a broken-off evaluation goes on where it stopped."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict
from pathlib import Path

from sam_train.eval.edges.counts import ImageCounts
from sam_train.eval.edges.readers import Pair

# Raise it when thinning or matching changes: counts of another version are not used.
_VERSION = 1


class CountStore:
    """One JSON file per image, valid only for the very files and settings it was made from."""

    def __init__(self, folder: Path, *, thresholds: int, max_distance: float) -> None:
        """Make `folder` if need be.

        Args:
            folder: for the counts alone.
            thresholds: part of the settings that counts belong to.
            max_distance: likewise.
        """
        self.folder = folder
        self._settings = f"{_VERSION} {thresholds} {max_distance!r}"
        folder.mkdir(parents=True, exist_ok=True)

    def load(self, pair: Pair) -> ImageCounts | None:
        """The counts of an image, or None if they are missing, damaged or of other inputs."""
        try:
            raw = json.loads(self._path(pair).read_text())
            if raw.pop("inputs") != self._inputs(pair):
                return None
            return ImageCounts(**raw)
        except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def save(self, pair: Pair, counts: ImageCounts) -> None:
        """Keep the counts of an image; whole or not at all, even if the process is killed."""
        path = self._path(pair)
        temporary = path.with_name(f"{path.name}.{os.getpid()}.part")
        temporary.write_text(json.dumps({"inputs": self._inputs(pair), **asdict(counts)}))
        temporary.replace(path)

    def _path(self, pair: Pair) -> Path:
        return self.folder / f"{pair.name}.json"

    def _inputs(self, pair: Pair) -> str:
        """A digest of the settings and of both files' bytes: times and sizes can deceive."""
        digest = hashlib.blake2b(self._settings.encode(), digest_size=16)
        for path in (pair.edges, pair.truth):
            digest.update(hashlib.blake2b(path.read_bytes()).digest())
        return digest.hexdigest()
