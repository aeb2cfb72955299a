"""Choices of settings: the user's words win, and what is printed is what `fit` takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
import torch

import sam_train
from sam_train.cluster.plan.memory import Memory
from sam_train.cluster.plan.settings import Setting
from sam_train.errors import UserError
from sam_train.eval.clicks.scores import Calibration, ClickScores
from sam_train.finetuning import choices as choices_file
from sam_train.finetuning import recipe
from sam_train.finetuning.choices import Choices
from sam_train.finetuning.look import Look, Seen
from sam_train.finetuning.machine import GIB, Machine
from sam_train.finetuning.pace import Pace
from sam_train.finetuning.recipe import check_weights, choose, choose_model
from sam_train.finetuning.tables import forgetting_warning, forgotten
from sam_train.model import ModelConfig, build_from_config
from sam_train.settings.compose import load_config
from sam_train.settings.run import RunConfig

NANO = f"{sam_train.__path__[0]}/assets/nano.safetensors"
LAPTOP = Machine(gpu="", room=int(6 * GIB), ram=int(8 * GIB), cores=2)
CARD = Machine(gpu="a card", room=int(24 * GIB), ram=int(64 * GIB), cores=16, bfloat16=True)


def found(*, photos: int = 200, side: float = 13.0, photo: int = 256) -> Look:
    seen = [
        Seen(sample=k, name=f"{k}", size=(photo, photo), sides=[side], digest=b"")
        for k in range(min(photos, 50))
    ]
    return Look(source="mine", photos=photos, looked=len(seen), seen=seen)


@dataclass
class Counted:
    """Stands for `plan`, which counts for seconds: a GiB an image, and half with recomputation."""

    cfg: RunConfig
    ranks: int
    as_gpu: bool

    def least(self, setting: Setting) -> int:
        return 0

    def memory(self, setting: Setting) -> Memory:
        size = GIB * setting.images / (1 if setting.recompute == "none" else 2)
        return Memory(moment="", parts={"all": int(size)}, host=0)


@cache
def composed(words: tuple[str, ...]) -> RunConfig:
    """Settings that are composed once: many recipes begin alike."""
    return load_config(words)


def load_once(words: Sequence[str]) -> RunConfig:
    return composed(tuple(words))


SIZES: dict[str, int] = {}
build_and_count = recipe.encoder_size


def encoder_size(cfg: ModelConfig) -> int:
    """Count once for each name: sizes are those of the name in this file."""
    if cfg.name not in SIZES:
        SIZES[cfg.name] = build_and_count(cfg)
    return SIZES[cfg.name]


@pytest.fixture(autouse=True)
def _machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipe, "measure_pace", lambda cfg: Pace(mean=1.0, full=3.0))
    monkeypatch.setattr(recipe, "Simulator", Counted)
    monkeypatch.setattr(recipe, "encoder_size", encoder_size)
    monkeypatch.setattr(choices_file, "load_config", load_once)
    # Official weights, which record nothing.
    nano = recipe.recorded_model
    monkeypatch.setattr(
        recipe, "recorded_model", lambda path: nano(path) if path.suffix != ".pth" else None
    )


def chosen(*typed: str, look: Look | None = None, machine: Machine = LAPTOP) -> dict[str, str]:
    """What a recipe sets, by names."""
    choices = Choices(typed=["data.train=mine", *typed])
    choose_model(choices)
    choose(choices, look=look or found(), held_out=40, machine=machine)
    # `fit` takes all of it.
    choices.config()
    return {one.key: one.word.partition("=")[2] for one in choices.made}


def test_small_objects_get_a_larger_input_up_to_the_photos_own() -> None:
    words = chosen(f"init_from={NANO}")
    # 13 of 256 pixels are 1.6 cells at 128 and 3.2 at 256; the photo has no more.
    assert words["model.image_size"] == "256"
    assert words["prompts.box_noise_limit"] == "5"
    assert words["experiment"] == "finetune_small"
    assert words["trainer.max_steps"] == "300"
    assert (words["checkpoint.patience"], words["checkpoint.keep_best"]) == ("3", "1")
    # As the checkpoint records it.
    assert chosen(f"init_from={NANO}", look=found(side=60))["model.image_size"] == "128"
    assert chosen(f"init_from={NANO}", look=found(photo=1024, side=52))["model.image_size"] == "384"


def test_what_the_user_typed_is_not_chosen() -> None:
    words = chosen(f"init_from={NANO}", "model.image_size=192", "trainer.max_steps=15")
    # Nor what was to go with another input size.
    assert not {"model.image_size", "prompts.box_noise_limit", "trainer.max_steps"} & set(words)
    # By the user's fifteen steps.
    assert words["callbacks.validation.every"] == "2"
    own = chosen(f"init_from={NANO}", "+experiment=quickstart", "callbacks.validation.every=0")
    assert not {"experiment", "optim.tune", "data.batch_size"} & set(own)
    # Patience without measurements would be refused.
    assert "checkpoint.patience" not in own


def test_the_time_and_the_photos_bound_the_steps() -> None:
    assert chosen(f"init_from={NANO}", "finetune.minutes=2")["trainer.max_steps"] == "120"
    assert chosen(f"init_from={NANO}", look=found(photos=4))["trainer.max_steps"] == "100"


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with the names and shapes of the official ViT-B, under a name that says nothing."""
    with torch.device("meta"):
        sam = build_from_config(ModelConfig(name="vit_b"))
    path = tmp_path_factory.mktemp("official") / "mine.pth"
    # One number in memory and in the file for each tensor, repeated by its strides.
    torch.save({name: torch.zeros(1).expand(t.shape) for name, t in sam.state_dict().items()}, path)
    return path


