"""What a run that is continued does otherwise than before, and what comes of it."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sam_train.errors import UserError

log = logging.getLogger("sam_train")

_UNSAID = ("name", "run_dir", "resume", "ckpt", "out")
_REFUSED = ("optim.name", "optim.frozen_blocks", "optim.tune")
# Lightning restores the optimizer's groups, which hold these.
_KEPT = (
    *("optim.lr", "optim.muon_lr", "optim.muon_momentum", "optim.betas"),
    *("optim.weight_decay", "optim.layer_decay"),
)
_HARMLESS = (
    *("init", "init_from", "callbacks", "checkpoint", "logger", "health", "plan", "export"),
    *("model.checkpoint_blocks", "data.val", "data.val_images", "data.val_masks_per_image"),
    *("data.index", "data.workers", "data.start_method", "data.cache", "data.prefetch"),
    *(
        f"trainer.{name}"
        for name in (
            *("devices", "num_nodes", "accelerator", "strategy", "deepspeed", "offload"),
            *("compile", "log_every", "detect_anomaly", "profiler", "threads", "accumulate"),
        )
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A setting that the checkpoint was made under another value of."""

    name: str
    then: Any
    now: Any

    @property
    def effect(self) -> str:
        """What comes of it, in a few words."""
        if _is_among(self.name, _REFUSED):
            return "the optimizer's state would not fit"
        if _is_among(self.name, _KEPT):
            return "none: the checkpoint's value goes on"
        if _is_among(self.name, _HARMLESS):
            return "none on what is learnt"
        return "from here on"


def _is_among(name: str, names: tuple[str, ...]) -> bool:
    return any(name == known or name.startswith(f"{known}.") for known in names)


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[Difference]:
    """The settings that differ, by name; those that only one side knows are another version's."""
    old, new = dict(_flat(then)), dict(_flat(now))
    return [
        Difference(name=name, then=old[name], now=new[name])
        for name in new
        if name in old and old[name] != new[name] and name not in _UNSAID
    ]


def report_differences(then: Mapping[str, Any], now: Mapping[str, Any], *, source: str) -> None:
    """Say how the settings differ from the checkpoint's, in a short table.

    Raises:
        UserError: one of them cannot be changed in the middle of a run.
    """
    found = differences(then, now)
    for one in found:
        if _is_among(one.name, _REFUSED):
            raise UserError(
                f"{one.name}={one.now}, but {source} was trained with {one.then}: {one.effect}; "
                "set it as it was, or start afresh with init_from= and another run_dir="
            )
    harmless = [one for one in found if _is_among(one.name, _HARMLESS)]
    rows = [one for one in found if one not in harmless]
    if rows:
        log.warning("settings that differ from the checkpoint's\n%s", _table(rows))
    if harmless:
        names = ", ".join(one.name for one in harmless)
        log.info("other than in the checkpoint, with no effect on what is learnt: %s", names)


def _table(rows: list[Difference]) -> str:
    cells = [("setting", "then", "now", "effect")]
    cells += [(row.name, _short(row.then), _short(row.now), row.effect) for row in rows]
    widths = [max(len(row[k]) for row in cells) for k in range(3)]
    return "\n".join(
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3]])
        for row in cells
    )


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 32 else f"{text[:14]}...{text[-15:]}"


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
