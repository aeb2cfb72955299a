"""The models that fit on each GPU under each setting, by `sam_train.cluster.plan`.

    python benchmarks/plan.py --out docs/benchmarks/plan.md

Counts on fake tensors; the second table takes real steps on this CPU. A few minutes on one core.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from sam_train.cluster.plan.estimate import speed_of
from sam_train.cluster.plan.gpus import GPUS
from sam_train.cluster.plan.measure import compare
from sam_train.cluster.plan.memory import GIB, Simulator
from sam_train.cluster.plan.settings import Setting
from sam_train.cluster.plan.states import states_of
from sam_train.settings.compose import load_config

MODELS = ("vit_b", "vit_l", "vit_h")
MEMORIES = {
    "24 GB": "l4",
    "40 GB": "a100-40",
    "48 GB": "l40s",
    "80 GB": "h100",
    "141 GB": "h200",
    "180 GB": "b200",
}
CARDS = ("rtx4090", "a100-80", "h100", "h200", "b200")
WAYS = (
    *(("ddp", mode, False) for mode in ("none", "selective", "full")),
    ("fsdp2", "full", False),
    ("deepspeed", "full", True),
)
RANKS, MASKS = 8, 64
REAL = (
    ("vit_t", 128, 2, 4, "none", "32-true"),
    ("vit_t", 128, 2, 4, "full", "32-true"),
    ("vit_t", 256, 1, 4, "selective", "32-true"),
    ("vit_t", 128, 2, 8, "none", "bf16-mixed"),
    ("vit_s", 256, 1, 2, "none", "32-true"),
    ("vit_s", 256, 2, 2, "full", "bf16-mixed"),
    ("vit_s", 512, 1, 1, "selective", "32-true"),
)


class Needs:
    """Memory of any number of images and masks: it grows in a straight line with either."""

    def __init__(self, simulator: Simulator, setting: Setting) -> None:
        """Count one image, two, and one with half the masks."""
        self._plan = simulator.cfg.plan
        half = replace(setting, masks=setting.masks // 2)
        self._masks = setting.masks
        self._one, self._two, self._half = (
            {name: sum(parts.values()) for name, parts in simulator.moments(s).items()}
            for s in (setting, replace(setting, images=2), half)
        )

    def gib(self, *, images: int, masks: int) -> float:
        """Return the memory of one GPU."""
        tensors = max(
            one
            + (images - 1) * (self._two[name] - one)
            - images * (1 - masks / self._masks) * 2 * (one - self._half[name])
            for name, one in self._one.items()
        )
        return tensors * (1 + self._plan.gaps) / GIB + self._plan.reserve_gib

    def most(self, memory: float) -> str:
        """Return the images at a time, or fewer masks of one."""
        images = 0
        while self.gib(images=images + 1, masks=MASKS) <= memory:
            images += 1
        if images:
            return str(images)
        fitting = [m for m in (48, 32, 16, 8, 4) if self.gib(images=1, masks=m) <= memory]
        return f"1 of {fitting[0]} masks" if fitting else "no"


def setting(way: tuple[str, str, bool]) -> Setting:
    """Compose the settings for one image of 64 masks."""
    strategy, mode, offload = way
    return Setting(
        images=1,
        masks=MASKS,
        turns=1,
        recompute=mode,
        precision="bf16-mixed",
        strategy=strategy,
        offload=offload,
    )


def simulators() -> dict[str, Simulator]:
    """Build one simulator per model; they share the figures of the decoder, which is the same."""
    found = {
        model: Simulator(cfg=load_config([f"+experiment={model}"]), ranks=RANKS) for model in MODELS
    }
    for simulator in found.values():
        simulator.share_rounds(found[MODELS[0]])
    return found


def fitting(found: dict[str, Simulator]) -> Iterator[str]:
    """Yield the table of model x way x memory."""
    yield "| model | 8 GPUs | checkpoint_blocks | GiB of 1 image | " + " | ".join(MEMORIES) + " |"
    yield "|" + "---|" * (4 + len(MEMORIES))
    for model, simulator in found.items():
        for way in WAYS:
            needs = Needs(simulator, setting(way))
            cells = [needs.most(GPUS[card].memory_gib) for card in MEMORIES.values()]
            name = way[0] + (" zero2, offload" if way[2] else "")
            one = needs.gib(images=1, masks=MASKS)
            yield f"| {model} | {name} | {way[1]} | {one:.1f} | " + " | ".join(cells) + " |"


def speeds(found: dict[str, Simulator]) -> Iterator[str]:
    """Yield the table of model x card."""
    yield "| model | TFLOP an image | " + " | ".join(GPUS[card].title for card in CARDS) + " |"
    yield "|" + "---|" * (2 + len(CARDS))
    own = setting(WAYS[0])
    for model, simulator in found.items():
        cfg = simulator.cfg
        states = states_of(own.applied_to(cfg), ranks=1)
        encoder, rounds = simulator.encoder(own, states), simulator.rounds(own)
        cells, flops = [], 0.0
        for card in CARDS:
            on_card = replace(cfg, plan=replace(cfg.plan, gpu=card))
            speed = speed_of(on_card, own, states, encoder, rounds, ranks=1)
            flops = speed.flops
            cells.append(f"{speed.at_mfu:.1f} / {speed.at_most:.1f}")
        yield f"| {model} | {flops / 1e12:.1f} | " + " | ".join(cells) + " |"


def measured() -> Iterator[str]:
    """Yield the table of real steps on this CPU."""
    yield (
        "| model | px | images x masks | checkpoint_blocks | precision | MiB planned "
        "| MiB measured | ratio | GFLOP planned | measured |"
    )
    yield "|" + "---|" * 10
    for model, size, images, masks, mode, precision in REAL:
        words = [f"model={model}", f"model.image_size={size}", "prompts.points=2"]
        own = Setting(
            images=images,
            masks=masks,
            turns=1,
            recompute=mode,
            precision=precision,
            strategy="ddp",
        )
        found = compare(load_config([*words, "prompts.mask_only=1"]), own)
        memory, flops = found.memory, found.flops
        yield (
            f"| {model} | {size} | {images} x {masks} | {mode} | {precision} "
            f"| {memory.planned / 2**20:.1f} | {memory.measured / 2**20:.1f} | {memory.ratio:.3f} "
            f"| {flops.planned / 1e9:.2f} | {flops.measured / 1e9:.2f} |"
        )


PAGE = """\
# What fits where

