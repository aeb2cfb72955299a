"""Files with part of a model: refused where all of it is used, said where training begins."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_sam import TINY, changed, copy_of, part, randomised, tiny
from torch import Tensor

from sam_train.errors import UserError
from sam_train.model import ModelConfig, build_from_config
from sam_train.model.checkpoints.config import InitConfig
from sam_train.model.checkpoints.init import initialise, load_whole
from sam_train.model.checkpoints.report import InitReport
from sam_train.model.load import load_sam

ENCODER, PROMPTS, DECODER = "image_encoder", "prompt_encoder", "mask_decoder"


def saved(content: Any, path: Path) -> Path:
    torch.save(content, path)
    return path


def whole(path: Path, *modules: str, beneath: Path | None = None) -> tuple[Any, list[InitReport]]:
    sam = tiny()
    below = None if beneath is None else str(beneath)
    return sam, load_whole(sam, str(path), InitConfig(modules=list(modules)), beneath=below)


def refused(path: Path, *modules: str, beneath: Path | None = None) -> str:
    with pytest.raises(UserError) as caught:
        whole(path, *modules, beneath=beneath)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    return copy_of(randomised())


def without(state: dict[str, Tensor], pattern: str) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in state.items() if not re.search(pattern, name)}


@pytest.mark.parametrize(
    ("lost", "said"),
    [
        ("image_encoder|prompt_encoder", "all 37 of image_encoder, all 17 of prompt_encoder"),
        ("image_encoder|mask_decoder", "all 37 of image_encoder, all 120 of mask_decoder"),
        ("prompt_encoder", "all 17 of prompt_encoder"),
        (r"mask_tokens", "1 of mask_decoder (mask_tokens.weight)"),
        (
            r"mlps\.3",
            "6 of mask_decoder (output_hypernetworks_mlps.*.layers.*.weight x3, "
            "output_hypernetworks_mlps.*.layers.*.bias x3)",
        ),
        (r"blocks\.0\.", "14 of image_encoder (blocks.*.norm1.weight, blocks.*.norm1.bias, "),
        (
            r"blocks\.0\.mlp|iou_token",
            "blocks.*.mlp.lin2.weight, blocks.*.mlp.lin2.bias), 1 of mask_decoder (iou_token",
        ),
    ],
)
def test_whatever_is_missing_is_counted_and_named(
    state: dict[str, Tensor], lost: str, said: str, tmp_path: Path
) -> None:
    kept = without(state, lost)
    message = refused(saved(kept, tmp_path / "part.pth"))
    assert f"holds {len(kept)} of the model's 174 tensors" in message
    assert f"the other {174 - len(kept)} would be random" in message
    assert said in message
    assert "init_from=" in message


def test_a_model_of_segment_anything_with_a_part_lost(tmp_path: Path) -> None:
    """Names are the other program's own: what it would miss itself is what is named."""
    reference = pytest.importorskip("segment_anything_reference").load()
    modeling = reference.modeling
    theirs = modeling.MaskDecoder(
        transformer_dim=16,
        transformer=modeling.TwoWayTransformer(depth=2, embedding_dim=16, mlp_dim=16, num_heads=2),
        iou_head_hidden_dim=16,
    )
    decoder = {f"{DECODER}.{name}": t for name, t in theirs.state_dict().items()}
    full = copy_of(randomised()) | decoder
    sam, _ = whole(saved(full, tmp_path / "whole.pth"))
    assert not changed(full, sam)
    lost = "mask_tokens.weight"
    missing = theirs.load_state_dict(without(theirs.state_dict(), lost), strict=False).missing_keys
    assert missing == [lost]
    assert f"1 of mask_decoder ({lost})" in refused(
        saved(without(full, lost), tmp_path / "part.pth")
    )


