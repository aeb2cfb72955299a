"""`init_from=`: starting weights for a model from any checkpoint people have.

Reading is `weight_files.py`, renaming `state_dicts.py`; this file decides what a file is, fits its
tensors to the model, and either takes all that fits or refuses the file before touching anything.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from sam_train.errors import UserError
from sam_train.model.build import ARCHITECTURES
from sam_train.model.init_report import InitReport, TensorEntry
from sam_train.model.relu_scale import recorded_scale, scale_relu
from sam_train.model.state_dicts import (
    ENCODER,
    MODULES,
    Conversion,
    StateDict,
    from_dinov2,
    from_huggingface,
    from_mae,
    from_official,
    resize_patch_kernel,
    resize_position_table,
    resize_relative_positions,
)
from sam_train.model.weight_files import EXPORTED, read_folder_config, read_weights


@dataclass(kw_only=True)
class InitConfig:
    """How `init_from=` is applied."""

    modules: list[str] = field(default_factory=list)
    """Of image_encoder, prompt_encoder and mask_decoder those to initialise; the others keep
    their random weights. Empty: all that the checkpoint holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kind:
    title: str
    convert: Callable[[Mapping[str, Tensor]], Conversion]
    markers: tuple[str, ...]
    """Parts of names that only this layout has."""


_KINDS = {
    "huggingface": _Kind(
        title="Hugging Face SAM",
        convert=from_huggingface,
        markers=(
            "vision_encoder.",
            "shared_image_embedding.",
            "prompt_encoder.mask_embed.",
            "mask_decoder.upscale_conv",
        ),
    ),
    "sam": _Kind(
        title="SAM, segment-anything's names",
        convert=from_official,
        markers=("image_encoder.", "prompt_encoder.", "mask_decoder."),
    ),
    "dinov2": _Kind(
        title="DINOv2, Hugging Face names",
        convert=from_dinov2,
        markers=("embeddings.patch_embeddings.",),
    ),
    "mae": _Kind(
        title="MAE, official names",
        convert=from_mae,
        markers=("blocks.0.attn.qkv.",),
    ),
}
_PREFIXED = ("mae", "dinov2")


def initialise(sam: nn.Module, init_from: str, cfg: InitConfig) -> InitReport:
    """Copy the weights that `init_from` names into `sam`, in place.

    Args:
        sam: a model with the three modules of `Sam`, on any device.
        init_from: a path to an official SAM `.pth`, a Hugging Face SAM folder or safetensors, or
            one of our checkpoints (told apart by their names); or `mae:PATH`, `dinov2:PATH`
            (image encoder only, class token dropped; paper A starts from MAE).
        cfg: which modules.

    Returns:
        The fate of every tensor; `str()` of it is a short table.

    Raises:
        UserError: unreadable, foreign or diverged file, a file of another size than the model,
            an unknown module. The model is untouched then.
    """
    modules = _check_modules(cfg.modules)
    wanted, path = _split(init_from)
    source = read_weights(path)
    kind = _recognise(source, wanted=wanted, path=path)
    try:
        conversion = _KINDS[kind].convert(source)
        if kind == "huggingface":
            conversion.tensors = _without_scale(conversion.tensors, path)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error
    target: StateDict = sam.state_dict()
    report = InitReport(source=init_from, kind=_KINDS[kind].title, notes=conversion.notes)
    report.skipped += [
        TensorEntry(name=name, parameters=source[name].numel(), note=why)
        for name, why in conversion.skipped.items()
    ]
    chosen = {n: t for n, t in conversion.tensors.items() if n.split(".", 1)[0] in modules}
    _check_sizes(chosen, target, path=path)
    fitted = _fit(chosen, target, report=report, path=path)
    for name, tensor in conversion.tensors.items():
        if name not in fitted:
            why = "not in this model" if name in chosen or not _is_ours(name) else "not asked for"
            report.skipped.append(TensorEntry(name=name, parameters=tensor.numel(), note=why))
    if not fitted:
        raise UserError(f"{path}: holds nothing for {', '.join(modules)}; check init.modules")
    _check_finite(fitted, path=path)
    with torch.no_grad():
        for name, tensor in fitted.items():
            target[name].copy_(tensor)
    for name, tensor in target.items():
        if name not in fitted:
            note = "" if tensor.any() else "zeros"
            entry = TensorEntry(name=name, parameters=tensor.numel(), note=note)
            report.at_random.append(entry)
    return report


def _without_scale(tensors: StateDict, path: Path) -> StateDict:
    """As they were before `export` scaled a ReLU decoder for Hugging Face."""
    ours = read_folder_config(path).get(EXPORTED)
    scale = recorded_scale(ours) if isinstance(ours, dict) else 1.0
    return scale_relu(tensors, 1 / scale) if scale != 1.0 else tensors


def _is_ours(name: str) -> bool:
    return name.split(".", 1)[0] in MODULES


def _check_modules(names: list[str]) -> list[str]:
    for name in names:
        if name not in MODULES:
            near = difflib.get_close_matches(name, MODULES, n=1, cutoff=0.0)[0]
            raise UserError(
                f"init.modules: {name!r} is not one of {', '.join(MODULES)}; meant {near}?"
            )
    return names or list(MODULES)


def _split(init_from: str) -> tuple[str | None, Path]:
    prefix, colon, rest = init_from.partition(":")
    if colon and prefix in _PREFIXED:
        return prefix, Path(rest).expanduser()
    return None, Path(init_from).expanduser()


