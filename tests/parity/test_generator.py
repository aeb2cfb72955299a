"""The mask generator against segment-anything 1.0's, photo for photo.

Two comparisons. Around the reference's own modules our generator must give the same answer to the
last bit, which holds everything behind the decoder. Around our own model, whose sums run in
another order, logits differ by a few millionths, so a pixel whose logit is that near to zero may
fall to the other side: masks must be the same but for a handful of such pixels in all.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import segment_anything_reference
import torch
from PIL import Image
from torch import Tensor, nn

import sam_train
from sam_train.generate import AutomaticMaskGenerator
from sam_train.model import Sam, build_sam
from sam_train.model.load import load_sam
from sam_train.types import Prediction, Prompts

PHOTOS = Path(__file__).resolve().parents[2] / "../shared/data/photos"
NAMES = ("truck", "groceries", "dog", "dogs")
NANO = Path(sam_train.__file__).parent / "assets" / "nano.safetensors"
LOOSE = {
    "points_per_side": 4,
    "crop_n_layers": 1,
    "crop_n_points_downscale_factor": 4,
    "pred_iou_thresh": 0.3,
    "stability_score_thresh": 0.4,
}
STRICT = {**LOOSE, "pred_iou_thresh": 0.88, "stability_score_thresh": 0.8}

needs_photos = pytest.mark.skipif(
    not PHOTOS.is_dir(), reason=f"the photos of {PHOTOS} are not there"
)


def random_model(seed: int, *, shift: float) -> Sam:
    """A model whose random masks are blobs of every size, and pass the reference's filters.

    Large weights make logits steep, so masks are stable; one channel of the upscaled image is
    made a constant, which `shift` multiplies to lower all logits; the IoU head's answers spread
    around the threshold.
    """
    torch.manual_seed(seed)
    sam = build_sam("vit_t", image_size=128).eval()
    decoder = sam.mask_decoder
    with torch.no_grad():
        for name, parameter in sam.named_parameters():
            if "rel_pos" in name or "pos_embed" in name:
                parameter.normal_(0, 0.3)
        last: Any = decoder.output_upscaling[3]
        last.weight[:, 0] = 0
        last.bias[0] = 1
        for mlp in decoder.output_hypernetworks_mlps:
            head: Any = mlp.layers[-1]
            head.weight.mul_(3000)
            head.bias.mul_(3000)
            head.weight[0] = 0
            head.bias[0] = -30 * shift
        decoder.iou_prediction_head.layers[-1].bias.fill_(0.9)
    return sam


@dataclass(frozen=True)
class Pair:
    ours: Sam
    theirs: Any
    settings: dict[str, Any]


@pytest.fixture(scope="module", params=["nano", "random"])
def pair(request: pytest.FixtureRequest, reference_like: Callable[[Sam], nn.Module]) -> Pair:
    nano = request.param == "nano"
    ours = load_sam(NANO) if nano else random_model(3, shift=14.0)
    theirs = reference_like(ours)
    theirs.load_state_dict(ours.state_dict())
    return Pair(ours, theirs, LOOSE if nano else STRICT)


@pytest.fixture(scope="module")
def reference() -> Any:
    return segment_anything_reference.load().SamAutomaticMaskGenerator


class AroundTheirs:
    """The reference's modules behind the few functions that our generator calls."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.image_size = model.image_encoder.img_size
        self.pixel_mean = model.pixel_mean

    def encode(self, images: Tensor, sizes: Tensor) -> Tensor:
        height, width = sizes[0].tolist()
        return self.model.image_encoder(self.model.preprocess(images[:1, :, :height, :width]))

    def decode(self, embeddings: Tensor, index: Tensor, prompts: Prompts, **_: bool) -> Prediction:
        # The reference adds the pad itself.
        sparse, dense = self.model.prompt_encoder(
            points=(prompts.coords[:, :1], prompts.labels[:, :1]), boxes=None, masks=None
        )
        logits, iou = self.model.mask_decoder(
            image_embeddings=embeddings,
            image_pe=self.model.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=True,
        )
        return Prediction(mask_logits=logits, iou=iou)


def photo(name: str) -> Any:
    return np.asarray(Image.open(PHOTOS / f"{name}.jpg").convert("RGB"))


def ours(model: Any, **settings: Any) -> AutomaticMaskGenerator:
    return AutomaticMaskGenerator(model, output_mode="uncompressed_rle", **settings)


def bitmaps(records: list[dict[str, Any]]) -> Any:
    """bool [n, pixels], column by column."""
    rows = []
    for record in records:
        lengths = record["segmentation"]["counts"]
        rows.append(np.repeat(np.arange(len(lengths)) % 2 == 1, lengths))
    return np.stack(rows)


@needs_photos
def test_the_same_small_regions_go(
    pair: Pair, reference: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cv2", segment_anything_reference.with_cv2())
    settings = {**pair.settings, "min_mask_region_area": 2000}
    image = photo("dog")
    wanted = reference(pair.theirs, output_mode="coco_rle", **settings).generate(image)
    plain = reference(pair.theirs, output_mode="coco_rle", **pair.settings).generate(image)
    assert wanted != plain
    generator = AutomaticMaskGenerator(
        AroundTheirs(pair.theirs), output_mode="coco_rle", **settings
    )
    assert generator.generate(image) == wanted


@needs_photos
def test_the_same_bitmaps_of_the_default_output(pair: Pair, reference: Any) -> None:
    """Points of one's own, too."""
    settings = {k: v for k, v in pair.settings.items() if not k.startswith(("points", "crop"))}
    grids = [np.random.default_rng(0).random((60, 2))]
    image = photo("dog")
    wanted = reference(pair.theirs, points_per_side=None, point_grids=grids, **settings).generate(
        image
    )
    found = AutomaticMaskGenerator(
        AroundTheirs(pair.theirs), point_grids=grids, **settings
    ).generate(image)
    assert len(found) == len(wanted) >= 3
    for got, want in zip(found, wanted, strict=True):
        assert set(got) == set(want)
        np.testing.assert_array_equal(got["segmentation"], want["segmentation"])
        assert got["point_coords"] == want["point_coords"]


@needs_photos
@pytest.mark.parametrize("name", NAMES)
def test_the_same_masks_photo_for_photo(pair: Pair, reference: Any, name: str) -> None:
    settings, image = pair.settings, photo(name)
    wanted = reference(pair.theirs, output_mode="uncompressed_rle", **settings).generate(image)
    assert len(wanted) >= 3
    assert ours(AroundTheirs(pair.theirs), **settings).generate(image) == wanted

    found = ours(pair.ours, crops_per_batch=3, **settings).generate(image)
    assert [m["point_coords"] for m in found] == [m["point_coords"] for m in wanted]
    assert [m["crop_box"] for m in found] == [m["crop_box"] for m in wanted]
    different = (bitmaps(found) != bitmaps(wanted)).sum(axis=1)
    assert different.max() <= 5
    assert different.sum() <= 10
    for got, want in zip(found, wanted, strict=True):
        assert got["predicted_iou"] == pytest.approx(want["predicted_iou"], abs=1e-5)
        assert got["stability_score"] == pytest.approx(want["stability_score"], abs=1e-3)
