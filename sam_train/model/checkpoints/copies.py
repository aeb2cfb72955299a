"""Finds the model among all tensors of a checkpoint, however deep, and decides between copies.

The rule where a file holds the same model more than once:

1. The weights that were trained: the first of `PREFERRED` among the keys around them; else the
   copy with most tensors; else the first in the file.
2. Copies without a common tensor are parts of one model and are joined.
3. An average of those weights (`ema`, `teacher`, `swa`) comes before them where both have the
   same shapes, as in our own checkpoints. A teacher of another size is not their average.

What was left out is in the notes.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sam_train.model.checkpoints.state_dicts import StateDict

PREFERRED = (
    *("state_dict", "model", "model_state_dict", "sam", "sam_model", "net", "network"),
    *("module", "weights", "params", "student"),
)
"""Keys that trainers keep the weights under, the surest first."""

_AVERAGED = re.compile(r"(^|_)(ema|teacher|averages?|averaged|swa|shadow)(_|$)", re.IGNORECASE)
# Optimizers keep tensors by the weights' names, which are not weights.
_NOT_WEIGHTS = re.compile(
    r"^(opt|optims?|optimizers?|optim(izer)?_.*|.*_optim(izers?)?|grads?|gradients?|.*scaler"
    r"|.*scheduler.*|exp_avg.*|amp)$",
    re.IGNORECASE,
)
# What parallel and compiled models put between the parts of a name.
_WRAPPERS = {
    *("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"),
    *("_forward_module", "_orig_module"),
}
# Mappings can nest without end in a crafted file.
_DEEPEST = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A tensor of a checkpoint."""

    place: tuple[str, ...]
    """Keys of the mappings around it, from the outside."""
    name: str
    """Key in the innermost one."""
    tensor: Tensor

    @property
    def parts(self) -> tuple[str, ...]:
        """Place and name, cut at the dots."""
        return (*(p for key in self.place for p in key.split(".")), *self.name.split("."))


@dataclass(slots=True, kw_only=True)
class Choice:
    """The tensors that are the model."""

    tensors: StateDict
    """Names without what stood before the model's own."""
    outside: StateDict = field(default_factory=dict)
    """Other tensors of the same mapping."""
    notes: list[str] = field(default_factory=list)
    """Remarks: copies chosen, joined and left out; empty where there was nothing to choose."""


@dataclass(slots=True, kw_only=True)
class _Copy:
    prefix: tuple[str, ...]
    places: set[tuple[str, ...]] = field(default_factory=set)
    tensors: StateDict = field(default_factory=dict)

    @property
    def title(self) -> str:
        return ".".join(self.prefix) or "the top"

    @property
    def averaged(self) -> bool:
        return any(_AVERAGED.search(part) for part in self.prefix)

    @property
    def order(self) -> tuple[int, int]:
        ranks = [PREFERRED.index(part) for part in self.prefix if part in PREFERRED]
        # Weights under no key at all come before those under a key that nobody knows.
        unknown = len(PREFERRED) + bool(self.prefix)
        return min(ranks, default=unknown), -len(self.tensors)


def entries_of(content: Any) -> list[Entry]:
    """List every tensor and numeric array in nested mappings, but those of optimizers."""
    return list(_walk(content, (), set()))


def _walk(content: Any, place: tuple[str, ...], seen: set[int]) -> Iterator[Entry]:
    if not isinstance(content, Mapping) or len(place) > _DEEPEST or id(content) in seen:
        return
    # A pickle can hold one mapping twice, or inside itself.
    seen.add(id(content))
    for key, value in content.items():
        if isinstance(value, Mapping):
            if not _NOT_WEIGHTS.search(str(key)):
                yield from _walk(value, (*place, str(key)), seen)
        elif (tensor := _as_tensor(value)) is not None:
            yield Entry(place=place, name=str(key), tensor=tensor)


def _as_tensor(value: Any) -> Tensor | None:
    if isinstance(value, Tensor):
        return value
    if isinstance(value, np.ndarray):
        try:
            return torch.from_numpy(np.ascontiguousarray(value))
        except TypeError:  # texts, objects, records
            return None
    return None


