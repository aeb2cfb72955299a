"""A check on a GPU: every way to train runs there, learns the same, and has its cost measured.

    python benchmarks/gpu_check.py [--models vit_b vit_l vit_h] [--devices 1] [--out gpu_check.json]

One random image of 64 masks per GPU at 1024 px, the recipe of the model's experiment, 10 steps of
11 rounds. Each row is measured in a process of its own: seconds per step without the first three,
the most memory that torch held, loss and gradient norm of each step, whether the first four are
those of the row that it must equal, and the precision that the model computed in. The exit status
is 1 where one is not, that is not the one asked for, or a row failed for another reason than
memory. `--rehearse` goes through all of it with a tiny model on the CPU, to try
the script itself.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.nn import functional as F

from sam_train.settings.compose import load_config
from sam_train.train.module import SamModule
from sam_train.train.trainer import build_trainer
from sam_train.types import Batch

STEPS, WARM, COMPARED = 10, 3, 4
TINY = [
    *("model=vit_t", "model.image_size=64", "model.embed_dim=32", "model.heads=2"),
    *("model.depth=2", "model.global_blocks=[0,1]", "model.prompt_dim=32"),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One way to train."""

    settings: list[str] = field(default_factory=list)
    like: str = "bf16"
    """The row whose losses and norms these must be."""
    tolerance: float = 0.02
    """Relative, of losses; five times that of gradient norms."""

    @property
    def dtype(self) -> str:
        """The type in which products must be computed."""
        return "float32" if "trainer.precision=32-true" in self.settings else "bfloat16"


ZERO = "trainer.strategy=deepspeed"
CASES = {
    "float32": Case(settings=["trainer.precision=32-true"], like="float32"),
    "float32 on the CPU": Case(
        settings=["trainer.precision=32-true", "trainer.accelerator=cpu", "trainer.devices=1"],
        like="float32",
        tolerance=1e-3,
    ),
    "bf16": Case(like="float32", tolerance=0.05),
    "bf16, compile": Case(settings=["trainer.compile=true"]),
    "bf16, selective": Case(settings=["model.checkpoint_blocks=selective"]),
    "bf16, full": Case(settings=["model.checkpoint_blocks=full"]),
    "bf16, fsdp2": Case(settings=["trainer.strategy=fsdp2"]),
    "bf16, fsdp2, compile": Case(settings=["trainer.strategy=fsdp2", "trainer.compile=true"]),
    "bf16, zero1": Case(settings=[ZERO, "trainer.deepspeed=zero1"]),
    "bf16, zero2": Case(settings=[ZERO, "trainer.deepspeed=zero2"]),
    # Its linear layers are its own, and round otherwise than autocast's.
    "bf16, zero3": Case(settings=[ZERO, "trainer.deepspeed=zero3"], like="float32", tolerance=0.05),
    "bf16, zero2, offload": Case(
        settings=[ZERO, "trainer.deepspeed=zero2", "trainer.offload=true"]
    ),
}
SMALL_ONLY = "float32 on the CPU"
"""ViT-H's step takes an hour there: only with the first model, at SMALL px."""
SMALL = ["model.image_size=256", "data.masks_per_image=4"]


class Same:
    """The same batch at every step: neither disks nor decoding are measured."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch

    def __iter__(self) -> Iterator[Batch]:
        while True:
            yield self.batch


class Watch(Callback):
    """Times the steps behind the first, which compile and allocate."""

    def __init__(self) -> None:
        self.loss: list[float] = []
        self.norm: list[float] = []
        self.dtypes: set[str] = set()
        self.began = 0.0
        self.ended = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listen to a convolution: norms and sums are float32 under autocast, too."""
        assert isinstance(pl_module, SamModule)
        # Outside of the blocks, so that what is compiled stays as it is.
        pl_module.sam.image_encoder.neck[0].register_forward_hook(self._note)

    def _note(self, _module: nn.Module, _inputs: Any, output: Tensor) -> None:
        self.dtypes.add(str(output.dtype).removeprefix("torch."))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *_: Any, **__: Any
    ) -> None:
        """Read the loss, which waits for the device, so the clock is right."""
        assert isinstance(pl_module, SamModule)
        assert pl_module.last_rounds is not None
        assert pl_module.last_grad_norm is not None
        figures = pl_module.last_rounds.figures()
        self.loss.append(sum(figures.loss) / len(figures.loss))
        self.norm.append(float(pl_module.last_grad_norm))
        self.ended = time.perf_counter()
        if len(self.loss) == WARM:
            self.began = self.ended


