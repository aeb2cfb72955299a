"""The command line: a verb, then settings as KEY=VALUE (Hydra's grammar)."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sam_train.errors import UserError
from sam_train.runtime.lean_start import postpone_torchmetrics
from sam_train.settings.words import meaning_of

HELP = """\
Train, fine-tune and measure the Segment Anything Model.

usage: python -m sam_train VERB [KEY=VALUE ...] [--cfg job]

verbs
{verbs}

settings that people type
  +experiment=NAME    a recipe of conf/experiment: {experiments}
  +debug=NAME         a debugging mode of conf/debug: {debugs}
  run_dir=DIR         where everything of the run is written
  resume=auto         continue the newest checkpoint of run_dir (auto | PATH | never)
  init_from=PATH      start from weights: SAM .pth, Hugging Face folder, mae:PATH, dinov2:PATH
  data.train=[...]    shards: paths, globs, sa_{{000000..000009}}.tar, URLs; data.val likewise
  trainer.max_steps= trainer.devices= trainer.num_nodes= trainer.strategy= trainer.precision=
  logger=wandb        csv (always written), tensorboard or wandb
  seed=0

  --cfg job           print the whole configuration and stop
"""


@dataclass(frozen=True)
class Verb:
    """One thing the program does."""

    summary: str
    example: str
    run: Callable[[Sequence[str]], None]


def _fit(overrides: Sequence[str]) -> None:
    from sam_train.train.fit import fit

    fit(overrides)


def _validate(overrides: Sequence[str]) -> None:
    from sam_train.eval.validate import validate

    validate(overrides)


def _evaluate(overrides: Sequence[str]) -> None:
    from sam_train.eval.evaluate import evaluate

    evaluate(overrides)


def _generate(overrides: Sequence[str]) -> None:
    from sam_train.generate.run import generate

    generate(overrides)


def _export(overrides: Sequence[str]) -> None:
    from sam_train.export.run import export

    export(overrides)


def _doctor(overrides: Sequence[str]) -> None:
    import os

    # What torch's store says of each message that does not come, the table says once.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    from sam_train.cluster.doctor.run import examine

    verdict = examine(overrides)
    if verdict.table:
        print(verdict.report, flush=True)
    if verdict.hangs:
        # What hangs would keep the process from ending.
        os._exit(2)
    if verdict.problems:
        raise SystemExit(2)


def _plan(overrides: Sequence[str]) -> None:
    from sam_train.cluster.plan.run import plan

    plan(overrides)


# The verbs import their machinery when called: --help answers at once.
VERBS = {
    "fit": Verb(
        "train: from scratch, from pretrained weights, or on from a checkpoint",
        "python -m sam_train fit +experiment=vit_b init_from=mae:mae_pretrain_vit_base.pth",
        _fit,
    ),
    "doctor": Verb(
        "look at every node before training: versions, GPUs, shards, disk, clocks, all-reduce",
        "python -m sam_train doctor +experiment=vit_b data.train=/sa1b trainer.devices=8",
        _doctor,
    ),
    "plan": Verb(
        "what a run will take, counted without a GPU: memory, FLOPs, hours, data, checkpoints",
        "python -m sam_train plan +experiment=vit_h trainer.num_nodes=32 trainer.devices=8",
        _plan,
    ),
    "validate": Verb(
        "score a checkpoint: mIoU after 1, 2, 3, 5, 9 clicks, oracle, IoU calibration",
        "python -m sam_train validate ckpt=sam_vit_b_01ec64.pth model=vit_b data.val=[val/*.tar]",
        _validate,
    ),
    "evaluate": Verb(
        "the paper's measurements beside its figures: points, edges, ...; task=all",
        "python -m sam_train evaluate task=points ckpt=sam.pth eval.datasets=[coco:/data/coco]",
        _evaluate,
    ),
    "generate": Verb(
        "masks for whole photos without prompts: SA-1B shards, COCO JSON, overlays",
        "python -m sam_train generate ckpt=sam.pth generate=sa1b generate.input=[photos/]",
        _generate,
    ),
    "export": Verb(
        "write a checkpoint for safetensors, segment_anything, huggingface or onnx, and verify it",
        "python -m sam_train export ckpt=runs/fit/checkpoints/last.ckpt format=onnx out=sam.onnx",
        _export,
    ),
}


def _help() -> str:
    from sam_train.settings.run import config_dir

    def options(group: str) -> str:
        return ", ".join(sorted(p.stem for p in (config_dir() / group).glob("*.yaml")))

    verbs = "\n".join(
        f"  {name:<10}{verb.summary}\n            {verb.example}" for name, verb in VERBS.items()
    )
    return HELP.format(verbs=verbs, experiments=options("experiment"), debugs=options("debug"))


def _print_config(overrides: Sequence[str]) -> None:
    from omegaconf import OmegaConf

    from sam_train.settings.run import compose_config

    print(OmegaConf.to_yaml(compose_config(overrides)), end="")


def _run(arguments: Sequence[str]) -> None:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_help())
        return
    name, *rest = arguments
    if name not in VERBS:
        near = difflib.get_close_matches(name, VERBS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"use {', '.join(VERBS)}, or --help"
        raise UserError(f"no verb is called {name}: {hint}")
    if "-h" in rest or "--help" in rest:
        print(_help())
        return
    if "--cfg" in rest:
        at = rest.index("--cfg")
        if rest[at + 1 : at + 2] != ["job"]:
            raise UserError("--cfg prints one thing: write --cfg job")
        _print_config(rest[:at] + rest[at + 2 :])
        return
    if unknown := [word for word in rest if word.startswith("-")]:
        plain = unknown[0].lstrip("-").replace("-", "_")
        meaning = meaning_of(plain.partition("=")[0])
        hint = f" ({plain.partition('=')[0]}: {meaning})" if meaning else ""
        raise UserError(f"{unknown[0]} is not understood: settings are KEY=VALUE, see --help{hint}")
    postpone_torchmetrics()
    VERBS[name].run(rest)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one verb; what the user must mend ends in one line on stderr and exit status 2."""
    try:
        _run(sys.argv[1:] if arguments is None else arguments)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("stopped: the same command goes on from the last checkpoint", file=sys.stderr)
        raise SystemExit(130) from None
