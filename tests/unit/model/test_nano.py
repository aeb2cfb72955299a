"""The small trained model that ships: it loads, is small, and finds what one clicks on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import sam_train
from data_tools.scenes import close_up
from sam_train.model import Sam
from sam_train.model.load import load_sam
from sam_train.types import FOREGROUND, PAD, Prompts

NANO = Path(sam_train.__file__).parent / "assets" / "nano.safetensors"


@pytest.fixture(scope="module")
def nano() -> Sam:
    return load_sam(NANO).eval()


def test_it_is_small() -> None:
    assert NANO.stat().st_size <= 5_000_000


def test_a_click_in_the_middle_finds_the_thing(nano: Sam) -> None:
    """Large things of scenes that it was not trained on; untrained models score about 0.05."""
    ious = []
    for index in range(4):
        scene = close_up(77, index, height=nano.image_size, width=nano.image_size, zoom=2.0)
        large = [m for m in scene.masks if 0.05 < m.mean() < 0.5]
        for mask in large[:3]:
            rows, columns = np.nonzero(mask)
            middle = np.argmin((rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2)
            point = [float(columns[middle]), float(rows[middle])]
            ious.append(_best_iou(nano, scene.image, mask, point))
    assert len(ious) >= 6
    assert np.mean(ious) > 0.3


@torch.no_grad()
def _best_iou(sam: Sam, image: np.ndarray, mask: np.ndarray, point: list[float]) -> float:
    side = sam.image_size
    pixels = torch.from_numpy(image.copy()).permute(2, 0, 1)[None]
    embeddings = sam.encode(pixels, torch.tensor([[side, side]]))
    prompts = Prompts(
        coords=torch.tensor([[point, [0.0, 0.0]]]), labels=torch.tensor([[FOREGROUND, PAD]])
    )
    answer = sam.decode(embeddings, torch.tensor([0]), prompts, multimask=True)
    logits = sam.postprocess(
        answer.mask_logits, image_size=(side, side), original_size=(side, side)
    )
    found = (logits[0] > 0).numpy()
    return float(max((m & mask).sum() / (m | mask).sum() for m in found))
