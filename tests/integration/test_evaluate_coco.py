"""`evaluate task=instances` and `task=proposals` as people call them, on a few drawn photos."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask

from sam_train.cli import main
from sam_train.eval.frame.result import TaskResult
from sam_train.model import build_sam

SIZE = (48, 64)


def rle(mask: np.ndarray[Any, Any]) -> dict[str, Any]:
    found = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(map(int, found["size"])), "counts": found["counts"].decode()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos of rectangles with an LVIS JSON, one photo missing, one without a mask; a model."""
    out = tmp_path_factory.mktemp("coco")
    (out / "images").mkdir()
    images, annotations = [], []
    for k in range(4):
        pixels = np.full((*SIZE, 3), 40 * k, dtype=np.uint8)
        for n, (top, left) in enumerate(((4, 5), (20, 30)) if k < 3 else ()):
            mask = np.zeros(SIZE, dtype=bool)
            mask[top : top + 20, left : left + 25] = True
            pixels[mask] = 255 - 60 * n
            annotations.append(
                {
                    "id": 10 * k + n,
                    "image_id": k,
                    "category_id": 1 + n,
                    "segmentation": rle(mask),
                    "area": 500,
                    "bbox": [left, top, 25, 20],
                }
            )
        if k != 2:
            Image.fromarray(pixels).save(out / "images" / f"{k}.png")
        images.append({"id": k, "file_name": f"{k}.png", "height": SIZE[0], "width": SIZE[1]})
        images[-1] |= {"neg_category_ids": [], "not_exhaustive_category_ids": []}
    categories = [
        {"id": 1, "name": "a", "frequency": "f"},
        {"id": 2, "name": "b", "frequency": "r"},
    ]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (out / "truth.json").write_text(json.dumps(content))
    torch.manual_seed(0)
    sam = build_sam("vit_t", image_size=64, depth=1, global_blocks=[0])
    torch.save(sam.state_dict(), out / "sam.pth")
    return out


def evaluate(folder: Path, run_dir: Path, task: str, *more: str, model: bool = True) -> TaskResult:
    of_model = [
        f"ckpt={folder / 'sam.pth'}",
        *("model=vit_t", "model.image_size=64", "model.depth=1", "model.global_blocks=[0]"),
    ]
    main(
        [
            "evaluate",
            f"task={task}",
            f"{task}.ground_truth={folder / 'truth.json'}",
            f"run_dir={run_dir}",
            "trainer.accelerator=cpu",
            *(of_model if model else []),
            *more,
        ]
    )
    return TaskResult.read(run_dir / task)


def results(folder: Path, **changes: Any) -> list[dict[str, Any]]:
    content = json.loads((folder / "truth.json").read_text())
    return [
        {key: a[key] for key in ("image_id", "category_id", "bbox", "segmentation")}
        | {"score": 0.9}
        | changes
        for a in content["annotations"]
    ]


def test_boxes_of_the_ground_truth(folder: Path, tmp_path: Path) -> None:
    found = evaluate(folder, tmp_path, "instances")
    assert found.skipped == {"missing image": 1}
    assert 0 <= float(found.figures["miou"] or 0) < 1
    masks = json.loads((tmp_path / "instances" / "results.json").read_text())
    assert [mask["image_id"] for mask in masks] == [0, 0, 1, 1]
    assert found.columns[-1] == "mIoU"
    assert any("LVIS" in row.source for row in found.rows)
    assert {"bars", "film", "worst"} == {picture.kind for picture in found.pictures}
    assert all((tmp_path / picture.path).is_file() for picture in found.pictures)
    # The same command again finds its records; other settings have others.
    again = evaluate(folder, tmp_path, "instances")
    assert again.figures == found.figures
    single = evaluate(folder, tmp_path, "instances", "instances.refine=0")
    assert single.figures["miou"] != found.figures["miou"]


