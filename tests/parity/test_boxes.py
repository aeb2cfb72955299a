"""Masks for boxes against segment-anything 1.0's own predictor, asked twice as the paper asks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask
from torch import nn

from sam_train.eval.tasks.instances.masks import masks_of_boxes
from sam_train.masks.frame import InputFrame
from sam_train.model import build_sam

SIZE = 96
BOXES = [(3.0, 4.5, 60.25, 50.0), (70.0, 10.0, 149.0, 99.5), (0.0, 0.0, 150.0, 100.0)]


@pytest.mark.parametrize("refine", [0, 1])
def test_masks_are_the_predictors(
    refine: int,
    segment_anything: Any,
    reference_like: Callable[..., Any],
    randomise: Callable[[nn.Module, int], None],
) -> None:
    ours = build_sam(
        "vit_t", image_size=SIZE, patch_size=8, embed_dim=32, depth=1, heads=2, global_blocks=[0]
    ).eval()
    theirs = reference_like(ours)
    randomise(theirs, 3)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    photo = np.random.default_rng(0).integers(0, 256, (100, 150, 3), dtype=np.uint8)

    predictor = segment_anything.SamPredictor(theirs)
    frame = InputFrame(original=(100, 150), side=SIZE)
    resized = torch.from_numpy(frame.resize(Image.fromarray(photo)).copy())
    predictor.set_torch_image(resized.permute(2, 0, 1)[None], (100, 150))
    boxes = predictor.transform.apply_boxes_torch(torch.tensor(BOXES), (100, 150))
    ask = {"point_coords": None, "point_labels": None, "boxes": boxes}
    masks, iou, logits = predictor.predict_torch(**ask, multimask_output=True)
    best, every = iou.argmax(dim=1), torch.arange(len(BOXES))
    masks, iou, logits = masks[every, best], iou[every, best], logits[every, best][:, None]
    if refine:
        masks, iou, _ = predictor.predict_torch(**ask, mask_input=logits, multimask_output=False)
        masks, iou = masks[:, 0], iou[:, 0]

    found = masks_of_boxes(ours, photo, BOXES, refine=refine, max_masks=2)
    assert [each.predicted_iou for each in found] == pytest.approx(iou.tolist(), abs=1e-4)
    for own, expected in zip(found, masks.numpy(), strict=True):
        assert own.rle["size"] == [100, 150]
        # Rounding may move a pixel whose logit is almost zero.
        assert (coco_mask.decode(own.rle) != expected).sum() <= 2
    assert masks.any(dim=(1, 2)).all()
    assert not masks.all(dim=(1, 2)).any()


def test_no_box_is_no_mask() -> None:
    sam = build_sam("vit_t", image_size=64, depth=1, global_blocks=[0]).eval()
    assert masks_of_boxes(sam, np.zeros((40, 60, 3), np.uint8), []) == []