def test_nothing_is_touched_by_a_refusal(state: dict[str, Tensor], tmp_path: Path) -> None:
    sam = tiny()
    before = copy_of(sam)
    path = saved(part(state, DECODER), tmp_path / "part.pth")
    with pytest.raises(UserError):
        load_whole(sam, str(path), InitConfig())
    assert not changed(before, sam)


def test_a_second_file_lies_under_the_first(state: dict[str, Tensor], tmp_path: Path) -> None:
    base = copy_of(randomised(seed=2))
    path = saved(part(state, DECODER), tmp_path / "decoder.pth")
    sam, (top, below) = whole(path, beneath=saved(base, tmp_path / "base.pth"))
    found = sam.state_dict()
    for name, tensor in (base | part(state, DECODER)).items():
        assert torch.equal(found[name], tensor), name
    assert {e.name for e in top.loaded} == set(part(state, DECODER))
    assert {e.name for e in below.loaded} == set(part(base, ENCODER, PROMPTS))
    assert not top.at_random
    assert {e.note for e in below.skipped} == {"comes from decoder.pth"}
    assert f"54 other tensors come from {tmp_path / 'base.pth'}" in top.notes[0]


def test_modules_say_what_comes_from_the_first(state: dict[str, Tensor], tmp_path: Path) -> None:
    base = copy_of(randomised(seed=2))
    first, second = saved(state, tmp_path / "first.pth"), saved(base, tmp_path / "second.pth")
    sam, _ = whole(first, PROMPTS, DECODER, beneath=second)
    expected = part(base, ENCODER) | part(state, PROMPTS, DECODER)
    assert not changed(expected, sam)
    # Named, but from nowhere: still random.
    assert "(init.modules takes prompt_encoder, mask_decoder only)" in refused(
        first, PROMPTS, DECODER
    )


def test_a_second_file_that_is_not_needed_is_said(state: dict[str, Tensor], tmp_path: Path) -> None:
    sam, (report,) = whole(saved(state, tmp_path / "a.pth"), beneath=tmp_path / "absent.pth")
    assert not changed(state, sam)
    assert "is not needed" in report.notes[0]
    assert "174 tensors\n" in str(report)


def test_two_parts_that_are_no_whole(state: dict[str, Tensor], tmp_path: Path) -> None:
    decoder = saved(part(state, DECODER), tmp_path / "decoder.pth")
    prompts = saved(part(state, PROMPTS), tmp_path / "prompts.pth")
    message = refused(decoder, beneath=prompts)
    assert f"{decoder} and {prompts} hold 137 of the model's 174 tensors" in message
    assert "all 37 of image_encoder" in message


def test_build_sam_and_load_sam_refuse_a_part(state: dict[str, Tensor], tmp_path: Path) -> None:
    path = saved(part(state, DECODER), tmp_path / "decoder.pth")
    base = saved(copy_of(randomised(seed=2)), tmp_path / "base.pth")
    with pytest.raises(UserError, match="would be random"):
        tiny(checkpoint=path)
    with pytest.raises(UserError, match="name a checkpoint, too"):
        tiny(init_from=base)
    built = tiny(checkpoint=path, init_from=base)
    assert not changed(copy_of(randomised(seed=2)) | part(state, DECODER), built)
    sizes = ModelConfig(name="vit_b", image_size=64, **TINY)
    content = {"state_dict": part(state, ENCODER), "model_config": {"name": "vit_b"} | TINY}
    content["model_config"] |= {"image_size": 64}
    assert build_from_config(sizes).state_dict().keys() == state.keys()
    with pytest.raises(UserError, match="all 17 of prompt_encoder, all 120 of mask_decoder"):
        load_sam(saved(content, tmp_path / "ours.ckpt"))


# Where training begins ---------------------------------------------------------------------------


def begin(path: Path, *modules: str) -> InitReport:
    return initialise(tiny(), str(path), InitConfig(modules=list(modules)))


def test_training_begins_from_an_encoder_alone(state: dict[str, Tensor], tmp_path: Path) -> None:
    report = begin(saved(part(state, ENCODER), tmp_path / "encoder.pth"))
    assert {e.name for e in report.at_random} == set(part(state, PROMPTS, DECODER))
    assert "37 of 174 tensors, 137 at random" in str(report)


