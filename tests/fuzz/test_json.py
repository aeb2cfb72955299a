"""Annotation files of anybody: refused in one way, or masks that pycocotools agrees with."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from fuzzing import Edit, damaged, edits, fuzz, within
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco

from sam_train.data.sample import select
from sam_train.data.sample.decode import BadSample, Masks, as_rle, read_masks

pytestmark = pytest.mark.fuzz

HEIGHT, WIDTH = 12, 17


def _counts(seed: int) -> str:
    mask = np.random.default_rng(seed).random((HEIGHT, WIDTH)) < seed / 4
    text: str = coco.encode(np.asfortranarray(mask, dtype=np.uint8))["counts"].decode()
    return text


_COUNTS = [_counts(seed) for seed in range(5)]


def _annotation(k: int) -> dict[str, Any]:
    return {
        "id": k,
        "area": 3,
        "bbox": [0, 0, 3.5, 4],
        "segmentation": {"size": [HEIGHT, WIDTH], "counts": _COUNTS[k % 5]},
        "point_coords": [[1.0, 2.0]],
    }


TRUE = {
    "image": {"image_id": 1, "width": WIDTH, "height": HEIGHT, "file_name": "sa_1.jpg"},
    "annotations": [_annotation(k) for k in range(3)],
}
FRAGMENTS = [
    *(b"null", b"true", b"-1", b"0", b"1e400", b"-1e308", b"0.5", b"12.0", b"9" * 400, b"NaN"),
    *(b'""', b'"\\ud800"', b'"\\u0000"', b'"\xff"', b"[]", b"[12]", b"[17, 12]", b"[12, 17]"),
    *(b"[12, 17, 1]", b"[1000000000, 1000000000]", b"[-12, -17]", b"{}", b"[[1, 2, 3, 4]]"),
    *(b"[" * 5000, b'{"a":' * 3000, b"[" * 3000 + b"]" * 3000),
    *(json.dumps(counts).encode() for counts in _COUNTS),
    b'{"size": [12, 17], "counts": "oooooooo"}',
]
# Where a value begins and ends: a fragment takes the place of one.
_TEXT = json.dumps(TRUE).encode()
VALUES = [
    b"[12, 17]",
    b"12",
    b"17",
    b"3.5",
    b'{"size"',
    b'"sa_1.jpg"',
    *(json.dumps(counts).encode() for counts in _COUNTS[:3]),
]


@st.composite
def documents(draw: st.DrawFn) -> bytes:
    text = _TEXT
    swaps = st.tuples(st.sampled_from(VALUES), st.sampled_from(FRAGMENTS), st.integers(0, 2))
    for value, fragment, which in draw(st.lists(swaps, max_size=2)):
        pieces = text.split(value)
        if len(pieces) > 1:
            at = which % (len(pieces) - 1) + 1
            text = value.join(pieces[:at]) + fragment + value.join(pieces[at:])
    changes: list[Edit] = draw(st.just([]) | edits(most=3))
    return damaged(text, changes)


def check(masks: Masks) -> None:
    """Valid masks are pycocotools'; nothing else may be drawn."""
    runs = masks.runs
    for k in np.flatnonzero(runs.status == 0):
        assert runs.areas[k] == coco.decode(as_rle(masks, int(k), height=HEIGHT, width=WIDTH)).sum()
    usable = select.usable(runs, pixels=HEIGHT * WIDTH, max_area_fraction=1)
    assert not runs.status[usable].any()
    ranks = select.draw_ranks(usable, runs.areas[usable], key=1)
    assert np.all(ranks < runs.areas[usable])


@given(documents() | st.binary(max_size=60))
@fuzz(short=400)
def test_annotations_are_refused_or_true(data: bytes) -> None:
    try:
        masks = within(100_000 + 100 * len(data), read_masks, data, height=HEIGHT, width=WIDTH)
    except BadSample as bad:
        assert bad.kind == "bad_json"
        assert "\n" not in str(bad)
        assert len(str(bad)) < 300
        return
    check(masks)


def test_true_annotations_are_read_whole() -> None:
    masks = read_masks(_TEXT, height=HEIGHT, width=WIDTH)
    assert not masks.runs.status.any()
    assert len(masks.runs.status) == 3
    check(masks)
