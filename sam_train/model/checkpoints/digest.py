"""Fingerprints that tell if a record belongs to these weights and settings."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from typing import Any

import torch

from sam_train.model import Sam


def weights_digest(sam: Sam) -> str:
    """Hash every name, shape and byte of the state dict, and the sizes that do not show in it.

    The same on any device and from any kind of file.
    """
    hidden = f"{sam.image_size} {sam.image_encoder.numerics()}\n"
    digest = hashlib.blake2b(hidden.encode(), digest_size=16)
    # Sorted: a file's order of tensors does not count.
    for name, tensor in sorted(sam.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        # One tensor at a time: a GPU's model need not fit in host memory twice.
        whole = tensor.detach().cpu().contiguous().flatten()
        if whole.numel():
            digest.update(whole.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def settings_digest(settings: Mapping[str, Any]) -> str:
    """Hash plain values, lists, dicts and dataclasses."""
    text = json.dumps(settings, sort_keys=True, default=_plain)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _plain(value: Any) -> Any:
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else str(value)
