"""Names in a pickle that stand for plain data, and what takes their place when one is read.

Trainers store paths, dates, versions and settings beside the weights. Those objects are never
made: an inert stand-in swallows their content, so that the tensors beside them can be read. Only
numpy's arrays and numbers are real, because weights are stored as such, too.
"""

from __future__ import annotations

import importlib
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np


class Inert:
    """Stands for any object that is not needed. Making and filling it does nothing."""

    def __new__(cls, *_args: object, **_keywords: object) -> Inert:
        """Return a stand-in, whatever the real object would have been made from."""
        return super().__new__(cls)

    def __setstate__(self, _state: object) -> None:
        """Drop the state of the real object."""


class InertMapping:
    """Stands for a mapping of any class: its items are kept, its class is not."""

    def __new__(cls, *_args: object, **_keywords: object) -> OrderedDict[Any, Any]:  # type: ignore[misc]
        """Return a plain ordered mapping, which the reader then fills."""
        return OrderedDict()


def _inert_list(*_args: object) -> list[Any]:
    return []


_OBJECTS = (
    *("argparse.Namespace", "types.SimpleNamespace", "builtins.object", "builtins.slice"),
    *("builtins.range", "builtins.frozenset", "builtins.str", "builtins.int", "builtins.float"),
    # Enum members are pickled through `getattr`; its stand-in looks nothing up.
    *("builtins.bool", "builtins.list", "builtins.dict", "builtins.tuple", "builtins.getattr"),
    *("copyreg._reconstructor", "_operator.getitem", "operator.getitem"),
    *(f"datetime.{name}" for name in ("datetime", "date", "time", "timedelta", "timezone")),
    *("decimal.Decimal", "fractions.Fraction", "uuid.UUID", "uuid.SafeUUID"),
    *(
        f"{module}.{kind}"
        for module in ("pathlib", "pathlib._local")
        for kind in (
            *("Path", "PosixPath", "WindowsPath"),
            *("PurePath", "PurePosixPath", "PureWindowsPath"),
        )
    ),
    *("torch.torch_version.TorchVersion", "typing.Any", "typing.Union", "typing.Optional"),
    *("omegaconf.dictconfig.DictConfig", "omegaconf.listconfig.ListConfig"),
    *("omegaconf.base.ContainerMetadata", "omegaconf.base.Metadata", "omegaconf.base.SCMode"),
    *(
        f"omegaconf.nodes.{kind}Node"
        for kind in ("Any", "String", "Integer", "Float", "Boolean", "Path", "Enum", "Bytes")
    ),
    *("mmengine.logging.history_buffer.HistoryBuffer", "mmengine.config.config.Config"),
    *("transformers.trainer_utils.IntervalStrategy", "transformers.trainer_utils.SchedulerType"),
)
_MAPPINGS = (
    *("collections.defaultdict", "easydict.EasyDict", "addict.addict.Dict"),
    *("mmengine.config.config.ConfigDict", "mmcv.utils.config.ConfigDict"),
    *("yacs.config.CfgNode", "fvcore.common.config.CfgNode", "detectron2.config.config.CfgNode"),
    *(
        f"{module}.AttributeDict"
        for module in (
            "lightning.fabric.utilities.data",
            "lightning_fabric.utilities.data",
            "lightning.pytorch.utilities.parsing",
            "pytorch_lightning.utilities.parsing",
        )
    ),
)


def harmless_globals() -> list[Callable[..., Any] | tuple[Callable[..., Any], str]]:
    """Return the list for `torch.serialization.safe_globals`: a stand-in for each harmless name."""
    named: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = []
    named += [(Inert, name) for name in _OBJECTS]
    named += [(InertMapping, name) for name in _MAPPINGS]
    named.append((_inert_list, "collections.deque"))
    return named + _numpy_globals()


def _numpy_globals() -> list[Callable[..., Any] | tuple[Callable[..., Any], str]]:
    """Return numpy's own functions for arrays and numbers, under its names before and since 2.0."""
    multiarray: Any = importlib.import_module("numpy._core.multiarray")
    named: list[Any] = [(np.ndarray, "numpy.ndarray"), (np.dtype, "numpy.dtype")]
    for package in ("numpy.core", "numpy._core"):
        named += [
            (getattr(multiarray, name), f"{package}.multiarray.{name}")
            for name in ("_reconstruct", "scalar")
        ]
        numeric: Any = importlib.import_module("numpy._core.numeric")
        named.append((numeric._frombuffer, f"{package}.numeric._frombuffer"))
    dtypes: Any = importlib.import_module("numpy.dtypes")
    named += [(getattr(dtypes, name), f"numpy.dtypes.{name}") for name in dtypes.__all__]
    return named
