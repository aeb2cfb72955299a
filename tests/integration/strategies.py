"""Runs of a tiny model under one strategy after another, in the same processes.

As a program, `python strategies.py RANK RANKS PORT SPEC`, it is one process of several. To start
Python and its libraries costs more than all of these runs together.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import warnings
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    RANK, RANKS, PORT = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": PORT,
        "NODE_RANK": "0",
        "LOCAL_RANK": str(RANK),
        "WORLD_SIZE": str(RANKS),
        "DS_ACCELERATOR": "cpu",
    }

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ProgressBar

from sam_train.cli import main as command_line
from sam_train.data.datamodule import SamDataModule
from sam_train.settings.compose import load_config
from sam_train.train.module import SamModule
from sam_train.train.parallel.full_state import full_state, number_parameters
from sam_train.train.trainer import build_trainer


def load_full_state(trainer: Trainer, checkpoint: dict[str, Any]) -> None:
    """Put model, optimizer and schedule into the state of `checkpoint`, which every rank
    holds whole and which stays as it is."""
    module: Any = trainer.lightning_module
    numbered = checkpoint | {
        key: [dict(state) for state in checkpoint[key]]
        for key in ("optimizer_states", "lr_schedulers")
    }
    number_parameters(numbered, module.optimizer_names)
    trainer.strategy.load_model_state_dict(numbered)
    trainer.strategy.load_optimizer_state_dict(numbered)
    for config, state in zip(trainer.lr_scheduler_configs, numbered["lr_schedulers"], strict=True):
        config.scheduler.load_state_dict(state)


SETTINGS = [
    "model=vit_t",
    "model.image_size=64",
    "model.embed_dim=32",
    "model.heads=2",
    "model.depth=2",
    "model.global_blocks=[0,1]",
    "model.prompt_dim=32",
    "model.decoder_depth=1",
    "model.decoder_heads=2",
    "model.decoder_mlp_dim=64",
    "model.drop_path=0.3",
    "data.workers=0",
    "data.batch_size=4",
    "data.masks_per_image=3",
    "prompts.points=1",
    "prompts.mask_only=1",
    "optim.warmup_steps=2",
    "optim.grad_clip=1.35",
    "trainer.accelerator=cpu",
    "trainer.threads=1",
    "trainer.max_steps=10",
]
"""Of four images with different numbers of masks; gradients are clipped in some of the steps."""

FIT = [
    "trainer.max_steps=6",
    "trainer.log_every=1",
    "checkpoint.every_steps=2",
    "checkpoint.keep_last=9",
    "callbacks.validation.images=3",
    "callbacks.validation.clicks=[1,2]",
    "callbacks.validation.film_rows=1",
    "callbacks.progress.line_seconds=0",
]
"""Of the runs that go through the command line. Three images: the second rank measures one less."""


@dataclass
class Run:
    """One training, and what is tried with the strategy when it is over."""

    name: str
    overrides: list[str] = field(default_factory=list)
    resume: str = ""
    """The run whose last state is continued."""
    load: list[str] = field(default_factory=list)
    """Runs whose last state is put into this one's strategy and taken out again, at the end."""
    verb: bool = False
    """`python -m sam_train fit`, with a folder of its own; then `resume` is RUN@STEP."""
    measured: bool = False
    """Then, too: k-click scores and filmstrips."""


class Watch(Checkpoint):
    """Notes loss and gradient norm of each step, and the state behind the last."""

    def __init__(self, run: Run, folder: Path) -> None:
        self.run, self.folder = run, folder
        self.loss: list[float] = []
        self.norm: list[float] = []
        self.state: dict[str, Any] = {}
        self.came_back: dict[str, bool] = {}
        self._step = -1

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._step = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *_: Any, **__: Any
    ) -> None:
        if trainer.global_step != self._step:
            self._step = trainer.global_step
            assert isinstance(pl_module, SamModule)
            figures = pl_module.last_rounds.figures()
            self.loss.append(sum(figures.loss) / len(figures.loss))
            self.norm.append(float(pl_module.last_grad_norm))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.state = full_state(trainer)
        if trainer.is_global_zero:
            torch.save(self.state, self.folder / f"{self.run.name}.ckpt")
        trainer.strategy.barrier()
        for name in self.run.load:
            saved = torch.load(self.folder / f"{name}.ckpt", weights_only=True)
            load_full_state(trainer, saved)
            again = full_state(trainer)
            self.came_back[name] = not trainer.is_global_zero or same_state(saved, again)


