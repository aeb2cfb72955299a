"""Every strategy learns the same, and takes up what another one left.

Two real processes each; see strategies.py.
"""

from __future__ import annotations

import importlib.util
import json
import os
import random
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import forked
import numpy as np
import pytest
import torch
from PIL import Image

from sam_train.cli import main
from sam_train.errors import UserError
from sam_train.model.load import load_sam
from sam_train.settings.compose import load_config
from sam_train.settings.run import check_config
from sam_train.train.report.metrics_file import read_columns

PROGRAM = Path(__file__).with_name("strategies.py")
RANKS = 2


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("strategies", PROGRAM)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["strategies"] = module
    spec.loader.exec_module(module)
    return module


strategies = load()
Run = strategies.Run

DDP, FSDP2 = "trainer.strategy=ddp", "trainer.strategy=fsdp2"
ZERO = ["trainer.strategy=deepspeed", "trainer.deepspeed="]
TURNS, BF16 = "trainer.accumulate=2", "trainer.precision=bf16-mixed"
FEW = "trainer.max_steps=3"
STRATEGIES = {
    "ddp": [DDP],
    "fsdp2": [FSDP2],
    **{f"zero{stage}": [ZERO[0], f"{ZERO[1]}zero{stage}"] for stage in (1, 2, 3)},
}

NORM_BIAS = "optim.tune=norm_bias"
LORA = ["optim.tune=lora+norm_bias", "lora.rank=2", "lora.targets=[q,v,mlp]"]
DECODER = "optim.tune=decoder"
CONV = ["model.name=conv_t", "model.heads=null", "model.global_blocks=[]", "model.depth=3"]

ONE = [
    Run("one"),
    Run("one turns", [TURNS]),
    Run("one four turns", ["trainer.accumulate=4", FEW]),
    Run("one bf16", [BF16, FEW]),
    Run("one frozen", ["optim.frozen_blocks=1", FEW]),
    Run("one norms", [NORM_BIAS, FEW]),
    Run("one lora", [*LORA, FEW]),
    Run("one conv", [*CONV, FEW]),
]

ELSEWHERE = ("ddp", "fsdp2", "zero3")
RECOMPUTED = [("ddp", "selective"), ("fsdp2", "full"), ("zero3", "selective")]
TWO = [
    *(
        Run(name, overrides if name != "zero1" else [*overrides, FEW])
        for name, overrides in STRATEGIES.items()
    ),
    *(Run(f"{name} turns", [*STRATEGIES[name], TURNS, FEW]) for name in ("ddp", "fsdp2", "zero2")),
    *(Run(f"{name} bf16", [*STRATEGIES[name], BF16, FEW]) for name in ("ddp", "fsdp2", "zero3")),
    *(
        Run(f"{name} {how}", [*STRATEGIES[name], FEW, f"model.checkpoint_blocks={how}"])
        for name, how in RECOMPUTED
    ),
    Run("fsdp2 frozen", [FSDP2, "optim.frozen_blocks=1", FEW]),
    *(Run(f"{name} norms", [*STRATEGIES[name], NORM_BIAS, FEW]) for name in ELSEWHERE),
    *(
        Run(f"{name} lora", [*STRATEGIES[name], *LORA, FEW, "model.checkpoint_blocks=selective"])
        for name in ELSEWHERE
    ),
    *(
        Run(f"{name} conv", [*STRATEGIES[name], *CONV, FEW, "model.checkpoint_blocks=selective"])
        for name in ELSEWHERE
    ),
    *(
        Run(f"{name} unclipped", [*STRATEGIES[name], FEW, "optim.grad_clip=0"])
        for name in ("ddp", "fsdp2", "zero2")
    ),
    *(
        Run(f"{name} offload", [*STRATEGIES[name], FEW, "trainer.offload=true"], load=["ddp"])
        for name in ("zero2", "zero3")
    ),
    Run("fsdp2 compiled", [FSDP2, FEW, "trainer.compile=true"]),
    *(
        Run(
            f"{source} to {name}",
            [*overrides, "trainer.max_steps=12"],
            resume=source,
            load=["one", *STRATEGIES],
        )
        for source, (name, overrides) in zip(
            ("fsdp2", "zero2", "zero3", "one", "ddp"), STRATEGIES.items(), strict=True
        )
    ),
]

