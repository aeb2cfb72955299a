"""`init_from=` and `ckpt=`: weights for a model from any checkpoint people have.

Reading is `weight_files.py`, choosing between copies `copies.py`, renaming `state_dicts.py`. This
file decides what a file is and fits its tensors to the model. It takes all that fits, or refuses
the file before touching anything; `checks.py` has the refusals.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from sam_train.errors import UserError
from sam_train.model.adapters.merge import adapted_layers, merge_lora
from sam_train.model.checkpoints.adapter_folder import is_adapter, read_adapter
from sam_train.model.checkpoints.checks import (
    check_finite,
    check_numbers,
    check_sizes,
    check_start,
    refuse_missing,
)
from sam_train.model.checkpoints.config import InitConfig
from sam_train.model.checkpoints.copies import Choice, Entry, choose
from sam_train.model.checkpoints.fitting import fit_tensors
from sam_train.model.checkpoints.relatives import refuse_relative
from sam_train.model.checkpoints.relu_scale import recorded_scale, scale_relu
from sam_train.model.checkpoints.report import InitReport, TensorEntry
from sam_train.model.checkpoints.state_dicts import (
    MODULES,
    Conversion,
    StateDict,
    from_dinov2,
    from_huggingface,
    from_mae,
    from_official,
)
from sam_train.model.checkpoints.weight_files import EXPORTED, read_folder_config, read_weights


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kind:
    title: str
    convert: Callable[[Mapping[str, Tensor]], Conversion]
    marker: re.Pattern[str]
    """Matches the beginning of a name that is the model's own."""
    signs: re.Pattern[str]
    """Found only in names of this layout."""


# Tried in this order: Hugging Face's names include `mask_decoder.`, and SAM's include MAE's
# `blocks.0.attn.qkv.`.
_KINDS = {
    "huggingface": _Kind(
        title="Hugging Face SAM",
        convert=from_huggingface,
        marker=re.compile(r"(vision_encoder|shared_image_embedding|prompt_encoder|mask_decoder)\."),
        signs=re.compile(
            r"(^|\.)(vision_encoder\.|shared_image_embedding\.|prompt_encoder\.mask_embed\.|"
            r"prompt_encoder\.shared_embedding\.|mask_decoder\.upscale_conv)"
        ),
    ),
    "sam": _Kind(
        title="SAM, segment-anything's names",
        convert=from_official,
        marker=re.compile(r"(image_encoder|prompt_encoder|mask_decoder)\."),
        signs=re.compile(r"(^|\.)(image_encoder|prompt_encoder|mask_decoder)\."),
    ),
    "dinov2": _Kind(
        title="DINOv2, Hugging Face names",
        convert=from_dinov2,
        marker=re.compile(r"embeddings\.patch_embeddings\."),
        signs=re.compile(r"(^|\.)embeddings\.patch_embeddings\."),
    ),
    "mae": _Kind(
        title="MAE, official names",
        convert=from_mae,
        marker=re.compile(r"blocks\.\d+\.attn\.qkv\."),
        signs=re.compile(r"(^|\.)blocks\.0\.attn\.qkv\."),
    ),
}
ENCODER_ONLY = ("mae", "dinov2")
"""Kinds that hold an image encoder only; said as a prefix, `mae:PATH`."""
# A module's own state dict lacks the module's name: told by these.
_BARE = {
    "mask_decoder": re.compile(r"(?<![^.])(iou_token\.weight$|mask_tokens\.weight$|iou_pred\w+\.)"),
    "prompt_encoder": re.compile(r"(?<![^.])(pe_layer\.|point_embeddings\.\d|no_mask_embed\.)"),
    "image_encoder": re.compile(r"(?<![^.])neck\.0\.weight$"),
}


@dataclass(slots=True, kw_only=True)
class _Plan:
    """A file's tensors at the model's shapes, before the model is touched."""

    path: Path
    kind: str
    fitted: StateDict
    report: InitReport


def initialise(sam: nn.Module, init_from: str, cfg: InitConfig) -> InitReport:
    """Copy the weights that `init_from` names into `sam`, in place, to train it on.

    Part of a model is welcome: an image encoder alone, and what `cfg` names. The rest keeps its
    initial values, which the report says.

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
            an unknown module, or a file without an image encoder while `cfg` names no modules.
            The model is untouched then.
    """
    target: StateDict = sam.state_dict()
    plan = _plan(target, init_from, cfg)
    report = plan.report
    report.at_random = _entries(target, without=plan.fitted)
    # A prefix asked for the encoder alone; only other files can lack it by mistake.
    if plan.kind not in ENCODER_ONLY:
        check_start(report, named=cfg.modules, path=plan.path)
    _copy(plan.fitted, target)
    return report


