"""The start of a verb without libraries that it never uses.

Lightning imports `torchmetrics` for its two base classes and its version. The package's
`__init__` imports every metric, and with them transformers, scipy.signal and scipy.stats: a third
of the imports of `fit`. `postpone_torchmetrics` puts a module in its place that loads the two
classes when asked for them, and runs the real `__init__` as soon as anybody asks for more.
"""

from __future__ import annotations

import logging
import sys
from importlib import import_module, util
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

PACKAGE = "torchmetrics"
_CLASSES = {"Metric": "torchmetrics.metric", "MetricCollection": "torchmetrics.collections"}


class _Postponed(ModuleType):
    """A package whose `__init__` has not run yet."""

    def __getattr__(self, name: str) -> Any:
        if name == "__version__":
            from importlib import metadata  # noqa: PLC0415 - a slow import that --help never needs

            return metadata.version(PACKAGE)
        if name.startswith("__"):
            raise AttributeError(name)
        if name in _CLASSES:
            try:
                # The package's own order: `metric` before `utilities` is a circle of imports.
                import_module(f"{PACKAGE}.utilities")
                return getattr(import_module(_CLASSES[name]), name)
            except ImportError:
                # A version whose modules need each other differently.
                for part in [part for part in sys.modules if part.startswith(f"{PACKAGE}.")]:
                    del sys.modules[part]
        return getattr(_complete(self), name)


def postpone_torchmetrics() -> None:
    """Let `import torchmetrics` cost two classes, unless it was imported before."""
    spec = None if PACKAGE in sys.modules else util.find_spec(PACKAGE)
    if spec is None or spec.loader is None or spec.submodule_search_locations is None:
        return
    module = util.module_from_spec(spec)
    module.__class__ = _Postponed
    # Modules of the package take the logger from it while they are imported.
    module.__dict__["_logger"] = logging.getLogger(PACKAGE)
    sys.modules[PACKAGE] = module


def _complete(module: ModuleType) -> ModuleType:
    """Run the package's real `__init__`, in the module that others hold already."""
    module.__class__ = ModuleType
    spec = module.__spec__
    assert isinstance(spec, ModuleSpec)
    assert spec.loader is not None
    spec.loader.exec_module(module)
    return module
