"""JSONs of other people's scripts: what can be read is what pycocotools reads, and one annotation
that cannot be costs itself and no other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco

from sam_train.data.sample.dataset import ValDataset
from sam_train.data.sample.decode import BadSample, Masks, as_rle, read_masks
from sam_train.data.sample.scenes import Scenes
from sam_train.data.shards.annotations import compress
from sam_train.data.shards.reader import open_shards
from sam_train.data.skip_report import describe
from sam_train.data.skips import Skips
from sam_train.masks.rle import PROBLEMS

H, W = 30, 44
SQUARE = [4, 3, 20, 3, 20, 17, 4, 17]
TRIANGLE = [30.5, 8.0, 40.0, 8.0, 40.0, 25.0]


def published(seed: int = 0) -> dict[str, Any]:
    """An annotation as SA-1B writes it."""
    mask = np.random.default_rng(seed).random((H, W)) < 0.3
    counts = coco.encode(np.asfortranarray(mask, dtype=np.uint8))["counts"].decode()
    return {"id": seed, "segmentation": {"size": [H, W], "counts": counts}}


def plain(seed: int = 0) -> list[int]:
    """Its run lengths as numbers, background first."""
    flat = coco.decode(published(seed)["segmentation"]).ravel(order="F")
    edges = np.flatnonzero(np.diff(flat, prepend=0))
    return np.diff(edges, prepend=0, append=len(flat)).tolist()


def read(*annotations: Any) -> Masks:
    return read_masks(json.dumps({"annotations": annotations}).encode(), height=H, width=W)


def bitmap(masks: Masks, k: int) -> np.ndarray[Any, Any]:
    assert masks.runs.status[k] == 0
    return coco.decode(as_rle(masks, k, height=H, width=W))


def test_plain_run_lengths_are_the_mask_that_they_mean() -> None:
    counts = plain(1)
    ways = [counts, [float(n) for n in counts], [str(n) for n in counts]]
    masks = read(
        *({"segmentation": {"size": [H, W], "counts": way}} for way in ways),
        {"segmentation": {"size": [str(H), float(W)], "counts": counts}},
    )
    expected = coco.decode(coco.frPyObjects({"size": [H, W], "counts": counts}, H, W))
    assert expected.sum() > 100
    for k in range(4):
        assert np.array_equal(bitmap(masks, k), expected)
    assert (masks.plain, masks.polygons) == (4, 0)


@given(st.lists(st.integers(0, 2**33), min_size=1, max_size=40))
@settings(max_examples=80, deadline=None)
def test_written_runs_are_read_back(runs: list[int]) -> None:
    string, values, at = compress(np.array(runs, dtype=np.int64)), [], 0
    while at < len(string):  # COCO's own loop, rleFrString
        value, k, more = 0, 0, True
        while more:
            c = string[at] - 48
            value |= (c & 31) << 5 * k
            more, at, k = bool(c & 32), at + 1, k + 1
            if not more and c & 16:
                value |= -1 << 5 * k
        values.append(value + (values[-2] if len(values) > 2 else 0))
    assert values == runs
    small = [run % 1000 for run in runs]
    rle = coco.frPyObjects({"size": [sum(small), 1], "counts": small}, sum(small), 1)
    assert compress(np.array(small, dtype=np.int64)) == rle["counts"]


@pytest.mark.parametrize(
    ("written", "parts"),
    [
        ([SQUARE], [SQUARE]),
        ([SQUARE, TRIANGLE], [SQUARE, TRIANGLE]),
        (SQUARE, [SQUARE]),
        ([SQUARE[k : k + 2] for k in range(0, 8, 2)], [SQUARE]),
        ([[p[k : k + 2] for k in range(0, len(p), 2)] for p in (SQUARE, TRIANGLE)],
         [SQUARE, TRIANGLE]),
        ([[SQUARE[k : k + 2] for k in range(0, 8, 2)]], [SQUARE]),
        ([["4", "3", "20", "3", "20", "17", "4", "17"]], [SQUARE]),
    ],
)  # fmt: skip
def test_polygons_are_rasterised_as_pycocotools_does(
    written: list[Any], parts: list[list[float]]
) -> None:
    masks = read(published(), {"segmentation": written})
    expected = coco.decode(coco.merge(coco.frPyObjects(parts, H, W)))
    assert expected.sum() > 50
    assert np.array_equal(bitmap(masks, 1), expected)
    assert np.array_equal(bitmap(masks, 0), coco.decode(published()["segmentation"]))
    assert masks.polygons == 1


def rle_of(counts: Any, size: Any = (H, W)) -> dict[str, Any]:
    return {"segmentation": {"size": size, "counts": counts}}


BAD: list[tuple[Any, str, str]] = [
    (None, "the annotation is no object", "no_segmentation"),
    ("text", "the annotation is no object", "no_segmentation"),
    ({"area": 5, "bbox": [0, 0, 1, 1]}, "it has no segmentation", "no_segmentation"),
    ({"segmentation": None}, "it has no segmentation", "no_segmentation"),
    ({"segmentation": []}, "it has no segmentation", "no_segmentation"),
    ({"segmentation": "iVBORw0KGgo="}, "neither run lengths nor polygons", "bad_segmentation"),
    ({"segmentation": {"counts": "abc"}}, "RLE has no size", "bad_segmentation"),
    (rle_of(None), "neither text nor whole numbers", "bad_segmentation"),
    (rle_of([1.5, H * W - 1.5]), "neither text nor whole numbers", "bad_segmentation"),
    (rle_of("a b"), "invalid character", "bad_mask"),
    (rle_of("\ud800"), "invalid character", "bad_mask"),
    (rle_of([5, 6]), "covers less than the image", "bad_mask"),
    (rle_of([5, H * W]), "past the end", "bad_mask"),
    (rle_of([5, 10**30]), "past the end", "bad_mask"),
    (rle_of([-5, H * W + 5]), "negative run", "bad_mask"),
    (rle_of([0, H * W], size=[W, H]), "disagrees with the image", "mask_size"),
    (rle_of([0, H * W], size=["x", W]), "disagrees with the image", "mask_size"),
    ({"segmentation": [[1, 2, 3, 4]]}, "fewer than three corners", "bad_polygon"),
    ({"segmentation": [SQUARE, SQUARE[:7]]}, "an odd coordinate", "bad_polygon"),
    ({"segmentation": [[1, 2, 3, None, 5, 6]]}, "something that is no number", "bad_polygon"),
    ({"segmentation": [{"x": 1}]}, "something that is no number", "bad_polygon"),
    ({"segmentation": [[0, 0, 1e9, 0, 1e9, 1e9]]}, "far outside", "bad_polygon"),
    ({"segmentation": [[0.1, 0.1, 0.9, 0.1, 0.9, 0.9]]}, "from 0 to 1", "bad_polygon"),
]


@pytest.mark.parametrize(("bad", "problem", "kind"), BAD)
def test_a_bad_annotation_costs_only_itself_and_is_named(
    bad: Any, problem: str, kind: str, tmp_path: Path, make: Any
) -> None:
    document = {"annotations": [published(1), bad, published(2), published(3)]}
    text = json.dumps(document).encode()
    masks = read_masks(text, height=H, width=W)
    assert problem in PROBLEMS[masks.runs.status[1]]
    for k, seed in ((0, 1), (2, 2), (3, 3)):
        assert np.array_equal(bitmap(masks, k), coco.decode(published(seed)["segmentation"]))
    files = [("sa_0.jpg", make.photo(H, W, seed=0)), ("sa_0.json", text)]
    shards = open_shards(str(make.pack(tmp_path / "a.tar", files)), option="data.train")
    skips = Skips(workers=0, max_fraction=0.0)
    scenes = Scenes(shards, image_size=32, max_area_fraction=0.9, skips=skips)
    sample = ValDataset(scenes, masks_per_image=None, grid_size=16)[0]
    assert sample is not None
    assert len(sample.masks) == 3
    assert skips.totals() == {kind: 1}
    skips.check(last="")
    said = describe(skips.tally(), shards, option="data.train")
    assert said is not None
    assert said.startswith("data.train: skipped 1 ")
    assert said.endswith("(first: a.tar/sa_0)")


def test_a_photo_of_which_every_annotation_is_bad_is_skipped_with_the_first_reason(
    tmp_path: Path, make: Any
) -> None:
    text = json.dumps({"annotations": [bad for bad, *_ in BAD]}).encode()
    files = [("sa_0.jpg", make.photo(H, W, seed=0)), ("sa_0.json", text)]
    shards = open_shards(str(make.pack(tmp_path / "a.tar", files)), option="data.train")
    skips = Skips(workers=0, max_fraction=1.0)
    scenes = Scenes(shards, image_size=32, max_area_fraction=0.9, skips=skips)
    with pytest.raises(BadSample, match="mask 0: the annotation is no object"):
        scenes.get(0, draw_key=(0, 0, 0))


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_other_encodings_nan_and_bare_lists_are_read(encoding: str) -> None:
    """json.dump writes NaN for a float that is none; segment-anything's amg.py writes the list."""
    mask = published(4) | {"predicted_iou": float("nan"), "stability_score": float("inf")}
    for document in ({"annotations": [mask]}, [mask]):
        text = json.dumps(document).encode(encoding)
        masks = read_masks(text, height=H, width=W)
        assert np.array_equal(bitmap(masks, 0), coco.decode(mask["segmentation"]))


