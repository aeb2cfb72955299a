"""Ground truths and results of other programs: pycocotools' figures of the plain files."""

from __future__ import annotations

import contextlib
import copy
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from sam_train.errors import UserError
from sam_train.eval.coco import Truth, read_results, read_truth
from sam_train.eval.coco.precision import average_precision
from sam_train.eval.tasks.proposals.recall import average_recall, count_found, given_proposals

H, W = 60, 80
Json = dict[str, Any]


def square(rng: np.random.Generator) -> tuple[list[float], list[float]]:
    x, y = rng.integers(0, 40, 2).tolist()
    w, h = rng.integers(8, 38, 2).tolist()
    w, h = min(w, W - x), min(h, H - y)
    return [x, y, w, h], [x, y, x + w, y, x + w, y + h, x, y + h]


def plain(seed: int = 0) -> tuple[Json, list[Json]]:
    """A ground truth of three categories and results near it, with equal scores among them."""
    rng = np.random.default_rng(seed)
    images = [{"id": n, "file_name": f"{n}.png", "height": H, "width": W} for n in (3, 20, 100, 4)]
    annotations, results = [], []
    for image in images:
        for _ in range(5):
            box, polygon = square(rng)
            category = int(rng.choice([0, 7, 30]))
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image["id"],
                    "category_id": category,
                    "segmentation": [polygon],
                    "area": float(coco_mask.area(coco_mask.frPyObjects([polygon], H, W))[0]),
                    "bbox": box,
                    "iscrowd": 0,
                }
            )
            for _ in range(rng.integers(0, 3)):
                shift = rng.integers(-4, 5, 2).tolist() * 4
                moved = [float(v + s) for v, s in zip(polygon, shift, strict=True)]
                results.append(
                    {
                        "image_id": image["id"],
                        "category_id": category if rng.random() < 0.8 else 7,
                        "segmentation": coco_mask.frPyObjects([moved], H, W)[0],
                        "score": round(float(rng.random()), 1),
                    }
                )
                results[-1]["segmentation"]["counts"] = results[-1]["segmentation"][
                    "counts"
                ].decode()
    annotations[3]["iscrowd"] = 1
    annotations[3]["segmentation"] = coco_mask.merge(
        coco_mask.frPyObjects(annotations[3]["segmentation"], H, W)
    )
    annotations[3]["segmentation"]["counts"] = annotations[3]["segmentation"]["counts"].decode()
    categories = [{"id": n, "name": f"kind {n}"} for n in (0, 7, 30)]
    return {"images": images, "annotations": annotations, "categories": categories}, results


def official(truth: Json, results: list[Json], **params: Any) -> COCOeval:
    with contextlib.redirect_stdout(io.StringIO()):
        gt = COCO()
        gt.dataset = copy.deepcopy(truth)
        gt.createIndex()
        evaluation = COCOeval(gt, gt.loadRes(copy.deepcopy(results)), "segm")
        for name, value in params.items():
            setattr(evaluation.params, name, value)
        evaluation.evaluate()
        evaluation.accumulate()
        if not params:
            evaluation.summarize()
    return evaluation


@pytest.fixture
def read(tmp_path: Path) -> Callable[[Any, Any], tuple[Truth, list[Json]]]:
    """The ground truth, and the results of a file as the instances task takes them."""

    def read(truth: Any, results: Any) -> tuple[Truth, list[Json]]:
        (tmp_path / "t.json").write_text(json.dumps(truth))
        (tmp_path / "r.json").write_text(json.dumps(results))
        own = read_truth(tmp_path / "t.json", tmp_path)
        found = read_results(tmp_path / "r.json", own, option="o", categories=True)
        taken = []
        for image in own.images:
            for item in found.of(image):
                mask = item.mask(image)
                assert mask is not None
                taken.append(
                    {
                        "image_id": image.id,
                        "category_id": item.category_id,
                        "score": item.rank(),
                        "segmentation": dict(mask),
                    }
                )
        return own, taken

    return read


