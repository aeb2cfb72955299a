"""The adapters of a checkpoint in peft's layout, with the prompt encoder and decoder beside them.

peft puts the folder onto transformers' `SamModel`; `ckpt=FOLDER init_from=BASE` reads it here.
Written without peft: a safetensors file and its JSON.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from sam_train.errors import UserError
from sam_train.export.check import LARGEST, Check
from sam_train.export.files import stored, vit_sizes, whole, write_json
from sam_train.export.huggingface import RELU_SCALES
from sam_train.export.probe import answer, random_probe
from sam_train.model.adapters.merge import PARTS, SCALE, adapted_layers, down_name, join_up, up_name
from sam_train.model.build import build_from_config
from sam_train.model.checkpoints.adapter_folder import PEFT_PREFIX, read_adapter
from sam_train.model.checkpoints.kinds import read_own
from sam_train.model.checkpoints.relu_scale import RELU_SCALE, scale_relu
from sam_train.model.checkpoints.state_dicts import ENCODER, MODULES, StateDict, to_huggingface
from sam_train.model.checkpoints.weight_files import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    MODEL_RECORD,
    read_trained_names,
)
from sam_train.model.config import ModelConfig
from sam_train.model.sam import Sam
from sam_train.settings.run import RunConfig

# What `last_blocks` trains whole; peft takes whole modules, not single tensors.
_WHOLE = re.compile(rf"^({ENCODER}\.(?:blocks\.\d+|neck))\.")


def save_adapters(cfg: RunConfig, folder: Path, *, dtype: torch.dtype) -> list[Path]:
    """Write adapter_config.json and adapter_model.safetensors of the checkpoint `cfg.ckpt`.

    Args:
        cfg: with the checkpoint's model; `init_from` is recorded as the base, if it is set.
        folder: made if need be.
        dtype: of the stored tensors.

    Returns:
        The files.

    Raises:
        UserError: a checkpoint without adapters, one that trained what peft has no place for,
            another encoder than a ViT, or a folder that cannot be written.
    """
    if folder.is_file():
        raise UserError(f"{folder}: is a file; format=lora writes a folder")
    path = Path(cfg.ckpt or "").expanduser()
    arch = vit_sizes(cfg.model, format="lora")
    state = read_own(path)
    layers = adapted_layers(state)
    if not layers:
        raise UserError(f"{path}: holds no adapters; train them with optim.tune=lora")
    modules = _whole_modules(state, read_trained_names(path), path=path)
    scale = RELU_SCALES[dtype] if arch.decoder_activation == "relu" else 1.0
    parts = tuple(f"{module}." for module in modules)
    kept = {n: t.float() for n, t in state.items() if n.startswith(parts)}
    tensors = {PEFT_PREFIX + n: t for n, t in to_huggingface(scale_relu(kept, scale)).items()}
    # A copy of the prompt encoder's, which nothing trains.
    tensors = {n: t for n, t in tensors.items() if ".shared_image_embedding." not in n}
    ranks, alphas = {}, {}
    for layer in layers:
        down, up = _joined(state, layer)
        theirs = _theirs(layer)
        tensors[f"{PEFT_PREFIX}{theirs}.lora_A.weight"] = down
        tensors[f"{PEFT_PREFIX}{theirs}.lora_B.weight"] = up
        ranks[theirs] = down.shape[0]
        alphas[theirs] = float(state[f"{layer}.{SCALE}"]) * down.shape[0]
    record = {MODEL_RECORD: json.dumps(asdict(cfg.model)), RELU_SCALE: repr(scale), "format": "pt"}
    weights, config = folder / ADAPTER_WEIGHTS, folder / ADAPTER_CONFIG
    with whole(weights) as unfinished:
        save_file(stored(tensors, dtype, path=folder), unfinished, metadata=record)
    named = [_theirs(module) for module in modules]
    write_json(config, _config(ranks, alphas, modules=named, base=cfg.init_from))
    return [weights, config]


def _theirs(name: str) -> str:
    """Name a module as Hugging Face's model does."""
    # A tensor's name is needed for that: only those have their place in the table.
    (theirs,) = to_huggingface({f"{name}.weight": torch.empty(0)})
    return theirs.removesuffix(".weight")


def _whole_modules(state: StateDict, trained: list[str], *, path: Path) -> list[str]:
    """List the modules that were trained whole; refuse single tensors beside the adapters."""
    modules = [module for module in MODULES if module != ENCODER]
    inside = [n for n in trained if n.startswith(f"{ENCODER}.") and ".lora_" not in n]
    found = [_WHOLE.match(name) for name in inside]
    candidates = dict.fromkeys(match[1] for match in found if match)
    for candidate in candidates:
        own = {name for name in state if name.startswith(f"{candidate}.")}
        if own <= set(trained):
            modules.append(candidate)
    covered = tuple(f"{module}." for module in modules)
    if single := [name for name in inside if not name.startswith(covered)]:
        raise UserError(
            f"{path}: trained {len(single)} single tensors of the encoder beside its adapters, "
            f"such as {single[0]}, for which peft's layout has no place; use format=safetensors"
        )
    return modules


def _joined(state: StateDict, layer: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Join the adapters of a fused layer's parts to one of the whole layer, with more rank."""
    if f"{layer}.{down_name('')}" in state:
        return state[f"{layer}.{down_name('')}"], state[f"{layer}.{up_name('')}"]
    there = [part for part in PARTS if f"{layer}.{down_name(part)}" in state]
    down = torch.cat([state[f"{layer}.{down_name(part)}"] for part in there])
    return down, join_up({part: state[f"{layer}.{up_name(part)}"] for part in there})


def _config(
    ranks: dict[str, int], alphas: dict[str, float], *, modules: list[str], base: str | None
) -> dict[str, Any]:
    # The commonest values are the defaults, the others patterns: names that peft reads as the
    # ends of regular expressions.
    rank, alpha = (Counter(v.values()).most_common(1)[0][0] for v in (ranks, alphas))
    return {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": base,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "use_rslora": False,
        "use_dora": False,
        "init_lora_weights": True,
        "target_modules": sorted(ranks),
        "modules_to_save": modules,
        "rank_pattern": {n: r for n, r in ranks.items() if r != rank},
        "alpha_pattern": {n: a for n, a in alphas.items() if a != alpha},
    }


def check_adapters(sam: Sam, folder: Path, *, ckpt: Path, model: ModelConfig) -> Check:
    """Read the folder back onto the checkpoint's own base, and compare with the merged model.

    Raises:
        UserError: the answers differ by more than rounding.
    """
    state = read_own(ckpt.expanduser())
    again = build_from_config(model).eval()
    again.load_state_dict({n: t for n, t in state.items() if ".lora_" not in n})
    adapter = read_adapter(str(folder), modules=MODULES)
    own = again.state_dict()
    adapter.check(own)
    adapter.put_into(own)
    probe = random_probe(sam.image_size, channels=sam.image_encoder.in_channels)
    difference = answer(again, probe).difference(answer(sam, probe))
    if not difference <= LARGEST:
        raise UserError(f"{folder}: read back it answers otherwise, by {difference:.1e}; report it")
    return Check(reader="sam_train", difference=difference)