Made by

```
python benchmarks/plan.py --out docs/benchmarks/plan.md
```

with `sam_train/cluster/plan/`; for your own settings `python -m sam_train plan +experiment=vit_h`
and the machine you have, such as `plan.gpu=h100 trainer.num_nodes=2`.

## Images at a time on one GPU

The paper's recipes (1024 px, at most 64 masks an image, 11 rounds, AdamW) with
`trainer.precision=bf16-mixed` on 8 GPUs; what does not fit at once takes more
`trainer.accumulate`, and the recipes' `data.masks_per_gpu=64` has to be raised above one image.
*1 of 32 masks*: only with `data.masks_per_image=32`. GiB include {reserve:g} for what no tensor
holds and {gaps:.0%} for gaps, which are assumptions (`plan.reserve_gib`, `plan.gaps`), as is the
memory that each size of card shows to programs.

No row of this table has been measured on a GPU yet: `python benchmarks/gpu_check.py` on one does.
What `trainer.compile=true` fuses away is not counted.

{fitting}

## Images a second of one GPU

*At {mfu:.0%} of the card's peak (`plan.mfu`, an assumption) / at most*: the second figure gives
every operation the slower of its arithmetic and its tensors' way through the card's memory, one
operation after the other, by the maker's data sheet; compiled or fused code moves less. `plan`
counts hours with the lower one. The paper's A100 made 0.37 images of ViT-H a second.

{speeds}

## Planned beside measured

First steps of one process on a CPU, four rounds: weights, batch and everything that the step
allocates at its fullest, by torch's allocator, and FLOPs by torch's counter. **All rows of this
table are measured.** The same counting, with a GPU's kernels and dtypes, makes the tables above.

{measured}

What the plan misses is what kernels take and give back by themselves. It counts most where models
are tiny: 6 % for a 3-block `vit_t` at 128 px that recomputes everything, in
`tests/unit/cluster/plan/test_measured.py`.
"""


def main() -> None:
    """Print the page, or write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    out = parser.parse_args().out
    plan, found = load_config([]).plan, simulators()
    page = PAGE.format(
        reserve=plan.reserve_gib,
        gaps=plan.gaps,
        mfu=plan.mfu,
        fitting="\n".join(fitting(found)),
        speeds="\n".join(speeds(found)),
        measured="\n".join(measured()),
    )
    if out is None:
        print(page)
    else:
        out.write_text(page)


if __name__ == "__main__":
    main()
