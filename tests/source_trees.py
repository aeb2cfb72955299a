"""Modules of this project as syntax trees, with what each of them imports."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("sam_train", "data_tools")
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Import:
    """One imported module, by its full name."""

    module: str
    line: int
    late: bool
    """True inside a function, so it runs when the function is called."""


@dataclass(frozen=True)
class Source:
    """One module of the project."""

    path: Path
    name: str
    """Its full name, as in an import."""
    text: str
    tree: ast.Module

    @property
    def place(self) -> str:
        """The path from the repository's root, for lists and messages."""
        return self.path.relative_to(ROOT).as_posix()


@cache
def sources() -> tuple[Source, ...]:
    """Read every module of the packages."""
    paths = sorted(path for top in PACKAGES for path in (ROOT / top).rglob("*.py"))
    return tuple(_read(path) for path in paths)


def _read(path: Path) -> Source:
    parts = path.relative_to(ROOT).with_suffix("").parts
    name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
    text = path.read_text()
    return Source(path=path, name=name, text=text, tree=ast.parse(text))


def functions(tree: ast.AST) -> Iterator[Function]:
    """Yield every function and method, nested ones too."""
    for node in ast.walk(tree):
        if isinstance(node, Function):
            yield node


def imports(source: Source) -> list[Import]:
    """List the imports that run: all but those below `if TYPE_CHECKING:`."""
    return list(_imports(source.tree, late=False))


def _imports(node: ast.AST, *, late: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            for alias in child.names:
                yield Import(alias.name, child.lineno, late)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, "imports are absolute"
            for alias in child.names:
                yield Import(_imported(child.module or "", alias.name), child.lineno, late)
        elif isinstance(child, ast.If) and _is_type_checking(child.test):
            for part in child.orelse:
                yield from _imports(part, late=late)
        else:
            yield from _imports(child, late=late or isinstance(child, Function | ast.Lambda))


def _is_type_checking(test: ast.expr) -> bool:
    return ast.unparse(test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def _imported(module: str, name: str) -> str:
    """Tell `from package import module` from `from module import name`."""
    return f"{module}.{name}" if f"{module}.{name}" in _ours() else module


@cache
def _ours() -> frozenset[str]:
    found = set()
    for top in PACKAGES:
        for path in (ROOT / top).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found.add(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return frozenset(found)


def is_ours(module: str) -> bool:
    """Return whether the project has this module."""
    return module in _ours()
