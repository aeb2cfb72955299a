"""`init.rest`: a second file for the modules that the first lacks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_sam import copy_of, randomised, tiny

from sam_train.errors import UserError
from sam_train.model.checkpoints.config import InitConfig
from sam_train.model.checkpoints.init import initialise


def save(state: dict[str, torch.Tensor], path: Path) -> str:
    torch.save(state, path)
    return str(path)


def test_modules_that_the_first_file_lacks_come_from_the_second(tmp_path: Path) -> None:
    first, second, sam = copy_of(randomised(seed=1)), copy_of(randomised(seed=2)), tiny()
    encoder = {n: t for n, t in first.items() if n.startswith("image_encoder.")}
    # A neck that the first file lacks stays random: the second's belongs to another encoder.
    encoder = {n: t for n, t in encoder.items() if ".neck." not in n}
    cfg = InitConfig(rest=save(second, tmp_path / "rest.pth"))
    before = copy_of(sam)
    report = initialise(sam, save(encoder, tmp_path / "encoder.pth"), cfg)
    for name, tensor in sam.state_dict().items():
        inside = name.startswith("image_encoder.")
        expected = (before if ".neck." in name else encoder) if inside else second
        assert torch.equal(tensor, expected[name]), name
    assert {entry.name for entry in report.at_random} == {n for n in before if ".neck." in n}
    assert not report.skipped
    assert "mask_decoder, prompt_encoder from" in str(report)


def test_a_second_file_that_nothing_needs_is_refused(tmp_path: Path) -> None:
    path = save(copy_of(randomised()), tmp_path / "sam.pth")
    with pytest.raises(UserError, match=r"init\.rest=.* is not needed"):
        initialise(tiny(), path, InitConfig(rest=path))
