"""Lets a process import one module of the project from other source than its file's."""

from __future__ import annotations

import importlib.util
import os
import sys
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import CodeType

VARIABLE = "SAM_TRAIN_MUTANT"
"""Where a child process learns of it: the module's name, its file and the other source."""


class _Mutated(SourceFileLoader):
    """Compiles the other source under the file's name: tracebacks and numba's cache know that."""

    def __init__(self, name: str, path: str, source: Path) -> None:
        super().__init__(name, path)
        self._source = source

    def get_code(self, fullname: str) -> CodeType:
        return compile(self._source.read_bytes(), self.path, "exec", dont_inherit=True)


class _Finder:
    """Answers for the one module."""

    def __init__(self, name: str, path: str, source: Path) -> None:
        self._name, self._loader = name, _Mutated(name, path, source)

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if name != self._name:
            return None
        return importlib.util.spec_from_file_location(name, self._loader.path, loader=self._loader)


def install(name: str, path: Path, source: Path) -> None:
    """Use `source` for module `name` here and in the processes that start from here."""
    os.environ[VARIABLE] = os.pathsep.join([name, str(path), str(source)])
    sys.meta_path.insert(0, _Finder(name, str(path), source))


def install_from_environment() -> None:
    """Do in a child process what its parent did."""
    if VARIABLE in os.environ:
        name, path, source = os.environ[VARIABLE].split(os.pathsep)
        install(name, Path(path), Path(source))