def load_whole(
    sam: nn.Module, source: str, cfg: InitConfig, *, beneath: str | None = None
) -> list[InitReport]:
    """Copy weights for every tensor of `sam` into it, in place; nothing may stay random.

    Args:
        sam: as for `initialise`.
        source: as `init_from` of `initialise`.
        cfg: which modules come from `source`.
        beneath: a second file for all that `source` does not give; only read if that is needed.

    Returns:
        A report for each file that was read.

    Raises:
        UserError: as `initialise`, or tensors that no file gives: counted and named.
    """
    target: StateDict = sam.state_dict()
    if is_adapter(source):
        return _load_adapter(sam, source, cfg, beneath=beneath)
    top = _plan(target, source, cfg)
    # By name, not by module: a file may hold a part of a module.
    missing = {name: t for name, t in target.items() if name not in top.fitted}
    reports = [top.report]
    fitted = dict(top.fitted)
    if missing and beneath:
        # `init.modules` chooses from the first file alone.
        below = _plan(target, beneath, InitConfig())
        given = {name: tensor for name, tensor in below.fitted.items() if name in missing}
        fitted |= given
        reports.append(_only(below.report, given, why=f"comes from {top.path.name}"))
        top.report.notes.append(f"{len(given)} other tensors come from {beneath}")
    elif beneath:
        top.report.notes.append(f"init_from={beneath} is not needed: the file holds all tensors")
    missing = {name: t for name, t in missing.items() if name not in fitted}
    if missing:
        refuse_missing(missing, fitted, path=top.path, beneath=beneath, named=cfg.modules)
    _copy(fitted, target)
    return reports


def _load_adapter(
    sam: nn.Module, source: str, cfg: InitConfig, *, beneath: str | None
) -> list[InitReport]:
    """Copy the base's weights into `sam`, then what an adapter's folder changes of them."""
    target: StateDict = sam.state_dict()
    # All that may be refused of the adapter comes before the model is touched.
    adapter = read_adapter(source, modules=_check_modules(cfg.modules))
    adapter.check(target)
    if not beneath:
        raise UserError(
            f"{source}: holds adapters, which mean nothing without the weights they were trained "
            f"on{adapter.hint}; name those, too: init_from=BASE beside ckpt={source}"
        )
    reports = load_whole(sam, beneath, InitConfig())
    return [adapter.put_into(target), *reports]


def read_own(path: Path) -> StateDict:
    """Read a model in our own names as its file holds it, adapters apart.

    Raises:
        UserError: as `initialise`, or another kind of file.
    """
    kind, choice = _recognise(_with_module_names(read_weights(path)), wanted=None, path=path)
    if kind != "sam":
        raise UserError(f"{path}: is a file of {_KINDS[kind].title}; name a checkpoint of fit")
    return choice.tensors


def _only(report: InitReport, given: StateDict, *, why: str) -> InitReport:
    """Return the report of a file of which only `given` is taken."""
    # Its tensors fit, too, but the first file has them already.
    unused = [e for e in (*report.loaded, *report.resized) if e.name not in given]
    return replace(
        report,
        loaded=[e for e in report.loaded if e.name in given],
        resized=[e for e in report.resized if e.name in given],
        skipped=[*report.skipped, *(replace(e, note=why) for e in unused)],
    )


def _entries(target: StateDict, *, without: StateDict) -> list[TensorEntry]:
    return [
        TensorEntry(name=name, parameters=t.numel(), note=_beginning(name, t))
        for name, t in target.items()
        if name not in without
    ]


def _beginning(name: str, tensor: Tensor) -> str:
    if ".lora_" in name:
        return "a new adapter"
    return "" if tensor.any() else "zeros"


def _copy(fitted: StateDict, target: StateDict) -> None:
    # In place: parameters keep their identity, which an optimizer may hold already.
    with torch.no_grad():
        for name, tensor in fitted.items():
            target[name].copy_(tensor)


def _plan(target: StateDict, init_from: str, cfg: InitConfig) -> _Plan:
    """Read a file and fit all that is asked of it; refuse what cannot be, and touch nothing."""
    modules = _check_modules(cfg.modules)
    wanted, path = _split(init_from)
    entries = _with_module_names(read_weights(path))
    # Only relatives that cannot be used at all; additions are judged once the kind is known.
    refuse_relative((".".join(e.parts) for e in entries), path=path, wanted=())
    # Relatives first: their files hold SAM's names beside their own.
    kind, choice = _recognise(entries, wanted=wanted, path=path)
    _merge_adapters(choice, path=path)
    refuse_relative(choice.tensors, path=path, wanted=modules)
    source = {n: t.to_dense() if t.is_sparse else t for n, t in choice.tensors.items()}
    try:
        conversion = _KINDS[kind].convert(source)
        if kind == "huggingface":
            # Here, because the scale stands in config.json beside the tensors.
            conversion.tensors = _without_scale(conversion.tensors, path)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error
    report = InitReport(
        source=init_from, kind=_KINDS[kind].title, notes=[*choice.notes, *conversion.notes]
    )
    report.skipped += [
        TensorEntry(name=name, parameters=source[name].numel(), note=why)
        for name, why in conversion.skipped.items()
    ]
    report.skipped += [
        TensorEntry(name=name, parameters=tensor.numel(), note="outside the model")
        for name, tensor in choice.outside.items()
    ]
    chosen = {n: t for n, t in conversion.tensors.items() if n.split(".", 1)[0] in modules}
    for name in (name for name in chosen if name in target):
        # Before any shape: packed or empty weights have odd ones, and those would be blamed.
        check_numbers(name, chosen[name], path=path)
    # As a whole before tensor by tensor: "this is a ViT-L" helps more than one shape that differs.
    check_sizes(chosen, target, path=path)
    fitted = fit_tensors(chosen, target, report=report, path=path)
    for name, tensor in conversion.tensors.items():
        if name not in fitted:
            why = "not in this model" if name in chosen or not _is_ours(name) else "not asked for"
            report.skipped.append(TensorEntry(name=name, parameters=tensor.numel(), note=why))
    if unknown := [name for name in chosen if _is_ours(name) and name not in target]:
        report.notes.append(
            f"{len(unknown)} in the modules unknown here, such as {unknown[0]}: the file is of a "
            "changed model, which may answer otherwise"
        )
    for module in cfg.modules:
        if not any(name.startswith(f"{module}.") for name in fitted):
            raise UserError(f"{path}: holds nothing for {module}; check init.modules")
    if not fitted:
        raise UserError(f"{path}: holds nothing that this model has; is it of another program?")
    # Last, because it reads every number.
    check_finite(fitted, path=path)
    return _Plan(path=path, kind=kind, fitted=fitted, report=report)


