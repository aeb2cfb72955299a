"""The step: gradients everywhere, a pure function, and the same on any number of ranks."""

from __future__ import annotations

import importlib.util
import re
import subprocess
from pathlib import Path
from types import ModuleType

import forked
import pytest
import torch

from sam_train.prompts import Stage

PROGRAM = Path(__file__).with_name("steps.py")


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("steps", PROGRAM)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


steps = load()


@pytest.mark.parametrize(
    "prompts",
    [
        {},
        {"points": 4, "box_probability": 0.0},
        {"points": 1, "mask_only": 0},
        {"points": 0, "mask_only": 1, "box_probability": 1.0},
        {"curriculum": [Stage(until=0.6, points=1, mask_only=0)]},
    ],
    ids=["paper", "data engine", "two rounds", "box and mask only", "curriculum"],
)
def test_every_parameter_gets_a_gradient(prompts: dict[str, object]) -> None:
    module = steps.build(dtype=torch.float32, **prompts)
    module.training_step(steps.batch_of([0, 1]), 0).backward()
    found = steps.gradients(module)
    assert found.keys() == {name for name, _ in module.named_parameters()}
    assert all(torch.isfinite(gradient).all() for gradient in found.values())
    # Zero, and rightly so: masks that were not the best of three, prompts that did not occur, and
    # biases of keys, which softmax cannot see.
    free = r"output_hypernetworks_mlps\.[123]\.|prompt_encoder\..*embed|k_proj\.bias"
    moved = {name for name, gradient in found.items() if gradient.any()}
    assert [name for name in found.keys() - moved if not re.search(free, name)] == []


def test_rounds_follow_the_curriculum() -> None:
    stages = [Stage(until=0.5, points=1, mask_only=0), Stage(until=0.8, points=3, mask_only=1)]
    module = steps.build(dtype=torch.float32, curriculum=stages)
    played = []
    for module.at in (0, 49, 50, 79, 80, 99):
        module.training_step(steps.batch_of([1]), 0)
        played.append(len(module.last_rounds.sums))
    assert played == [2, 2, 5, 5, 11, 11]


def test_the_step_is_a_pure_function_of_seed_step_and_mask() -> None:
    def once(*, seed: int = 0, step: int = 3) -> dict[str, torch.Tensor]:
        module = steps.build(dtype=torch.float32, points=3)
        module.cfg.seed, module.at = seed, step
        torch.seed()  # the global generator must not matter
        loss = module.training_step(steps.batch_of([0, 1]), 0)
        loss.backward()
        return steps.gradients(module) | {"loss": loss.detach()}

    first, again = once(), once()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["loss"], once(seed=1)["loss"])
    assert not torch.equal(first["loss"], once(step=4)["loss"])


def test_the_loss_is_the_mean_over_rounds_and_masks() -> None:
    module = steps.build(points=2)
    loss = module.training_step(steps.batch_of([0, 1]), 0)
    figures = module.last_rounds.figures()
    assert loss.item() == pytest.approx(sum(figures.loss) / 5, rel=1e-5)


def test_other_masks_in_the_batch_change_nothing_but_the_mean() -> None:
    """What a mask's loss is depends on neither its neighbours nor its place in the batch."""

    def loss_of(images: list[int]) -> float:
        module = steps.build(points=3)
        return module.training_step(steps.batch_of(images), 0).item()

    alone = [loss_of([0]), loss_of([1])]
    mean = (alone[0] * steps.MASKS[0] + alone[1] * steps.MASKS[1]) / sum(steps.MASKS)
    assert loss_of([0, 1]) == pytest.approx(mean, rel=1e-6)
    assert loss_of([1, 0]) == pytest.approx(mean, rel=1e-6)


def test_two_ranks_give_the_gradients_of_one(tmp_path: Path) -> None:
    command = [forked.python(), str(PROGRAM)]
    outs = [tmp_path / f"rank{rank}.pt" for rank in range(2)]
    ranks = [
        subprocess.Popen([*command, str(rank), "2", str(tmp_path / "rendezvous"), str(out)])
        for rank, out in enumerate(outs)
    ]
    assert [process.wait(timeout=300) for process in ranks] == [0, 0]
    both = [torch.load(out, weights_only=True) for out in outs]

    module = steps.build(points=2)
    module.training_step(steps.batch_of([0, 1]), 0).backward()
    alone = steps.gradients(module)
    for rank in both:
        assert rank["gradients"].keys() == alone.keys()
        for name, gradient in alone.items():
            difference = (rank["gradients"][name] - gradient).abs().max()
            # Biases of keys have no gradient but rounding: hence the absolute part.
            assert difference <= 1e-6 * gradient.abs().max() + 1e-12, name
        # (1 + 2 + 3 + 10) / 4; a mean of the ranks' own means would be (2 + 10) / 2.
        assert rank["hand"].item() == 4.0
        assert rank["iou"] == pytest.approx(module.last_rounds.figures().iou)
