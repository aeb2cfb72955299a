"""Ground truth and results that are not what they should be: left out by reason, or refused."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sam_train.errors import UserError
from sam_train.eval.coco import open_truth, read_results, read_truth
from sam_train.eval.coco.precision import average_precision
from sam_train.eval.frame.tasks import Run, load_task
from sam_train.runtime.jobs import SkipItem
from sam_train.runtime.parts import Share
from sam_train.settings.run import RunConfig

SQUARE = [[2.0, 2.0, 12.0, 2.0, 12.0, 12.0, 2.0, 12.0]]


def annotation(number: int, **changes: Any) -> dict[str, Any]:
    return {
        "id": number,
        "image_id": 1,
        "category_id": 7,
        "segmentation": SQUARE,
        "area": 100.0,
        "bbox": [2, 2, 10, 10],
        "iscrowd": 0,
    } | changes


def content(*annotations: dict[str, Any]) -> dict[str, Any]:
    return {
        "images": [
            {"id": 1, "file_name": "one.png", "height": 20, "width": 30},
            {"id": 2, "file_name": "two.png", "height": 20, "width": 30},
        ],
        "categories": [{"id": 7, "name": "cat"}],
        "annotations": list(annotations),
    }


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, Any], Path]:
    def write(name: str, value: Any) -> Path:
        path = tmp_path / name
        path.write_text(value if isinstance(value, str) else json.dumps(value))
        return path

    return write


def test_unusable_annotations_are_counted(
    write: Callable[[str, Any], Path], tmp_path: Path
) -> None:
    empty = {"size": [20, 30], "counts": [600]}
    path = write(
        "truth.json",
        content(
            annotation(1),
            annotation(2, image_id=9),
            annotation(3, category_id=8),
            annotation(4, segmentation=empty),
            annotation(5, segmentation={"size": [5, 5], "counts": [0, 25]}),
            annotation(6, segmentation=[[1.0, 1.0]]),
            annotation(7, bbox=None, area=None, iscrowd=1),
        ),
    )
    truth = read_truth(path, tmp_path)
    assert dict(truth.left_out) == {
        "mask: unknown image_id": 1,
        "mask: category absent from `categories`": 1,
    }
    masks, left_out = truth.masks(truth.images[0])
    assert [mask.id for mask in masks] == [1, 7]
    assert dict(left_out) == {
        "mask: empty": 1,
        "mask: size differs from the image's": 1,
        "mask: bad segmentation": 1,
    }
    assert masks[0].box == (2, 2, 12, 12)
    assert masks[1].crowd
    assert masks[1].area == 100
    assert masks[1].box == (2, 2, 12, 12)
    assert not truth.lvis
    assert truth.masks(truth.images[1]) == ([], {})


def test_photos_are_made_rgb_or_left_out(write: Callable[[str, Any], Path], tmp_path: Path) -> None:
    truth = read_truth(write("truth.json", content()), tmp_path)
    Image.new("L", (30, 20), 200).save(tmp_path / "one.png")
    assert (truth.photo(truth.images[0]) == 200).all()
    assert truth.photo(truth.images[0]).shape == (20, 30, 3)
    with pytest.raises(SkipItem, match="missing image"):
        truth.photo(truth.images[1])
    Image.new("RGBA", (31, 20)).save(tmp_path / "two.png")
    with pytest.raises(SkipItem, match="size differs"):
        truth.photo(truth.images[1])
    deep = np.full((20, 30), 1000, dtype=np.uint16)
    deep[:, 15:] = 3000
    Image.fromarray(deep).save(tmp_path / "two.png")
    assert np.unique(truth.photo(truth.images[1])).tolist() == [0, 255]


def test_lvis_photos_are_found_by_their_url(
    write: Callable[[str, Any], Path], tmp_path: Path
) -> None:
    raw = content()
    for image, folder in zip(raw["images"], ("train2017", "val2017"), strict=True):
        image["coco_url"] = f"http://images.cocodataset.org/{folder}/{image.pop('file_name')}"
        image |= {"neg_category_ids": [], "not_exhaustive_category_ids": []}
    raw["categories"][0]["frequency"] = "r"
    (tmp_path / "train2017").mkdir()
    Image.new("RGB", (30, 20), "red").save(tmp_path / "train2017" / "one.png")
    Image.new("RGB", (30, 20), "blue").save(tmp_path / "two.png")
    truth = read_truth(write("lvis.json", raw), tmp_path)
    assert truth.lvis
    assert truth.photo(truth.images[0])[0, 0].tolist() == [255, 0, 0]
    assert truth.photo(truth.images[1])[0, 0].tolist() == [0, 0, 255]


def test_a_part_of_the_images_does_not_depend_on_their_order(
    write: Callable[[str, Any], Path], tmp_path: Path
) -> None:
    raw = content()
    raw["images"] = [raw["images"][0] | {"id": k} for k in range(50)]
    first = read_truth(write("a.json", raw), tmp_path).chosen(7)
    raw["images"].reverse()
    second = read_truth(write("b.json", raw), tmp_path).chosen(7)
    assert len(first) == 7
    assert {image.id for image in first} == {image.id for image in second}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "not a COCO or LVIS instances file: this is an empty list"),
        ("{", "cut off"),
        ('{"images": [], "annotations": []}', "`images` is empty"),
        (
            json.dumps(content() | {"images": [i | {"id": 1} for i in content()["images"]]}),
            "2 image: several images have its id",
        ),
    ],
)
def test_other_files_are_refused(
    text: str, message: str, write: Callable[[str, Any], Path], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        read_truth(write("truth.json", text), tmp_path)
    with pytest.raises(UserError, match="cannot be read"):
        read_truth(tmp_path / "missing.json", tmp_path)
    with pytest.raises(UserError, match="does not exist"):
        read_truth(tmp_path / "truth.json", tmp_path / "nowhere")


def test_the_ground_truth_is_the_only_one_of_the_data_sets(
    write: Callable[[str, Any], Path], tmp_path: Path
) -> None:
    write("instances.json", content(annotation(1)))
    (tmp_path / "images").mkdir()
    truth = open_truth("", "", [f"coco:{tmp_path}", "shards:/x"], task="instances")
    assert truth.photos == tmp_path / "images"
    assert len(truth.images) == 2
    for datasets in ("", "shards:/x", [f"coco:{tmp_path}", f"b=coco:{tmp_path}"]):
        with pytest.raises(UserError, match=r"instances\.ground_truth is not set"):
            open_truth("", "", datasets, task="instances")


def test_results_of_other_images_or_categories(
    write: Callable[[str, Any], Path], tmp_path: Path
) -> None:
    truth = read_truth(write("truth.json", content(annotation(1))), tmp_path)
    good = {"image_id": 1, "category_id": 7, "score": 0.5, "bbox": [1, 1, 5, 5]}
    path = write("r.json", [good, good | {"image_id": 77}, good | {"category_id": 9}])
    results = read_results(path, truth, option="instances.boxes", categories=True)
    assert len(results.of(truth.images[0])) == 1
    assert results.of(truth.images[1]) == []
    assert sum(results.left_out.values()) == 2
    # Without categories the third counts, too.
    assert len(read_results(path, truth, option="x", categories=False).of(truth.images[0])) == 2
    for wrong, message in (
        ([good | {"image_id": 77}], "does not belong to .* image_id 77"),
        ([good | {"category_id": 9}], "category absent"),
        ([{k: v for k, v in good.items() if k != "score"}], "no result has a score"),
        ([{k: v for k, v in good.items() if k != "category_id"}], "no result has a category_id"),
        ({"images": []}, "not COCO's results format"),
        ([{"score": 1}], "not COCO's results format"),
    ):
        with pytest.raises(UserError, match=message):
            read_results(write("w.json", wrong), truth, option="o", categories=True)
    assert read_results(write("e.json", []), truth, option="o", categories=True).by_image == {}


def test_boxes_are_cut_to_the_image_and_masks_must_be_of_its_size(
    write: Callable[[str, Any], Path], tmp_path: Path
) -> None:
    truth = read_truth(write("truth.json", content()), tmp_path)
    image = truth.images[0]
    boxes = [[-5, -5, 10, 10], [25, 15, 50, 50], [30, 0, 5, 5], [-9, 0, 9, 5], [3, 3, 0, 5]]
    masks = [{"size": [20, 30], "counts": [0, 600]}, {"size": [30, 20], "counts": [0, 600]}]
    found = [{"image_id": 1, "score": 1.0, "bbox": box} for box in boxes]
    found += [{"image_id": 1, "score": 1.0, "segmentation": mask} for mask in masks]
    found += [{"image_id": 1, "predicted_iou": 0.5, "stability_score": 1.0}]
    path = write("r.json", {"annotations": found})
    own = read_results(path, truth, option="o", categories=False).of(image)
    assert [one.box(image) for one in own[:5]] == [(0, 0, 5, 5), (25, 15, 30, 20), None, None, None]
    assert own[5].mask(image) is not None
    assert own[6].mask(image) is None
    assert own[7].mask(image) is None
    assert own[7].box(image) is None
    assert own[7].rank() == 0.75


def test_no_result_is_an_ap_of_zero_and_no_mask_none(
    write: Callable[[str, Any], Path], tmp_path: Path
) -> None:
    truth = read_truth(write("truth.json", content(annotation(1))), tmp_path)
    found = average_precision(truth, truth.images, [])
    assert found.figures["ap"] == 0
    assert found.figures["ap_small"] == 0
    assert found.figures["ap_large"] is None
    assert found.categories == {"cat": 0.0}


def test_another_photo_is_another_item(write: Callable[[str, Any], Path], tmp_path: Path) -> None:
    """Of a model's masks; finished ones are measured without photos."""
    Image.new("RGB", (30, 20)).save(tmp_path / "one.png")
    truth = write("truth.json", content(annotation(1)))
    found = [{"image_id": 1, "category_id": 7, "segmentation": SQUARE, "score": 0.5}]
    results = str(write("results.json", found))

    def keys(task: str, results: str = "") -> list[str]:
        cfg = RunConfig()
        for own in (cfg.instances, cfg.proposals):
            own.ground_truth, own.images, own.results = str(truth), str(tmp_path), results
        run = Run(cfg=cfg, run_dir=tmp_path, part=Share())
        return [item.key for item in load_task(task).items(run)]

    for time, task in enumerate(("instances", "proposals")):
        before, finished = keys(task), keys(task, results)
        assert before == keys(task)
        Image.new("RGB", (30, 20), (1, 2, 3)).save(tmp_path / "one.png")
        os.utime(tmp_path / "one.png", ns=(0, time))
        assert [a == b for a, b in zip(before, keys(task), strict=True)] == [False, True]
        assert finished == keys(task, results)