def test_training_without_an_encoder_must_be_said(state: dict[str, Tensor], tmp_path: Path) -> None:
    path = saved(part(state, PROMPTS, DECODER), tmp_path / "decoder.pth")
    with pytest.raises(UserError) as caught:
        begin(path)
    message = str(caught.value)
    assert "the other 37 would begin at random: all 37 of image_encoder" in message
    assert "say init.modules=[prompt_encoder,mask_decoder]" in message
    report = begin(path, PROMPTS, DECODER)
    assert {e.name for e in report.at_random} == set(part(state, ENCODER))


def test_training_with_most_of_an_encoder_lost(state: dict[str, Tensor], tmp_path: Path) -> None:
    path = saved(without(state, r"image_encoder\.(patch|neck|pos)"), tmp_path / "a.pth")
    with pytest.raises(UserError, match="would begin at random"):
        begin(path)


def test_training_begins_with_new_tensors_of_a_module_at_random(
    state: dict[str, Tensor], tmp_path: Path
) -> None:
    report = begin(saved(without(state, "not_a_point"), tmp_path / "a.pth"))
    assert [e.name for e in report.at_random] == ["prompt_encoder.not_a_point_embed.weight"]


def test_each_module_that_was_named_must_be_there(state: dict[str, Tensor], tmp_path: Path) -> None:
    path = saved(part(state, ENCODER), tmp_path / "encoder.pth")
    with pytest.raises(UserError, match="holds nothing for mask_decoder"):
        begin(path, ENCODER, DECODER)


# Sizes and numbers -------------------------------------------------------------------------------


def test_a_decoder_of_another_size_says_whose(tmp_path: Path) -> None:
    wide = tiny(prompt_dim=256, decoder_heads=8, decoder_mlp_dim=2048)
    path = saved(part(copy_of(wide), DECODER), tmp_path / "decoder.pth")
    message = refused(path, DECODER)
    assert "q_proj.weight is 256x256, which is that of model=vit_h or vit_l or vit_b or vit_s" in (
        message
    )
    assert "the model has 16x16" in message


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_every_float_is_taken(state: dict[str, Tensor], dtype: torch.dtype, tmp_path: Path) -> None:
    sam, _ = whole(saved({n: t.to(dtype) for n, t in state.items()}, tmp_path / "a.pth"))
    assert not changed({n: t.to(dtype).float() for n, t in state.items()}, sam)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.to(torch.int8), "is int8, so the weights are quantised"),
        (lambda t: t.to(torch.complex64), "is complex64"),
        (lambda t: t[:0].flatten(), "is empty, as a run in parts"),
        (lambda t: t.to("meta"), "has no data"),
        (lambda t: t.double() * 1e300, "holds NaN or infinity (1 such"),
        (lambda t: t * float("nan"), "holds NaN or infinity (1 such"),
        (lambda t: t[..., None], "is 16x3x16x16x1, the model has 16x3x16x16"),
    ],
)
def test_what_are_no_weights_is_said(
    state: dict[str, Tensor], change: Any, said: str, tmp_path: Path
) -> None:
    name = "image_encoder.patch_embed.proj.weight"
    message = refused(saved(state | {name: change(state[name])}, tmp_path / "a.pth"))
    assert f"{name} {said}" in message


def test_tensors_of_a_changed_model_are_said(state: dict[str, Tensor], tmp_path: Path) -> None:
    more = {"mask_decoder.class_head.weight": torch.ones(3), "loss.weight": torch.ones(1)}
    sam, (report,) = whole(saved(state | more, tmp_path / "a.pth"))
    assert not changed(state, sam)
    assert {e.name for e in report.skipped} == set(more)
    assert "1 in the modules unknown here, such as mask_decoder.class_head" in report.notes[0]
