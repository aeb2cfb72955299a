"""AP and AR on 128 photos of COCO: equal to what pycocotools itself makes of the same two files.

Of LVIS's rules pycocotools knows nothing, but it can play them: category by category, on the images
that say whether they have it, with a crowd over the whole photo where instances are not all marked,
which takes up every result that finds nothing else.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from sam_train.eval.coco import TruthMask, read_results, read_truth
from sam_train.eval.coco.precision import average_precision
from sam_train.eval.tasks.proposals.recall import average_recall, count_found, given_proposals

DATA = Path(__file__).resolve().parents[2] / "../shared/data/coco128"
pytestmark = pytest.mark.skipif(
    not DATA.is_dir(), reason="needs coco128 in ../shared/data beside the checkout"
)
TOLERANCE = 1e-6


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`truth.json` and `results.json`: shifted masks, wrong classes, ties, an empty
    mask."""
    out = tmp_path_factory.mktemp("coco128")
    content = json.loads((DATA / "instances.json").read_text())
    images = content["images"]
    (out / "truth.json").write_text(json.dumps(content))
    truth = read_truth(out / "truth.json", DATA / "images")
    rng = np.random.default_rng(0)
    categories = sorted({a["category_id"] for a in content["annotations"]})
    results: list[dict[str, Any]] = []
    for image in truth.images:
        for mask in truth.masks(image)[0]:
            for _ in range(rng.integers(0, 4)):
                wrong = rng.random() < 0.2
                results.append(
                    {
                        "image_id": image.id,
                        "category_id": int(rng.choice(categories)) if wrong else mask.category,
                        "segmentation": moved(mask, rng),
                        "score": round(float(rng.random()), 2),
                    }
                )
    nothing = coco_mask.encode(np.zeros((images[0]["height"], images[0]["width"]), np.uint8, "F"))
    results.append(results[0] | {"segmentation": as_json(nothing), "score": 0.995})
    (out / "results.json").write_text(json.dumps(results))
    return out


def moved(mask: TruthMask, rng: np.random.Generator) -> dict[str, Any]:
    bitmap = coco_mask.decode(dict(mask.rle))
    reach = max(1, int(np.sqrt(mask.area) / 6))
    rows, columns = rng.integers(-reach, reach + 1, 2)
    return as_json(coco_mask.encode(np.asfortranarray(np.roll(bitmap, (rows, columns), (0, 1)))))


def as_json(rle: dict[str, Any]) -> dict[str, Any]:
    return {"size": list(map(int, rle["size"])), "counts": rle["counts"].decode()}


def official(
    truth: Path | dict[str, Any], results: Sequence[dict[str, Any]], **params: Any
) -> COCOeval:
    gt = COCO(str(truth)) if isinstance(truth, Path) else COCO()
    if isinstance(truth, dict):
        gt.dataset = truth
        gt.createIndex()
    evaluation = COCOeval(gt, gt.loadRes(copy.deepcopy(list(results))), "segm")
    for name, value in params.items():
        setattr(evaluation.params, name, value)
    evaluation.evaluate()
    evaluation.accumulate()
    return evaluation


