"""`Predictor` against segment-anything 1.0's `SamPredictor`: equal weights, photos and prompts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import segment_anything_reference
from PIL import Image
from torch import nn

from data_tools.scenes.scene import render_scene
from sam_train.model.encoded_photos import Pixels
from sam_train.model.load import load_sam
from sam_train.model.predictor import Predicted, Predictor

ROOT = Path(__file__).resolve().parents[2]
TRUCK = ROOT / "../shared/data/photos/truck.jpg"
NANO = ROOT / "sam_train/assets/nano.safetensors"


@pytest.fixture(scope="module")
def ours() -> Predictor:
    return Predictor.from_checkpoint(NANO)


@pytest.fixture(scope="module")
def theirs(reference_like: Callable[..., nn.Module]) -> Any:
    sam = load_sam(NANO)
    model = reference_like(sam)
    model.load_state_dict(sam.state_dict())
    return segment_anything_reference.load().SamPredictor(model)


@pytest.fixture(scope="module", params=["scene", "truck"])
def photo(request: pytest.FixtureRequest, ours: Predictor, theirs: Any) -> Pixels:
    if request.param == "truck" and not TRUCK.is_file():
        pytest.skip("segment-anything's photos are not at ../shared")
    pixels = (
        np.asarray(Image.open(TRUCK).convert("RGB"))
        if request.param == "truck"
        else render_scene(0, 3, height=181, width=240).image
    )
    ours.set_image(pixels)
    theirs.set_image(pixels)
    return pixels


def asked(photo: Pixels) -> dict[str, dict[str, Any]]:
    """Prompts of every kind, under the names of our arguments."""
    height, width = photo.shape[:2]
    xy = np.array([[0.31 * width, 0.62 * height], [0.7 * width, 0.2 * height], [3, 4]])
    box = np.array([0.2 * width, 0.25 * height, 0.8 * width - 0.5, 0.9 * height])
    return {
        "a point": {"points": xy[:1], "labels": np.array([1])},
        "points": {"points": xy, "labels": np.array([1, 0, 1])},
        "whole numbers": {"points": xy.astype(int), "labels": np.array([1, 0, 0])},
        "a box": {"boxes": box},
        "a box and points": {"boxes": box, "points": xy, "labels": np.array([1, 0, 0])},
    }


def assert_same(found: Predicted, expected: Any) -> None:
    masks, scores, logits = expected
    assert found.masks.dtype == masks.dtype
    assert found.masks.shape == masks.shape
    assert found.scores == pytest.approx(scores, abs=1e-5)
    assert np.abs(found.logits - logits).max() < 1e-5 * np.abs(logits).max()
    if masks.dtype == bool:
        # A pixel whose logit is zero to six digits may fall on either side.
        assert (found.masks != masks).sum() <= 2 + 1e-6 * masks.size
    else:
        assert np.abs(found.masks - masks).max() < 1e-5 * np.abs(masks).max()


@pytest.mark.parametrize("multimask", [True, False])
@pytest.mark.parametrize("kind", list(asked(np.zeros((1, 1, 3), np.uint8))))
def test_prompts_of_every_kind(
    ours: Predictor, theirs: Any, photo: Pixels, kind: str, *, multimask: bool
) -> None:
    given = asked(photo)[kind]
    named = {
        "point_coords": given.get("points"),
        "point_labels": given.get("labels"),
        "box": given.get("boxes"),
    }
    first = theirs.predict(**named)
    found = ours.predict(**given)
    assert_same(found, first)
    assert found.masks.any()
    best = int(found.scores.argmax())
    for logits in (False, True):
        again = {"mask_input": first[2][best][None], "multimask_output": multimask}
        assert_same(
            ours.predict(**given, mask=first[2][best], multimask=multimask, return_logits=logits),
            theirs.predict(**named, **again, return_logits=logits),
        )


def test_a_mask_alone(ours: Predictor, theirs: Any, photo: Pixels) -> None:
    logits = ours.predict(**asked(photo)["a box"]).logits[0]
    for mask in (logits, logits[None]):
        assert_same(ours.predict(mask=mask), theirs.predict(mask_input=logits[None]))


def test_many_at_once_are_each_alone(ours: Predictor, theirs: Any, photo: Pixels) -> None:
    """More prompts than are decoded at once, every one as the reference answers it alone."""
    height, width = photo.shape[:2]
    rng = np.random.default_rng(0)
    corners = np.sort(rng.uniform(0, 1, (5, 2, 2)), axis=1) * [width, height]
    points = rng.uniform(0, 1, (5, 2, 2)) * [width, height]
    labels = rng.integers(0, 2, (5, 2))
    few = Predictor(ours.sam, max_masks=2)
    few.set_image(photo)
    boxes = corners.reshape(5, 4)
    found = few.predict(points, labels, boxes)
    again = few.predict(boxes=boxes, mask=found.logits[:, 1], multimask=False)
    assert found.masks.shape == (5, 3, height, width)
    for k in range(5):
        alone = theirs.predict(points[k], labels[k], boxes[k])
        assert_same(Predicted(*(array[k] for array in found)), alone)
        fed = theirs.predict(box=boxes[k], mask_input=found.logits[k, 1:2], multimask_output=False)
        assert_same(Predicted(*(array[k] for array in again)), fed)
