"""A continued run consumes exactly what an unbroken one would have, whatever it runs on.

What a step consumed is hashed photo by photo: its pixels, the masks drawn from it, their first
prompts, their first correction and the randomness of every later one.

As a program, `python test_resume_hashes.py FOLDER`, this file is one rank of two (see `two_ranks`).
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import socket
import subprocess
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning import Trainer
from torch import Tensor

from data_tools.sample import main as draw_scenes
from sam_train.data.config import DataConfig
from sam_train.data.datamodule import SamDataModule
from sam_train.data.feed.loader import make_train_loader
from sam_train.data.shards.reader import open_shards
from sam_train.data.skips import Skips
from sam_train.prompts import PromptsConfig, Rounds
from sam_train.prompts.rng import Stream
from sam_train.settings.run import RunConfig
from sam_train.train.checkpoints.saving import Saver
from sam_train.train.module import SamModule
from sam_train.types import Batch, Prediction

S, R, SEED, BATCH = 64, 16, 5, 12
STOPS = 200
Photos = dict[int, str]
"""Position of a photo in the order -> hash of all that was made of it."""


def digest(*parts: Any) -> str:
    h = hashlib.sha256()
    for part in parts:
        h.update(part.numpy().tobytes() if isinstance(part, Tensor) else repr(part).encode())
    return h.hexdigest()


def photos(batch: Batch, *, step: int) -> Photos:
    """What a step does with each photo of a micro-batch before the model has a say."""
    rounds = Rounds(PromptsConfig(), batch, seed=SEED, step=step, image_size=S, grid_size=R)
    first = rounds.first()
    # Logits of no model, but of the mask: the clicks that follow are those of this mask's error.
    logits = rounds.draw.normal(Stream.LOSS_POINTS, count=R * R).float().view(-1, 1, R, R)
    answer = Prediction(mask_logits=logits, iou=torch.zeros(batch.num_masks, 1))
    second = rounds.next(1, first, answer)
    later = [rounds.draw.uniform(Stream.CLICK, index=r) for r in range(2, rounds.number)]
    order = rounds.draw.uniform(Stream.MASK_ONLY_ROUND, count=7)
    of_masks = (batch.mask_ids, batch.masks, batch.points, batch.boxes, order, *later)
    prompts = (first.coords, first.labels, second.coords, second.labels)
    seen: Photos = {}
    for k, position in enumerate(batch.positions):
        own = batch.image_index == k
        seen[position] = digest(
            batch.keys[k],
            batch.images[k],
            batch.image_sizes[k],
            batch.original_sizes[k],
            *(values[own] for values in (*of_masks, *prompts)),
        )
    return seen


def add(seen: Photos, more: Photos) -> None:
    """Put together what ranks and micro-batches of one step consumed: nothing twice."""
    assert not seen.keys() & more.keys()
    seen.update(more)


@pytest.fixture(scope="module")
def shards(tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of 9, 9, 5 and 2 scenes; one photo is damaged, so that another stands in for it."""
    folder = tmp_path_factory.mktemp("shards")
    scenes = ["--scenes", "23", "--size", str(S), "--shard-size", "9", "--workers", "0"]
    assert not draw_scenes(["--out", str(folder), *scenes])
    tiny.pack(folder / "zz.tar", [*tiny.good(1), ("sa_9.jpg", b"no photo"), ("sa_9.json", b"{}")])
    return folder


def settings(shards: Path, **more: Any) -> DataConfig:
    options: dict[str, Any] = {"batch_size": BATCH, "masks_per_image": 5, "workers": 0}
    return DataConfig(train=str(shards), max_skip_fraction=1.0, **options | more)


class Runs:
    """Loaders as a run has them, all ranks of it in this process."""

    def __init__(self, cfg: DataConfig) -> None:
        self.cfg = cfg
        self.shards = open_shards(cfg.train, option="data.train")

    def steps(
        self, *, position: int, step: int, world: int = 1, accumulate: int = 1
    ) -> Iterator[Photos]:
        """What each step from `step` on consumes, its loaders begun at `position`."""
        loaders = [
            iter(
                make_train_loader(
                    self.shards,
                    self.cfg,
                    image_size=S,
                    grid_size=R,
                    seed=SEED,
                    skips=Skips(workers=self.cfg.workers, max_fraction=1),
                    start=lambda: position,
                    rank=rank,
                    world_size=world,
                    accumulate=accumulate,
                )
            )
            for rank in range(world)
        ]
        while True:
            seen: Photos = {}
            for loader in loaders:
                for batch in islice(loader, accumulate):
                    add(seen, photos(batch, step=step))
            yield seen
            step += 1


def random_split(rng: random.Random) -> dict[str, int]:
    world = rng.choice([1, 2, 3, 4, 6, 12])
    return {
        "world": world,
        "accumulate": rng.choice([n for n in (1, 2, 3, 4) if BATCH % (world * n) == 0]),
    }


def random_workers(rng: random.Random, stop: int) -> dict[str, Any]:
    """Mostly none, because processes cost more than all the rest of this test."""
    if stop == 100:
        return {"workers": 1, "start_method": "spawn"}
    if stop % 12 == 0:
        return {"workers": rng.choice([1, 2]), "start_method": "fork", "prefetch": 3}
    return {"workers": 0}