AGAIN = Run("zero3 to one", ["trainer.max_steps=12"], resume="zero3", load=["one", *STRATEGIES])

STREAM = ["data.mode=stream", "data.shuffle_buffer=1"]
FITS = [
    Run("fit ddp", [DDP], verb=True, measured=True),
    Run("fit fsdp2", [FSDP2], verb=True, measured=True, resume="fit ddp@2"),
    Run("fit zero3", STRATEGIES["zero3"], verb=True, measured=True, resume="fit ddp@2"),
    Run("fit fsdp2 to ddp", [DDP], verb=True, resume="fit fsdp2@4"),
    Run("fit zero3 to ddp", [DDP], verb=True, resume="fit zero3@4"),
    Run("fit fsdp2 to zero2", STRATEGIES["zero2"], verb=True, resume="fit fsdp2@4"),
    Run("stream ddp", [DDP, *STREAM, "trainer.max_steps=4"], verb=True),
    Run("stream fsdp2", [FSDP2, *STREAM, "trainer.max_steps=8"], verb=True, resume="stream ddp@4"),
]


@dataclass
class Results:
    """What all the runs left."""

    figures: dict[str, dict[str, Any]]
    folder: Path

    def state(self, name: str) -> dict[str, Any]:
        """The whole state at the end of a run."""
        return torch.load(self.folder / f"{name}.ckpt", weights_only=True)

    def loss(self, name: str) -> list[float]:
        """Of each step."""
        return self.figures[name]["loss"]

    def rows(self, name: str, column: str) -> dict[int, float]:
        """Of metrics.csv of a run through the command line, by step, where there is a figure."""
        columns = read_columns(self.folder / name / "metrics.csv")
        steps = map(int, columns["step"])
        return {s: x for s, x in zip(steps, columns[column], strict=True) if not np.isnan(x)}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def shards(tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four shards of photos with very different numbers of masks: 1, 2, 3 and so on around."""
    folder = tmp_path_factory.mktemp("strategies")
    files = []
    rng = random.Random(0)
    for k in range(12):
        masks = tiny.rectangles()
        shifted = [masks[j % 2].copy() for j in range(1 + k % 3)]
        for mask in shifted:
            top = rng.randrange(0, 20)
            mask[top : top + 4] ^= 1
        files += [
            (f"sa_{k}.jpg", tiny.photo(k)),
            (f"sa_{k}.json", tiny.record(np.stack(shifted))),
        ]
        if k % 3 == 2:
            tiny.pack(folder / f"sa_{k // 3:06}.tar", files)
            files = []
    return folder


@pytest.fixture(scope="module")
def results(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Results:
    folder = tmp_path_factory.mktemp("runs")
    strategies.quiet()
    alone = {run.name: strategies.train(run, folder, str(shards), devices=1) for run in ONE}
    plan, port = folder / "plan.json", str(free_port())
    strategies.write_plan(plan, folder=folder, shards=str(shards), runs=[*TWO, *FITS])
    ranks = [
        subprocess.Popen(
            [forked.python(), str(PROGRAM), str(rank), str(RANKS), port, str(plan)],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(RANKS)
    ]
    said = [process.communicate(timeout=1500)[0] for process in ranks]
    assert [process.returncode for process in ranks] == [0, 0], "\n".join(said)[-6000:]
    together = json.loads((folder / "figures.json").read_text())
    alone[AGAIN.name] = strategies.train(AGAIN, folder, str(shards), devices=1)
    return Results(figures=alone | together, folder=folder)


def farthest(first: dict[str, Any], second: dict[str, Any]) -> float:
    """The largest difference of a weight."""
    a, b = first["state_dict"], second["state_dict"]
    assert a.keys() == b.keys()
    return max(float((a[name] - b[name]).abs().max()) for name in a)


@pytest.mark.parametrize("name", ["ddp", "fsdp2", "zero2", "zero3"])
def test_two_processes_learn_what_one_learns(results: Results, name: str) -> None:
    """10 steps, drop path and prompts drawn."""
    assert len(results.loss(name)) == 10
    assert results.loss(name) == pytest.approx(results.loss("one"), rel=2e-6)
    norms = [results.figures[run]["norm"] for run in (name, "one")]
    assert norms[0] == pytest.approx(norms[1], rel=1e-5)
    # The limit of 1.35 is between them, from the third step on.
    assert min(norms[1][:3]) < 1.35 < max(norms[1][:3])
    assert farthest(results.state(name), results.state("one")) < 5e-4


def test_two_ranks_are_two_turns_bitwise(results: Results) -> None:
    """Both add two sums of the same halves, whatever the numbers of masks in each."""
    assert results.loss("ddp") == results.loss("one turns")
    assert farthest(results.state("ddp"), results.state("one turns")) == 0


@pytest.mark.parametrize("name", ["fsdp2", "zero2", "zero3"])
def test_who_holds_what_changes_rounding_at_most(results: Results, name: str) -> None:
    """The squares of the norm that clips are added in another order."""
    assert results.loss(name) == pytest.approx(results.loss("ddp"), rel=1e-6)


@pytest.mark.parametrize("name", ["fsdp2", "zero2"])
def test_without_clipping_nothing_is_added_in_another_order(results: Results, name: str) -> None:
    assert results.loss(f"{name} unclipped") == results.loss("ddp unclipped")
    states = [results.state(f"{who} unclipped") for who in (name, "ddp")]
    assert farthest(*states) == 0


@pytest.mark.parametrize("name", ["one four turns", "ddp turns", "fsdp2 turns", "zero2 turns"])
def test_turns_of_unequal_masks_are_one_batch(results: Results, name: str) -> None:
    """A mean of the turns' means would be off by percents."""
    assert results.loss(name) == pytest.approx(results.loss("one")[:3], rel=2e-6)
    norms = results.figures[name]["norm"]
    assert norms == pytest.approx(results.figures["one"]["norm"][:3], rel=1e-5)


@pytest.mark.parametrize("name", ["ddp bf16", "fsdp2 bf16", "zero3 bf16"])
def test_bfloat16(results: Results, name: str) -> None:
    assert results.loss(name) == pytest.approx(results.loss("one bf16"), rel=2e-2)
    assert results.loss(name) != results.loss("one")[:3]


@pytest.mark.parametrize(("name", "how"), RECOMPUTED)
def test_recomputing_changes_nothing(results: Results, name: str, how: str) -> None:
    """Nothing at all, but that ZeRO 3 has other linear layers where it keeps their products."""
    off = 2e-6 if name == "zero3" else 0
    assert results.loss(f"{name} {how}") == pytest.approx(results.loss(name)[:3], rel=off, abs=0)
    norms = [results.figures[run]["norm"] for run in (f"{name} {how}", name)]
    assert norms[0] == pytest.approx(norms[1][:3], rel=5 * off, abs=0)


@pytest.mark.parametrize("name", ["zero2", "zero3"])
def test_offload_changes_nothing(results: Results, name: str) -> None:
    assert results.loss(f"{name} offload") == pytest.approx(results.loss(name)[:3], rel=1e-6)
    assert results.figures[f"{name} offload"]["came_back"] == {"ddp": True}


def test_compiled_blocks_round_otherwise_at_most(results: Results) -> None:
    assert results.loss("fsdp2 compiled") == pytest.approx(results.loss("fsdp2")[:3], rel=2e-6)


def test_frozen_blocks_stay_as_they_are(results: Results) -> None:
    assert results.loss("fsdp2 frozen") == pytest.approx(results.loss("one frozen"), rel=2e-6)
    assert results.loss("one frozen")[1:] != results.loss("one")[1:3]


@pytest.mark.parametrize("name", ELSEWHERE)
@pytest.mark.parametrize("what", ["norms", "lora", "conv"])
def test_other_tunings_and_encoders_are_divided_alike(
    results: Results, name: str, what: str
) -> None:
    assert results.loss(f"{name} {what}") == pytest.approx(results.loss(f"one {what}"), rel=2e-6)
    assert results.loss(f"one {what}")[1:] != results.loss("one")[1:3]


def test_any_strategy_takes_up_what_any_other_left(results: Results) -> None:
    """Weights, moments and rates, bitwise; and the course goes on."""
    resumed = [run.name for run in [*TWO, AGAIN] if run.resume]
    assert len(resumed) == 1 + len(STRATEGIES)
    for name in resumed:
        came_back = results.figures[name]["came_back"]
        assert came_back == dict.fromkeys(["one", *STRATEGIES], True)
    # From step 10 of runs that were at the same place up to rounding.
    losses = {name: results.loss(name) for name in resumed}
    reference = losses["ddp to zero3"]
    assert len(reference) == 2
    for name, loss in losses.items():
        assert loss == pytest.approx(reference, rel=1e-4), name


@pytest.mark.parametrize("run", [run for run in FITS if run.name.startswith("fit ")][1:])
def test_resume_takes_a_run_to_another_strategy_and_back(results: Results, run: Any) -> None:
    """Through the files of `fit`: the losses of the run that never left DDP, to rounding."""
    first = int(run.resume.partition("@")[2])
    unbroken = results.rows("fit ddp", "loss")
    expected = {step: loss for step, loss in unbroken.items() if step > first}
    assert results.rows(run.name, "loss") == pytest.approx(expected, rel=1e-5)
    state = torch.load(results.folder / run.name / "checkpoints" / "last.ckpt", weights_only=True)
    data = state["SamDataModule"]
    assert (data["position"], data["step"]) == (24, 6)
    assert data.keys() == {"position", "step", "samples"}


@pytest.mark.parametrize("name", ["fit ddp", "fit fsdp2", "fit zero3", "fit fsdp2 to zero2"])
def test_whatever_a_strategy_leaves_is_exported(
    results: Results, name: str, tmp_path: Path
) -> None:
    """From a file that two processes wrote, in one; bit for bit."""
    ckpt = results.folder / name / "checkpoints" / "last.ckpt"
    trained = torch.load(ckpt, weights_only=True)["state_dict"]
    for out in ("sam.safetensors", "sam.pth", "hf"):
        main(["export", f"ckpt={ckpt}", f"out={tmp_path / out}", "dtype=float32"])
        found = load_sam(tmp_path / out).state_dict()
        assert {f"sam.{key}" for key in found} == set(trained)
        assert all(torch.equal(found[key], trained[f"sam.{key}"]) for key in found)


@pytest.mark.parametrize("name", ["fit fsdp2", "fit zero3"])
def test_what_is_split_is_measured_and_drawn_all_the_same(results: Results, name: str) -> None:
    """Two images on one rank, one on the other: a forward pass of all at once would hang."""
    for column in ("val/miou_1", "val/miou_2"):
        assert results.rows(name, column) == pytest.approx(
            {6: results.rows("fit ddp", column)[6]}, abs=1e-3
        )
    for picture in ("clicks_0000006.png", "rounds_0000006.png"):
        drawn = [
            np.asarray(Image.open(results.folder / run / "pictures" / picture))
            for run in (name, "fit ddp")
        ]
        assert drawn[0].shape == drawn[1].shape
        assert np.mean(drawn[0] != drawn[1]) < 0.02


def test_a_stream_goes_on_behind_what_all_ranks_have_read(results: Results) -> None:
    """Each of two ranks has read four times two photos of shards of three: two of them whole."""
    for name, shards in (("stream ddp", 4), ("stream fsdp2", 8)):
        path = results.folder / name / "checkpoints" / "last.ckpt"
        data = torch.load(path, weights_only=True)["SamDataModule"]
        assert data["stream"] == {"shards": 4, "before": shards, "beyond": []}


def test_a_state_is_keyed_by_names(results: Results) -> None:
    for name in ("one", *STRATEGIES):
        state = results.state(name)
        (optimizer,) = state["optimizer_states"]
        assert optimizer["state"].keys() <= state["state_dict"].keys()
        for key, moments in optimizer["state"].items():
            assert moments["exp_avg"].shape == state["state_dict"][key].shape


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        ([FSDP2, "optim.name=muon"], "optim.name=muon"),
        ([ZERO[0], "optim.name=muon"], "optim.name=muon"),
        ([FSDP2, "trainer.precision=64-true"], "trainer.precision=64-true"),
        ([DDP, "trainer.offload=true"], "trainer.offload"),
        (["trainer.strategy=fsdp"], "trainer.strategy=fsdp"),
        ([ZERO[0], "trainer.deepspeed=zero9"], "zero9"),
    ],
)
def test_what_cannot_be_is_refused(overrides: list[str], named: str) -> None:
    with pytest.raises(UserError, match=named):
        check_config(load_config([*strategies.SETTINGS, "data.train=x.tar", *overrides]))
