"""The model in a file: however deep, under whatever key, and which of several."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_sam import changed, copy_of, part, randomised, tiny
from torch import Tensor

from sam_train.errors import UserError
from sam_train.model.checkpoints.config import InitConfig
from sam_train.model.checkpoints.init import load_whole
from sam_train.model.checkpoints.report import InitReport
from sam_train.model.sam import Sam

State = dict[str, Tensor]
KEYS = (
    *("state_dict", "model", "model_state_dict", "module", "net", "network", "weights"),
    *("teacher", "student", "ema", "model_ema", "sam", "sam_model", "params", "anything"),
)


@pytest.fixture(scope="module")
def source() -> Sam:
    return randomised()


@pytest.fixture(scope="module")
def state(source: Sam) -> State:
    return copy_of(source)


@pytest.fixture(scope="module")
def other() -> State:
    return copy_of(randomised(seed=2))


def loaded(content: Any, folder: Path) -> tuple[Sam, InitReport]:
    torch.save(content, folder / "file.pth")
    sam = tiny()
    (report,) = load_whole(sam, str(folder / "file.pth"), InitConfig())
    return sam, report


@pytest.fixture(scope="module")
def trained() -> tuple[State, dict[str, Any]]:
    """Weights after a step, and the optimizer's own state dict."""
    sam = randomised()
    optimizer = torch.optim.AdamW(sam.parameters())
    for parameter in sam.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    return copy_of(sam), optimizer.state_dict()


@pytest.mark.parametrize("key", KEYS)
def test_usual_keys_beside_an_optimizer(
    key: str, trained: tuple[State, dict[str, Any]], tmp_path: Path
) -> None:
    weights, optimizer = trained
    sam, report = loaded({key: weights, "optimizer": optimizer, "epoch": 3}, tmp_path)
    assert not changed(weights, sam)
    assert not report.skipped
    assert not report.notes


@pytest.mark.parametrize(
    ("prefix", "keys"),
    [
        ("module.", ()),
        ("_orig_mod.", ("model",)),
        ("sam.", ("state_dict",)),
        ("model.", ("state_dict",)),
        ("net.", ("checkpoint", "model")),
        ("module._orig_mod.", ("model_state_dict",)),
        ("_orig_mod.module.", ("ema",)),
        ("model.sam.module.", ("a", "b", "c")),
        ("my.own.model.", ()),
        ("", ("checkpoint", "model", "weights")),
    ],
)
def test_prefixes_at_any_depth(
    prefix: str, keys: tuple[str, ...], state: State, tmp_path: Path
) -> None:
    content: Any = OrderedDict((prefix + name, tensor) for name, tensor in state.items())
    for key in reversed(keys):
        content = {key: content, "epoch": 1}
    sam, _ = loaded(content, tmp_path)
    assert not changed(state, sam)


def test_wrappers_inside_the_names(state: State, tmp_path: Path) -> None:
    parted = {
        f"_fsdp_wrapped_module.{n}".replace(".blocks.", "._fsdp_wrapped_module.blocks."): t
        for n, t in state.items()
    }
    sam, _ = loaded({"model": parted}, tmp_path)
    assert not changed(state, sam)


def test_a_state_dict_for_each_module(source: Sam, state: State, tmp_path: Path) -> None:
    parts = {name: module.state_dict() for name, module in source.named_children()}
    sam, _ = loaded({"model": parts}, tmp_path)
    assert not changed(state, sam)
    # Under keys of one's own: told by the tensors' names.
    content = {
        "vit": source.image_encoder.state_dict(),
        "head": source.mask_decoder.state_dict(),
        "prompts": source.prompt_encoder.state_dict(),
    }
    sam, report = loaded(content, tmp_path)
    assert not changed(state, sam)
    assert report.notes == ["joined from head, vit, prompts"]


def test_an_average_comes_before_its_weights(state: State, other: State, tmp_path: Path) -> None:
    for key in ("ema", "model_ema", "state_dict_ema", "ema_state_dict", "teacher", "swa_model"):
        sam, report = loaded({"model": state, key: other}, tmp_path)
        assert not changed(other, sam)
        assert report.notes == [f"averaged weights ({key}) before those of model"]
    # An average of what was trained, as where the rest is frozen.
    sam, _ = loaded({"model": state, "ema": part(other, "mask_decoder")}, tmp_path)
    assert not changed(state | part(other, "mask_decoder"), sam)


def test_student_and_teacher_in_one_mapping(state: State, other: State, tmp_path: Path) -> None:
    both = {f"student.{n}": t for n, t in state.items()}
    both |= {f"teacher.{n}": t for n, t in other.items()}
    sam, report = loaded({"state_dict": both}, tmp_path)
    assert not changed(other, sam)
    assert "averaged weights (state_dict.teacher)" in report.notes[0]


def test_a_teacher_of_another_size_is_no_average(state: State, tmp_path: Path) -> None:
    larger = copy_of(randomised(depth=3, embed_dim=32))
    sam, report = loaded({"teacher": larger, "student": state}, tmp_path)
    assert not changed(state, sam)
    assert report.notes == [
        f"several models in the file: taken is student, left out teacher ({len(larger)} tensors)"
    ]


def test_trained_before_anything_else_that_is_there(
    state: State, other: State, tmp_path: Path
) -> None:
    for content in ({"best": other, "model": state}, {"first": state, "second": other}):
        sam, report = loaded(content, tmp_path)
        assert not changed(state, sam)
        assert "several models in the file" in report.notes[0]
    decoder = part(other, "mask_decoder")
    sam, report = loaded({"a": decoder, "b": state}, tmp_path)
    assert not changed(state, sam)
    assert "left out a (120 tensors)" in report.notes[0]


def test_moments_by_name_are_no_weights(state: State, tmp_path: Path) -> None:
    moments = {name: {"exp_avg": t + 1, "exp_avg_sq": t + 2} for name, t in state.items()}
    content = {"optimizer": {"state": moments}, "model": state, "grad": {"sam": state}}
    sam, report = loaded(content, tmp_path)
    assert not changed(state, sam)
    assert not report.notes


def test_tensors_elsewhere_are_counted_by_their_key(state: State, tmp_path: Path) -> None:
    content = {"model": state, "rng": torch.get_rng_state(), "queue": {"a": torch.ones(3)}}
    _, report = loaded(content, tmp_path)
    assert report.notes == ["no weights of the model: rng (1 tensor), queue (1 tensor)"]


def test_a_mapping_that_holds_itself_ends(state: State, tmp_path: Path) -> None:
    content: dict[str, Any] = {"model": state}
    content["self"] = content
    sam, _ = loaded(content, tmp_path)
    assert not changed(state, sam)


@pytest.mark.parametrize("content", [{}, {"model": {}}, [], {"epoch": 3}, torch.ones(2)])
def test_nothing_is_said_so(content: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no state dict"):
        loaded(content, tmp_path)
