"""The small trained model that ships: it loads, is small, and finds what one clicks on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import sam_train
from data_tools.scenes import close_up
from sam_train.model import Sam
from sam_train.model.load import load_sam
from sam_train.types import FOREGROUND, PAD, Prompts

NANO = Path(sam_train.__file__).parent / "assets" / "nano.safetensors"
SIDE = 256
"""Of the photos, as in training."""


@pytest.fixture(scope="module")
def nano() -> Sam:
    return load_sam(NANO).eval()


def test_it_is_small() -> None:
    assert NANO.stat().st_size <= 5_000_000


def test_a_click_in_the_middle_finds_the_thing(nano: Sam) -> None:
    """Close-ups that it was not trained on; an untrained model scores about 0.1."""
    ious = []
    for index in range(8):
        scene = close_up(77, index, height=SIDE, width=SIDE, zoom=3.0)
        for mask in [m for m in scene.masks if 0.03 < m.mean() < 0.5][:3]:
            rows, columns = np.nonzero(mask)
            middle = np.argmin((rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2)
            ious.append(_best_iou(nano, scene.image, mask, columns[middle], rows[middle]))
    assert len(ious) >= 12
    assert np.mean(ious) > 0.7


@torch.no_grad()
def _best_iou(sam: Sam, photo: np.ndarray, mask: np.ndarray, column: int, row: int) -> float:
    """Of the best of three masks for a click on a pixel of the photo."""
    side = sam.image_size
    small = Image.fromarray(photo).resize((side, side), Image.Resampling.BILINEAR)
    pixels = torch.from_numpy(np.array(small)).permute(2, 0, 1)[None]
    embeddings = sam.encode(pixels, torch.tensor([[side, side]]))
    point = [(place + 0.5) * side / SIDE - 0.5 for place in (column, row)]
    prompts = Prompts(
        coords=torch.tensor([[point, [0.0, 0.0]]], dtype=torch.float32),
        labels=torch.tensor([[FOREGROUND, PAD]]),
    )
    answer = sam.decode(embeddings, torch.tensor([0]), prompts, multimask=True)
    logits = sam.postprocess(
        answer.mask_logits, image_size=(side, side), original_size=(SIDE, SIDE)
    )
    found = (logits[0] > 0).numpy()
    return float(max((m & mask).sum() / (m | mask).sum() for m in found))