def fit(run: Run, folder: Path, shards: str, *, devices: int) -> dict[str, Any]:
    """What a person would type; everything of the run lies in its folder afterwards."""
    source, _, step = run.resume.partition("@")
    resume = [f"resume={folder / source / 'checkpoints' / f'step={step}.ckpt'}"] if source else []
    command_line(
        [
            *("fit", *SETTINGS, *FIT, f"data.train={shards}"),
            *([f"data.val={shards}"] if run.measured else []),
            *(f"run_dir={folder / run.name}", f"trainer.devices={devices}"),
            *(*resume, *run.overrides),
        ]
    )
    return {}


class _NoBar(ProgressBar):
    def disable(self) -> None:
        pass

    def enable(self) -> None:
        pass


def same_state(first: dict[str, Any], second: dict[str, Any]) -> bool:
    """Whether weights and moments are there under the same names, bitwise."""
    pairs = [(first["state_dict"], second["state_dict"])]
    for a, b in zip(first["optimizer_states"], second["optimizer_states"], strict=True):
        if [g["params"] for g in a["param_groups"]] != [g["params"] for g in b["param_groups"]]:
            return False
        if [g["lr"] for g in a["param_groups"]] != [g["lr"] for g in b["param_groups"]]:
            return False
        if a["state"].keys() != b["state"].keys():
            return False
        pairs += [(a["state"][name], b["state"][name]) for name in a["state"]]
    return all(
        a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a) for a, b in pairs
    )


def train(run: Run, folder: Path, shards: str, *, devices: int) -> dict[str, Any]:
    """The figures of a run; its last state lies in the folder afterwards."""
    cfg = load_config(
        [
            *SETTINGS,
            f"data.train={shards}",
            f"run_dir={folder}",
            f"trainer.devices={devices}",
            *run.overrides,
        ]
    )
    torch.manual_seed(0)
    module = SamModule(cfg)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape))
    data = SamDataModule(
        cfg.data, image_size=module.sam.image_size, grid_size=module.sam.grid_size, seed=cfg.seed
    )
    watch = Watch(run, folder)
    trainer = build_trainer(
        cfg.trainer,
        run_dir=folder,
        callbacks=[watch, _NoBar()],
        loggers=[],
        grad_clip=cfg.optim.grad_clip,
    )
    path = str(folder / f"{run.resume}.ckpt") if run.resume else None
    trainer.fit(module, datamodule=data, ckpt_path=path, weights_only=True)
    return {"loss": watch.loss, "norm": watch.norm, "came_back": watch.came_back}


def quiet() -> None:
    """Lightning's and torch's greetings say nothing here."""
    warnings.filterwarnings("ignore")
    for name in ("lightning.pytorch", "lightning.fabric", "sam_train"):
        logging.getLogger(name).setLevel(logging.ERROR)


def main(rank: int, ranks: int, spec: Path) -> None:
    """All runs of the spec, one after another; the first process writes `figures.json`."""
    quiet()
    torch.set_num_threads(1)
    plan = json.loads(spec.read_text())
    folder = Path(plan["folder"])
    figures = {}
    for each in plan["runs"]:
        run = Run(**each)
        way = fit if run.verb else train
        figures[run.name] = way(run, folder, plan["shards"], devices=ranks)
        if rank == 0:
            (folder / "figures.json").write_text(json.dumps(figures))


def write_plan(path: Path, *, folder: Path, shards: str, runs: list[Run]) -> None:
    """What `main` reads."""
    content = {"folder": str(folder), "shards": shards, "runs": [asdict(run) for run in runs]}
    path.write_text(json.dumps(content))


if __name__ == "__main__":
    main(RANK, RANKS, Path(sys.argv[4]))