def test_a_large_model_is_trained_as_the_machine_and_the_photos_allow(official: Path) -> None:
    typed = [f"init_from={official}", "model.image_size=256"]
    on_cpu = chosen(*typed)
    assert (on_cpu["model"], on_cpu["experiment"]) == ("vit_b", "finetune")
    assert (on_cpu["optim.tune"], on_cpu["embeddings.cache"]) == ("decoder", "auto")
    few, many = (chosen(*typed, look=found(photos=n), machine=CARD) for n in (200, 5000))
    assert few["optim.tune"] == "lora"
    assert many["optim.tune"] == "all"
    assert many["trainer.precision"] == "bf16-mixed"


def test_weights_that_are_no_model_are_refused_before_photos_are_read(tmp_path: Path) -> None:
    foreign = tmp_path / "other.pth"
    torch.save({"layer.weight": torch.zeros(3, 3)}, foreign)
    with pytest.raises(UserError, match="not a SAM, MAE or Hugging Face DINOv2 checkpoint"):
        choose_model(Choices(typed=[f"init_from={foreign}"]))
    cfg = load_config([f"init_from={NANO}", "model=vit_b"])
    with pytest.raises(UserError, match=r"its ViT has width 128 .* use model=vit_t"):
        check_weights(cfg)


def test_what_does_not_fit_is_split_by_plans_cheapest_way(official: Path) -> None:
    typed = [f"init_from={official}", "model.image_size=256"]
    # Four images, and two that plan keeps in reserve, need more than six.
    small = Machine(gpu="a card", room=int(6 * GIB), ram=int(64 * GIB), cores=16, bfloat16=True)
    words = chosen(*typed, look=found(photos=5000), machine=small)
    # Half as many images at a time cost less than recomputation.
    assert words["trainer.accumulate"] == "2"
    assert "model.checkpoint_blocks" not in words
    tiny = Machine(gpu="a card", room=int(0.5 * GIB), ram=int(64 * GIB), cores=16)
    with pytest.raises(UserError, match="smaller model"):
        chosen(*typed, look=found(photos=5000), machine=tiny)


def scores(one: float, nine: float, box: float) -> ClickScores:
    calibration = Calibration(
        count=[],
        predicted=[],
        real=[],
        mean_absolute_error=0.0,
        expected_error=0.0,
        correlation=0.0,
    )
    return ClickScores(
        miou={1: one, 9: nine}, oracle=one, box=box, masks=1, images=1, calibration=calibration
    )


def test_a_fall_of_more_than_a_twentieth_is_warned_about() -> None:
    falls = forgotten(scores(0.60, 0.8, 0.70), scores(0.56, 0.7, 0.60))
    assert falls == pytest.approx({"miou_9": 0.1, "box": 0.1})
    line = forgetting_warning(falls, where="scenes")
    assert "9 clicks by 0.10" in line
    assert "1 click by 0.20" in forgetting_warning({"miou_1": 0.2}, where="scenes")
    assert "box by 0.10" in line
    assert "trainer.max_steps=" in line


def test_the_function_stands_at_the_package() -> None:
    assert sam_train.finetune.__module__ == "sam_train.finetuning.run"
    with pytest.raises(AttributeError, match="finetunes"):
        _ = sam_train.finetunes
