from __future__ import annotations

import argparse
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tiny_sam import changed, copy_of, randomised, tiny
from torch import Tensor

from sam_train.errors import UserError
from sam_train.model.checkpoints.config import InitConfig
from sam_train.model.checkpoints.init import initialise
from sam_train.model.checkpoints.report import InitReport
from sam_train.model.sam import Sam


def start(sam: Sam, path: Path, *modules: str) -> InitReport:
    return initialise(sam, str(path), InitConfig(modules=list(modules)))


def save_official(state: dict[str, Tensor], folder: Path) -> Path:
    torch.save(state, folder / "sam.pth")
    return folder / "sam.pth"


def save_lightning(state: dict[str, Tensor], folder: Path) -> Path:
    content = {
        "state_dict": {f"sam.{name}": tensor for name, tensor in state.items()},
        "epoch": 3,
        "optimizer_states": [{"state": {}}],
        "hyper_parameters": {"optim": {"lr": 1e-3}},
    }
    torch.save(content, folder / "last.ckpt")
    return folder / "last.ckpt"


def save_safetensors(state: dict[str, Tensor], folder: Path) -> Path:
    save_file(state, folder / "sam.safetensors")
    return folder / "sam.safetensors"


def save_before_zip(state: dict[str, Tensor], folder: Path) -> Path:
    torch.save(state, folder / "old.pth", _use_new_zipfile_serialization=False)
    return folder / "old.pth"


@pytest.mark.parametrize("save", [save_official, save_lightning, save_safetensors, save_before_zip])
def test_every_layout_restores_every_tensor(save: Any, tmp_path: Path) -> None:
    source, sam = randomised(), tiny()
    report = start(sam, save(copy_of(source), tmp_path))
    assert not changed(copy_of(source), sam)
    assert len(report.loaded) == len(source.state_dict())
    assert not report.resized
    assert not report.skipped
    assert not report.at_random


def test_build_sam_takes_a_checkpoint(tmp_path: Path) -> None:
    source = randomised()
    sam = tiny(checkpoint=save_official(source.state_dict(), tmp_path))
    assert not changed(copy_of(source), sam)


def test_half_precision_is_widened(tmp_path: Path) -> None:
    halves = {name: tensor.half() for name, tensor in randomised().state_dict().items()}
    sam = tiny()
    start(sam, save_safetensors(halves, tmp_path))
    assert all(t.dtype == torch.float32 for t in sam.state_dict().values())
    assert all(torch.equal(t, halves[n].float()) for n, t in sam.state_dict().items())


@pytest.mark.parametrize("module", ["image_encoder", "prompt_encoder", "mask_decoder"])
def test_one_module_leaves_the_others_alone(module: str, tmp_path: Path) -> None:
    source, sam = randomised(), tiny()
    before = copy_of(sam)
    report = start(sam, save_official(source.state_dict(), tmp_path), module)
    assert changed(before, sam) == {n for n in before if n.startswith(module)}
    assert {e.name for e in report.loaded} == changed(before, sam)
    assert {e.note for e in report.skipped} == {"not asked for"}
    assert {e.name for e in report.skipped} == {e.name for e in report.at_random}


def test_another_input_size_resizes_the_position_tables(tmp_path: Path) -> None:
    source, sam = randomised(image_size=128), tiny(image_size=64)
    report = start(sam, save_official(source.state_dict(), tmp_path))
    notes = {entry.name.removeprefix("image_encoder."): entry.note for entry in report.resized}
    assert notes == {
        "pos_embed": "8x8 -> 4x4",
        "blocks.1.attn.rel_pos_h": "15 -> 7",
        "blocks.1.attn.rel_pos_w": "15 -> 7",
    }
    assert len(report.loaded) + 3 == len(sam.state_dict())
    assert "resized: image_encoder.pos_embed (8x8 -> 4x4)" in str(report)


