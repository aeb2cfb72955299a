"""The refusals of `init.py`: sizes, numbers and missing parts, each a line with the way out."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import NoReturn

import torch
from torch import Tensor

from sam_train.errors import UserError
from sam_train.model.architecture import ARCHITECTURES
from sam_train.model.build import build_from_config
from sam_train.model.checkpoints.report import InitReport
from sam_train.model.checkpoints.state_dicts import ENCODER, MODULES, StateDict
from sam_train.model.config import ModelConfig
from sam_train.model.encoders.vit import ViT

_NAMED = 4
# Less of an encoder than this, with nobody having said so, is not a start that anybody means.
_LEAST_ENCODER = 0.5


def refuse_missing(
    missing: Collection[str],
    present: Collection[str],
    *,
    path: Path,
    beneath: str | None,
    named: Sequence[str],
) -> NoReturn:
    """Refuse to use a model of which some weights would be random.

    Args:
        missing: names of the tensors that no file gives.
        present: names of the model's other tensors.
        path, beneath: the file, and the second one where there is one.
        named: `init.modules`.

    Raises:
        UserError: always.
    """
    where = f"{path} and {beneath} hold" if beneath else f"{path}: holds"
    only = f" (init.modules takes {', '.join(named)} only)" if named else ""
    way_out = (
        "take a whole model for the second file, init_from="
        if beneath
        else "use a file of the whole model, or name a second one for the rest: "
        "init_from=WHOLE.pth lies under ckpt="
    )
    raise UserError(
        f"{where} {len(present)} of the model's {len(present) + len(missing)} tensors{only}; the "
        f"other {len(missing)} would be random: {summary(missing, present)}; {way_out}"
    )


def check_start(report: InitReport, *, named: Sequence[str], path: Path) -> None:
    """Refuse to train on from a file without most of an image encoder, unless that was said.

    Args:
        report: of the file, with what stays random.
        named: `init.modules`; empty if nobody chose.
        path: of the file.

    Raises:
        UserError: counts and names what would be random.
    """
    taken = sum(e.parameters for e in (*report.loaded, *report.resized) if _inside(e.name))
    lost = sum(e.parameters for e in report.at_random if _inside(e.name))
    if named or taken >= _LEAST_ENCODER * (taken + lost):
        return
    # By numbers above, by tensors here: people recognise names.
    present = [e.name for e in (*report.loaded, *report.resized)]
    missing = [e.name for e in report.at_random]
    have = [module for module in MODULES if any(n.startswith(f"{module}.") for n in present)]
    raise UserError(
        f"{path}: holds {len(present)} of the model's {len(present) + len(missing)} tensors; the "
        f"other {len(missing)} would begin at random: {summary(missing, present)}; if that is "
        f"meant, say init.modules=[{','.join(have)}]"
    )


def _inside(name: str) -> bool:
    return name.startswith(f"{ENCODER}.")


def summary(missing: Iterable[str], present: Collection[str]) -> str:
    """Name the missing tensors in one line: whole modules, else the kinds of names in them."""
    listed = list(missing)
    parts = []
    for module in dict.fromkeys(name.split(".")[0] for name in listed):
        inside = [name[len(module) + 1 :] for name in listed if name.split(".")[0] == module]
        if not any(name.startswith(f"{module}.") for name in present):
            parts.append(f"all {len(inside)} of {module}")
            continue
        kinds = Counter(re.sub(r"(^|\.)\d+(?=\.)", r"\1*", name) for name in inside)
        shown = [f"{kind} x{n}" if n > 1 else kind for kind, n in list(kinds.items())[:_NAMED]]
        more = f" and {len(kinds) - _NAMED} more kinds" if len(kinds) > _NAMED else ""
        parts.append(f"{len(inside)} of {module} ({', '.join(shown)}{more})")
    return ", ".join(parts)


def refuse_shape(name: str, tensor: Tensor, shape: torch.Size, *, path: Path) -> NoReturn:
    """Refuse a tensor that does not fit, and say which named model it would fit.

    Raises:
        UserError: always.
    """
    module = name.partition(".")[0]
    fits = [other for other, _ in ARCHITECTURES.items() if _shape_in(other, name) == tensor.shape]
    size = f", which is that of model={' or '.join(fits)}" if fits else ""
    raise UserError(
        f"{path}: {name} is {_by(tensor.shape)}{size}, the model has {_by(shape)}; build the "
        f"model at the checkpoint's sizes (model=...) or leave {module} out of init.modules"
    )


def _shape_in(architecture: str, name: str) -> torch.Size | None:
    # No memory is taken: even ViT-H is built for the sake of one shape.
    with torch.device("meta"):
        tensor = build_from_config(ModelConfig(name=architecture)).state_dict().get(name)
    return None if tensor is None else tensor.shape


def _by(shape: torch.Size) -> str:
    return "x".join(map(str, shape)) or "a number"


def check_numbers(name: str, tensor: Tensor, *, path: Path) -> None:
    """Refuse numbers that are no weights: quantised, complex, none at all.

    Raises:
        UserError: names the tensor.
    """
    if tensor.is_quantized or not tensor.is_floating_point():
        kind = str(tensor.dtype).removeprefix("torch.")
        raise UserError(
            f"{path}: {name} is {kind}, so the weights are quantised or none at all; take the file "
            "from before, in float32, float16 or bfloat16"
        )
    if not tensor.numel():
        raise UserError(
            f"{path}: {name} is empty, as a run in parts (ZeRO 3, FSDP) leaves it in each "
            "process's file; join the parts first"
        )
    if tensor.is_meta:
        raise UserError(f"{path}: {name} has no data (torch's meta device); save the model again")


def check_sizes(source: StateDict, target: StateDict, *, path: Path) -> None:
    """Refuse a checkpoint of another encoder, width or depth: part of it would fit, and mean
    nothing.

    Raises:
        UserError: names both, and the way out.
    """
    theirs, ours = _vit_size(source), _vit_size(target)
    if theirs is not None and ours is not None and theirs != ours:
        name = next(iter(_vits_of(theirs)), None)
        way_out = f"use model={name}" if name else "build the model at that width and depth"
        raise UserError(
            f"{path}: its ViT has {_describe(theirs)}, the model's {_describe(ours)}; {way_out}"
        )
    inside = [name for name in source if _inside(name)]
    strange = [name for name in inside if name not in target]
    # Necks are alike in all encoders.
    if any(map(_inside, target)) and len(strange) > len(inside) / 2:
        raise UserError(
            f"{path}: its image encoder is of another kind than the model's, which has no "
            f"{strange[0]}; build the model with that encoder, or leave it out: "
            f"init.modules=[{','.join(m for m in MODULES if m != ENCODER)}]"
        )
    # The paper's data-engine models had three decoder layers, the released ones two.
    depths = (
        _layers(source, "mask_decoder.transformer.layers."),
        _layers(target, "mask_decoder.transformer.layers."),
    )
    if depths[0] and depths[0] != depths[1]:
        raise UserError(
            f"{path}: its mask decoder has {depths[0]} layers, the model's {depths[1]}; set "
            f"model.decoder_depth={depths[0]}, or init.modules=[image_encoder,prompt_encoder]"
        )


def vit_named(state: StateDict) -> str | None:
    """Return the name of the ViT that has the sizes of `state`, in our names; None for others."""
    size = _vit_size(state)
    return next(iter(_vits_of(size)), None) if size is not None else None


def _vit_size(state: StateDict) -> tuple[int, int] | None:
    """Return (width, blocks) of a ViT, None where there is none."""
    kernel = state.get(f"{ENCODER}.patch_embed.proj.weight")
    if kernel is None:
        return None
    return kernel.shape[0], _layers(state, f"{ENCODER}.blocks.")


def _layers(state: StateDict, prefix: str) -> int:
    """Return one more than the highest number after `prefix`; 0 where there is none."""
    numbers = [n.removeprefix(prefix).split(".")[0] for n in state if n.startswith(prefix)]
    return max((int(n) + 1 for n in numbers if n.isdigit()), default=0)


def _describe(size: tuple[int, int]) -> str:
    names = _vits_of(size)
    return f"width {size[0]} and {size[1]} blocks" + (f" ({names[0]})" if names else "")


def _vits_of(size: tuple[int, int]) -> list[str]:
    """Return the names of the ViTs of that width and depth."""
    return [
        name
        for name, arch in ARCHITECTURES.items()
        if isinstance(arch, ViT) and (arch.embed_dim, arch.depth) == size
    ]


def check_finite(tensors: StateDict, *, path: Path) -> None:
    """Refuse weights of a run that diverged, and such as float32 cannot hold.

    Raises:
        UserError: names the first tensor and counts the others.
    """
    # In float32, which the model has: a float64 can be finite and too large.
    bad = [name for name, tensor in tensors.items() if not tensor.float().isfinite().all()]
    if bad:
        raise UserError(
            f"{path}: {bad[0]} holds NaN or infinity ({len(bad)} such in all), so its run had "
            "diverged; take an earlier checkpoint"
        )
