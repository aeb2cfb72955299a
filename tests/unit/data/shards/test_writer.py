"""The SA-1B files we write, against literal expectations, pycocotools and a real file."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from places import REAL_DATA
from pycocotools import mask as coco_mask

from sam_train.data.shards.writer import (
    ShardSample,
    annotate_masks,
    annotation,
    annotation_from_rle,
    write_shards,
)

REAL = REAL_DATA / "sa1b/sa_226381.partial.json"


def _sample(image_id: int) -> ShardSample:
    mask = np.zeros((5, 7), bool)
    mask[1:3, 2:6] = True
    return ShardSample(
        image_id=image_id,
        jpeg=b"photo",
        width=7,
        height=5,
        annotations=[annotation(mask, id=10 * image_id)],
    )


def test_record_is_sa1b_field_for_field() -> None:
    text = json.dumps(_sample(3).record)
    assert text == (
        '{"image": {"image_id": 3, "width": 7, "height": 5, "file_name": "sa_3.jpg"}, '
        '"annotations": [{"bbox": [2.0, 1.0, 3.0, 1.0], "area": 8, '
        '"segmentation": {"size": [5, 7], "counts": ";23000004"}, "predicted_iou": 1.0, '
        '"point_coords": [[4.0, 1.0]], "crop_box": [0.0, 0.0, 7.0, 5.0], "id": 30, '
        '"stability_score": 1.0}]}'
    )


@pytest.mark.skipif(not REAL.is_file(), reason="no real SA-1B annotations beside the checkout")
def test_rewriting_real_annotations_changes_no_byte() -> None:
    real = json.loads(REAL.read_text())
    rewritten = [
        annotation_from_rle(
            found["segmentation"],
            id=found["id"],
            predicted_iou=found["predicted_iou"],
            stability_score=found["stability_score"],
            point_coords=found["point_coords"][0],
            crop_box=found["crop_box"],
        )
        for found in real["annotations"]
    ]
    assert len(rewritten) == 21
    assert json.dumps(rewritten) == json.dumps(real["annotations"])


masks = hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12)).filter(
    np.any
)


@settings(max_examples=60, deadline=None)
@given(masks, st.integers(0, 2**40))
def test_annotation_agrees_with_pycocotools_and_its_mask(mask: np.ndarray, number: int) -> None:
    made = annotation(mask, id=number)
    rle = made["segmentation"]
    assert (coco_mask.decode(rle) == mask).all()
    assert made["area"] == coco_mask.area(rle) == mask.sum()
    rows, columns = np.nonzero(mask)
    assert made["bbox"] == [columns.min(), rows.min(), np.ptp(columns), np.ptp(rows)]
    ((x, y),) = made["point_coords"]
    assert mask[int(y), int(x)]
    assert annotation_from_rle(rle, id=number) == made
    runs = {"size": rle["size"], "counts": _runs(mask)}
    assert annotation_from_rle(runs, id=number) == made
    many = annotate_masks(np.stack([mask, mask[::-1]]), first_id=number)
    assert many == [made, annotation(mask[::-1], id=number + 1)]


def _runs(mask: np.ndarray) -> list[int]:
    flat = np.concatenate([[False], mask.T.ravel()])
    edges = np.flatnonzero(np.diff(flat.astype(np.int8)))
    return np.diff(np.concatenate([[0], edges, [mask.size]])).tolist()


def test_masks_without_pixels_or_of_wrong_shape_are_refused() -> None:
    with pytest.raises(ValueError, match="mask 7 has no pixel"):
        annotation(np.zeros((4, 4), bool), id=7)
    with pytest.raises(ValueError, match=r"\[N, H, W\], got shape \[4, 4\]"):
        annotate_masks(np.ones((4, 4), bool), first_id=0)


def test_shards_hold_pairs_in_order_and_are_the_same_each_time(tmp_path: Path) -> None:
    paths = write_shards(map(_sample, range(1, 6)), tmp_path / "a", samples_per_shard=2)
    assert [path.name for path in paths] == ["sa_000000.tar", "sa_000001.tar", "sa_000002.tar"]
    with tarfile.open(paths[1]) as tar:
        assert tar.getnames() == ["sa_3.jpg", "sa_3.json", "sa_4.jpg", "sa_4.json"]
        assert {(m.mtime, m.uid, m.gid, m.uname, m.gname) for m in tar} == {(0, 0, 0, "", "")}
    again = write_shards(map(_sample, range(1, 6)), tmp_path / "b", samples_per_shard=2)
    assert [p.read_bytes() for p in paths] == [p.read_bytes() for p in again]


def test_webdataset_reads_the_shards(tmp_path: Path) -> None:
    (path,) = write_shards([_sample(4)], tmp_path)
    (found,) = webdataset.WebDataset(str(path), shardshuffle=False)
    assert found["__key__"] == "sa_4"
    assert found["jpg"] == b"photo"
    assert json.loads(found["json"]) == _sample(4).record


def test_an_interrupted_shard_leaves_nothing_behind(tmp_path: Path) -> None:
    def breaking() -> Iterator[ShardSample]:
        yield from map(_sample, range(3))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shards(breaking(), tmp_path, samples_per_shard=2)
    assert [path.name for path in tmp_path.iterdir()] == ["sa_000000.tar"]


def test_a_shard_of_no_samples_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="samples_per_shard must be at least 1"):
        write_shards([_sample(1)], tmp_path, samples_per_shard=0)