def test_unknown_and_missing_tensors_are_named(tmp_path: Path) -> None:
    state = randomised().state_dict()
    del state["mask_decoder.iou_token.weight"]
    state["image_encoder.extra.weight"] = torch.ones(3)
    state["clip.logit_scale"] = torch.ones(1)
    report = start(tiny(), save_official(state, tmp_path))
    assert [e.name for e in report.at_random] == ["mask_decoder.iou_token.weight"]
    assert {e.name for e in report.skipped} == {"image_encoder.extra.weight", "clip.logit_scale"}
    text = str(report)
    assert "at random: mask_decoder.iou_token.weight" in text
    assert "image_encoder.extra.weight" in text
    assert "clip.logit_scale" in text


def test_table_counts_tensors_and_parameters_and_stays_narrow(tmp_path: Path) -> None:
    source = randomised()
    path = save_official(source.state_dict(), tmp_path)
    text = str(start(tiny(), path, "image_encoder"))
    lines = text.splitlines()
    assert all(len(line) <= 100 for line in lines[1:])  # the first holds the path
    encoder = source.image_encoder.state_dict().values()
    amount = f"{len(encoder)} ({sum(t.numel() for t in encoder) / 1000:.1f} k)"
    assert amount in next(line for line in lines if line.startswith("  image_encoder"))
    assert "at random: prompt_encoder, mask_decoder (all of it)" in text
    assert "skipped: prompt_encoder, mask_decoder (not asked for)" in text


# Refusals: one line that names the file, and an untouched model ----------------------------------


def refused(sam: Sam, init_from: str | Path, *modules: str) -> str:
    before = copy_of(sam)
    with pytest.raises(UserError) as caught:
        initialise(sam, str(init_from), InitConfig(modules=list(modules)))
    message = str(caught.value)
    assert "\n" not in message
    assert not changed(before, sam)
    return message


def test_a_larger_vit_says_both_sizes_and_the_way_out(tmp_path: Path) -> None:
    encoder = {"image_encoder.patch_embed.proj.weight": torch.zeros(768, 3, 16, 16)}
    encoder |= {f"image_encoder.blocks.{i}.norm1.bias": torch.zeros(768) for i in range(12)}
    message = refused(tiny(), save_official(encoder, tmp_path))
    assert str(tmp_path / "sam.pth") in message
    assert "width 768 and 12 blocks (vit_b), the model's width 16 and 2 blocks" in message
    assert "model=vit_b" in message


def test_other_depths_and_widths_are_refused(tmp_path: Path) -> None:
    deeper = save_official(randomised(decoder_depth=3).state_dict(), tmp_path)
    assert "model.decoder_depth=3" in refused(tiny(), deeper)
    report = start(tiny(), deeper, "image_encoder", "prompt_encoder")
    assert {e.name.split(".")[0] for e in report.at_random} == {"mask_decoder"}
    wider = save_official(randomised(decoder_mlp_dim=32).state_dict(), tmp_path)
    message = refused(tiny(), wider)
    assert "mlp.lin1.weight is 32x16, the model has 16x16" in message


def test_diverged_weights_are_refused(tmp_path: Path) -> None:
    state = randomised().state_dict()
    state["image_encoder.neck.0.weight"][0] = float("nan")
    message = refused(tiny(), save_official(state, tmp_path))
    assert "image_encoder.neck.0.weight holds NaN or infinity (1 such in all)" in message


