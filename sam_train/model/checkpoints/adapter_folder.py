"""Adapters as a folder in peft's layout: adapter_config.json and adapter_model.safetensors.

The names are those of the model that peft wrapped: Hugging Face's `SamModel`, or our own. A folder
holds matrices A and B of linear layers, and whole tensors of modules that were trained beside them.
It means something on top of its base only.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sam_train.errors import UserError
from sam_train.model.adapters.merge import add_product
from sam_train.model.checkpoints.checks import check_finite, check_numbers
from sam_train.model.checkpoints.relu_scale import RELU_SCALE, recorded_scale, scale_relu
from sam_train.model.checkpoints.report import InitReport, TensorEntry
from sam_train.model.checkpoints.state_dicts import MODULES, StateDict, from_huggingface
from sam_train.model.checkpoints.weight_files import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    read_json,
    read_safetensors,
)

PEFT_PREFIX = "base_model.model."
"""Text that peft puts before the names of the model that it wraps."""
_MATRIX = re.compile(r"^(?P<layer>.+)\.lora_(?P<role>[AB])\.weight$")
# Each changes what an adapter adds to its layer.
_REFUSED = ("use_dora", "fan_in_fan_out", "use_qalora", "lora_bias", "alora_invocation_tokens")


@dataclass(frozen=True, slots=True, kw_only=True)
class Matrices:
    """The adapter of one linear layer."""

    down: Tensor
    """[r, in]."""
    up: Tensor
    """[out, r]."""
    scale: float


@dataclass(slots=True, kw_only=True)
class Adapter:
    """The content of a folder, in our names."""

    path: Path
    base: str
    """The base model that the folder names, "" for none."""
    layers: dict[str, Matrices] = field(default_factory=dict)
    """Adapters by the name of the weight that they change."""
    whole: StateDict = field(default_factory=dict)
    """Tensors that replace the base's."""
    left: list[TensorEntry] = field(default_factory=list)
    """Tensors of modules that were not asked for."""

    @property
    def hint(self) -> str:
        """The base that the folder names, in brackets."""
        # Only said: following a path out of a foreign file would read what nobody named.
        return f" ({self.base}, says the folder)" if self.base else ""

    def check(self, target: Mapping[str, Tensor]) -> None:
        """Refuse an adapter of another model.

        Raises:
            UserError: a tensor that the model does not have, or has at another shape.
        """
        shapes = {name: tensor.shape for name, tensor in self.whole.items()}
        for name, one in self.layers.items():
            if one.down.dim() != 2 or one.up.dim() != 2 or one.down.shape[0] != one.up.shape[1]:
                raise UserError(f"{self.path}: the adapter of {name} is not one of a linear layer")
            shapes[name] = torch.Size((one.up.shape[0], one.down.shape[1]))
        for name, shape in shapes.items():
            own = tuple(target[name].shape) if name in target else "no such tensor"
            if own != tuple(shape):
                raise UserError(
                    f"{self.path}: its adapter changes {name} of {tuple(shape)}, the model has "
                    f"{own}; build the model that it was trained on (model=...)"
                )
        both = self.whole | {n: one.down for n, one in self.layers.items()}
        both |= {f"{n} (lora_B)": one.up for n, one in self.layers.items()}
        for name, tensor in both.items():
            check_numbers(name, tensor, path=self.path)
        check_finite(both, path=self.path)

    @torch.no_grad()
    def put_into(self, target: StateDict) -> InitReport:
        """Change a base's tensors in place, and report it."""
        for name, tensor in self.whole.items():
            target[name].copy_(tensor)
        for name, one in self.layers.items():
            target[name].copy_(
                add_product(target[name], one.down, one.up, scale=one.scale, layer=name)
            )
        report = InitReport(source=str(self.path), kind="LoRA adapters, peft's layout")
        report.loaded = [
            TensorEntry(name=name, parameters=target[name].numel())
            for name in (*self.layers, *self.whole)
        ]
        report.skipped = self.left
        report.notes.append(f"adapters of {len(self.layers)} layers merged into the base's weights")
        return report


