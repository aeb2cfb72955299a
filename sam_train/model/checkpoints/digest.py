"""A fingerprint that tells whether a record belongs to these weights."""

from __future__ import annotations

import hashlib

import torch

from sam_train.model import Sam
from sam_train.model.encoders.vit import Block


def weights_digest(sam: Sam) -> str:
    """Of every name, shape and byte of the state dict, and of the sizes that do not show in it;
    the same on any device and from any kind of file."""
    blocks = [block for block in sam.image_encoder.blocks if isinstance(block, Block)]
    attention = [(block.attn.heads, block.attn.window) for block in blocks]
    digest = hashlib.blake2b(f"{sam.image_size} {attention}\n".encode(), digest_size=16)
    for name, tensor in sorted(sam.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        whole = tensor.detach().cpu().contiguous().flatten()
        if whole.numel():
            digest.update(whole.view(torch.uint8).numpy().data)
    return digest.hexdigest()