def _recognise(source: StateDict, *, wanted: str | None, path: Path) -> str:
    """The kind of checkpoint by its names; what the prefix said must agree."""
    found = next(
        (k for k, v in _KINDS.items() if any(m in name for name in source for m in v.markers)),
        None,
    )
    if found is None:
        declared = read_folder_config(path).get("model_type")
        what = f" (its config.json says {declared})" if declared else ""
        raise UserError(
            f"{path}: not a SAM, MAE or Hugging Face DINOv2 checkpoint{what}; "
            f"its first tensor is {next(iter(source))}; init_from= takes those kinds only"
        )
    if wanted is None and found in _PREFIXED:
        raise UserError(f"{path}: is a {found} checkpoint; say init_from={found}:{path}")
    if wanted is not None and found != wanted:
        right = f"{found}:{path}" if found in _PREFIXED else str(path)
        raise UserError(f"{path}: is no {wanted} checkpoint; say init_from={right}")
    return found


# Fitting ----------------------------------------------------------------------------------------


def _fit(source: StateDict, target: StateDict, *, report: InitReport, path: Path) -> StateDict:
    """The tensors of `source` that `target` has, at its shapes; the report is filled."""
    fitted: StateDict = {}
    for name, tensor in source.items():
        if name not in target:
            continue
        shape = target[name].shape
        if tensor.shape == shape:
            fitted[name] = tensor
            report.loaded.append(TensorEntry(name=name, parameters=tensor.numel()))
            continue
        resized = _resize(name, tensor, shape)
        if resized is None:
            raise UserError(
                f"{path}: {name} is {_by(tensor.shape)}, the model has {_by(shape)}; build the "
                f"model at the checkpoint's sizes (model=...) or leave {name.split('.')[0]} out "
                "of init.modules"
            )
        fitted[name] = resized
        report.resized.append(
            TensorEntry(name=name, parameters=resized.numel(), note=_change(tensor, resized))
        )
    return fitted


def _resize(name: str, tensor: Tensor, shape: torch.Size) -> Tensor | None:
    """`tensor` at `shape` where that is a change of resolution only, else None."""
    if tensor.dim() != len(shape) or not name.startswith(f"{ENCODER}."):
        return None
    if name.endswith(".pos_embed") and tensor.shape[3] == shape[3]:
        return resize_position_table(tensor, (shape[1], shape[2]))
    if name.endswith((".rel_pos_h", ".rel_pos_w")) and tensor.shape[1] == shape[1]:
        return resize_relative_positions(tensor, shape[0])
    if name.endswith(".patch_embed.proj.weight") and tensor.shape[:2] == shape[:2]:
        return resize_patch_kernel(tensor, (shape[2], shape[3]))
    return None


def _by(shape: torch.Size) -> str:
    return "x".join(map(str, shape))


def _change(old: Tensor, new: Tensor) -> str:
    """`37x37 -> 64x64`: only the sizes that changed."""
    pairs = [(a, b) for a, b in zip(old.shape, new.shape, strict=True) if a != b]
    return f"{'x'.join(str(a) for a, _ in pairs)} -> {'x'.join(str(b) for _, b in pairs)}"


# Checks -----------------------------------------------------------------------------------------


def _check_sizes(source: StateDict, target: StateDict, *, path: Path) -> None:
    """Refuse a checkpoint of another width or depth: half of it would fit, and mean nothing."""
    theirs, ours = _encoder_size(source), _encoder_size(target)
    if theirs is not None and ours is not None and theirs != ours:
        name = next((n for n, a in ARCHITECTURES.items() if (a.embed_dim, a.depth) == theirs), None)
        way_out = f"use model={name}" if name else "build the model at that width and depth"
        raise UserError(
            f"{path}: its ViT has {_describe(theirs)}, the model's {_describe(ours)}; {way_out}"
        )
    depths = (
        _layers(source, "mask_decoder.transformer.layers."),
        _layers(target, "mask_decoder.transformer.layers."),
    )
    if depths[0] and depths[0] != depths[1]:
        raise UserError(
            f"{path}: its mask decoder has {depths[0]} layers, the model's {depths[1]}; set "
            f"model.decoder_depth={depths[0]}, or init.modules=[image_encoder,prompt_encoder]"
        )


def _encoder_size(state: StateDict) -> tuple[int, int] | None:
    """(width, blocks) of an image encoder, None where there is none."""
    kernel = state.get(f"{ENCODER}.patch_embed.proj.weight")
    if kernel is None:
        return None
    return kernel.shape[0], _layers(state, f"{ENCODER}.blocks.")


def _layers(state: StateDict, prefix: str) -> int:
    """One more than the highest number after `prefix`; 0 where there is none."""
    numbers = [n.removeprefix(prefix).split(".")[0] for n in state if n.startswith(prefix)]
    return max((int(n) + 1 for n in numbers if n.isdigit()), default=0)


def _describe(size: tuple[int, int]) -> str:
    names = [n for n, a in ARCHITECTURES.items() if (a.embed_dim, a.depth) == size]
    return f"width {size[0]} and {size[1]} blocks" + (f" ({names[0]})" if names else "")


def _check_finite(tensors: StateDict, *, path: Path) -> None:
    bad = [name for name, tensor in tensors.items() if not tensor.isfinite().all()]
    if bad:
        raise UserError(
            f"{path}: {bad[0]} holds NaN or infinity ({len(bad)} such in all), so its run had "
            "diverged; take an earlier checkpoint"
        )


__all__ = ["InitConfig", "InitReport", "initialise"]
