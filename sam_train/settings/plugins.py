"""Modules that are found rather than listed: those of a name in any room, and plug-ins."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from importlib.metadata import entry_points
from pathlib import Path

from sam_train.errors import UserError

VARIABLE = "SAM_TRAIN_PLUGINS"
"""Plug-ins of one machine or one shell: files, folders or modules, as in PATH with colons."""
GROUP = "sam_train.plugins"
"""Entry points by which an installed package names its plug-in modules."""

_loaded: set[str] = set()


def import_rooms(*patterns: str) -> None:
    """Import every module below sam_train whose file name matches one of `patterns`."""
    root = Path(__file__).resolve().parents[1]
    for pattern in patterns:
        for path in sorted(root.rglob(pattern)):
            parts = path.relative_to(root).with_suffix("").parts
            importlib.import_module(".".join((root.name, *parts)))


def load_plugins() -> None:
    """Import the plug-ins of `SAM_TRAIN_PLUGINS` and of installed packages, each once.

    A plug-in registers what it adds (a section of settings, a verb, a format, ...) when it is
    imported.

    Raises:
        UserError: one is not there or does not import.
    """
    named = [text for text in os.environ.get(VARIABLE, "").split(os.pathsep) if text]
    for source in (*named, *(point.value for point in entry_points(group=GROUP))):
        if source in _loaded:
            continue
        # Before the import: a plug-in may itself read the settings.
        _loaded.add(source)
        try:
            for module in _modules_of(source):
                importlib.import_module(module)
        except UserError:
            _loaded.discard(source)
            raise
        except Exception as error:
            _loaded.discard(source)
            where = f"{type(error).__name__}: {error}".splitlines()[0]
            raise UserError(f"the plug-in {source} cannot be imported: {where}") from error


def _modules_of(source: str) -> list[str]:
    """Return the names under which a plug-in is imported; its folder joins `sys.path`.

    Worker processes inherit `sys.path`, so that they can unpickle what a plug-in defines.
    """
    path = Path(source)
    if not (path.suffix == ".py" or os.sep in source or path.is_dir()):
        return [source]
    if not path.exists():
        raise UserError(f"{VARIABLE}: {source} is neither a file, a folder nor a module")
    path = path.resolve()
    package = path.is_dir() and (path / "__init__.py").exists()
    files = sorted(path.glob("*.py")) if path.is_dir() and not package else [path]
    folder = str(path if path.is_dir() and not package else path.parent)
    if folder not in sys.path:
        sys.path.append(folder)
    for file in files:
        spec = importlib.util.find_spec(file.stem)
        origin = None if spec is None or spec.origin is None else Path(spec.origin).resolve()
        if origin not in (file, file / "__init__.py"):
            raise UserError(f"{VARIABLE}: {file} has the name of another module: rename it")
    return [file.stem for file in files]