def renamed(truth: Json, results: list[Json], rename: Callable[[str, Any], Any]) -> Any:
    truth, results = copy.deepcopy(truth), copy.deepcopy(results)
    for image in truth["images"]:
        image["id"] = rename("image", image["id"])
    for item in [*truth["annotations"], *results]:
        item["image_id"] = rename("image of", item["image_id"])
        item["category_id"] = rename("category of", item["category_id"])
    for item in truth["annotations"]:
        item["id"] = rename("annotation", item["id"])
    for item in truth["categories"]:
        item["id"] = rename("category", item["id"])
    return truth, results


RENAMES: dict[str, Callable[[str, Any], Any]] = {
    "as they are": lambda what, own: own,
    "text of numbers": lambda what, own: str(own),
    "numbers here, text there": lambda what, own: str(own) if "of" in what else own,
    "text here, floats there": lambda what, own: float(own) if "of" in what else f"{own:04}",
    "text": lambda what, own: f"{what.split()[0]}_{own:05}",
    "no annotation ids": lambda what, own: None if what == "annotation" else own,
    "equal annotation ids": lambda what, own: 1 if what == "annotation" else own,
}


@pytest.mark.parametrize("kind", RENAMES)
def test_ap_of_any_ids_is_pycocotools_of_numbers(kind: str, read: Any) -> None:
    for seed in range(3):
        truth, results = plain(seed)
        expected = official(truth, results).stats
        own, taken = read(*renamed(truth, results, RENAMES[kind]))
        assert not own.left_out
        assert len(taken) == len(results)
        figures = average_precision(own, own.images, taken).figures
        names = ("ap", "ap_50", "ap_75", "ap_small", "ap_medium", "ap_large")
        for name, value in zip(names, expected[:6], strict=True):
            ours = figures[name]
            assert (-1 if ours is None else ours) == pytest.approx(value, abs=1e-12), name
        assert figures["ar"] == pytest.approx(expected[8], abs=1e-12)
        assert 0.05 < expected[0] < 0.95


@pytest.mark.parametrize("kind", RENAMES)
def test_recall_of_any_ids_is_pycocotools_of_numbers(kind: str, read: Any, tmp_path: Path) -> None:
    truth, results = plain()
    expected = official(truth, results, useCats=0, maxDets=[1, 10, 100, 1000]).eval["recall"]
    own, _ = read(*renamed(truth, results, RENAMES[kind]))
    given = read_results(tmp_path / "r.json", own, option="o", categories=False)
    counted = []
    for image in own.images:
        masks, scores, unreadable = given_proposals(given, image)
        assert unreadable == 0
        found = own.masks(image)[0]
        counted.append(count_found(found, masks, scores, limit=1000, frequencies={}))
    ours = average_recall(counted, "all")
    assert ours == pytest.approx(expected[:, 0, 0, :].mean(axis=0).tolist(), abs=1e-12)


def test_results_keep_the_ground_truths_ids(read: Any) -> None:
    truth, results = renamed(*plain(), RENAMES["text here, floats there"])
    _, taken = read(truth, results)
    assert {one["image_id"] for one in taken} <= {"0003", "0020", "0100", "0004"}
    assert {one["category_id"] for one in taken} == {"0000", "0007", "0030"}


def test_fractions_give_the_figures_of_pixels(read: Any) -> None:
    truth, results = plain()
    expected = official(truth, results).stats
    for item in [*truth["annotations"], *results]:
        if isinstance(item["segmentation"], list):
            sides = [W, H] * 4
            (polygon,) = item["segmentation"]
            item["segmentation"] = [[v / s for v, s in zip(polygon, sides, strict=True)]]
        if "bbox" in item:
            item["bbox"] = [v / s for v, s in zip(item["bbox"], (W, H, W, H), strict=True)]
        if "area" in item:
            item["area"] /= W * H
    own, taken = read(truth, results)
    assert own.normalised
    figures = average_precision(own, own.images, taken).figures
    assert figures["ap"] == pytest.approx(expected[0], abs=1e-12)
    assert figures["ap_small"] == pytest.approx(expected[3], abs=1e-12)
    for image in own.images:
        for mask in own.masks(image)[0]:
            assert mask.box == pytest.approx(tuple(corners(mask.rle)), abs=1e-9)


def corners(rle: Any) -> list[float]:
    x, y, w, h = coco_mask.toBbox(rle).tolist()
    return [x, y, x + w, y + h]


