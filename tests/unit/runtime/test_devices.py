"""Which device and precision a verb takes that does not train."""

from __future__ import annotations

import logging

import pytest
import torch

from sam_train.errors import UserError
from sam_train.runtime.devices import autocast, check_inference, find_device
from sam_train.train.config import TrainerConfig

CPU = torch.device("cpu")


@pytest.fixture
def four_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """As torch counts them; nothing is put on one."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    for name in ("LOCAL_RANK", "SLURM_LOCALID"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("four_gpus")
@pytest.mark.parametrize(
    ("devices", "local_rank", "number"),
    [
        ("auto", None, 0),
        ("[3]", None, 3),
        ("[2,3]", None, 2),
        ("8", None, 0),
        ("auto", "2", 2),
        ("auto", "5", 1),
        ("[1,3]", "1", 3),
    ],
)
def test_the_gpu_is_the_one_asked_for(
    monkeypatch: pytest.MonkeyPatch, devices: str, local_rank: str | None, number: int
) -> None:
    if local_rank is not None:
        monkeypatch.setenv("LOCAL_RANK", local_rank)
    assert find_device(TrainerConfig(devices=devices)) == torch.device("cuda", number)
    assert find_device(TrainerConfig(devices=devices, accelerator="cpu")) == CPU


@pytest.mark.usefixtures("four_gpus")
def test_gpus_that_stay_idle_are_mentioned(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="sam_train"):
        find_device(TrainerConfig(devices="1"))
        assert not caplog.messages
        find_device(TrainerConfig(devices="4"))
    assert caplog.messages == ["one process uses one GPU, here the first of 4"]


@pytest.mark.usefixtures("four_gpus")
@pytest.mark.parametrize("devices", ["[4]", "[]", "three"])
def test_a_gpu_that_is_not_there(devices: str) -> None:
    with pytest.raises(UserError, match=r"trainer\.devices="):
        find_device(TrainerConfig(devices=devices))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"precision": "bf16"}, r"trainer\.precision=bf16: use one of"),
        ({"precision": "64-true"}, r"64-true is fit's alone: use one of 32-true, bf16-mixed"),
        ({"accelerator": "gpuu"}, r"trainer\.accelerator=gpuu: use one of"),
    ],
)
def test_settings_that_would_be_ignored_are_refused(settings: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_inference(TrainerConfig(**settings))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("precision", "dtype"), [("32-true", torch.float32), ("bf16-mixed", torch.bfloat16)]
)
def test_precision(precision: str, dtype: torch.dtype) -> None:
    with autocast(TrainerConfig(precision=precision), CPU):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype
