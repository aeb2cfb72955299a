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


def build_sam(
    name: str = "vit_b",
    *,
    checkpoint: str | Path | None = None,
    init_from: str | Path | None = None,
    image_size: int | None = None,
    **overrides: Any,
) -> Sam:
    """Build a SAM by name: vit_h, vit_l, vit_b (the paper's), vit_s, vit_t or conv_t (ours).

    Args:
        name: which one.
        checkpoint: a whole model of any kind that `ckpt=` takes: an official `.pth`, a Hugging
            Face folder or safetensors, one of our checkpoints. None leaves the weights random.
        init_from: a second file for what `checkpoint` lacks.
        image_size: S; None for the name's own (1024; vit_t and conv_t 256).
        overrides: other fields of `ModelConfig`.

    Raises:
        UserError: unknown name or sizes that do not fit together, `init_from` alone, or files that
            leave weights at random; `checkpoints.init.initialise` is meant for those.
    """
    # The dataclass itself would raise a TypeError, which names no way out.
    unknown = sorted(set(overrides) - {f.name for f in fields(ModelConfig)})
    if unknown:
        raise UserError(f"build_sam: {', '.join(unknown)} is not a field of ModelConfig")
    sam = build_from_config(ModelConfig(name=name, image_size=image_size, **overrides))
    if checkpoint is not None:
        beneath = None if init_from is None else str(init_from)
        load_whole(sam, str(checkpoint), InitConfig(), beneath=beneath)
    elif init_from is not None:
        raise UserError("build_sam: init_from is what checkpoint lacks; name a checkpoint, too")
    return sam


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
        # Checks every type: the record comes from a file.
        merged = OmegaConf.merge(OmegaConf.structured(ModelConfig), dict(record))
        return cast(ModelConfig, OmegaConf.to_object(merged))
    except (OmegaConfBaseException, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"{path}: its model's sizes are no such sizes ({reason})") from error
