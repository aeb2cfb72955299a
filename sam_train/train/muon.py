"""Muon for matrices and AdamW for everything else, as one optimizer.

One, because a Trainer that steps two calls for two schedules, two clippings and a loop of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.optim import AdamW, Muon, Optimizer


class MuonWithAdamW(Optimizer):
    """torch's Muon on the groups that have `momentum`, torch's AdamW on the others.

    Both work on the groups and the state of this object, so a schedule, a checkpoint or a look at
    `param_groups` sees one optimizer.
    """

    def __init__(self, groups: list[dict[str, Any]], *, betas: tuple[float, float]) -> None:
        """Args:
        groups: each with `params`, `lr` and `weight_decay`; Muon's with `momentum` too, and
            with matrices only.
        """
        self._parts: list[Optimizer] = []
        self._betas = betas
        # No defaults: a group without `momentum` is AdamW's, and a default would give it one.
        super().__init__(groups, defaults={})
        self._share()

    def _share(self) -> None:
        """Let both work on this object's groups and state: the very same dictionaries."""
        muon = [group for group in self.param_groups if "momentum" in group]
        adamw = [group for group in self.param_groups if "momentum" not in group]
        self._parts = []
        if muon:
            # match_rms_adamw: an update's size is AdamW's, so one schedule fits both.
            self._parts.append(Muon(muon, adjust_lr_fn="match_rms_adamw"))
        if adamw:
            self._parts.append(AdamW(adamw, betas=self._betas, fused=True))
        for part in self._parts:
            # One dictionary for both: each touches only its own parameters' entries.
            part.state = self.state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load as torch does, then share its new dictionaries again."""
        super().load_state_dict(state_dict)
        self._share()

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update all parameters that have a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                # Once, and not by the parts: each would run forward and backward again.
                loss = closure()
        for part in self._parts:
            part.step()
        return loss