def _merge_adapters(choice: Choice, *, path: Path) -> None:
    """Put the adapters of one of our own checkpoints into its weights, in place."""
    if layers := adapted_layers(choice.tensors):
        try:
            choice.tensors = merge_lora(choice.tensors)
        except ValueError as error:
            raise UserError(f"{path}: {error}") from error
        choice.notes.append(f"adapters (LoRA) of {len(layers)} layers merged into their weights")


def _with_module_names(entries: Sequence[Entry]) -> list[Entry]:
    """Put the module's name before the names of a module that was saved by itself."""
    result = list(entries)
    known = (_KINDS["huggingface"].signs, _KINDS["sam"].signs)
    # Names that are whole already need nothing in front.
    if any(signs.search(".".join(e.parts)) for signs in known for e in entries):
        return result
    for module, sign in _BARE.items():
        before = {
            entry.place: entry.name[: found.start()]
            for entry in result
            if (found := sign.search(entry.name))
        }
        for number, entry in enumerate(result):
            prefix = before.get(entry.place)
            if prefix is not None and entry.name.startswith(prefix):
                inner = entry.name.removeprefix(prefix)
                result[number] = replace(entry, name=f"{prefix}{module}.{inner}")
    return result


def _without_scale(tensors: StateDict, path: Path) -> StateDict:
    """Undo the scaling of a ReLU decoder that `export` does for Hugging Face."""
    ours = read_folder_config(path).get(EXPORTED)
    scale = recorded_scale(ours) if isinstance(ours, dict) else 1.0
    return scale_relu(tensors, 1 / scale) if scale != 1.0 else tensors


def _is_ours(name: str) -> bool:
    return name.split(".", 1)[0] in MODULES


def _check_modules(names: list[str]) -> list[str]:
    for name in names:
        if name not in MODULES:
            # Cutoff 0 always guesses: there are three names only.
            near = difflib.get_close_matches(name, MODULES, n=1, cutoff=0.0)[0]
            raise UserError(
                f"init.modules: {name!r} is not one of {', '.join(MODULES)}; meant {near}?"
            )
    return names or list(MODULES)


def _split(init_from: str) -> tuple[str | None, Path]:
    # Any other colon is part of the path.
    prefix, colon, rest = init_from.partition(":")
    if colon and prefix in ENCODER_ONLY:
        return prefix, Path(rest).expanduser()
    return None, Path(init_from).expanduser()


def _recognise(entries: Sequence[Entry], *, wanted: str | None, path: Path) -> tuple[str, Choice]:
    """Tell the kind of checkpoint by its names; what the prefix said must agree."""
    names = [".".join(entry.parts) for entry in entries]
    found = next((k for k, v in _KINDS.items() if any(v.signs.search(n) for n in names)), None)
    choice = choose(entries, _KINDS[found].marker) if found is not None else None
    if found is None or choice is None:
        refuse_relative(names, path=path, wanted=MODULES)
        declared = read_folder_config(path).get("model_type")
        what = f" (its config.json says {declared})" if declared else ""
        raise UserError(
            f"{path}: not a SAM, MAE or Hugging Face DINOv2 checkpoint{what}; "
            f"its first tensor is {names[0]}; init_from= takes those kinds only"
        )
    # Relatives of plain ViTs look like MAE by their names, too.
    if found in ENCODER_ONLY:
        refuse_relative(choice.tensors, path=path, wanted=MODULES)
    if wanted is None and found in ENCODER_ONLY:
        raise UserError(f"{path}: is a {found} checkpoint; say init_from={found}:{path}")
    if wanted is not None and found != wanted:
        right = f"{found}:{path}" if found in ENCODER_ONLY else str(path)
        raise UserError(f"{path}: is no {wanted} checkpoint; say init_from={right}")
    return found, choice
