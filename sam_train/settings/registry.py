"""Names in settings, and the parts of the program that they choose."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from sam_train.errors import UserError

T = TypeVar("T")


class Registry(Generic[T]):
    """Parts that one setting chooses by name.

    A part registers itself when its file is imported, so a plug-in file adds one like the files
    of this package do. Look-ups come later, when a run begins.

    Args:
        setting: its name on the command line, for messages.
    """

    def __init__(self, setting: str) -> None:
        self._setting = setting
        self._parts: dict[str, T] = {}

    def __call__(self, name: str) -> Callable[[T], T]:
        """Return a decorator that registers a part under `name`.

        Raises:
            UserError: the name is taken.
        """

        def register(part: T) -> T:
            if name in self._parts:
                raise UserError(
                    f"{self._setting}: two parts are called {name}; rename the plug-in's"
                )
            self._parts[name] = part
            return part

        return register

    def __getitem__(self, name: str) -> T:
        """Return the part of that name.

        Raises:
            UserError: there is none; the message lists those that there are.
        """
        if name not in self._parts:
            known = ", ".join(self._parts)
            raise UserError(
                f"{self._setting}={name}: use one of {known}, or name a plug-in file that "
                "registers it in SAM_TRAIN_PLUGINS"
            )
        return self._parts[name]