def is_adapter(source: str) -> bool:
    """Return whether a path is a folder in peft's layout."""
    return (Path(source).expanduser() / ADAPTER_CONFIG).is_file()


def read_adapter(source: str, *, modules: Collection[str]) -> Adapter:
    """Read a folder in peft's layout.

    Args:
        source: the folder.
        modules: of `MODULES`, those to take.

    Raises:
        UserError: damaged files, another method than LoRA, or names that nothing here has.
    """
    folder = Path(source).expanduser()
    config = read_json(folder / ADAPTER_CONFIG)
    _check_method(config, folder)
    tensors, metadata = read_safetensors(folder / ADAPTER_WEIGHTS)
    pairs: dict[str, dict[str, Tensor]] = {}
    whole: StateDict = {}
    for full_name, tensor in tensors.items():
        name = full_name.removeprefix(PEFT_PREFIX)
        if found := _MATRIX.match(name):
            pairs.setdefault(found["layer"], {})[found["role"]] = tensor
        elif "lora_" in name:
            raise UserError(
                f"{folder}: holds {full_name}, which is no adapter of a linear layer; merge it in "
                "peft (merge_and_unload) and save the model"
            )
        else:
            # A bias that was trained stands beside peft's wrapper of its layer.
            whole[name.replace(".base_layer.", ".").replace(".modules_to_save.", ".")] = tensor
    layers = {
        layer: Matrices(down=pair["A"], up=pair["B"], scale=_scale(config, layer, pair["A"]))
        for layer, pair in pairs.items()
        if len(pair) == 2
    }
    if len(layers) < len(pairs) or not pairs:
        raise UserError(f"{folder}: holds no whole adapter; fetch the folder again")
    scale = recorded_scale({RELU_SCALE: _number(metadata.get(RELU_SCALE, "1"))})
    try:
        ours = scale_relu(from_huggingface(whole).tensors, 1 / scale)
    except ValueError as error:
        raise UserError(f"{folder}: {error}") from error
    base = config.get("base_model_name_or_path")
    adapter = Adapter(path=folder, base=base if isinstance(base, str) else "")
    named: dict[str, Any] = {_our_weight(layer): one for layer, one in layers.items()}
    for name, value in (named | ours).items():
        module = name.partition(".")[0]
        if module not in MODULES:
            raise UserError(f"{folder}: its adapter changes {name}, which no SAM has")
        if module not in modules:
            count = value.numel() if isinstance(value, Tensor) else value.up.numel()
            adapter.left.append(TensorEntry(name=name, parameters=count, note="not asked for"))
        elif isinstance(value, Tensor):
            adapter.whole[name] = value
        else:
            adapter.layers[name] = value
    return adapter


def _our_weight(layer: str) -> str:
    (name,) = from_huggingface({f"{layer}.weight": torch.empty(0)}).tensors
    return name


def _check_method(config: Mapping[str, Any], folder: Path) -> None:
    kind = config.get("peft_type")
    if kind != "LORA":
        raise UserError(f"{folder}: holds adapters of kind {kind}; only LORA can be merged here")
    if odd := [key for key in _REFUSED if config.get(key)]:
        raise UserError(
            f"{folder}: its adapters have {odd[0]}; merge them in peft (merge_and_unload) and "
            "save the model"
        )


def _scale(config: Mapping[str, Any], layer: str, down: Tensor) -> float:
    """Compute the factor of a layer's adapter as peft does."""
    rank = max(down.shape[0], 1)
    own = config.get("alpha_pattern")
    # As plain endings of names: a regular expression of a foreign file could run for hours.
    alphas = [
        value
        for ending, value in (own.items() if isinstance(own, dict) else ())
        if f".{layer}".endswith(f".{ending.lstrip('^')}")
    ]
    alpha = alphas[0] if alphas else config.get("lora_alpha", rank)
    if not isinstance(alpha, int | float):
        raise UserError(f"{ADAPTER_CONFIG}: lora_alpha={alpha} is no number")
    return float(alpha) / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 1.0
