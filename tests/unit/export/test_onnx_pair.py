"""A pair of ONNX files, used as annotation tools use it, beside `Predictor`.

The tool here is written from its documentation: a photo of 1024 pixels in float32, prompts in the
frame of 1024, padding behind every prompt.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import yaml
from PIL import Image

from sam_train.errors import UserError
from sam_train.export.check import check_export
from sam_train.export.config import OnnxConfig
from sam_train.export.onnx_pair import save_onnx_pair
from sam_train.masks.frame import InputFrame
from sam_train.model import ModelConfig, Sam, build_from_config
from sam_train.model.predictor import Predictor

SMALL: dict[str, Any] = {"prompt_dim": 32, "decoder_depth": 1, "decoder_heads": 2}
SMALL |= {"decoder_mlp_dim": 32}
# Windows with padding and relative positions, scaled inside the graph; and one that is not scaled.
MODELS = {
    "vit": ModelConfig(
        name="vit_t",
        image_size=64,
        embed_dim=16,
        heads=2,
        depth=2,
        global_blocks=[1],
        window_size=3,
        **SMALL,
    ),
    "conv": ModelConfig(name="conv_t", image_size=1024, embed_dim=8, depth=3, **SMALL),
}


class Tool:
    """samexporter's way from a photo to a mask."""

    def __init__(self, folder: Path) -> None:
        onnxruntime = pytest.importorskip("onnxruntime")
        self.config = yaml.safe_load((folder / "config.yaml").read_text())
        self.encoder, self.decoder = (
            onnxruntime.InferenceSession(
                folder / self.config[f"{part}_model_path"], providers=["CPUExecutionProvider"]
            )
            for part in ("encoder", "decoder")
        )

    def set_image(self, photo: Image.Image) -> None:
        self.original = photo.size[::-1]
        scale = 1024 / max(photo.size)
        self.size = tuple(int(side * scale + 0.5) for side in photo.size)
        pixels = np.asarray(photo.resize(self.size, Image.Resampling.BILINEAR))
        (self.embeddings,) = self.encoder.run(None, {"input_image": pixels.astype(np.float32)})

    def ask(self, points: npt.ArrayLike, labels: list[int]) -> list[npt.NDArray[np.float32]]:
        width, height = self.size
        scale = np.array([width / self.original[1], height / self.original[0]])
        coords = np.concatenate([np.asarray(points) * scale, np.zeros((1, 2))])
        answer: list[npt.NDArray[np.float32]] = self.decoder.run(
            None,
            {
                "image_embeddings": self.embeddings,
                "point_coords": coords[None].astype(np.float32),
                "point_labels": np.array([[*labels, -1]], np.float32),
                "mask_input": np.zeros((1, 1, 256, 256), np.float32),
                "has_mask_input": np.zeros(1, np.float32),
                "orig_im_size": np.array(self.original, np.float32),
            },
        )
        return answer


@pytest.fixture(scope="module", params=["vit", pytest.param("conv", marks=pytest.mark.slow)])
def pair(request: pytest.FixtureRequest, tmp_path_factory: Any) -> tuple[Sam, Path]:
    pytest.importorskip("onnxscript")
    torch.manual_seed(3)
    sam = build_from_config(MODELS[request.param]).eval()
    with torch.no_grad():
        for parameter in sam.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    folder: Path = tmp_path_factory.mktemp("pair") / "cells"
    save_onnx_pair(sam, folder, cfg=OnnxConfig(), title="Cells: mine")
    return sam, folder


