"""A fingerprint that tells whether a record belongs to these weights."""

from __future__ import annotations

import hashlib

import torch

from sam_train.model import Sam


def weights_digest(sam: Sam) -> str:
    """Hash every name, shape and byte of the state dict, and the sizes that do not show in it.

    The same on any device and from any kind of file.
    """
    # Two models may hold equal tensors and differ in window or heads, which no shape shows.
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
