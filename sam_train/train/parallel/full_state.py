"""The state of model and optimizer as every strategy can resume it, whole and by name.

A checkpoint holds whole tensors under parameter names, whoever wrote it, so that a run may resume
under another strategy or number of processes. Strategies gather and scatter
(`strategies`); here an optimizer's numbers of parameters become their names and back.
"""

from __future__ import annotations

from typing import Any

from lightning import Trainer
from torch import nn

from sam_train.errors import UserError


def full_state(trainer: Trainer) -> dict[str, Any]:
    """Collect everything that a checkpoint holds.

    A collective: call it on every rank; the first one's is whole.
    """
    # Lightning's private door: its public one writes a file, on the main thread.
    state: dict[str, Any] = trainer._checkpoint_connector.dump_checkpoint(weights_only=False)
    return state


def grouped_names(module: nn.Module, groups: list[dict[str, Any]]) -> list[list[str]]:
    """Name the parameters of each optimizer group, in the order of their numbers."""
    # By identity: an optimizer knows tensors, and two may be equal.
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    return [[names[id(parameter)] for parameter in group["params"]] for group in groups]


def name_parameters(checkpoint: dict[str, Any], groups: list[list[str]]) -> None:
    """Rename the keys of an optimizer's state from numbers to names, in place.

    States that have names already stay as they are.
    """
    names = [name for group in groups for name in group]
    for state in checkpoint.get("optimizer_states", []):
        if any(
            isinstance(name, str) for group in state["param_groups"] for name in group["params"]
        ):
            continue
        state["state"] = {names[number]: value for number, value in state["state"].items()}
        state["param_groups"] = [
            group | {"params": [names[number] for number in group["params"]]}
            for group in state["param_groups"]
        ]


def number_parameters(checkpoint: dict[str, Any], groups: list[list[str]]) -> None:
    """Number the keys of an optimizer's state as the optimizer of `groups` does, in place.

    Checkpoints that number their parameters already come from before groups were divided into the
    encoder's and the others'; the order was the same.
    """
    name_parameters(checkpoint, groups)
    numbers = {name: n for n, name in enumerate(name for group in groups for name in group)}
    for state, schedule in zip(
        checkpoint.get("optimizer_states", []), checkpoint.get("lr_schedulers", []), strict=True
    ):
        saved = {name: k for k, g in enumerate(state["param_groups"]) for name in g["params"]}
        # Also asked in `check_model`, by number alone; here the names are known.
        if saved.keys() != numbers.keys():
            raise UserError(
                "the checkpoint was trained with another optim.frozen_blocks or optim.tune: set "
                "both as in the run's config.yaml, or start afresh from its weights with init_from="
            )
        # The file's group of each of ours: within a group all parameters learn alike.
        source = [saved[group[0]] for group in groups]
        state["state"] = {numbers[name]: value for name, value in state["state"].items()}
        state["param_groups"] = [
            state["param_groups"][k] | {"params": [numbers[name] for name in group]}
            for k, group in zip(source, groups, strict=True)
        ]
        # The schedule's lists have a value per group, in the order of the groups.
        for key in ("base_lrs", "_last_lr", "lr_lambdas"):
            if len(schedule.get(key, [])) > 0:
                schedule[key] = [schedule[key][k] for k in source]
