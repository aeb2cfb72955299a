"""The command line: a verb, then settings as KEY=VALUE (Hydra's grammar)."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Mapping, Sequence

from sam_train.errors import OutOfMemoryError, UserError
from sam_train.runtime.lean_start import postpone_torchmetrics
from sam_train.settings.recipes import options
from sam_train.settings.verbs import Verb, find_verbs
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


def _help(verbs: Mapping[str, Verb]) -> str:
    listed = "\n".join(
        f"  {name:<10}{verb.summary}\n            {verb.example}" for name, verb in verbs.items()
    )
    return HELP.format(
        verbs=listed,
        experiments=", ".join(options("experiment")),
        debugs=", ".join(options("debug")),
    )


def _print_config(overrides: Sequence[str]) -> None:
    from omegaconf import OmegaConf

    from sam_train.settings.compose import compose_config

    print(OmegaConf.to_yaml(compose_config(overrides)), end="")


def _run(arguments: Sequence[str]) -> None:
    verbs = find_verbs()
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_help(verbs))
        return
    name, *rest = arguments
    if name not in verbs:
        near = difflib.get_close_matches(name, verbs, n=1)
        hint = f"did you mean {near[0]}?" if near else f"use {', '.join(verbs)}, or --help"
        raise UserError(f"no verb is called {name}: {hint}")
    if "-h" in rest or "--help" in rest:
        print(_help(verbs))
        return
    if "--cfg" in rest:
        at = rest.index("--cfg")
        if rest[at + 1 : at + 2] != ["job"]:
            raise UserError("--cfg prints one thing: write --cfg job")
        _print_config(rest[:at] + rest[at + 2 :])
        return
    flags = verbs[name].flags
    if unknown := [word for word in rest if word.startswith("-") and word not in flags]:
        plain = unknown[0].lstrip("-").replace("-", "_")
        meaning = meaning_of(plain.partition("=")[0])
        hint = f" ({plain.partition('=')[0]}: {meaning})" if meaning else ""
        raise UserError(f"{unknown[0]} is not understood: settings are KEY=VALUE, see --help{hint}")
    postpone_torchmetrics()
    verbs[name].run(rest)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one verb. An error of the user's ends in one line on stderr and exit status 2."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        _run(arguments)
    except OutOfMemoryError as error:
        from sam_train.cluster.plan.way_out import ask

        print(f"error: {error}\n{ask(error, arguments[1:])}", file=sys.stderr)
        raise SystemExit(2) from None
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("stopped: the same command goes on from the last checkpoint", file=sys.stderr)
        raise SystemExit(130) from None
