"""Settings that differ from the checkpoint's when a run resumes, and the effect of each."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sam_train.errors import UserError
from sam_train.settings.run import schema
from sam_train.settings.sections import Resume, settings_of

log = logging.getLogger("sam_train")

_EFFECTS: dict[Resume, str] = {
    "refused": "the optimizer's state would not fit",
    "restored": "none: the checkpoint's value goes on",
    "harmless": "none on what is learnt",
    "applies": "from here on",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A setting that had another value when the checkpoint was written."""

    name: str
    then: Any
    now: Any
    resume: Resume

    @property
    def effect(self) -> str:
        """The effect in a few words."""
        return _EFFECTS[self.resume]


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[Difference]:
    """Return the settings that differ; those that only one side knows are another version's."""
    old, new = dict(_flat(then)), dict(_flat(now))
    effects = {name: said.resume for name, said in settings_of(schema())}
    return [
        Difference(name=name, then=old[name], now=new[name], resume=effect)
        # A name that one side lacks was added or dropped by another version, and has no value to
        # compare.
        for name in new
        if name in old and old[name] != new[name]
        # A setting without a declared effect may well have one.
        if (effect := effects.get(name) or "applies") != "silent"
    ]


def report_differences(then: Mapping[str, Any], now: Mapping[str, Any], *, source: str) -> None:
    """Log a short table of the settings that differ from the checkpoint's.

    Raises:
        UserError: one of them cannot be changed in the middle of a run.
    """
    found = differences(then, now)
    for one in found:
        if one.resume == "refused":
            raise UserError(
                f"{one.name}={one.now}, but {source} was trained with {one.then}: {one.effect}; "
                "set it as it was, or start afresh with init_from= and another run_dir="
            )
    harmless = [one for one in found if one.resume == "harmless"]
    # Restored and applied ones: a person who set them must know which of the two happened.
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
    # Both ends of a long value: paths differ at the end, lists at the beginning.
    return text if len(text) <= 32 else f"{text[:14]}...{text[-15:]}"


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
