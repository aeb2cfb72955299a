"""A photo as the model's input: the same batch that validation makes of a shard."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask

from sam_train.data.config import DataConfig
from sam_train.data.datamodule import SamDataModule
from sam_train.data.shards.writer import ShardSample, annotation, write_shards
from sam_train.eval.config import EvalConfig
from sam_train.eval.datasets import EvalSample, open_datasets, prompt_batch, random_points
from sam_train.types import RLE

H, W, S = 50, 70, 64


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    path = root / "photo.jpg"
    Image.fromarray(rng.integers(0, 255, (H, W, 3), dtype=np.uint8)).save(path)
    masks = np.zeros((3, H, W), dtype=bool)
    masks[0, 3:30, 5:20], masks[1, 44:, 60:], masks[2, 17, 33] = True, True, True
    sample = ShardSample(
        image_id=1, jpeg=path.read_bytes(), width=W, height=H,
        annotations=[annotation(mask, id=k) for k, mask in enumerate(masks)],
    )  # fmt: skip
    write_shards([sample], root / "shards")
    return root / "shards"


@pytest.fixture(scope="module")
def sample(shards: Path) -> EvalSample:
    return open_datasets(EvalConfig(datasets=f"shards:{shards}"))[0].images[0].load()


def test_the_batch_of_validation(shards: Path, sample: EvalSample) -> None:
    cfg = DataConfig(val=str(shards), workers=0, max_area_fraction=1.0)
    module = SamDataModule(cfg, image_size=S, grid_size=S // 4, seed=0)
    (theirs,) = list(module.val_dataloader())
    ours = prompt_batch(sample, image_size=S)
    for name in ("images", "image_sizes", "original_sizes", "image_index", "boxes"):
        assert torch.equal(getattr(ours, name), getattr(theirs, name)), name
    decoded = [[coco_mask.decode(rle) for rle in batch.rles] for batch in (ours, theirs)]
    assert np.array_equal(*decoded)


def test_some_of_the_masks(sample: EvalSample) -> None:
    whole, some = prompt_batch(sample, image_size=S), prompt_batch(sample, image_size=S, masks=[2])
    assert torch.equal(some.boxes, whole.boxes[2:])
    assert some.rles == whole.rles[2:]
    drawn = random_points(sample, seed=0)
    assert (random_points(sample, seed=0, masks=[2, 0]) == drawn[[2, 0]]).all()


def test_points_are_uniform_in_the_mask() -> None:
    mask = np.zeros((9, 11), dtype=np.uint8)
    mask[1, 2], mask[4:6, 7], mask[8, 10] = 1, 1, 1
    encoded = coco_mask.encode(np.asfortranarray(mask))
    rle = RLE(size=[9, 11], counts=encoded["counts"])
    many = EvalSample(
        key="set/x", dataset="set", image=np.zeros((9, 11, 3), dtype=np.uint8),
        masks=[rle] * 4000, names=[""] * 4000, areas=[4] * 4000,
    )  # fmt: skip
    points, counts = np.unique(random_points(many, seed=0), axis=0, return_counts=True)
    assert points.tolist() == [[2, 1], [7, 4], [7, 5], [10, 8]]
    # Four standard deviations of a binomial count.
    assert np.abs(counts - 1000).max() < 4 * (4000 * 0.25 * 0.75) ** 0.5
    others = [random_points(many, seed=1), random_points(many, seed=0, draw=1)]
    for other in others:
        assert (other != random_points(many, seed=0)).any(axis=1).mean() == pytest.approx(
            0.75, abs=0.05
        )


def test_points_land_where_the_model_expects_them(sample: EvalSample) -> None:
    batch = prompt_batch(sample, image_size=S, points=random_points(sample, seed=0))
    # Of one pixel there is no choice: its centre, (column + 1/2, row + 1/2) scaled, less 1/2.
    scale_x, scale_y = S / W, 46 / 50
    expected = ((33 + 0.5) * scale_x - 0.5, (17 + 0.5) * scale_y - 0.5)
    assert batch.points[2].tolist() == pytest.approx(expected, abs=1e-5)
    assert batch.boxes[2].tolist() == pytest.approx([*expected, *expected], abs=1e-5)
