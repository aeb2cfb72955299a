"""The result of an initialisation, tensor by tensor, and its short table for people."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from sam_train.model.checkpoints.state_dicts import MODULES

_WIDTH = 100
_NAMES_SHOWN = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorEntry:
    """A tensor's fate."""

    name: str
    """Our name; for a skipped tensor the source's."""
    parameters: int
    """Numbers in it."""
    note: str = ""
    """Resized: old and new size. Skipped: why. At random: `zeros` where that is the initial
    value."""


@dataclass(slots=True, kw_only=True)
class InitReport:
    """The tensors of the source and of the model, each in exactly one list. A source tensor that
    was loaded or resized appears under our name only."""

    source: str
    """The text of `init_from`."""
    kind: str
    """The kind of checkpoint that it turned out to be."""
    loaded: list[TensorEntry] = field(default_factory=list)
    """Taken as they are (up to renaming and folding)."""
    resized: list[TensorEntry] = field(default_factory=list)
    """Position tables and patch kernels taken at another size."""
    skipped: list[TensorEntry] = field(default_factory=list)
    """Tensors of the source that were not taken."""
    at_random: list[TensorEntry] = field(default_factory=list)
    """Tensors of the model that the source lacks; they keep their initial values."""
    notes: list[str] = field(default_factory=list)
    """Remarks: tensors that were folded or joined."""

    def __str__(self) -> str:
        """Write a table of tensors and parameters per module, then the odd ones by name."""
        columns = (self.loaded, self.resized, self.at_random, self.skipped)
        lines = [
            f"Initialised from {self.source} ({self.kind}): {self._summary()}",
            f"{'tensors (parameters)':<22}"
            + "".join(f"{h:>18}" for h in ("loaded", "resized", "at random", "skipped")),
        ]
        for module in (*MODULES, ""):
            cells = [[e for e in column if _module_of(e.name) == module] for column in columns]
            if module or any(cells):
                row = "".join(f"{_amount(cell):>18}" for cell in cells)
                lines.append(f"  {module or 'other names':<20}{row}")
        lines += _listing("resized", self.resized)
        lines += _listing("at random", _collapse(self.at_random, self._untouched()))
        lines += _listing("skipped", _collapse(self.skipped, self._untouched()))
        for note in self.notes:
            lines += _wrap(f"note: {note}")
        return "\n".join(lines)

    def add(self, other: InitReport) -> None:
        """Take over what a second file gave, and note its name."""
        self.loaded += other.loaded
        self.resized += other.resized
        # Of the second file whole modules are unwanted, which is no news.
        modules = sorted({_module_of(entry.name) for entry in (*other.loaded, *other.resized)})
        self.notes.append(f"{', '.join(modules)} from {other.source} ({other.kind})")
        self.notes += other.notes

    def _summary(self) -> str:
        taken = len(self.loaded) + len(self.resized)
        if not self.at_random:
            return f"{taken} tensors"
        return f"{taken} of {taken + len(self.at_random)} tensors, {len(self.at_random)} at random"

    def _untouched(self) -> set[str]:
        """List the modules without a single loaded tensor, whose fate one word says."""
        reached = {_module_of(entry.name) for entry in (*self.loaded, *self.resized)}
        return set(MODULES) - reached


def _collapse(entries: Sequence[TensorEntry], modules: set[str]) -> list[TensorEntry]:
    """Replace the entries of each of `modules` by a single one."""
    result = [entry for entry in entries if _module_of(entry.name) not in modules]
    for module in MODULES:
        inside = [entry for entry in entries if _module_of(entry.name) == module]
        if module in modules and inside:
            total = sum(entry.parameters for entry in inside)
            notes = {entry.note for entry in inside}
            note = notes.pop() if len(notes) == 1 else ""
            result.append(TensorEntry(name=module, parameters=total, note=note or "all of it"))
    return result


def _module_of(name: str) -> str:
    head = name.split(".", 1)[0]
    return head if head in MODULES else ""


def _amount(entries: Sequence[TensorEntry]) -> str:
    if not entries:
        return "-"
    return f"{len(entries)} ({_count(sum(entry.parameters for entry in entries))})"


def _count(number: int) -> str:
    """Shorten a number: 1234 -> 1.2 k."""
    for unit, size in (("M", 10**6), ("k", 10**3)):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return str(number)


def _listing(title: str, entries: Sequence[TensorEntry]) -> list[str]:
    """Write a line per kind of tensor: block numbers become `*`, with their count."""
    groups: dict[tuple[str, str], int] = defaultdict(int)
    for entry in entries:
        # Numbers between dots count blocks or layers.
        groups[re.sub(r"\.\d+(?=\.)", ".*", entry.name), entry.note] += 1
    by_note: dict[str, list[str]] = defaultdict(list)
    for (pattern, note), count in groups.items():
        by_note[note].append(f"{pattern} x{count}" if count > 1 else pattern)
    lines = []
    for note, names in by_note.items():
        shown = ", ".join(names[:_NAMES_SHOWN])
        more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
        lines += _wrap(f"{title}: {shown}{more}" + (f" ({note})" if note else ""))
    return lines


def _wrap(text: str) -> list[str]:
    """Wrap to lines of the table's width, between words only: tensor names stay whole."""
    lines = [" "]
    for word in text.split(" "):
        if len(lines[-1]) + 1 + len(word) > _WIDTH:
            lines.append("   ")
        lines[-1] += f" {word}"
    return lines
