"""Settings that would fit where those of the run do not, the cheapest first."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product

from sam_train.cluster.plan.memory import Simulator
from sam_train.cluster.plan.settings import Setting
from sam_train.settings.run import RunConfig

_MODES = ("none", "selective", "full")
_EXTRA = {"none": 0.0, "selective": 0.05, "full": 0.25}
"""Rough share by which a step takes longer."""
_STRATEGIES = {("ddp", False): 0.0, ("fsdp2", False): 0.1, ("deepspeed", True): 0.5}
"""Rough share by which a step takes longer, offloading included."""


@dataclass(frozen=True, kw_only=True)
class Way:
    """A setting that fits."""

    setting: Setting
    needed: int
    """Bytes of one GPU."""
    same_training: bool
    """True where training is the same: neither fewer masks nor another arithmetic."""


def cheapest(cfg: RunConfig, setting: Setting, simulator: Simulator, *, room: int) -> Way | None:
    """Find the cheapest way that fits; ways that train the same come before all others.

    Args:
        setting: the one that does not fit.
        room: bytes of one GPU.
    """
    for candidate in candidates(cfg, setting, ranks=simulator.ranks):
        # Weights and states alone are quick to count; activations take a run on fake tensors.
        if simulator.least(candidate) > room:
            continue
        needed = simulator.memory(candidate).needed(cfg.plan)
        if needed <= room:
            same = (candidate.masks, candidate.low) == (setting.masks, setting.low)
            return Way(setting=candidate, needed=needed, same_training=same)
    return None


def candidates(cfg: RunConfig, setting: Setting, *, ranks: int) -> Iterator[Setting]:
    """Yield settings that take less memory, in order of their cost."""
    found: list[tuple[tuple[float, ...], Setting]] = []
    own = setting.images * setting.turns
    # Only divisors: all micro-batches of an update have as many images.
    micro_batches = [n for n in range(setting.turns, own + 1) if own % n == 0]
    masks = [m for m in (setting.masks, setting.masks // 2, setting.masks // 4) if m]
    ways = {(setting.strategy, setting.offload): 0.0}
    if ranks > 1 and cfg.optim.name != "muon":
        ways |= {way: cost for way, cost in _STRATEGIES.items() if way not in ways and cost}
    low = [setting.precision] if setting.low else [setting.precision, "bf16-mixed"]
    modes = _MODES[_MODES.index(setting.recompute) :]
    for number, mode, way, precision, fewer in product(micro_batches, modes, ways, low, masks):
        changed = replace(
            setting,
            turns=number,
            images=own // number,
            recompute=mode,
            strategy=way[0],
            deepspeed="zero2" if way[1] and not setting.offload else setting.deepspeed,
            offload=way[1],
            precision=precision,
            masks=fewer,
        )
        # More micro-batches cost next to nothing, but small ones keep a GPU less busy.
        time = _EXTRA[mode] + ways[way] + 0.02 * micro_batches.index(number)
        other = masks.index(fewer) + (precision != setting.precision)
        if changed != setting:
            found.append(((other, time), changed))
    for _, candidate in sorted(found, key=lambda pair: pair[0]):
        yield candidate