class Code:
    """Unpickling this would create a folder."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.target),)


def test_a_pickle_that_would_run_code_does_not(tmp_path: Path) -> None:
    victim = tmp_path / "created_by_the_checkpoint"
    torch.save({"state_dict": {}, "extra": Code(victim)}, tmp_path / "bad.pth")
    (tmp_path / "raw.pth").write_bytes(pickle.dumps(Code(victim)))
    for name in ("bad.pth", "raw.pth"):
        message = refused(tiny(), tmp_path / name)
        assert "run code" in message
        assert name in message
    assert not victim.exists()


def write_bad_files(folder: Path) -> None:
    whole = save_official(randomised().state_dict(), folder).read_bytes()
    (folder / "truncated.pth").write_bytes(whole[: len(whole) // 2])
    safe = save_safetensors(copy_of(randomised()), folder).read_bytes()
    (folder / "truncated.safetensors").write_bytes(safe[: len(safe) // 2])
    (folder / "empty.pth").write_bytes(b"")
    (folder / "page.pth").write_text("<!DOCTYPE html><html>Sign in</html>")
    (folder / "pointer.pth").write_text("version https://git-lfs.github.com/spec/v1\n")
    (folder / "garbage.pth").write_bytes(bytes(range(256)) * 8)
    torch.save({"epoch": 1}, folder / "no_tensors.pth")
    torch.save({"backbone.conv.weight": torch.ones(2)}, folder / "resnet.pth")
    (folder / "empty_folder").mkdir()
    escape = folder / "escaping"
    escape.mkdir()
    index = '{"weight_map": {"a": "../sam.safetensors"}}'
    (escape / "model.safetensors.index.json").write_text(index)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("missing.pth", "no such file"),
        ("truncated.pth", "cut off after"),
        ("truncated.safetensors", "not a whole safetensors file"),
        ("empty.pth", "is empty"),
        ("page.pth", "web page"),
        ("pointer.pth", "git lfs pull"),
        ("garbage.pth", "not a checkpoint or is damaged"),
        ("no_tensors.pth", "holds no state dict"),
        ("resnet.pth", "not a SAM, MAE or Hugging Face DINOv2 checkpoint"),
        ("empty_folder", "holds neither model.safetensors nor pytorch_model.bin"),
        ("escaping", "is missing"),
    ],
)
def test_bad_files_are_one_line(tmp_path: Path, name: str, reason: str) -> None:
    write_bad_files(tmp_path)
    message = refused(tiny(), tmp_path / name)
    assert str(tmp_path / name) in message
    assert reason in message


def test_a_prefix_must_agree_with_the_file(tmp_path: Path) -> None:
    official = save_official(randomised().state_dict(), tmp_path)
    assert f"init_from={official}" in refused(tiny(), f"mae:{official}")
    mae = tmp_path / "mae.pth"
    torch.save({"model": {"blocks.0.attn.qkv.bias": torch.ones(48)}}, mae)
    assert f"init_from=mae:{mae}" in refused(tiny(), mae)
    assert f"init_from=mae:{mae}" in refused(tiny(), f"dinov2:{mae}")


def test_mae_files_with_their_arguments_load(tmp_path: Path) -> None:
    """MAE's training script saves its argparse.Namespace: data, and no reason to refuse."""
    names = {f"blocks.{i}.norm1.bias": torch.full((16,), i + 1.0) for i in range(2)}
    names |= {"blocks.0.attn.qkv.bias": torch.ones(48)}
    content = {"model": names, "args": argparse.Namespace(lr=1e-3, model="mae_vit")}
    torch.save(content, tmp_path / "mae.pth")
    sam = tiny()
    initialise(sam, f"mae:{tmp_path / 'mae.pth'}", InitConfig())
    assert sam.state_dict()["image_encoder.blocks.1.norm1.bias"].tolist() == [2.0] * 16


def test_a_misspelt_module_gets_the_nearest(tmp_path: Path) -> None:
    official = save_official(randomised().state_dict(), tmp_path)
    assert "meant image_encoder?" in refused(tiny(), official, "image_encodr")


def test_a_module_that_the_file_has_not(tmp_path: Path) -> None:
    encoder = {n: t for n, t in randomised().state_dict().items() if n.startswith("image_")}
    official = save_official(encoder, tmp_path)
    assert "holds nothing for mask_decoder" in refused(tiny(), official, "mask_decoder")
