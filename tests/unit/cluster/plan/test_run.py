"""The verb, on small models and made-up machines."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sam_train.cli import main
from sam_train.cluster.plan import run as module
from sam_train.cluster.plan.config import PlanConfig
from sam_train.cluster.plan.memory import Simulator
from sam_train.cluster.plan.run import plan
from sam_train.cluster.plan.states import whole_model
from sam_train.errors import UserError
from sam_train.settings.compose import load_config
from sam_train.settings.run import RunConfig

SMALL = [
    *(
        "model=vit_t",
        "model.image_size=64",
        "model.depth=2",
        "model.global_blocks=[1]",
        "data.batch_size=16",
        "data.masks_per_image=8",
    ),
    *("prompts.points=1", "prompts.mask_only=1", "trainer.devices=2", "trainer.max_steps=100"),
]


@pytest.fixture(scope="module", autouse=True)
def shared() -> Iterator[None]:
    """Let all plans of one model count each of its pieces once."""
    made: dict[str, Simulator] = {}

    def simulator(*, cfg: RunConfig, ranks: int) -> Simulator:
        # Neither decides what a step takes.
        same = repr((replace(cfg, plan=PlanConfig(), run_dir=""), ranks))
        made.setdefault(same, Simulator(cfg=cfg, ranks=ranks))
        found = Simulator(cfg=cfg, ranks=ranks)
        for name in ("_encoders", "_rounds", "_states", "_batches"):
            setattr(found, name, getattr(made[same], name))
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "Simulator", simulator)
        yield


def parameters_of(overrides: list[str]) -> int:
    return sum(p.numel() for p in whole_model(load_config(overrides)).parameters())


def planned(tmp_path: Path, *overrides: str) -> dict[str, Any]:
    path = plan([*SMALL, f"run_dir={tmp_path}", *overrides])
    assert path == tmp_path / "plan.json"
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def test_the_figures_agree_with_each_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = planned(tmp_path, "plan.mfu=0.001", "plan.sample_mb=2")
    assert found["fits"]
    assert found["setting"]["images"] == 8
    assert sum(found["parameters"].values()) == parameters_of(SMALL)
    assert sum(found["flops"].values()) == pytest.approx(found["speed"]["flops"])
    modes = found["memory"]
    need = {mode: sum(memory["parts"].values()) for mode, memory in modes.items()}
    assert need["full"] <= need["selective"] <= need["none"]
    speed = found["speed"]
    # Two A100 at a thousandth of 19.5 TFLOP/s.
    assert speed["at_mfu"] == pytest.approx(2 * 19.5e9 / speed["flops"])
    assert speed["hours"] == pytest.approx(100 * 16 / speed["images"] / 3600)
    assert speed["gpu_hours"] == pytest.approx(2 * speed["hours"])
    assert found["feed"]["read_mbs"] == pytest.approx(2 * speed["images"])
    shown = capsys.readouterr().out
    assert "fits" in shown
    assert "GPU-hours" in shown


def test_recomputing_costs_time_and_saves_memory(tmp_path: Path) -> None:
    kept = planned(tmp_path)
    full = planned(tmp_path, "model.checkpoint_blocks=full")
    forward = sum(
        flops
        for name, flops in kept["flops"].items()
        if name.startswith("encoder") and "backward" not in name
    )
    more = full["speed"]["flops"] - kept["speed"]["flops"]
    # Only of the blocks; and torch stops before each one's last product, a third of it.
    assert 0.5 * forward < more < forward


def test_what_does_not_fit_names_the_cheapest_that_would(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tight = ["plan.reserve_gib=0", "plan.gaps=0"]
    need = planned(tmp_path, *tight)["needed"]["none"]
    capsys.readouterr()
    found = planned(tmp_path, *tight, f"plan.memory_gib={0.8 * need / 2**30}")
    way = found["would_fit"]
    assert not found["fits"]
    assert way["same_training"]
    assert way["needed"] <= 0.8 * need
    words = capsys.readouterr().out.split("the cheapest that would: ")[1].split(" (")[0].split()
    again = planned(tmp_path, *tight, f"plan.memory_gib={0.8 * need / 2**30}", *words)
    assert again["fits"]
    assert again["needed"][way["setting"]["recompute"]] == way["needed"]


def test_nothing_helps_where_the_weights_do_not_fit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = planned(tmp_path, "plan.memory_gib=0.001", "trainer.devices=1", "data.batch_size=1")
    assert found["would_fit"] is None
    assert "no setting would make it fit" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("plan.gpu=a1000", "plan.gpu=a1000 is not one of rtx3090"),
        ("plan.mfu=35", "a share of the GPU's peak"),
        ("trainer.precision=64-true", "64-true is for tests"),
        ("trainer.devices=3", "not divisible"),
        ("data.masks_per_gpu=1", "more than data.masks_per_gpu=1"),
    ],
)
def test_what_cannot_be_planned(tmp_path: Path, override: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        planned(tmp_path, override)


def test_a_file_of_its_own(tmp_path: Path) -> None:
    out = tmp_path / "folder" / "mine.json"
    main(["plan", *SMALL, f"run_dir={tmp_path}", f"plan.out={out}"])
    assert json.loads(out.read_text())["assumed"]["gpu"] == "a100-80"
