"""ONNX as annotation tools load it: a folder with encoder, decoder and the config.yaml they read.

The layout is samexporter's, for AnyLabeling and X-AnyLabeling.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch

from sam_train.export.config import OnnxConfig
from sam_train.export.files import whole
from sam_train.export.onnx_file import (
    DECODER_OUTPUTS,
    MAX_POINTS,
    decoder_inputs,
    require_onnx,
    write_graph,
)
from sam_train.export.onnx_pair_graphs import FRAME, MASK_SIDE, PairDecoder, PairEncoder
from sam_train.model.sam import Sam

# Height of the frame in AnyLabeling's first version, whose config had to name it.
_FRAME_HEIGHT = 684


@dataclass(frozen=True, slots=True, kw_only=True)
class PairPaths:
    """The names of the files in a folder."""

    encoder: Path
    decoder: Path
    config: Path

    @classmethod
    def under(cls, folder: Path) -> PairPaths:
        """Return the names under `folder`, which is named as the model."""
        name = folder.resolve().name
        return cls(
            encoder=folder / f"{name}.encoder.onnx",
            decoder=folder / f"{name}.decoder.onnx",
            config=folder / "config.yaml",
        )


def save_onnx_pair(sam: Sam, folder: Path, *, cfg: OnnxConfig, title: str = "") -> list[Path]:
    """Write `NAME.encoder.onnx`, `NAME.decoder.onnx` and `config.yaml` to the folder NAME.

    Args:
        sam: float32, on the CPU, in evaluation mode; any encoder and input size.
        folder: made if need be; other files in it stay.
        cfg: of which only `opset` matters, since the tools fix the rest.
        title: the name that the tools show; left out, the folder's.

    Returns:
        The files.

    Raises:
        UserError: packages that are missing, or a folder that cannot be written.
    """
    require_onnx()
    paths = PairPaths.under(folder)
    sides = {n: torch.export.Dim(n, min=1, max=FRAME) for n in ("image_height", "image_width")}
    height, width = sides.values()
    files = write_graph(
        PairEncoder(sam).eval(),
        # Two different sides: equal ones would be traced as one.
        {"input_image": torch.zeros(FRAME // 2, FRAME - 2, 3)},
        paths.encoder,
        outputs=("image_embeddings",),
        dynamic={"input_image": {0: height, 1: width}},
        cfg=cfg,
    )
    points = torch.export.Dim("num_points", min=1, max=MAX_POINTS)
    inputs = decoder_inputs(sam, points=3)
    files += write_graph(
        PairDecoder(sam).eval(),
        inputs | {"mask_input": torch.zeros(1, 1, MASK_SIDE, MASK_SIDE)},
        paths.decoder,
        outputs=DECODER_OUTPUTS,
        dynamic={"point_coords": {1: points}, "point_labels": {1: points}},
        cfg=cfg,
    )
    with whole(paths.config) as unfinished:
        unfinished.write_text(_config(paths, title or paths.config.parent.resolve().name))
    return [*files, paths.config]


def _config(paths: PairPaths, title: str) -> str:
    content = {
        "type": "segment_anything",
        "name": paths.config.parent.resolve().name,
        "display_name": title,
        "encoder_model_path": paths.encoder.name,
        "decoder_model_path": paths.decoder.name,
        "input_size": FRAME,
        "max_width": FRAME,
        "max_height": _FRAME_HEIGHT,
    }
    # JSON's literals are YAML's, too.
    return "".join(f"{key}: {json.dumps(value)}\n" for key, value in content.items())
