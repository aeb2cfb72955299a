"""Training with a cache of embeddings: the same losses, on any number of ranks, after any end."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import forked
import pytest
import torch

from sam_train.train.report.metrics_file import read_rows

FROZEN = [
    "optim.frozen_blocks=4",
    "model.drop_path=0.3",
    "callbacks.validation.images=2",
    "callbacks.validation.film_rows=1",
    "callbacks.validation.clicks=[1]",
]


class Runs:
    """Runs of the same four photos, held out and trained on, below one folder."""

    def __init__(self, tiny: Any, folder: Path) -> None:
        self.folder = folder
        shard = tiny.pack(folder / "sa_000000.tar", tiny.good(4))
        self.settings = [*tiny.settings, *FROZEN, f"data.train={shard}", f"data.val={shard}"]

    def fit(self, name: str, *more: str, steps: int = 4) -> str:
        """Train, and return what the run said."""
        command = [forked.python(), "-m", "sam_train", "fit", *self.settings]
        command += [f"run_dir={self.folder / name}", f"trainer.max_steps={steps}", *more]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, env=environment, timeout=300
        )
        assert done.returncode == 0, done.stderr + done.stdout
        return done.stdout + done.stderr

    def column(self, name: str, column: str) -> list[float]:
        rows = read_rows(self.folder / name / "metrics.csv")
        return [float(row[column]) for row in rows if row.get(column)]

    def weights(self, name: str) -> dict[str, torch.Tensor]:
        path = self.folder / name / "checkpoints" / "last.ckpt"
        state: dict[str, torch.Tensor] = torch.load(path, weights_only=True)["state_dict"]
        return state

    def same(self, first: str, second: str) -> bool:
        a, b = self.weights(first), self.weights(second)
        return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)

    def entries(self, folder: str) -> list[Path]:
        return sorted(path for path in (self.folder / folder).glob("??/*"))


@pytest.fixture(scope="module")
def runs(tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    made = Runs(tiny, tmp_path_factory.mktemp("embeddings"))
    made.fit("off")
    made.said = made.fit("cold", "embeddings.cache=auto", "checkpoint.every_steps=2")  # type: ignore[attr-defined]
    return made


def test_the_losses_and_scores_are_those_without_it(runs: Runs) -> None:
    off, cold = (runs.column(name, "loss") for name in ("off", "cold"))
    assert len(off) == 4
    assert cold == pytest.approx(off, rel=2e-3)
    scores = [runs.column(name, "val/miou_1") for name in ("off", "cold")]
    assert scores[1] == pytest.approx(scores[0], abs=0.02)
    # It does something: rounding to float16 shows in later digits.
    assert not runs.same("cold", "off")
    # Four photos; those held out are the same ones.
    assert len(runs.entries("embeddings")) == 4
    said: str = runs.said  # type: ignore[attr-defined]
    assert "frozen up to its block 4 of 6" in said
    assert re.search(r"embeddings: 8 photos x 0\.\d+ MB = 0\.00 GB", said)


def test_a_warm_cache_teaches_bit_for_bit_the_same(runs: Runs) -> None:
    before = {path: path.read_bytes() for path in runs.entries("embeddings")}
    # One entry is damaged and one is gone: both are made again, and nothing else is different.
    damaged, gone, *_ = before
    content = bytearray(before[damaged])
    content[1000] ^= 1
    damaged.write_bytes(content)
    gone.unlink()
    runs.fit("warm", "embeddings.cache=auto")
    assert runs.same("warm", "cold")
    assert {path: path.read_bytes() for path in runs.entries("embeddings")} == before


def test_a_resumed_run_is_the_one_that_never_stopped(runs: Runs) -> None:
    """What was computed in the one is read in the other, and the other way round."""
    checkpoint = runs.folder / "cold" / "checkpoints" / "step=2.ckpt"
    runs.fit("resumed", f"embeddings.cache={runs.folder / 'other'}", f"resume={checkpoint}")
    assert runs.same("resumed", "cold")
    assert runs.column("resumed", "loss") == runs.column("cold", "loss")[2:]


def test_two_ranks_share_it(runs: Runs) -> None:
    more = ["trainer.devices=2", "trainer.strategy=ddp"]
    runs.fit("ranks", *more, f"embeddings.cache={runs.folder / 'of_ranks'}")
    assert runs.column("ranks", "loss") == pytest.approx(runs.column("cold", "loss"), rel=1e-4)
    # One entry a photo, whichever rank made it, and the same bytes as in the run of one.
    mine, theirs = (
        [path.read_bytes() for path in runs.entries(f)] for f in ("of_ranks", "embeddings")
    )
    assert mine == theirs
