"""ONNX: two files, encoder and decoder, for onnxruntime and others."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sam_train.errors import UserError
from sam_train.export.config import OnnxConfig
from sam_train.export.files import whole
from sam_train.export.onnx_graphs import DecoderGraph, EncoderGraph
from sam_train.model.sam import Sam

# Protocol buffers end at 2 GiB; the graph itself needs some of it.
_ONE_FILE = 1_900_000_000
MAX_POINTS = 1000
"""Most points of one prompt."""
DECODER_OUTPUTS = ("masks", "iou_predictions", "low_res_masks")


def encoder_path(path: Path) -> Path:
    """Name the encoder's file: `sam.encoder.onnx` beside `sam.onnx`."""
    return path.with_suffix(f".encoder{path.suffix}")


def save_onnx(sam: Sam, path: Path, *, cfg: OnnxConfig) -> list[Path]:
    """Write the prompt encoder and mask decoder to `path`, the image encoder beside it.

    Args:
        sam: float32, on the CPU, in evaluation mode.
        path: `NAME.onnx`; the encoder becomes `NAME.encoder.onnx`. Weights too large for one file
            lie beside it as `NAME.encoder.onnx.data`.
        cfg: how.

    Returns:
        All files.

    Raises:
        UserError: packages that are missing, or a folder that cannot be written.
    """
    require_onnx()
    decoder = DecoderGraph(
        sam, single_mask=cfg.single_mask, stability_score=cfg.stability_score
    ).eval()
    points = torch.export.Dim("num_points", min=1, max=MAX_POINTS)
    files = write_graph(
        decoder,
        decoder_inputs(sam, points=3),
        path,
        outputs=DECODER_OUTPUTS,
        dynamic={"point_coords": {1: points}, "point_labels": {1: points}},
        cfg=cfg,
    )
    S = sam.image_size
    photo = {
        "images": torch.zeros(1, 3, S, S, dtype=torch.uint8),
        "image_sizes": torch.tensor([[S, S]]),
    }
    files += write_graph(
        EncoderGraph(sam).eval(),
        photo,
        encoder_path(path),
        outputs=("image_embeddings",),
        dynamic={},
        cfg=cfg,
    )
    return files


def decoder_inputs(sam: Sam, *, points: int) -> dict[str, Tensor]:
    """Build the decoder's inputs by name: zeros but for the photo's size, which is S."""
    g, S = sam.grid_size, sam.image_size
    C = sam.mask_decoder.iou_token.embedding_dim
    return {
        "image_embeddings": torch.zeros(1, C, g // 4, g // 4),
        "point_coords": torch.zeros(1, points, 2),
        "point_labels": torch.ones(1, points),
        "mask_input": torch.zeros(1, 1, g, g),
        "has_mask_input": torch.zeros(1),
        "orig_im_size": torch.tensor([float(S), float(S)]),
    }


def require_onnx() -> None:
    """Refuse to go on without the packages that write ONNX.

    Raises:
        UserError: one of them is missing.
    """
    try:
        import onnx  # noqa: F401, PLC0415 (an extra)
        import onnxscript  # noqa: F401, PLC0415
    except ImportError as error:
        raise UserError(f"format=onnx needs {error.name}: pip install 'sam_train[onnx]'") from error


def write_graph(
    graph: nn.Module,
    inputs: dict[str, Tensor],
    path: Path,
    *,
    outputs: tuple[str, ...],
    dynamic: dict[str, Any],
    cfg: OnnxConfig,
) -> list[Path]:
    """Trace `graph` with `inputs` and write it to `path`; return the files.

    Weights too large for one file lie beside it as `NAME.onnx.data`.

    Raises:
        UserError: a folder that cannot be written.
    """
    weights = {t.data_ptr(): t.nbytes for t in graph.state_dict().values()}
    external = sum(weights.values()) > _ONE_FILE
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            graph,
            kwargs=inputs,
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_shapes={name: dynamic.get(name) for name in inputs},
            opset_version=cfg.opset,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    if external:  # its name stands in the graph: no second name before a rename
        program.save(path, external_data=True)
        return [path, path.with_name(f"{path.name}.data")]
    with whole(path) as unfinished:
        program.save(unfinished, external_data=False)
    return [path]


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's notes on itself."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