def choose(entries: Sequence[Entry], marker: re.Pattern[str]) -> Choice | None:
    """Choose the model that `marker` shows, by the rule above; None where no name matches.

    Args:
        entries: all tensors of a file.
        marker: matches the first part of a name that is the model's own.
    """
    copies, others = _copies_of(entries, marker)
    if not copies:
        return None
    averages = [copy for copy in copies if copy.averaged]
    trained = sorted((copy for copy in copies if not copy.averaged), key=lambda copy: copy.order)
    # A file of averages alone, such as a published teacher.
    if not trained:
        trained, averages = averages, []
    # The sort was stable, so among equals this is the first in the file.
    base = trained[0]
    choice = Choice(tensors=dict(base.tensors))
    used = [base]
    for copy in trained[1:]:
        # Parts of one model share no name; a second copy shares nearly all.
        if choice.tensors.keys().isdisjoint(copy.tensors):
            choice.tensors |= copy.tensors
            used.append(copy)
    if len(used) > 1:
        choice.notes.append(f"joined from {', '.join(copy.title for copy in used)}")
    average = next((copy for copy in averages if _averages(copy, choice.tensors)), None)
    if average is not None:
        # Over the trained ones: an average may leave out what it does not change.
        choice.tensors |= average.tensors
        choice.notes.append(f"averaged weights ({average.title}) before those of {base.title}")
        used.append(average)
    if left := [copy for copy in copies if copy not in used]:
        names = ", ".join(f"{copy.title} ({_tensors(len(copy.tensors))})" for copy in left)
        choice.notes.append(f"several models in the file: taken is {base.title}, left out {names}")
    _account_for(others, used, choice)
    return choice


def _averages(copy: _Copy, tensors: StateDict) -> bool:
    """Return whether `copy` may be an average of `tensors`: shared names have equal shapes."""
    shared = copy.tensors.keys() & tensors.keys()
    return bool(shared) and all(copy.tensors[n].shape == tensors[n].shape for n in shared)


def _copies_of(
    entries: Sequence[Entry], marker: re.Pattern[str]
) -> tuple[list[_Copy], list[Entry]]:
    """Group entries by what stands before the model's own names; and list those of no group."""
    copies: dict[tuple[str, ...], _Copy] = {}
    unmarked = []
    for entry in entries:
        parts = entry.parts
        at = next((i for i in range(len(parts)) if marker.match(".".join(parts[i:]))), None)
        if at is None:
            unmarked.append(entry)
            continue
        copy = copies.setdefault(parts[:at], _Copy(prefix=parts[:at]))
        copy.places.add(entry.place)
        copy.tensors[_own_name(parts[at:])] = entry.tensor
    others = []
    # Innermost first: `model.sam.x` belongs to `model.sam`, not to `model`.
    longest_first = sorted(copies.values(), key=lambda copy: -len(copy.prefix))
    for entry in unmarked:
        parts = entry.parts
        for copy in longest_first:
            n = len(copy.prefix)
            if entry.place in copy.places and parts[:n] == copy.prefix and len(parts) > n:
                copy.tensors[_own_name(parts[n:])] = entry.tensor
                break
        else:
            others.append(entry)
    return list(copies.values()), others


def _own_name(parts: Sequence[str]) -> str:
    # Wrappers stand anywhere in a name, also between block and layer.
    return ".".join(part for part in parts if part not in _WRAPPERS)


def _account_for(others: Sequence[Entry], used: Sequence[_Copy], choice: Choice) -> None:
    """Name tensors beside the model one by one, those elsewhere in the file by their key."""
    places = {place for copy in used for place in copy.places}
    beside: Counter[str] = Counter()
    for entry in others:
        if entry.place in places:
            choice.outside[entry.name] = entry.tensor
        else:
            beside[entry.place[0] if entry.place else entry.name] += 1
    if beside:
        names = ", ".join(f"{name} ({_tensors(count)})" for name, count in beside.items())
        choice.notes.append(f"no weights of the model: {names}")


def _tensors(count: int) -> str:
    return f"{count} tensor" + ("s" if count != 1 else "")