def test_what_was_read_otherwise_is_said_and_is_no_skip(
    tmp_path: Path, make: Any, caplog: pytest.LogCaptureFixture
) -> None:
    files = []
    for n in range(3):
        annotations = [{"segmentation": [SQUARE]}, rle_of(plain(1)), published(n)]
        files.append((f"sa_{n}.jpg", make.photo(H, W, seed=n)))
        files.append((f"sa_{n}.json", json.dumps({"annotations": annotations}).encode()))
    shards = open_shards(str(make.pack(tmp_path / "a.tar", files)), option="data.train")
    skips = Skips(workers=0, max_fraction=0.0)
    scenes = Scenes(shards, image_size=32, max_area_fraction=0.9, skips=skips)
    with caplog.at_level("INFO"):
        for n in range(3):
            assert len(scenes.get(n, draw_key=(0, 0, n)).usable) == 3
    assert [r.message.split(";")[0] for r in caplog.records] == [
        "a.tar/sa_0: 1 masks made from polygons",
        "a.tar/sa_0: 1 masks read from plain run lengths",
    ]
    skips.check(last="")
    said = describe(skips.tally(), shards, option="data.val")
    assert said == (
        "data.val: used 3 masks made from polygons (first: a.tar/sa_0); "
        "used 3 masks read from plain run lengths (first: a.tar/sa_0)"
    )


def test_polygons_of_a_photo_that_pycocotools_cannot_encode_are_named() -> None:
    text = json.dumps({"annotations": [{"segmentation": [SQUARE]}]}).encode()
    masks = read_masks(text, height=8000, width=8000)
    assert "above 50 megapixels" in PROBLEMS[masks.runs.status[0]]
