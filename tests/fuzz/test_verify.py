"""`data_tools.verify`'s checks of a sample: whatever the files hold, findings of known kinds."""

from __future__ import annotations

import io
import json
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
from fuzzing import damaged, edits, fuzz, within
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco

from data_tools.verify_checks import MASK_KINDS, SAMPLE_KINDS, Checked, check_sample

pytestmark = pytest.mark.fuzz

HEIGHT, WIDTH = 9, 13
ODD = [
    *(None, True, False, -1, 0, 1, 0.5, 12.0, -1e308, 1e308, 10**30, "", "a\x1b[2J\nb", [], {}),
    *([1], [[]], [1, 2], [[1, 2]], [[1, "2"]], [0, 0, 1e308, 1e308], [-5, -5, 1, 1], ["x"] * 4),
    *([HEIGHT, WIDTH], [WIDTH, HEIGHT], [10**9, 10**9], [None, None], "oooo0", "O", "\u00e9 "),
]


def _mask(k: int) -> dict[str, Any]:
    mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    mask[k : k + 3, 2 : 6 + k] = 1
    return {
        "id": k,
        "area": int(mask.sum()),
        "bbox": [2, k, 3 + k, 2],
        "predicted_iou": 0.9,
        "stability_score": 0.96,
        "crop_box": [0, 0, WIDTH, HEIGHT],
        "point_coords": [[3.0, k + 1.0]],
        "segmentation": {
            "size": [HEIGHT, WIDTH],
            "counts": coco.encode(np.asfortranarray(mask))["counts"].decode(),
        },
    }


def true_record() -> dict[str, Any]:
    """A JSON that nothing is wrong with."""
    image = {"image_id": 1, "width": WIDTH, "height": HEIGHT, "file_name": "sa_1.jpg"}
    return {"image": image, "annotations": [_mask(k) for k in range(3)]}


def _photo() -> bytes:
    out = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    Image.fromarray(noise).save(out, "JPEG")
    return out.getvalue()


PHOTO = _photo()


@st.composite
def records(draw: st.DrawFn) -> bytes:
    """A true JSON in which some values are odd, or gone, and then some bytes."""
    record = true_record()
    for _ in range(draw(st.integers(0, 3))):
        place: Any = record
        while True:
            keys = sorted(place) if isinstance(place, dict) else list(range(len(place)))
            key = draw(st.sampled_from(keys))
            if not isinstance(place[key], dict | list) or not place[key] or draw(st.booleans()):
                break
            place = place[key]
        if isinstance(place, dict) and draw(st.booleans()):
            del place[key]
        else:
            place[key] = deepcopy(draw(st.sampled_from(ODD)))  # a later change may go inside
        if not record:
            break
    return damaged(json.dumps(record).encode(), draw(st.just([]) | edits(most=2)))


def check(found: Checked) -> None:
    """Findings of known kinds, each short enough to be a line of a report."""
    assert set(found.problems) <= set(SAMPLE_KINDS | MASK_KINDS)
    for details in found.problems.values():
        assert details
        assert all(len(detail) < 500 for detail in details)


@given(records(), st.just([]) | edits(most=2))
@fuzz(short=200)
def test_checks_find_something_known_or_nothing(text: bytes, changes: list[Any]) -> None:
    jpeg = damaged(PHOTO, changes)
    most = 300_000 + 200 * (len(text) + len(jpeg))
    check(within(most, check_sample, "sa_1", jpeg, text, decode=False))


def test_a_true_sample_has_no_problem() -> None:
    found = check_sample("sa_1", PHOTO, json.dumps(true_record()).encode(), decode=True)
    assert found.problems == {}
    assert found.masks == 3