def smooth(width: int, height: int) -> Image.Image:
    small = np.random.default_rng(5).integers(0, 256, (6, 7, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


# A portrait, whose other side was rounded; a landscape that the tool makes smaller.
@pytest.mark.parametrize("size", [(683, 1024), (1600, 1000)])
def test_masks_are_those_of_the_predictor(pair: tuple[Sam, Path], size: tuple[int, int]) -> None:
    sam, folder = pair
    photo = smooth(*size)
    # Scaled twice, a photo differs by whole grey levels.
    limit = 1e-3 if max(size) == 1024 or sam.image_size == 1024 else 2e-2
    tool, ours = Tool(folder), Predictor(sam)
    tool.set_image(photo)
    ours.set_image(photo)
    x, y = np.array(photo.size) * [0.4, 0.55]
    for points, labels, asked in (
        ([[x, y]], [1], {"points": [[x, y]], "labels": [1]}),
        ([[x / 2, y / 3], [x, y]], [2, 3], {"boxes": [x / 2, y / 3, x, y], "multimask": False}),
        (
            [[x, y], [9, 9]],
            [1, 0],
            {"points": [[x, y], [9, 9]], "labels": [1, 0], "multimask": False},
        ),
    ):
        expected = ours.predict(**asked, return_logits=True)  # type: ignore[arg-type]
        masks, scores, low = tool.ask(points, labels)
        best = expected.scores.argmax()
        assert masks.shape == (1, 1, photo.height, photo.width)
        assert low.shape == (1, 1, 256, 256)
        largest = np.abs(expected.masks[best]).max()
        assert np.abs(masks[0, 0] - expected.masks[best]).max() <= limit * largest
        assert abs(scores[0, 0] - expected.scores[best]) <= limit


def test_the_photo_is_scaled_as_pillow_does_it(pair: tuple[Sam, Path]) -> None:
    """Noise, where every pixel of another filter would show."""
    sam, folder = pair
    noise = np.random.default_rng(7).integers(0, 256, (700, 1024, 3), dtype=np.uint8)
    frame = InputFrame(original=(700, 1024), side=sam.image_size)
    h, w = frame.size
    images = torch.zeros(1, 3, sam.image_size, sam.image_size, dtype=torch.uint8)
    images[0, :, :h, :w] = torch.tensor(frame.resize(Image.fromarray(noise))).permute(2, 0, 1)
    with torch.no_grad():
        expected = sam.encode(images, torch.tensor([[h, w]])).numpy()
    tool = Tool(folder)
    tool.set_image(Image.fromarray(noise))
    assert np.abs(tool.embeddings - expected).max() <= 2e-3 * np.abs(expected).max()


def test_names_are_those_that_the_tools_look_for(pair: tuple[Sam, Path]) -> None:
    onnx = pytest.importorskip("onnx")
    _, folder = pair
    tool = Tool(folder)
    assert tool.config == {
        "type": "segment_anything",
        "name": "cells",
        "display_name": "Cells: mine",
        "encoder_model_path": "cells.encoder.onnx",
        "decoder_model_path": "cells.decoder.onnx",
        "input_size": 1024,
        "max_width": 1024,
        "max_height": 684,
    }
    (photo,) = tool.encoder.get_inputs()
    assert (photo.name, photo.type) == ("input_image", "tensor(float)")
    assert photo.shape == ["image_height", "image_width", 3]
    assert [o.name for o in tool.encoder.get_outputs()] == ["image_embeddings"]
    outputs = [o.name for o in tool.decoder.get_outputs()]
    assert outputs == ["masks", "iou_predictions", "low_res_masks"]
    model = onnx.load(folder / "cells.encoder.onnx")
    assert {one.domain: one.version for one in model.opset_import}[""] == 20


def test_a_pair_of_another_model_is_refused(pair: tuple[Sam, Path]) -> None:
    sam, folder = pair
    assert check_export(sam, folder, format="onnx_pair").difference < 1e-3
    name = "mask_decoder.iou_prediction_head.layers.0.weight"
    state = sam.state_dict()
    kept = state[name].clone()
    state[name].copy_(-kept)
    try:
        with pytest.raises(UserError, match="answers otherwise"):
            check_export(sam, folder, format="onnx_pair")
    finally:
        state[name].copy_(kept)
