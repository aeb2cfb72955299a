"""float16 training on a CPU, for real: gradients, what overflows, and going on where it stopped."""

from __future__ import annotations

import importlib.util
import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from sam_train.data.shards.writer import ShardSample, annotation, write_shards
from sam_train.errors import UserError
from sam_train.train.config import check_strategy
from sam_train.train.fit import fit
from sam_train.train.parallel import loss_scale
from sam_train.train.parallel.loss_scale import LossScale
from sam_train.train.report.metrics_file import read_rows

PROGRAM = Path(__file__).parents[1] / "steps.py"


def load() -> Any:
    spec = importlib.util.spec_from_file_location("steps", PROGRAM)
    assert spec is not None
    assert spec.loader is not None
    program = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)
    return program


steps = load()
MANY = 1 << 14
"""Masks of a step, of which a process has four: a loss as small as in large runs."""


def backward(module: Any, *, half: bool, scale: float | None, inside: bool = True) -> Any:
    """Gradients of one step, unscaled.

    Args:
        inside: whether the rounds' own backward passes know of the scale.
    """
    module.zero_grad()
    module.loss_scale = None
    scaling = LossScale()
    if scale is not None:
        scaling.value = torch.tensor(scale)
        module.loss_scale = scaling if inside else None
    batch = steps.batch_of([0, 1])
    batch.step_masks = MANY
    with torch.autocast("cpu", torch.float16, enabled=half):
        loss = module.training_step(batch, 0)
    # As Lightning does: the scale, then a turn's share of the update.
    (loss * (1.0 if scale is None else scale) / 2).backward()
    if scale is not None:
        scaling.unscale(module)
    return steps.gradients(module)


def test_a_power_of_two_changes_no_bit_in_float32() -> None:
    module = steps.build(dtype=torch.float32, points=2)
    plain = backward(module, half=False, scale=None)
    scaled = backward(module, half=False, scale=2.0**16)
    assert plain.keys() == scaled.keys()
    assert all(torch.equal(plain[name], scaled[name]) for name in plain)


def test_float16_gradients_are_those_of_float32() -> None:
    module = steps.build(dtype=torch.float32, points=2)
    exact = backward(module, half=False, scale=None)

    def far(found: dict[str, torch.Tensor]) -> float:
        """Relative distance of the whole gradient."""
        square = sum(float((found[n] - exact[n]).square().sum()) for n in exact)
        return math.sqrt(square / sum(float(g.square().sum()) for g in exact.values()))

    assert far(backward(module, half=True, scale=2.0**16)) < 0.02
    # A scale that comes with the outer backward pass alone comes too late for the rounds.
    assert far(backward(module, half=True, scale=2.0**16, inside=False)) > 0.1


