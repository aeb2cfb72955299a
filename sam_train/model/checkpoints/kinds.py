"""The kind of a checkpoint, told by its names alone, and its tensors under our names.

Reading is `weight_files.py`, choosing between copies `copies.py`, renaming `state_dicts.py`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from sam_train.errors import UserError
from sam_train.model.adapters.merge import adapted_layers, merge_lora
from sam_train.model.checkpoints.copies import Choice, Entry, choose
from sam_train.model.checkpoints.relatives import refuse_relative
from sam_train.model.checkpoints.relu_scale import recorded_scale, scale_relu
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
class Kind:
    """A layout of names that some program writes."""

    title: str
    convert: Callable[[Mapping[str, Tensor]], Conversion]
    """Renames to ours."""
    marker: re.Pattern[str]
    """Matches the beginning of a name that is the model's own."""
    signs: re.Pattern[str]
    """Found only in names of this layout."""


# Tried in this order: Hugging Face's names include `mask_decoder.`, and SAM's include MAE's
# `blocks.0.attn.qkv.`.
KINDS = {
    "huggingface": Kind(
        title="Hugging Face SAM",
        convert=from_huggingface,
        marker=re.compile(r"(vision_encoder|shared_image_embedding|prompt_encoder|mask_decoder)\."),
        signs=re.compile(
            r"(^|\.)(vision_encoder\.|shared_image_embedding\.|prompt_encoder\.mask_embed\.|"
            r"prompt_encoder\.shared_embedding\.|mask_decoder\.upscale_conv)"
        ),
    ),
    "sam": Kind(
        title="SAM, segment-anything's names",
        convert=from_official,
        marker=re.compile(r"(image_encoder|prompt_encoder|mask_decoder)\."),
        signs=re.compile(r"(^|\.)(image_encoder|prompt_encoder|mask_decoder)\."),
    ),
    "dinov2": Kind(
        title="DINOv2, Hugging Face names",
        convert=from_dinov2,
        marker=re.compile(r"embeddings\.patch_embeddings\."),
        signs=re.compile(r"(^|\.)embeddings\.patch_embeddings\."),
    ),
    "mae": Kind(
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A checkpoint that was read, recognised and renamed."""

    path: Path
    kind: str
    """A key of `KINDS`."""
    choice: Choice
    """The copy of the model that the file is taken for, under its own names."""
    source: StateDict
    """The dense tensors of that copy."""
    conversion: Conversion
    """The tensors under our names, and those that have none."""


def open_checkpoint(init_from: str, *, modules: Sequence[str] = MODULES) -> Opened:
    """Read a file that `init_from` names, and put its tensors under our names.

    Args:
        init_from: a path, with a prefix of `ENCODER_ONLY` where its kind needs one.
        modules: those that shall be taken; a relative of SAM may have some that are SAM's own.

    Raises:
        UserError: unreadable or foreign file, or another kind than its prefix says.
    """
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
        conversion = KINDS[kind].convert(source)
        if kind == "huggingface":
            # Here, because the scale stands in config.json beside the tensors.
            conversion.tensors = _without_scale(conversion.tensors, path)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error
    return Opened(path=path, kind=kind, choice=choice, source=source, conversion=conversion)


def read_own(path: Path) -> StateDict:
    """Read a model in our own names as its file holds it, adapters apart.

    Raises:
        UserError: as `initialise`, or another kind of file.
    """
    kind, choice = _recognise(_with_module_names(read_weights(path)), wanted=None, path=path)
    if kind != "sam":
        raise UserError(f"{path}: is a file of {KINDS[kind].title}; name a checkpoint of fit")
    return choice.tensors


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
    known = (KINDS["huggingface"].signs, KINDS["sam"].signs)
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


def _split(init_from: str) -> tuple[str | None, Path]:
    # Any other colon is part of the path.
    prefix, colon, rest = init_from.partition(":")
    if colon and prefix in ENCODER_ONLY:
        return prefix, Path(rest).expanduser()
    return None, Path(init_from).expanduser()


def _recognise(entries: Sequence[Entry], *, wanted: str | None, path: Path) -> tuple[str, Choice]:
    """Tell the kind of checkpoint by its names; what the prefix said must agree."""
    names = [".".join(entry.parts) for entry in entries]
    found = next((k for k, v in KINDS.items() if any(v.signs.search(n) for n in names)), None)
    choice = choose(entries, KINDS[found].marker) if found is not None else None
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