def make_batch(*, side: int, grid: int, masks: int) -> Batch:
    """Draw an image of noise with smooth blobs, the same on every rank, whatever their number."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(masks, 1, 6, 6, generator=generator)
    blobs = F.interpolate(coarse, (grid, grid), mode="bicubic")[:, 0] > 0.3
    blobs[:, grid // 2, grid // 2] = True
    cells = [blob.nonzero().flip(1) for blob in blobs]
    scale = side / grid
    size = torch.tensor([[side, side]])
    return Batch(
        images=torch.randint(0, 256, (1, 3, side, side), generator=generator, dtype=torch.uint8),
        image_sizes=size,
        original_sizes=size,
        masks=blobs.to(torch.uint8),
        image_index=torch.zeros(masks, dtype=torch.long),
        points=torch.stack([xy[len(xy) // 2] for xy in cells]) * scale,
        boxes=torch.stack([torch.cat([xy.amin(0), xy.amax(0) + 1]) for xy in cells]) * scale,
        mask_ids=torch.arange(masks),
        keys=["noise"],
        positions=[0],
    )


def settings_of(arguments: argparse.Namespace) -> list[str]:
    """List everything but the device, as on the command line of `fit`."""
    return [
        f"+experiment={'vit_b' if arguments.rehearse else arguments.model}",
        *(f"trainer.devices={arguments.devices}", f"data.batch_size={arguments.devices}"),
        *(f"trainer.max_steps={STEPS}", "optim.warmup_steps=2"),
        *("trainer.precision=bf16-mixed", "trainer.strategy=ddp"),
        *(f"trainer.accelerator={'cpu' if arguments.rehearse else 'gpu'}", "data.train=none"),
        *([*TINY, "data.masks_per_image=4"] if arguments.rehearse else []),
        *(SMALL if arguments.small and not arguments.rehearse else []),
        *CASES[arguments.case].settings,
    ]


def measure(arguments: argparse.Namespace) -> None:
    """Measure one row, in this process and, with several devices, in those of Lightning."""
    cfg = load_config(settings_of(arguments))
    seed_everything(0, verbose=False)
    module = SamModule(cfg)
    sam, watch = module.sam, Watch()
    with tempfile.TemporaryDirectory() as folder:
        trainer = build_trainer(
            cfg.trainer, run_dir=Path(folder), callbacks=[watch], loggers=[], grad_clip=0.0
        )
        batch = make_batch(side=sam.image_size, grid=sam.grid_size, masks=cfg.data.masks_per_image)
        trainer.fit(module, train_dataloaders=Same(batch))
    seconds = (watch.ended - watch.began) / (STEPS - WARM)
    cuda = torch.cuda.is_available()
    row = {
        "loss": watch.loss,
        "grad_norm": watch.norm,
        "computes_in": sorted(watch.dtypes),
        "seconds_per_step": seconds,
        "images_per_second": cfg.data.batch_size / seconds,
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30 if cuda else None,
        "reserved_gib": torch.cuda.max_memory_reserved() / 2**30 if cuda else None,
    }
    if trainer.is_global_zero:
        Path(arguments.row).write_text(json.dumps(row))


def run_case(
    model: str, case: str, arguments: argparse.Namespace, *, small: bool
) -> dict[str, Any]:
    """Return a row, or why there is none."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "row.json"
        words = [sys.executable, __file__, "--model", model, "--case", case, "--row", str(path)]
        words += ["--devices", str(arguments.devices)]
        words += [f"--{name}" for name in ("rehearse",) if getattr(arguments, name)]
        words += ["--small"] if small else []
        # A group of its own: with several devices Lightning starts more, which must end with it.
        process = subprocess.Popen(
            words,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            _, said = process.communicate(timeout=arguments.minutes * 60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            return {"error": f"did not end within {arguments.minutes} minutes"}
        if path.is_file() and process.returncode == 0:
            row: dict[str, Any] = json.loads(path.read_text())
            return row
    lines = said.strip().splitlines() or ["no message"]
    memory = next((text for text in lines if "OutOfMemoryError" in text), None)
    return {"error": memory or lines[-1], "out_of_memory": memory is not None}


def farthest(first: list[float], second: list[float]) -> float:
    """Return the largest relative difference of the first steps; infinite where any step has a NaN.

    Clicks answer to what the model draws: behind some steps, rounding leads to other clicks.
    """
    off = [abs(a - b) / max(abs(b), 1e-12) for a, b in zip(first, second, strict=True)]
    return max(off[:COMPARED]) if all(map(math.isfinite, off)) else math.inf


def judge(rows: dict[str, dict[str, Any]]) -> None:
    """Add to each row how far it is from the one that it must be, and whether that is near."""
    for name, row in rows.items():
        case = CASES[name]
        reference = rows.get(case.like, {})
        if "loss" not in row:
            continue
        row["precise"] = row["computes_in"] == [case.dtype]
        if "loss" not in reference:
            continue
        row["like"] = case.like
        row["loss_off"] = farthest(row["loss"], reference["loss"])
        row["grad_norm_off"] = farthest(row["grad_norm"], reference["grad_norm"])
        row["agrees"] = (
            row["loss_off"] <= case.tolerance and row["grad_norm_off"] <= 5 * case.tolerance
        )


def line(model: str, name: str, row: dict[str, Any]) -> str:
    """Format a row for the terminal."""
    if "error" in row:
        return f"{model:<14} {name:<22} {row['error'][:100]}"
    memory = "" if row["peak_gib"] is None else f"{row['peak_gib']:7.1f} GiB"
    agrees = "" if row.get("agrees", True) else f"  differs from {row['like']}"
    if not row["precise"]:
        agrees += f"  computes in {' and '.join(row['computes_in'])}"
    return (
        f"{model:<14} {name:<22} {row['seconds_per_step']:8.3f} s "
        f"{row['images_per_second']:8.2f} images/s {memory}{agrees}"
    )


def machine(*, rehearse: bool) -> dict[str, Any]:
    """Describe the machine."""
    versions = {"torch": torch.__version__, "python": platform.python_version()}
    if rehearse:
        return {**versions, "gpu": None, "rehearsal": True}
    gpu = torch.cuda.get_device_properties(0)
    return {
        **versions,
        "gpu": gpu.name,
        "gpu_gib": gpu.total_memory / 2**30,
        "cuda": torch.version.cuda,
        "nccl": ".".join(map(str, torch.cuda.nccl.version())),
    }


def report(arguments: argparse.Namespace) -> int:
    """Measure all rows, print them, write JSON after each, and return the exit status."""
    content: dict[str, Any] = {"machine": machine(rehearse=arguments.rehearse), "models": {}}
    content["devices"] = arguments.devices
    small = f"{arguments.models[0]} small"
    plan = {small: ["float32", SMALL_ONLY, "bf16"]}
    plan |= {model: [name for name in CASES if name != SMALL_ONLY] for model in arguments.models}
    for model, names in plan.items():
        rows = content["models"][model] = {}
        for name in names:
            rows[name] = run_case(model.split()[0], name, arguments, small=model == small)
            judge(rows)
            print(line(model, name, rows[name]), flush=True)
            Path(arguments.out).write_text(json.dumps(content, indent=1))
    rows_of_all = [row for rows in content["models"].values() for row in rows.values()]
    # What is like a row that ran out of memory is compared with nothing.
    good = all(
        row.get("out_of_memory") or ("loss" in row and row["precise"] and row.get("agrees", True))
        for row in rows_of_all
    )
    print(f"{arguments.out}: {'all rows agree' if good else 'NOT all rows agree'}")
    return 0 if good else 1


def main() -> int:
    """Measure, or be one of the processes that are measured."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--models", nargs="+", default=["vit_b", "vit_l", "vit_h"])
    parser.add_argument("--devices", type=int, default=1, help="GPUs of this machine")
    parser.add_argument("--minutes", type=float, default=15, help="limit for one row")
    parser.add_argument("--out", default="gpu_check.json")
    parser.add_argument("--rehearse", action="store_true", help="a tiny model on the CPU")
    for name in ("--model", "--case", "--row"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    parser.add_argument("--small", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if not arguments.rehearse and torch.cuda.device_count() < arguments.devices:
        found = torch.cuda.device_count()
        print(f"error: needs {arguments.devices} GPU(s), torch sees {found}", file=sys.stderr)
        return 2
    if arguments.case:
        measure(arguments)
        return 0
    return report(arguments)


if __name__ == "__main__":
    raise SystemExit(main())
