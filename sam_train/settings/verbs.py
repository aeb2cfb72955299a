"""Verbs of the command line: a room registers its own in a module called `verb.py`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sam_train.settings.plugins import import_rooms, load_plugins

Run = Callable[[Sequence[str]], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verb:
    """A thing that the program does."""

    name: str
    summary: str
    example: str
    run: Run
    order: int = 1000
    """Verbs are listed by it, then by name."""
    flags: tuple[str, ...] = ()
    """Words with dashes that it takes beside settings; `run` is given them as typed."""


VERBS: dict[str, Verb] = {}
"""The registered verbs, by name."""


def verb(
    *, summary: str, example: str, order: int = 1000, flags: tuple[str, ...] = ()
) -> Callable[[Run], Run]:
    """Register the function below as the verb of its name; it is given the settings as typed.

    Args:
        summary: a line for `--help`.
        example: a command that works, for `--help`.
        order: verbs are listed by it, then by name.
        flags: words with dashes that it takes, such as `--dry-run`.
    """

    def register(run: Run) -> Run:
        name = run.__name__
        VERBS[name] = Verb(
            name=name, summary=summary, example=example, run=run, order=order, flags=flags
        )
        return run

    return register


def find_verbs() -> dict[str, Verb]:
    """Return the verbs of all rooms and plug-ins, in their order."""
    import_rooms("verb.py")
    load_plugins()
    ordered = sorted(VERBS.values(), key=lambda one: (one.order, one.name))
    return {one.name: one for one in ordered}