def test_boxes_of_a_detector_that_are_not_what_they_should_be(folder: Path, tmp_path: Path) -> None:
    boxes = results(folder)
    boxes += [boxes[0] | {"bbox": box} for box in ([-9, 0, 5, 5], [0, 0, 0, 9], [70, 50, 5, 5])]
    boxes += [boxes[0] | {"bbox": [-10, -10, 30, 30], "score": 0.1}]
    boxes += [boxes[0] | {"category_id": 77}, boxes[0] | {"image_id": 99}]
    (tmp_path / "boxes.json").write_text(json.dumps(boxes))
    more = f"instances.boxes={tmp_path / 'boxes.json'}"
    found = evaluate(folder, tmp_path, "instances", more)
    assert found.skipped == {
        "missing image": 1,
        "box: outside the image, or without area": 3,
        "result: category absent from the ground truth": 1,
        "result: of an image that the ground truth does not have": 1,
    }
    # All boxes but the one that was cut are the ground truth's.
    assert found.figures["box_ap"] == pytest.approx(1.0)
    masks = json.loads((tmp_path / "instances" / "results.json").read_text())
    assert sorted(mask["score"] for mask in masks) == [0.1, 0.9, 0.9, 0.9, 0.9]
    assert all("bbox" not in mask for mask in masks)


@pytest.mark.parametrize("task", ["instances", "proposals"])
def test_masks_of_another_program_need_no_model(task: str, folder: Path, tmp_path: Path) -> None:
    perfect = results(folder)
    wrong_size = {"size": [64, 48], "counts": [0, 64 * 48]}
    (tmp_path / "r.json").write_text(
        json.dumps([*perfect, perfect[0] | {"segmentation": wrong_size}])
    )
    more = f"{task}.results={tmp_path / 'r.json'}"
    found = evaluate(folder, tmp_path, task, more, model=False)
    prefix = "ap" if task == "instances" else "ar"
    names = ("ap", "ap_rare") if prefix == "ap" else ("ar_all", "ar_rare", "ar_frequent")
    for name in names:
        assert found.figures[name] == pytest.approx(1.0)
    assert found.skipped == {"result: mask unreadable or of another size": 1}


def test_text_ids_give_the_figures_of_numbers(folder: Path, tmp_path: Path) -> None:
    """Image and category ids are text in the ground truth, numbers or text in the boxes."""
    content = json.loads((folder / "truth.json").read_text())
    boxes = [{**a, "image_id": f"img-{a['image_id']}"} for a in results(folder)]
    (tmp_path / "boxes.json").write_text(json.dumps(results(folder)))
    numbers = evaluate(
        folder, tmp_path / "1", "instances", f"instances.boxes={tmp_path / 'boxes.json'}"
    )
    for image in content["images"]:
        image["id"] = f"img-{image['id']}"
        image["file_name"] = "D:\\set\\" + image["file_name"]
    for category in content["categories"]:
        category["id"] = str(category["id"])
    for item in content["annotations"]:
        item |= {"image_id": f"img-{item['image_id']}", "id": f"a{item['id']}"}
    (tmp_path / "truth.json").write_text(json.dumps(content))
    (tmp_path / "boxes.json").write_text(json.dumps(boxes))
    found = evaluate(
        folder,
        tmp_path / "2",
        "instances",
        f"instances.ground_truth={tmp_path / 'truth.json'}",
        f"instances.images={folder / 'images'}",
        f"instances.boxes={tmp_path / 'boxes.json'}",
    )
    assert found.figures == numbers.figures
    assert found.skipped == {"missing image": 1}
    assert any("under another name" in note for note in found.notes)
    masks = json.loads((tmp_path / "2" / "instances" / "results.json").read_text())
    assert {(mask["image_id"], mask["category_id"]) for mask in masks} == {
        (f"img-{image}", category) for image in (0, 1) for category in ("1", "2")
    }


def test_results_of_another_data_set_are_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "r.json").write_text(json.dumps(results(folder, image_id=12345)))
    for task, option in (("instances", "boxes"), ("proposals", "results")):
        with pytest.raises(SystemExit):
            evaluate(folder, tmp_path, task, f"{task}.{option}={tmp_path / 'r.json'}")
        error = capsys.readouterr().err
        assert "does not belong to" in error
        assert "12345" in error


def test_proposals_of_a_model(folder: Path, tmp_path: Path) -> None:
    few = ("proposals.points_per_side=4", "proposals.limit=20")
    found = evaluate(folder, tmp_path, "proposals", *few)
    assert found.skipped == {"missing image": 1}
    assert found.columns == ["all", "small", "medium", "large", "frequent", "common", "rare"]
    assert 0 <= float(found.figures["ar_all"] or 0) < 1
    assert 1 <= float(found.figures["proposals_per_image"] or 0) <= 48
    assert found.details["numbers"] == [1, 10, 20]