def test_boxes_in_fractions(read: Any, tmp_path: Path) -> None:
    truth, _ = plain()
    box = {"image_id": 3, "category_id": 7, "score": 0.5}
    own, _ = read(truth, [])
    (tmp_path / "b.json").write_text(json.dumps([box | {"bbox": [0.25, 0.5, 0.5, 0.25]}]))
    found = read_results(tmp_path / "b.json", own, option="o", categories=True)
    image = own.image(3)
    assert image is not None
    assert [one.box(image) for one in found.of(image)] == [(20, 30, 60, 45)]
    assert "from 0 to 1" in found.notes[0]
    both = [box | {"bbox": ["2", 3.0, 10, 1]}, box | {"bbox": [0.25, 0.5, 0.5, 0.25]}]
    (tmp_path / "b.json").write_text(json.dumps(both))
    found = read_results(tmp_path / "b.json", own, option="o", categories=True)
    assert found.of(image)[0].box(image) == (2, 3, 12, 4)
    assert found.of(image)[1].box(image) == (0.25, 0.5, 0.75, 0.75)
    assert not found.notes


def test_what_a_ground_truth_may_lack(read: Any, tmp_path: Path) -> None:
    truth, results = plain()
    expected = official(truth, results).stats
    for image in truth["images"]:
        Image.new("RGB", (W, H)).save(tmp_path / image["file_name"])
        del image["height"], image["width"]
    del truth["categories"]
    for item in truth["annotations"]:
        item["iscrowd"] = {0: None, 1: "1"}[item["iscrowd"]]
    own, taken = read(truth, results)
    assert sorted(own.categories) == [0, 7, 30]
    assert own.notes == ["t.json lists no categories: they are those of its masks"]
    figures = average_precision(own, own.images, taken).figures
    assert figures["ap"] == pytest.approx(expected[0], abs=1e-12)


def test_masks_without_any_category_are_of_one(read: Any) -> None:
    truth, _ = plain()
    del truth["categories"]
    for item in truth["annotations"]:
        item["category_id"] = None
    own, _ = read(truth, [])
    assert [category.name for category in own.categories.values()] == ["object"]
    assert sum(len(own.masks(image)[0]) for image in own.images) == len(truth["annotations"])


def test_one_odd_entry_costs_itself(read: Any) -> None:
    truth, results = plain()
    good = results[0]
    truth["images"] += [{"id": None, "file_name": "x.png", "height": 5, "width": 5}, 3]
    truth["images"] += [{"id": 55, "file_name": "absent.png"}]
    truth["annotations"] += [truth["annotations"][0] | {"image_id": 55}, None]
    results += [None, good | {"score": None}, good | {"score": "high"}, good | {"image_id": []}]
    results += [good | {"category_id": {}}]
    own, taken = read(truth, results)
    assert dict(own.left_out) == {
        "image: unreadable entry": 1,
        "mask: unreadable entry": 1,
        "image: no id": 1,
        "image: no size, and the photo is missing": 1,
        "mask: its image was left out": 1,
    }
    assert len(taken) == len(results) - 5


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([{"data": {}, "annotations": []}], "Label Studio"),
        ([1, 2], "a list of something else"),
        ({"images": []}, "without `annotations`"),
        ("", "is no JSON"),
    ],
)
def test_other_files_are_named(content: Any, message: str, read: Any, tmp_path: Path) -> None:
    own, _ = read(plain()[0], [])
    (tmp_path / "w.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=message) as caught:
        read_results(tmp_path / "w.json", own, option="instances.boxes", categories=True)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=message):
        read_truth(tmp_path / "w.json", tmp_path)


def test_nothing_annotated_and_nothing_found_is_no_crash(read: Any) -> None:
    truth, results = plain()
    truth["annotations"] = []
    own, taken = read(truth, results)
    assert average_precision(own, own.images, taken).figures["ap"] is None
    assert average_precision(own, own.images, []).figures["ap"] is None


def test_categories_of_one_name_keep_their_figures(read: Any) -> None:
    truth, results = plain()
    for category in truth["categories"]:
        category["name"] = "cell"
    own, taken = read(truth, results)
    found = average_precision(own, own.images, taken)
    assert sorted(found.categories) == ["cell (0)", "cell (30)", "cell (7)"]