def test_over_200_random_stops_nothing_is_repeated_left_out_or_changed(shards: Path) -> None:
    rng = random.Random(0)
    reference = Runs(settings(shards, shuffle_window=2)).steps(position=0, step=0)
    unbroken: list[Photos] = []
    position = step = 0
    for stop in range(STOPS):
        workers, split = random_workers(rng, stop), random_split(rng)
        if workers["workers"]:
            split = {"world": rng.choice([1, 2]), "accumulate": rng.choice([1, 3])}
        run = Runs(settings(shards, shuffle_window=2, **workers))
        steps = rng.choice([1, 1, 1, 2])
        # The loader works on a step that is never finished, too: what it took is not consumed.
        thrown_away = rng.choice([0, 1])
        continued = run.steps(position=position, step=step, **split)
        for seen in islice(continued, steps):
            unbroken.append(next(reference))
            assert seen == unbroken[-1], (stop, step, workers, split)
            assert sorted(seen) == list(range(step * BATCH, (step + 1) * BATCH))
            step += 1
        for _ in range(thrown_away):
            next(continued)
        # All that is kept of a stopped run.
        position = json.loads(json.dumps(step * BATCH))
    hashes = [h for seen in unbroken for h in seen.values()]
    # What was compared is not all the same: other photos, masks and prompts each time.
    assert len(set(hashes)) == len(hashes) > 10 * 25


def test_another_batch_size_goes_on_where_the_order_stands(shards: Path) -> None:
    half, full = Runs(settings(shards, batch_size=6)), Runs(settings(shards))

    def samples(batches: Iterator[Photos], count: int) -> list[int]:
        return [p for seen in islice(batches, count) for p in seen]

    assert samples(full.steps(position=0, step=0), 2) == list(range(24))
    assert samples(half.steps(position=24, step=2), 2) == list(range(24, 36))


class Witness(SamModule):
    """The real module, its counters and its checkpoints; only the model is not asked."""

    def __init__(self) -> None:
        cfg = RunConfig()
        cfg.model.name, cfg.model.image_size = "vit_t", S
        super().__init__(cfg)
        self.seen: dict[int, Photos] = {}

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Note the micro-batch under the update that Lightning counts it to."""
        add(self.seen.setdefault(self.global_step, {}), photos(batch, step=self.global_step))
        return sum(p.mean() for p in self.parameters() if p.requires_grad)


def fit(
    cfg: DataConfig, folder: Path, *, until: int, accumulate: int, devices: int = 1
) -> dict[int, Photos]:
    """Continue the run of a folder up to a step; what this rank saw at each."""
    module, data = Witness(), SamDataModule(cfg, image_size=S, grid_size=R, seed=SEED)
    last = folder / "checkpoints" / "last.ckpt"
    trainer = Trainer(
        max_steps=until,
        max_epochs=-1,
        accelerator="cpu",
        devices=devices,
        strategy="ddp" if devices > 1 else "auto",
        accumulate_grad_batches=accumulate,
        use_distributed_sampler=False,
        logger=False,
        callbacks=[Saver(module.cfg.checkpoint, run_dir=folder)],
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
    )
    trainer.fit(
        module, datamodule=data, ckpt_path=last if last.exists() else None, weights_only=True
    )
    return module.seen


def two_ranks(folder: Path) -> None:
    """Two stops of a run of two processes; this is one of them."""
    torch.set_num_threads(1)
    arguments = json.loads((folder / "settings.json").read_text())
    for until, accumulate, workers in ((3, 1, 1), (5, 3, 0)):
        cfg = settings(Path(arguments["shards"]), workers=workers, scale_jitter=[0.5, 2.0])
        seen = fit(cfg, folder, until=until, accumulate=accumulate, devices=2)
        (folder / f"{until}_{os.environ['LOCAL_RANK']}.json").write_text(json.dumps(seen))


def launch_two_ranks(shards: Path, folder: Path) -> dict[int, Photos]:
    """Run `two_ranks` in two processes; what both together saw at each step."""
    (folder / "settings.json").write_text(json.dumps({"shards": str(shards)}))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": "2",
        "NODE_RANK": "0",
        "OMP_NUM_THREADS": "1",
    }
    ranks = [
        subprocess.Popen(
            [sys.executable, __file__, str(folder)],
            env=environment | {"LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for rank in ranks:
        _, errors = rank.communicate(timeout=1800)
        assert rank.returncode == 0, errors
    together: dict[int, Photos] = {}
    for until in (3, 5):
        for rank in range(2):
            for step, seen in json.loads((folder / f"{until}_{rank}.json").read_text()).items():
                together.setdefault(int(step), {})
                add(together[int(step)], {int(p): h for p, h in seen.items()})
    return together


def test_lightning_goes_on_with_whole_updates_on_other_ranks_and_splits(
    shards: Path, tmp_path: Path
) -> None:
    """Two ranks to step 3 and on to 5 in three turns, then one: in two, in one, in four."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.mkdir()
    broken.mkdir()
    cfg = settings(shards, scale_jitter=[0.5, 2.0])
    unbroken = fit(cfg, whole, until=11, accumulate=1)
    continued = launch_two_ranks(shards, broken)
    for until, accumulate in ((7, 2), (8, 1), (11, 4)):
        continued |= fit(cfg, broken, until=until, accumulate=accumulate)
    assert sorted(unbroken) == list(range(11))
    assert [sorted(unbroken[s]) for s in range(11)] == np.arange(132).reshape(11, 12).tolist()
    assert continued == unbroken


if __name__ == "__main__":
    two_ranks(Path(sys.argv[1]))
