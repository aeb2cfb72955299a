"""Outputs of an encoder's frozen part, kept on the disk by the photo's pixels.

Training in many epochs would compute the same numbers again in each. They are kept as float16, half
the bytes, and rounded to it also when they have just been computed. Each photo is encoded by
itself. What training sees is therefore a function of photo and weights alone, whatever is in the
store: a run that resumes, or whose disk is full, learns the same.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from sam_train.model.frozen_part import FrozenPart
from sam_train.model.sam import Sam
from sam_train.runtime.disk_store import DiskStore
from sam_train.runtime.fingerprint import pixels_fingerprint
from sam_train.types import Batch

log = logging.getLogger("sam_train")

_SHAPE = struct.Struct("<8q")
"""Number of axes and their sizes, padded with zeros; a multiple of 16 bytes."""


class BatchEncoder(Protocol):
    """A way from a batch to its embeddings."""

    def __call__(self, sam: Sam, batch: Batch, *, draws: Tensor | None = None) -> Tensor:
        """Encode B images to [B, C, h, w]; `draws` as `Sam.encode` takes them."""
        ...


def encode_batch(sam: Sam, batch: Batch, *, draws: Tensor | None = None) -> Tensor:
    """Encode the images of a batch, as `Sam.encode`."""
    # The sizes say where the padding begins, which is zeroed after normalisation.
    return sam.encode(batch.images, batch.image_sizes, draws=draws)


class EmbeddingCache:
    """A `BatchEncoder` that runs the frozen part of the encoder once for each photo.

    Args:
        store: the entries of any number of models, photos and processes.
        part: the frozen part.
        on_first: is told the bytes of one entry when the first photo has been encoded.
    """

    def __init__(
        self,
        store: DiskStore,
        *,
        part: FrozenPart,
        on_first: Callable[[int], None] | None = None,
    ) -> None:
        self.store, self.part, self._on_first = store, part, on_first
        self._weights: bytes | None = None
        self._said_overflow = False

    def __call__(self, sam: Sam, batch: Batch, *, draws: Tensor | None = None) -> Tensor:
        """Encode a batch; `draws` are for the units that are trained."""
        device = sam.pixel_mean.device
        hashes = batch.image_hashes or _hashes(batch)
        keys = [self._key(sam, pixels, device=device) for pixels in hashes]
        # A batch may hold the same photo twice, or with `data.limit` many times.
        found = {key: self._load(key) for key in dict.fromkeys(keys)}
        for number, key in enumerate(keys):
            if found[key] is None:
                alone = slice(number, number + 1)
                found[key] = self._encode(
                    sam, batch.images[alone], batch.image_sizes[alone], key=key
                )
        outputs = [output for key in keys if (output := found[key]) is not None]
        return self.part.rest(sam.image_encoder, _stacked(outputs, device=device), draws=draws)

    def _key(self, sam: Sam, pixels: bytes, *, device: torch.device) -> bytes:
        if self._weights is None:
            # Once: nothing changes frozen weights, and an average of them is themselves.
            self._weights = self.part.fingerprint(sam.image_encoder)
        low = torch.is_autocast_enabled(device.type) and torch.get_autocast_dtype(device.type)
        dtype = next(sam.image_encoder.parameters()).dtype
        colours = [*sam.pixel_mean.flatten().tolist(), *sam.pixel_std.flatten().tolist()]
        numerics = f"{device.type} {dtype} {low} {colours}"
        return b"\n".join([b"embedding 1", self._weights, numerics.encode(), pixels])

    def _load(self, key: bytes) -> Tensor | None:
        payload = self.store.get(key)
        if payload is None:
            return None
        axes, *sizes = _SHAPE.unpack_from(payload)
        values = torch.frombuffer(payload, dtype=torch.float16, offset=_SHAPE.size)
        return values.view(sizes[:axes])

    @torch.no_grad()
    def _encode(self, sam: Sam, image: Tensor, size: Tensor, *, key: bytes) -> Tensor:
        """Encode one photo, store the output and return it as float16 on the CPU."""
        output = self.part.run(sam.image_encoder, sam.preprocess(image, size))[0]
        half = output.to(torch.float16).cpu().contiguous()
        if not half.isfinite().all() and output.isfinite().all():
            # The residual stream of a deep encoder may leave float16's range. Clamped, so that
            # the value does not depend on whether it was stored.
            limit = torch.finfo(torch.float16).max
            half = output.clamp(-limit, limit).to(torch.float16).cpu().contiguous()
            if not self._said_overflow:
                self._said_overflow = True
                log.warning("embeddings.cache: values beyond %g were clamped to it", limit)
        shape = _SHAPE.pack(half.ndim, *half.shape, *[0] * (7 - half.ndim))
        self.store.put(key, shape, half.view(torch.uint8).numpy().data)
        if self._on_first is not None:
            self._on_first(_SHAPE.size + 2 * half.numel())
            self._on_first = None
        return half


def _stacked(outputs: Sequence[Tensor], *, device: torch.device) -> Tensor:
    """Join float16 outputs on the CPU to one float32 tensor on `device`."""
    shape = (len(outputs), *outputs[0].shape)
    # From page-locked memory the copy does not make the host wait for the step before.
    block = torch.empty(shape, dtype=torch.float16, pin_memory=device.type == "cuda")
    # Not torch.stack, which autocast to bfloat16 refuses for float16.
    for place, output in zip(block, outputs, strict=True):
        place.copy_(output)
    return block.to(device, non_blocking=True).float()


def _hashes(batch: Batch) -> list[bytes]:
    """Hash pixels of a batch whose data workers did not; waits for the device."""
    images, sizes = batch.images.cpu(), batch.image_sizes.tolist()
    return [
        pixels_fingerprint(image[:, :h, :w].permute(1, 2, 0).numpy())
        for image, (h, w) in zip(images, sizes, strict=True)
    ]
