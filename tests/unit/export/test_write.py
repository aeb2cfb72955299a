"""`export_model`: several formats of a model in memory, in one folder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_sam import TINY, copy_of, randomised

from sam_train.errors import UserError
from sam_train.export.card_facts import CardFacts
from sam_train.export.write import export_model
from sam_train.model import ModelConfig, build_from_config
from sam_train.model.load import load_sam

MODEL = ModelConfig(name="vit_b", image_size=64, **TINY)
CONV = ModelConfig(name="conv_t", image_size=64, embed_dim=8, depth=3, prompt_dim=16)


def test_all_is_three_formats_and_a_card(tmp_path: Path) -> None:
    sam = randomised().train()
    before = copy_of(sam)
    facts = CardFacts(name="cells", license="mit")
    written = export_model(sam, tmp_path / "cells", model=MODEL, format="all", facts=facts)
    assert sorted(one.path.name for one in written) == [
        "huggingface",
        "model.safetensors",
        "sam.pth",
    ]
    assert all(file.is_file() for one in written for file in one.files)
    assert "license: mit" in (tmp_path / "cells" / "huggingface" / "README.md").read_text()
    # The caller's model is as it was, rounding and mode included.
    assert sam.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in sam.state_dict().items())
    for one in written:
        found = load_sam(one.path).state_dict()
        exact = one.format != "safetensors"
        for name, tensor in before.items():
            expected = tensor if exact else tensor.half().float()
            assert torch.equal(found[name], expected), (one.format, name)
        assert one.check.difference < 1e-3
        assert any(line.startswith("read back by") for line in one.lines())


def test_all_of_another_encoder_is_safetensors(tmp_path: Path) -> None:
    sam = build_from_config(CONV)
    written = export_model(sam, tmp_path / "cells", model=CONV, format="all")
    assert [one.path for one in written] == [tmp_path / "cells" / "model.safetensors"]


def test_a_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "cells").write_text("")
    for format in ("all", "onnx_pair", "huggingface"):
        with pytest.raises(UserError, match="is a file"):
            export_model(randomised(), tmp_path / "cells", model=MODEL, format=format)
