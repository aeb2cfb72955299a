"""What `Predictor` refuses and how its arrays are shaped; `tests/parity` has its answers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_sam
import torch
from PIL import Image

from sam_train.errors import UserError
from sam_train.model.encoded_photos import encode_photos
from sam_train.model.predictor import Predictor

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def photo() -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def predictor(photo: np.ndarray[Any, Any]) -> Predictor:
    made = Predictor(tiny_sam.randomised().eval(), max_masks=2)
    made.set_image(photo)
    return made


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "nothing to go by"),
        ({"points": [], "labels": []}, "nothing to go by"),
        ({"points": [[1, 2]]}, "points and labels go together"),
        ({"boxes": [1, 2, 3, 4], "labels": [1]}, "points and labels go together"),
        ({"points": [1, 2], "labels": [1]}, r"points must be \[T, 2\], not \[2\]"),
        ({"points": [[1, 2]], "labels": [1, 0]}, r"labels must be \[T\], not \[2\]"),
        ({"points": [[1, 2]], "labels": [2]}, "labels must be 1"),
        ({"boxes": [1, 2, 3]}, r"boxes must be \[4\], not \[3\]"),
        ({"boxes": 7}, r"boxes must be \[4\], not \[\]"),
        (
            {"boxes": [[1, 2, 3, 4]] * 3, "points": [[1, 2]], "labels": [1]},
            r"points must be \[N, T, 2\] with N = 3, T = 2, not \[1, 2\]",
        ),
        ({"mask": np.zeros((8, 8))}, r"mask must be \[16, 16\], not \[1, 8, 8\]"),
        ({"points": [[1, 2], [41, 3]], "labels": [1, 1]}, r"\(41, 3\) is outside .* 40 x 30"),
        ({"points": [[3, -1]], "labels": [1]}, r"\(3, -1\) is outside"),
        ({"points": [[np.nan, 1]], "labels": [1]}, r"\(nan, 1\) is outside"),
        ({"boxes": [20, 10, 5, 8]}, "not x y width height"),
        ({"boxes": [50, 10, 60, 20]}, r"box \(50, 10, 60, 20\) does not lie on the photo"),
    ],
)
def test_a_prompt_that_means_nothing(
    predictor: Predictor, given: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        predictor.predict(**given)


def test_a_photo_comes_first_and_is_bytes() -> None:
    fresh = Predictor(tiny_sam.tiny().eval())
    with pytest.raises(RuntimeError, match="set_image"):
        fresh.predict(boxes=[1, 2, 3, 4])
    for wrong in (np.zeros((4, 4, 3)), np.zeros((4, 4), np.uint8), np.zeros((0, 4, 3), np.uint8)):
        with pytest.raises(ValueError, match="uint8"):
            fresh.set_image(wrong)  # type: ignore[arg-type]


def test_a_picture_of_pillow_is_a_photo(predictor: Predictor, photo: np.ndarray[Any, Any]) -> None:
    other = Predictor(predictor.sam)
    other.set_image(Image.fromarray(photo).convert("RGBA"))
    box = [1, 2, 30, 20]
    assert np.array_equal(other.predict(boxes=box).logits, predictor.predict(boxes=box).logits)


def test_a_box_may_reach_beyond_the_photo(predictor: Predictor) -> None:
    assert predictor.predict(boxes=[-0.5, -1, 41, 30.5]).masks.shape == (3, 30, 40)


@pytest.mark.parametrize("multimask", [True, False])
def test_shapes_follow_the_arguments(predictor: Predictor, *, multimask: bool) -> None:
    K, g = 3 if multimask else 1, predictor.sam.grid_size
    box, point = [1, 2, 30, 20], {"points": [[3, 4]], "labels": [1]}
    one = predictor.predict(boxes=box, multimask=multimask, **point)
    assert [a.shape for a in one] == [(K, 30, 40), (K,), (K, g, g)]
    assert [a.dtype for a in one] == [np.bool_, np.float32, np.float32]
    for n in (0, 1, 5):
        many = predictor.predict(boxes=np.tile(box, (n, 1)).reshape(n, 4), multimask=multimask)
        assert [a.shape for a in many] == [(n, K, 30, 40), (n, K), (n, K, g, g)]
    raised = predictor.predict(boxes=box, multimask=multimask, return_logits=True, **point)
    assert np.array_equal(raised.masks > 0, one.masks)


def test_groups_of_any_size_give_the_same_pixels(photo: np.ndarray[Any, Any]) -> None:
    """Masks of several photos come in order, never two photos in one group."""
    sam = tiny_sam.randomised().eval()
    with torch.no_grad():
        encoded = encode_photos(sam, [photo, photo[:20]])
    g = sam.grid_size
    logits = torch.randn(5, 3, g, g, generator=torch.Generator().manual_seed(0))
    owners = [0, 0, 0, 1, 1]
    for at_once, sizes in ((None, [3, 2]), (2, [2, 1, 2]), (1, [1] * 5)):
        groups = list(encoded.upscaled(logits, owners, at_once=at_once))
        assert [len(group) for group in groups] == sizes
        for k, mask in enumerate(mask for group in groups for mask in group):
            size, original = encoded.sizes[owners[k]], encoded.originals[owners[k]]
            alone = sam.postprocess(logits[k : k + 1], image_size=size, original_size=original)
            assert torch.equal(mask, alone[0])
    shapes = [bitmaps.shape for bitmaps in encoded.bitmaps(logits, owners)]
    assert shapes == [(3, 30, 40)] * 3 + [(3, 20, 40)] * 2


def test_a_file_without_sizes_wants_a_name(tmp_path: Path) -> None:
    sam = tiny_sam.randomised()
    path = tmp_path / "foreign.pth"
    torch.save(sam.state_dict(), path)
    with pytest.raises(UserError, match=r"does not say its model's sizes.*vit_b"):
        Predictor.from_checkpoint(path)
    found = Predictor.from_checkpoint(path, "vit_b", image_size=64, **tiny_sam.TINY)
    assert not found.sam.training
    assert torch.equal(found.sam.mask_decoder.iou_token.weight, sam.mask_decoder.iou_token.weight)


def test_the_page_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    page = (ROOT / "docs/predict.md").read_text()
    (code,) = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(code, "docs/predict.md", "exec"), names)
    assert names["best"].shape == (360, 480)
    assert names["best"].any()
    assert names["refined"].masks.shape == (1, 360, 480)
    assert names["many"].masks.shape == (2, 1, 360, 480)
