"""One of our own files to a model: the file knows its model's sizes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, cast

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sam_train.errors import UserError
from sam_train.model.build import build_from_config
from sam_train.model.checkpoints.config import InitConfig
from sam_train.model.checkpoints.init import load_whole
from sam_train.model.checkpoints.weight_files import read_model_record
from sam_train.model.config import ModelConfig
from sam_train.model.sam import Sam


def load_sam(path: str | Path) -> Sam:
    """Load the model that training or `export` stored, at its own sizes.

    Args:
        path: one of our `.ckpt` or `.safetensors` files, or what `export` wrote for others: a
            Hugging Face folder, or a `.pth` with its `.json` beside it.

    Returns:
        float32, on the CPU, in evaluation mode.

    Raises:
        UserError: missing, damaged or foreign file, one without the model's sizes, or with part of
            its weights only.
    """
    cfg = recorded_model(Path(path))
    if cfg is None:
        raise UserError(
            f"{path}: does not say its model's sizes; name the model, vit_b for example: "
            "Predictor.from_checkpoint(path, name) or build_sam(name, checkpoint=path)"
        )
    sam = build_from_config(cfg)
    load_whole(sam, str(path), InitConfig())
    return sam.eval()


def recorded_model(path: Path) -> ModelConfig | None:
    """Read the sizes that one of our own files records; None for any other checkpoint.

    Raises:
        UserError: missing or damaged file, or sizes that this version does not know.
    """
    record: Mapping[str, Any] = read_model_record(path)
    if not record:
        return None
    # A setting may change the outputs, so an unknown one is refused, not dropped.
    if unknown := sorted(set(record) - {f.name for f in fields(ModelConfig)}):
        raise UserError(
            f"{path}: its model has a setting that this version lacks ({unknown[0]}); update "
            "sam_train"
        )
    try:
        merged = OmegaConf.merge(OmegaConf.structured(ModelConfig), dict(record))
        return cast(ModelConfig, OmegaConf.to_object(merged))
    except (OmegaConfBaseException, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"{path}: its model's sizes are no such sizes ({reason})") from error
