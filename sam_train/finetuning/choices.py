"""Choices of settings with their reasons; what the user wrote on the command line comes first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from sam_train.settings.compose import load_config
from sam_train.settings.run import RunConfig

RECIPE = "experiment"
OWN_NAME = "name=finetune"
"""The name of a run that the user gave none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A setting as it is typed, and why."""

    word: str
    why: str

    @property
    def key(self) -> str:
        """The setting's name, or that of its group."""
        return key_of(self.word)


def key_of(word: str) -> str:
    """Return the name in `+NAME=VALUE`."""
    return word.partition("=")[0].lstrip("+~")


@dataclass(slots=True)
class Choices:
    """The choices so far, in order, and the words that the user typed."""

    typed: Sequence[str]
    made: list[Choice] = field(default_factory=list)
    _composed: tuple[list[str], RunConfig] | None = None

    def config(self) -> RunConfig:
        """Return the settings so far, composed anew only after a choice.

        Raises:
            UserError: settings that the user typed and that do not fit.
        """
        words = self.words()
        if self._composed is None or self._composed[0] != words:
            self._composed = words, load_config(words)
        return self._composed[1]

    def __contains__(self, key: str) -> bool:
        """Return whether the user has set `key` or its group."""
        keys = {key_of(word) for word in self.typed}
        return key in keys or key.partition(".")[0] in keys

    def add(self, word: str, why: str) -> None:
        """Choose a setting, unless the user has."""
        if key_of(word) not in self:
            self.made = [one for one in self.made if one.key != key_of(word)]
            self.made.append(Choice(word=word, why=why))

    def words(self) -> list[str]:
        """Return all settings for `fit`: the choices, then what the user typed."""
        return [*(one.word for one in self.made), *self.typed]

    def lines(self) -> list[str]:
        """Return a line for each choice, and one for what the user typed."""
        width = max((len(one.word) for one in self.made if len(one.word) < 44), default=0)
        lines = [f"  {one.word:<{width}}  {one.why}" for one in self.made]
        own = [
            word
            for word in self.typed
            if key_of(word) not in ("data.train", "init_from") and word != OWN_NAME
        ]
        return [*lines, *(f"  {word:<{width}}  yours" for word in own)]
