"""Scenes kept on disk: after a photo's first read, no PNG, TIFF or JPEG of it is decoded again."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import PIL

from sam_train.data.sample.scene import Scene
from sam_train.data.sample.scene_cache import Place, arrays_of, padded, scene_at, shape_of
from sam_train.masks.frame import InputFrame
from sam_train.runtime.disk_store import DiskStore

VERSION = 1
"""Number of the layout below; a change of it leaves older entries unread."""
SETTING = "data.disk_cache"


class Remark(msgspec.Struct, frozen=True):
    """A line about masks that were left out of a scene, which every run counts anew."""

    kind: str
    """One of `skips.KINDS`."""
    message: str
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptScene:
    """A scene, and the remarks that were made when it was read."""

    scene: Scene
    remarks: Sequence[Remark]


class _Header(msgspec.Struct, frozen=True):
    original: tuple[int, int]
    side: int
    image: tuple[int, int, int]
    data: int
    masks: int
    ends: int
    usable: int
    remarks: list[Remark]


class SceneDisk:
    """Stamp of a sample -> scene of the whole photo, in a bounded folder on disk.

    Args:
        folder: where entries lie, `data.disk_cache`.
        gigabytes: most that they take.
        settings: all that decides a scene beside the sample's own files.
    """

    def __init__(self, folder: str, *, gigabytes: float, settings: dict[str, Any]) -> None:
        limit = int(gigabytes * 1e9)
        self._store = DiskStore(Path(folder).expanduser(), limit=limit, setting=SETTING)
        # Pillow resizes: another version of it may round differently.
        decided = sorted({**settings, "version": VERSION, "pillow": PIL.__version__}.items())
        self._settings = repr(decided).encode()

    def get(self, stamp: bytes) -> KeptScene | None:
        """Return the scene of a stamp; None where there is no intact one."""
        payload = self._store.get(self._key(stamp))
        return None if payload is None else unpacked(payload)

    def put(self, stamp: bytes, kept: KeptScene) -> None:
        """Keep a scene; a full or broken disk is no error."""
        self._store.put(self._key(stamp), *packed(kept))

    def _key(self, stamp: bytes) -> bytes:
        return hashlib.blake2b(self._settings + b"\0" + stamp, digest_size=32).digest()


def packed(kept: KeptScene) -> list[bytes]:
    """Return a scene as the parts of a payload: header, then arrays, each padded."""
    scene = kept.scene
    header = msgspec.json.encode(
        _Header(
            original=scene.frame.original,
            side=scene.frame.side,
            image=shape_of(scene.image),
            data=len(scene.masks.data),
            masks=len(scene.runs.status),
            ends=len(scene.runs.ends),
            usable=len(scene.usable),
            remarks=list(kept.remarks),
        )
    )
    # JSON may be followed by spaces, so the padding needs no length of its own.
    size = 8 + padded(len(header))
    parts = [size.to_bytes(8, "little") + header.ljust(size - 8)]
    for array in arrays_of(scene):
        content = array.tobytes()
        parts.append(content.ljust(padded(len(content)), b"\0"))
    return parts


def unpacked(payload: bytearray) -> KeptScene:
    """Return the scene of a payload, as views of its bytes."""
    size = int.from_bytes(payload[:8], "little")
    header = msgspec.json.decode(bytes(payload[8:size]), type=_Header)
    # The header's length field moves arrays off their alignment, which the kernels want.
    slab = np.frombuffer(payload[size:], dtype=np.uint8)
    place = Place(
        slab=slab,
        offset=0,
        frame=InputFrame(original=header.original, side=header.side),
        image=header.image,
        data=header.data,
        masks=header.masks,
        ends=header.ends,
        usable=header.usable,
    )
    return KeptScene(scene=scene_at(place), remarks=header.remarks)