def test_the_scale_follows_as_torchs_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss_scale, "GROWTH_INTERVAL", 3)
    ours, weight = LossScale(), torch.nn.Parameter(torch.zeros(()))
    optimizer = torch.optim.SGD([weight])
    theirs = torch.amp.GradScaler("cpu", growth_interval=3)
    assert theirs.scale(torch.ones(())) == ours.value
    rng = random.Random(0)
    for number in range(60):
        sound = rng.random() < 0.8
        weight.grad = torch.tensor(1.0 if sound else rng.choice([math.inf, math.nan]))
        theirs.unscale_(optimizer)
        theirs.step(optimizer)
        theirs.update()
        ours.update(torch.tensor(1.0 if sound else math.inf))
        assert ours.value == theirs.get_scale(), number
        state = theirs.state_dict()
        assert ours.state_dict() == {key: state[key] for key in ours.state_dict()}
        if number % 7 == 0:
            again = LossScale()
            again.load_state_dict(ours.state_dict())
            ours = again


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two photos of noise with a rectangle each."""
    out, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    samples = []
    for number in range(2):
        path = out / "photo.jpg"
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(path)
        mask = np.zeros((32, 32), dtype=bool)
        mask[4:20, 6 + number : 26] = True
        samples.append(
            ShardSample(
                image_id=number,
                jpeg=path.read_bytes(),
                width=32,
                height=32,
                annotations=[annotation(mask, id=number)],
            )
        )
    write_shards(samples, out)
    return out


def train(photos: Path, run_dir: Path, end: int, *more: str) -> dict[str, Any]:
    words = [
        *("model=vit_t", "model.image_size=32", "model.depth=2", "model.global_blocks=[0,1]"),
        *("model.prompt_dim=32", "model.embed_dim=32", "model.heads=2", f"data.train={photos}"),
        *("data.batch_size=1", "data.masks_per_image=1", "data.workers=0", "prompts.points=1"),
        *("trainer.accelerator=cpu", "trainer.devices=1", "trainer.precision=16-mixed"),
        *(f"trainer.max_steps={end}", "trainer.log_every=1", f"run_dir={run_dir}"),
        *("optim.warmup_steps=0", "callbacks.validation.every=0", "health.max_nonfinite=2"),
    ]
    fit([*words, *more])
    saved: dict[str, Any] = torch.load(run_dir / "checkpoints" / "last.ckpt", weights_only=True)
    return saved


def same(first: Any, second: Any) -> bool:
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(v, second[k]) for k, v in first.items())
    if isinstance(first, list):
        return len(first) == len(second) and all(map(same, first, second))
    return bool(first == second)


def test_what_overflows_is_skipped_counted_and_gone_on_from(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Far too much: every step overflows until it is halved often enough.
    monkeypatch.setattr(loss_scale, "FIRST", 2.0**24)
    whole = train(photos, tmp_path / "whole", 12)
    rows = [r for r in read_rows(tmp_path / "whole" / "metrics.csv") if r["step"] != "0"]
    # Powers of two, to six digits.
    scales = [2.0 ** round(math.log2(float(row["loss_scale"]))) for row in rows]
    skipped = [int(row["skipped"]) for row in rows]
    sound = [math.isfinite(float(row["grad_norm"])) for row in rows]
    assert len(rows) == 12
    assert 2 < skipped[-1] < 12
    for k in range(1, 12):
        assert scales[k] == scales[k - 1] * (1.0 if sound[k - 1] else 0.5)
    assert skipped == [sum(not s for s in sound[: k + 1]) for k in range(12)]
    files = sorted((tmp_path / "whole" / "nonfinite").iterdir())
    assert len(files) == skipped[-1]
    assert json.loads((tmp_path / "whole" / "nonfinite" / "step=1.json").read_text())[
        "loss_scale"
    ] == float(2**24)
    # Moments saw the sound ones alone; the schedule saw all.
    moments = next(iter(whole["optimizer_states"][0]["state"].values()))
    assert int(moments["step"]) == sum(sound)
    assert whole["global_step"] == whole["lr_schedulers"][0]["last_epoch"] == 12
    # Stopped in the middle of the halving, it goes on as if nothing had been.
    middle = 2
    train(photos, tmp_path / "parts", middle)
    monkeypatch.setattr(loss_scale, "FIRST", 2.0**3)
    parts = train(photos, tmp_path / "parts", 12, "trainer.max_steps=12")
    for key in ("state_dict", "optimizer_states", "HalfPrecision"):
        assert same(whole[key], parts[key]), key
    again = [r for r in read_rows(tmp_path / "parts" / "metrics.csv") if r["step"] != "0"]
    assert [row["loss_scale"] for row in again] == [row["loss_scale"] for row in rows]
    assert [row["skipped"] for row in again] == [row["skipped"] for row in rows]


def test_deepspeed_is_refused() -> None:
    with pytest.raises(UserError, match=r"16-mixed does not go with trainer\.strategy=deepspeed"):
        check_strategy(
            "deepspeed", optimizer="adamw", precision="16-mixed", deepspeed="zero2", offload=False
        )