@pytest.fixture(scope="module")
def results(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((folder / "results.json").read_text())
    return found


def test_ap_is_pycocotools(folder: Path, results: list[dict[str, Any]]) -> None:
    truth = read_truth(folder / "truth.json", DATA / "images")
    assert any(m.crowd for image in truth.images for m in truth.masks(image)[0])
    evaluation = official(folder / "truth.json", results)
    evaluation.summarize()
    ours = average_precision(truth, truth.images, results).figures
    names = ("ap", "ap_50", "ap_75", "ap_small", "ap_medium", "ap_large")
    for name, value in zip(names, evaluation.stats[:6], strict=True):
        assert ours[name] == pytest.approx(value, abs=TOLERANCE), name
    assert ours["ar"] == pytest.approx(evaluation.stats[8], abs=TOLERANCE)
    assert 0.1 < evaluation.stats[0] < 0.9


def test_recall_is_pycocotools(folder: Path, results: list[dict[str, Any]]) -> None:
    truth = read_truth(folder / "truth.json", DATA / "images")
    given = read_results(folder / "results.json", truth, option="", categories=False)
    counted = []
    for image in truth.images:
        masks, scores, unreadable = given_proposals(given, image)
        assert unreadable == 0
        found = count_found(truth.masks(image)[0], masks, scores, limit=1000, frequencies={})
        counted.append(found)
    evaluation = official(folder / "truth.json", results, useCats=0, maxDets=[1, 10, 100, 1000])
    recall = evaluation.eval["recall"]
    for area, kind in enumerate(("all", "small", "medium", "large")):
        ours = average_recall(counted, kind)
        expected = recall[:, 0, area, :].mean(axis=0)
        assert ours == pytest.approx(expected.tolist(), abs=TOLERANCE), kind
    assert 0.1 < recall[:, 0, 0, 3].mean() < 0.95


def test_lvis_ap_is_pycocotools_by_category(
    folder: Path, results: list[dict[str, Any]], tmp_path: Path
) -> None:
    content = as_lvis(json.loads((folder / "truth.json").read_text()))
    (tmp_path / "lvis.json").write_text(json.dumps(content))
    truth = read_truth(tmp_path / "lvis.json", DATA / "images")
    assert truth.lvis
    ours = average_precision(truth, truth.images, results).figures
    aps: dict[str, list[float]] = {"r": [], "c": [], "f": []}
    for category in content["categories"]:
        evaluation = official(*one_category(content, results, category["id"]), maxDets=[300])
        precision = evaluation.eval["precision"][:, :, :, 0, -1]
        if (precision > -1).any():
            aps[category["frequency"]].append(float(precision[precision > -1].mean()))
    for letter, word in (("r", "rare"), ("c", "common"), ("f", "frequent")):
        assert len(aps[letter]) > 3
        assert ours[f"ap_{word}"] == pytest.approx(np.mean(aps[letter]), abs=TOLERANCE)
    assert ours["ap"] == pytest.approx(np.mean([*aps["r"], *aps["c"], *aps["f"]]), abs=TOLERANCE)
    as_coco = read_truth(folder / "truth.json", DATA / "images")
    assert ours["ap"] != pytest.approx(
        average_precision(as_coco, as_coco.images, results).figures["ap"], abs=1e-3
    )


def as_lvis(content: dict[str, Any]) -> dict[str, Any]:
    """COCO's content with LVIS's fields; LVIS has no crowds."""
    rng = np.random.default_rng(1)
    content["annotations"] = [a for a in content["annotations"] if not a["iscrowd"]]
    numbers = [category["id"] for category in content["categories"]]
    for k, category in enumerate(content["categories"]):
        category["frequency"] = "rcf"[k % 3]
    for image in content["images"]:
        has = {a["category_id"] for a in content["annotations"] if a["image_id"] == image["id"]}
        absent = sorted(set(numbers) - has)
        image["neg_category_ids"] = sorted(map(int, rng.choice(absent, 30, replace=False)))
        image["not_exhaustive_category_ids"] = [n for n in sorted(has) if rng.random() < 0.3]
    return content


def one_category(
    content: dict[str, Any], results: Sequence[dict[str, Any]], number: int
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    own = [a for a in content["annotations"] if a["category_id"] == number]
    has = {a["image_id"] for a in own}
    images = [i for i in content["images"] if i["id"] in has or number in i["neg_category_ids"]]
    ids = {image["id"] for image in images}
    for image in images:
        if number in image["not_exhaustive_category_ids"]:
            size = [image["height"], image["width"]]
            every = {"size": size, "counts": [0, size[0] * size[1]]}
            own.append(
                {
                    "id": 10**12 + image["id"],
                    "image_id": image["id"],
                    "category_id": number,
                    "segmentation": every,
                    "area": size[0] * size[1],
                    "bbox": [0, 0, size[1], size[0]],
                    "iscrowd": 1,
                }
            )
    category = [c for c in content["categories"] if c["id"] == number]
    truth = {"images": images, "annotations": own, "categories": category}
    found = [r for r in results if r["category_id"] == number and r["image_id"] in ids]
    if not found and images:
        # pycocotools takes no empty list; what is on no image's mask changes nothing at score 0.
        size = [images[0]["height"], images[0]["width"]]
        nothing = as_json(coco_mask.encode(np.zeros(size, np.uint8, "F")))
        found = [{"image_id": images[0]["id"], "category_id": number, "score": 0.0}]
        found[0]["segmentation"] = nothing
    return truth, found
