"""Things that a setting names, each registered by the file that declares it.

A file registers when it is imported and names are looked up when they are asked for, so what a
plug-in adds is found like what is built in.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from typing import Any, Generic, TypeVar

from sam_train.errors import UserError

T = TypeVar("T")
C = TypeVar("C", bound=type[Any])


class Registry(Generic[T]):
    """The choices of one setting.

    Args:
        setting: its name on the command line, for messages.
    """

    def __init__(self, setting: str) -> None:
        self.setting = setting
        self._entries: dict[str, T] = {}

    def add(self, name: str, entry: T) -> None:
        """Register `entry` as `name`.

        Raises:
            UserError: the name is taken by something else.
        """
        earlier = self._entries.setdefault(name, entry)
        if earlier is not entry:
            both = f"{_module_of(entry)} and {_module_of(earlier)}"
            raise UserError(f"{both} both register {self.setting}={name}: rename one")

    def register(self, name: str) -> Callable[[C], C]:
        """Register one instance of the decorated class as `name`."""

        def decorate(cls: C) -> C:
            self.add(name, cls())
            return cls

        return decorate

    def named(self, name: str) -> Callable[[T], T]:
        """Register the decorated class or function itself as `name`."""

        def decorate(entry: T) -> T:
            self.add(name, entry)
            return entry

        return decorate

    def __getitem__(self, name: str) -> T:
        """Look `name` up.

        Raises:
            UserError: unknown name; lists the known ones.
        """
        if name not in self._entries:
            known = ", ".join(self._entries)
            raise UserError(f"{self.setting}={name} is not one of {known}")
        return self._entries[name]

    def items(self) -> Iterator[tuple[str, T]]:
        """Iterate over names and entries in the order of their registration."""
        return iter(list(self._entries.items()))


def _module_of(entry: Any) -> str:
    return str(getattr(entry, "__module__", type(entry).__module__))


def import_all(package: str, folder: Iterable[str]) -> None:
    """Import every module of a package, so that each can register what it declares.

    Args:
        package: its `__name__`.
        folder: its `__path__`.
    """
    for module in sorted(pkgutil.iter_modules(folder), key=lambda module: module.name):
        import_module(f"{package}.{module.name}")
