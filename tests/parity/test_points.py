"""The game of clicks against segment-anything's own predictor, on real weights and photos."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import segment_anything_reference
import torch
from PIL import Image
from pycocotools import mask as coco_mask
from scipy.ndimage import distance_transform_edt
from torch import nn

from data_tools.scenes.scene import render_scene
from sam_train.eval.clicks.interactive import play_clicks
from sam_train.eval.datasets import EvalSample, prompt_batch
from sam_train.model import Sam
from sam_train.model.load import load_sam
from sam_train.types import RLE

ROOT = Path(__file__).resolve().parents[2]
TRUCK = ROOT / "../shared/data/photos/truck.jpg"
ROUNDS = 5
BoolMask = npt.NDArray[np.bool_]


@pytest.fixture(scope="module")
def sam() -> Sam:
    return load_sam(ROOT / "sam_train/assets/nano.safetensors")


@pytest.fixture(scope="module")
def predictor(sam: Sam, reference_like: Callable[..., nn.Module]) -> Any:
    theirs = reference_like(sam)
    theirs.load_state_dict(sam.state_dict())
    return segment_anything_reference.load().SamPredictor(theirs)


def deepest(region: BoolMask) -> tuple[float, int, int]:
    depth = distance_transform_edt(np.pad(region, 1))[1:-1, 1:-1]
    row, column = np.unravel_index(np.argmax(depth), depth.shape)
    return float(depth[row, column]), int(row), int(column)


def clicked(predictor: Any, truth: BoolMask) -> tuple[list[float], float]:
    """IoU after each click, and the best of the three first masks, as users of the class do it."""
    scale = np.array(predictor.input_size[::-1]) / np.array(truth.shape[::-1])
    points: list[tuple[float, float]] = []
    labels: list[int] = []
    found, oracle, logits = np.zeros_like(truth), 0.0, None
    table = []
    for n in range(ROUNDS):
        missed, taken = deepest(truth & ~found), deepest(found & ~truth)
        _, row, column = missed if missed[0] >= taken[0] else taken
        # It places integer coordinates half a pixel of the input frame from their corner; the
        # middle of the pixel lies half a pixel of the photo from there.
        points.append(tuple(np.array([column, row]) + 0.5 - 0.5 / scale))
        labels.append(int(missed[0] >= taken[0]))
        masks, iou, low = predictor.predict(
            np.array(points), np.array(labels), mask_input=logits, multimask_output=n == 0
        )
        real = [(m & truth).sum() / (m | truth).sum() for m in masks]
        best = int(iou.argmax())
        oracle = max(real) if n == 0 else oracle
        found, logits = masks[best], low[best][None]
        table.append(float(real[best]))
    return table, oracle


def compare(sam: Sam, predictor: Any, photo: npt.NDArray[np.uint8], truths: list[BoolMask]) -> None:
    encoded = [coco_mask.encode(np.asfortranarray(t.astype(np.uint8))) for t in truths]
    sample = EvalSample(
        key="set/photo",
        dataset="set",
        image=photo,
        masks=[RLE(size=list(photo.shape[:2]), counts=e["counts"]) for e in encoded],
        names=[str(k) for k in range(len(truths))],
        areas=[int(t.sum()) for t in truths],
    )
    batch = prompt_batch(sample, image_size=sam.image_size)
    with torch.no_grad():
        embeddings = sam.encode(batch.images, batch.image_sizes)
    played = play_clicks(sam, batch, embeddings, rounds=ROUNDS)
    predictor.set_image(photo)
    assert torch.allclose(embeddings, predictor.features, atol=1e-4)
    for k, truth in enumerate(truths):
        table, oracle = clicked(predictor, truth)
        # A few border pixels of a thousand may fall on either side of zero.
        assert played.iou[k].tolist() == pytest.approx(table, abs=2e-3), k
        assert played.oracle[k] == pytest.approx(oracle, abs=2e-3)


def test_a_drawn_scene(sam: Sam, predictor: Any) -> None:
    scene = render_scene(0, 3, height=180, width=240)
    compare(sam, predictor, scene.image, [mask for mask in scene.masks if mask.sum() > 200][:4])


@pytest.mark.skipif(not TRUCK.is_file(), reason="segment-anything's photos are not at ../shared")
def test_a_large_photo(sam: Sam, predictor: Any) -> None:
    photo = np.asarray(Image.open(TRUCK).convert("RGB"))
    height, width = photo.shape[:2]
    truths = np.zeros((2, height, width), dtype=bool)
    truths[0, height // 3 : height // 2, width // 4 : width // 2] = True
    y, x = np.ogrid[:height, :width]
    truths[1] = (y - height * 0.7) ** 2 + (x - width * 0.3) ** 2 < (height / 9) ** 2
    compare(sam, predictor, photo, list(truths))
