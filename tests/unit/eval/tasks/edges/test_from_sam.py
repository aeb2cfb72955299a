"""Edge maps by a model, against the recipe played mask by mask with other code's NMS."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import segment_anything_reference
import torch
import torch.nn.functional as F
from PIL import Image
from places import ROOT
from torch import Tensor

from data_tools.scenes.scene import render_scene
from sam_train.errors import UserError
from sam_train.eval.tasks.edges.edge_map import edge_map
from sam_train.eval.tasks.edges.from_sam import edge_map_of, pair_photos, read_photo, write_edge_map
from sam_train.model import Sam
from sam_train.model.load import load_sam
from sam_train.runtime.jobs import SkipItem
from sam_train.types import FOREGROUND, PAD, Prompts

NANO = ROOT / "sam_train/assets/nano.safetensors"
SIDE = 4


@pytest.fixture(scope="module")
def sam() -> Sam:
    return load_sam(NANO)


@torch.no_grad()
def masks_by_hand(sam: Sam, photo: np.ndarray) -> tuple[Tensor, Tensor]:
    """Logits [3 P, H, W] in the original frame and predicted IoU [3 P], one point at a time."""
    height, width = photo.shape[:2]
    S = sam.image_size
    w, h = round(width * S / max(height, width)), round(height * S / max(height, width))
    resized = np.asarray(Image.fromarray(photo).resize((w, h), Image.Resampling.BILINEAR))
    image = torch.zeros(1, 3, S, S, dtype=torch.uint8)
    image[0, :, :h, :w] = torch.from_numpy(resized.copy()).permute(2, 0, 1)
    embedding = sam.encode(image, torch.tensor([[h, w]]))
    logits, scores = [], []
    for row in range(SIDE):
        for column in range(SIDE):
            x, y = (column + 0.5) / SIDE * w, (row + 0.5) / SIDE * h
            prompts = Prompts(
                coords=torch.tensor([[[x, y], [0.0, 0.0]]]),
                labels=torch.tensor([[FOREGROUND, PAD]]),
            )
            answer = sam.decode(embedding, torch.tensor([0]), prompts, multimask=True)
            # Kept in half precision, because there are 768 of them.
            low = answer.mask_logits.half().float()
            scaled = F.interpolate(low, (S, S), mode="bilinear", align_corners=False)
            cut = scaled[..., :h, :w]
            logits.append(F.interpolate(cut, (height, width), mode="bilinear")[0])
            scores.append(answer.iou[0])
    return torch.cat(logits), torch.cat(scores)


def test_the_recipe_mask_by_mask(sam: Sam) -> None:
    photo = render_scene(0, 5, height=90, width=120).image
    logits, scores = masks_by_hand(sam, photo)
    boxes = []
    for mask in logits > 0:
        rows, columns = torch.nonzero(mask, as_tuple=True)
        low_high = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        boxes.append(torch.stack(low_high).float() if len(rows) else torch.zeros(4))
    kept = segment_anything_reference.batched_nms(
        torch.stack(boxes), scores, torch.zeros(len(boxes)), 0.7
    )
    assert 3 < len(kept) < len(boxes)
    expected = edge_map(logits[kept].sigmoid())
    found = edge_map_of(sam, photo, points_per_side=SIDE, nms_iou=0.7, points_at_once=5)
    assert found.shape == (90, 120)
    # Rounding may let a weak edge survive the suppression of its neighbour, or not.
    assert ((found - expected).abs() < 1e-3).float().mean() > 0.999
    assert found.max() == 1


def test_mixed_precision(sam: Sam) -> None:
    photo = render_scene(0, 5, height=90, width=120).image
    full = edge_map_of(sam, photo, points_per_side=SIDE, nms_iou=0.7)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = edge_map_of(sam, photo, points_per_side=SIDE, nms_iou=0.7)
    assert mixed.dtype == torch.float32
    # Sums of eight bits would take few values.
    assert len(mixed.unique()) > 500
    assert ((full > 0) & (mixed > 0)).sum() > 0.3 * (full > 0).sum()


def test_the_file_is_what_the_benchmark_reads(tmp_path: Path) -> None:
    write_edge_map(torch.tensor([[0.0, 0.5], [1.0, 1.2]]), tmp_path / "a.png")
    assert np.asarray(Image.open(tmp_path / "a.png")).tolist() == [[0, 128], [255, 255]]
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_photos_and_truths_belong_together(tmp_path: Path) -> None:
    photos, truths = tmp_path / "photos", tmp_path / "truths"
    photos.mkdir()
    with pytest.raises(UserError, match=r"edges\.ground_truth=.*is not a folder"):
        pair_photos(photos, truths)
    truths.mkdir()
    with pytest.raises(UserError, match=r"holds no \.mat files"):
        pair_photos(photos, truths)
    (truths / "7.mat").touch()
    with pytest.raises(UserError, match="has no photo for 1 of 1 ground truths, 7 among them"):
        pair_photos(photos, truths)
    Image.new("L", (5, 4), 9).save(photos / "7.png")
    (photos / "notes.txt").touch()
    (pair,) = pair_photos(photos, truths)
    assert (pair.name, pair.edges, pair.truth) == ("7", photos / "7.png", truths / "7.mat")
    assert read_photo(pair.edges).tolist() == np.full((4, 5, 3), 9).tolist()
    (photos / "7.png").write_bytes(b"no picture")
    with pytest.raises(SkipItem, match="unreadable image"):
        read_photo(photos / "7.png")
