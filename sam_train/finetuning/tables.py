"""The tables at the end: before and after on held-out photos, and on what must not be lost."""

from __future__ import annotations

from collections.abc import Mapping

from sam_train.eval.clicks.scores import ClickScores, comparison_table
from sam_train.runtime.text import count

FALL = 0.05
"""A mean that fell by more than this is warned about."""


def result_table(rows: Mapping[str, ClickScores], *, what: str) -> str:
    """Return a table with a title; each row has its 95 % intervals below it."""
    last = list(rows.values())[-1]
    basis = last.basis()
    if last.grouped:
        basis = f"95 % intervals by resampling {last.groups:,} cases"
    where = f"{what}: mIoU over {last.masks:,} masks of {last.images:,} photos; {basis}"
    return f"{where}\n{comparison_table(rows)}"


def forgotten(before: ClickScores, after: ClickScores) -> dict[str, float]:
    """Return the means that fell by more than `FALL`, by their names, with how much."""
    old, new = before.means(), after.means()
    falls = {name: old[name] - new[name] for name in old if name in new}
    # The oracle is no answer that anybody is given.
    return {name: fall for name, fall in falls.items() if fall > FALL and name != "oracle"}


def forgetting_warning(falls: Mapping[str, float], *, where: str) -> str:
    """Return a line about what was lost and what helps."""
    lost = ", ".join(
        (count(int(name[5:]), "click") if name.startswith("miou_") else name) + f" by {fall:.2f}"
        for name, fall in falls.items()
    )
    return (
        f"the model lost on {where}: {lost}. If it shall keep that: fewer steps "
        "(trainer.max_steps=), less that is trained (optim.tune=decoder or lora), "
        "or such photos among yours (data.mix=[mine:0.8,others:0.2] with data.val=)"
    )
