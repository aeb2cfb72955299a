"""Names that files register, and an encoder from one file outside the package."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

from sam_train.errors import UserError
from sam_train.model import build_sam
from sam_train.model.architecture import ARCHITECTURES
from sam_train.runtime.registry import Registry

ENCODER = """
from dataclasses import dataclass
from torch import nn
from sam_train.model.architecture import ARCHITECTURES, Architecture
from sam_train.model.encoders.base import ImageEncoder, Unit

class Layer(Unit):
    def __init__(self, dim):
        super().__init__()
        self.lin = nn.Linear(dim, dim)
    def run(self, x, draws):
        return x + self.lin(x)

class Flat(ImageEncoder):
    def __init__(self, arch):
        super().__init__()
        self.image_size, self.stride, self.channels = arch.image_size, 8, arch.prompt_dim
        self.patches = nn.Conv2d(3, arch.prompt_dim, 8, 8)
        self.rows = nn.ModuleList(Layer(arch.prompt_dim) for _ in range(arch.depth))
    def forward(self, images, *, draws=None):
        x = self.patches(images).movedim(1, -1)
        for layer in self.rows:
            x = layer(x)
        return x.movedim(-1, 1)
    def units(self):
        return self.rows
    def stem(self):
        return self.patches.parameters()
    def numerics(self):
        return "flat"

@dataclass(frozen=True, kw_only=True)
class FlatSizes(Architecture):
    stride = 8
    def encoder(self, *, drop_path):
        return Flat(self)
    def stream(self):
        return [self.grid**2 * self.prompt_dim] * self.depth

ARCHITECTURES.add(
    "flat", FlatSizes(embed_dim=32, depth=2, image_size=64, prompt_dim=32, decoder_heads=2)
)
"""


def test_a_name_means_one_thing() -> None:
    registry: Registry[int] = Registry("optim.kind")
    registry.add("one", 1)
    registry.add("one", 1)
    registry.add("two", 2)
    assert (registry["two"], dict(registry.items())) == (2, {"one": 1, "two": 2})
    with pytest.raises(UserError, match=r"both register optim\.kind=one"):
        registry.add("one", 3)
    with pytest.raises(UserError, match=r"optim\.kind=three is not one of one, two"):
        registry["three"]


def test_an_encoder_is_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ARCHITECTURES, "_entries", dict(ARCHITECTURES.items()))
    path = tmp_path / "flat.py"
    path.write_text(ENCODER)
    spec = importlib.util.spec_from_file_location("flat", path)
    assert spec is not None and spec.loader is not None
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
    sam = build_sam("flat", depth=3)
    assert (len(sam.image_encoder.units()), sam.grid_size) == (3, 32)
    images = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    assert sam.encode(images, torch.tensor([[64, 64]])).shape == (1, 32, 8, 8)
