"""`fit` with faults on one rank, which no photo can cause: `python ill_fit.py FAULTS SETTINGS...`.

FAULTS is `KIND@RANK:STEP+STEP`, joined by commas; steps count from 0, KIND is
    loss      the first mask's loss of the last round is NaN
    gradient  the local gradient of one parameter is infinite, before ranks are averaged
    slow      every round takes a fifth of a second longer
    sleep     the process stands still in the middle of its step
    memory    the address space ends 700 MiB above what is taken
"""

from __future__ import annotations

import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

import torch

from sam_train.cli import main
from sam_train.train.module import SamModule
from sam_train.train.objectives import interactive as the_step

PARAMETER = "mask_decoder.iou_token.weight"
RANK = int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0")))


def faults(text: str) -> dict[int, str]:
    """Step -> kind, of this rank."""
    found: dict[int, str] = {}
    for part in filter(None, text.split(",")):
        kind, _, place = part.partition("@")
        rank, _, steps = place.partition(":")
        if int(rank) == RANK:
            found |= dict.fromkeys(map(int, steps.split("+")), kind)
    return found


FAULTS = faults(sys.argv[1])
now = ""
mask_losses, training_step = the_step.mask_losses, SamModule.training_step


def ill_losses(*args: Any, **kwargs: Any) -> Any:
    terms = mask_losses(*args, **kwargs)
    if now == "loss":
        terms.total[0] = float("nan")
    if now in ("slow", "sleep"):
        time.sleep(0.2 if now == "slow" else 3600)
    return terms


def ill_step(self: SamModule, batch: Any, batch_idx: int) -> Any:
    global now  # noqa: PLW0603 - the two functions share the moment
    now = FAULTS.get(self.global_step, "")
    if now == "memory":
        taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (taken + 700 * 2**20, resource.RLIM_INFINITY))
    if now == "gradient":
        parameter = dict(self.sam.named_parameters())[PARAMETER]
        hook = parameter.register_hook(lambda g: torch.full_like(g, float("inf")))
        self.__dict__["remove"] = hook
    elif "remove" in self.__dict__:
        self.__dict__.pop("remove").remove()
    return training_step(self, batch, batch_idx)


the_step.mask_losses = ill_losses
SamModule.training_step = ill_step  # type: ignore[method-assign]
main(["fit", *sys.argv[2:]])
