"""k-click evaluation against a plain loop written from segment-anything's rules."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as F
from pycocotools import mask as coco_mask
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from sam_train.errors import UserError
from sam_train.eval.clicks.interactive import ClickResult, evaluate_clicks
from sam_train.model import Sam, build_sam
from sam_train.types import (
    BACKGROUND,
    BOX_BOTTOM_RIGHT,
    BOX_TOP_LEFT,
    FOREGROUND,
    PAD,
    RLE,
    Batch,
    Prediction,
    Prompts,
)

S = 64
BoolMask = npt.NDArray[np.bool_]


def rle(mask: BoolMask) -> RLE:
    encoded: RLE = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return encoded


def disk(size: tuple[int, int], *, row: float, column: float, radius: float) -> BoolMask:
    y, x = np.mgrid[: size[0], : size[1]]
    return (y - row) ** 2 + (x - column) ** 2 <= radius**2


def make_batch(masks: list[list[BoolMask]], *, seed: int = 0) -> Batch:
    """One image of noise per list; longest side scaled to S."""
    generator = torch.Generator().manual_seed(seed)
    originals = [image[0].shape for image in masks]
    sizes = [(round(h * S / max(h, w)), round(w * S / max(h, w))) for h, w in originals]
    images = torch.zeros(len(masks), 3, S, S, dtype=torch.uint8)
    for image, (h, w) in zip(images, sizes, strict=True):
        image[:, :h, :w] = torch.randint(0, 256, (3, h, w), generator=generator)
    flat = [mask for image in masks for mask in image]
    index = [k for k, image in enumerate(masks) for _ in image]
    points = []
    for mask, k in zip(flat, index, strict=True):
        row, column = np.argwhere(mask)[0] if mask.any() else (0, 0)
        scale = sizes[k][0] / originals[k][0]
        points.append([(column + 0.5) * scale - 0.5, (row + 0.5) * scale - 0.5])
    return Batch(
        images=images,
        image_sizes=torch.tensor(sizes),
        original_sizes=torch.tensor(originals),
        masks=torch.zeros(len(flat), 1, 1, dtype=torch.uint8),
        image_index=torch.tensor(index),
        points=torch.tensor(points, dtype=torch.float32),
        boxes=torch.zeros(len(flat), 4),
        mask_ids=torch.arange(len(flat)),
        keys=[f"test.tar/sa_{k}" for k in range(len(masks))],
        positions=list(range(len(masks))),
        rles=[rle(mask) for mask in flat],
    )


def two_photos() -> Batch:
    wide, tall = (48, 96), (80, 50)
    one_pixel = np.zeros(wide, dtype=bool)
    one_pixel[7, 90] = True
    border = np.zeros(tall, dtype=bool)
    border[:, :9] = True
    return make_batch(
        [
            [disk(wide, row=20, column=60, radius=15), one_pixel],
            [
                disk(tall, row=60, column=25, radius=11),
                border,
                disk(tall, row=5, column=40, radius=20),
            ],
        ]
    )


@pytest.fixture(scope="module")
def random_sam() -> Sam:
    torch.manual_seed(0)
    sam = build_sam("vit_t", image_size=S)
    for parameter in sam.parameters():
        torch.nn.init.normal_(parameter, std=0.3 if parameter.dim() > 1 else 0.5)
    return sam


def plain_click(prediction: BoolMask, truth: BoolMask) -> tuple[int, int, bool] | None:
    """Row, column and whether foreground, by whole-image distance transforms."""
    depths = []
    for region in (truth & ~prediction, prediction & ~truth):
        padded = distance_transform_edt(np.pad(region, 1))[1:-1, 1:-1]
        depths.append(np.rint(padded**2))
    missed, taken = depths
    if max(missed.max(), taken.max()) == 0:
        return None
    foreground = bool(missed.max() >= taken.max())
    row, column = np.unravel_index(np.argmax(missed if foreground else taken), truth.shape)
    return int(row), int(column), foreground


def plain_evaluation(
    sam: Sam, batch: Batch, rounds: int
) -> tuple[npt.NDArray[np.float64], list[float]]:
    """IoU [M, rounds] and the oracle's, one mask and one click at a time."""
    assert batch.rles is not None
    table = np.zeros((batch.num_masks, rounds))
    oracle = []
    embeddings = sam.encode(batch.images, batch.image_sizes)
    for k in range(batch.num_masks):
        image = int(batch.image_index[k])
        h, w = batch.image_sizes[image].tolist()
        H, W = batch.original_sizes[image].tolist()
        truth = coco_mask.decode(batch.rles[k]).astype(bool)
        click = plain_click(np.zeros_like(truth), truth)
        coords: list[list[float]] = []
        labels: list[int] = []
        logits = None
        iou = 0.0
        for n in range(rounds):
            if click is None:
                table[k, n] = iou
                continue
            row, column, foreground = click
            coords.append([(column + 0.5) * w / W - 0.5, (row + 0.5) * h / H - 0.5])
            labels.append(FOREGROUND if foreground else BACKGROUND)
            prompts = Prompts(
                coords=torch.tensor([[*coords, [0.0, 0.0]]]),
                labels=torch.tensor([[*labels, PAD]]),
                mask_logits=logits,
            )
            prediction = sam.decode(embeddings, torch.tensor([image]), prompts, multimask=n == 0)
            low = prediction.mask_logits
            full = F.interpolate(low, (S, S), mode="bilinear", align_corners=False)
            full = F.interpolate(full[..., :h, :w], (H, W), mode="bilinear", align_corners=False)
            masks = (full[0] > 0).numpy()
            ious = [float((m & truth).sum() / (m | truth).sum()) for m in masks]
            best = int(prediction.iou[0].argmax())
            if n == 0:
                oracle.append(max(ious))
            iou = table[k, n] = ious[best]
            logits = low[:, best : best + 1]
            click = plain_click(masks[best], truth)
    return table, oracle


@torch.no_grad()
def test_agrees_with_a_plain_loop_over_masks(random_sam: Sam) -> None:
    batch = two_photos()
    table, oracle = plain_evaluation(random_sam.eval(), batch, 5)
    for max_masks in (64, 2):
        scores = evaluate_clicks(random_sam, [batch], clicks=(1, 2, 3, 5), max_masks=max_masks)
        assert scores.masks == 5
        assert scores.images == 2
        assert scores.oracle == pytest.approx(np.mean(oracle), abs=1e-6)
        for n, miou in scores.miou.items():
            assert miou == pytest.approx(table[:, n - 1].mean(), abs=1e-6)
    # The comparison means something only if the random model's masks are neither empty nor full.
    assert 0.01 < table.mean() < 0.9
    assert np.ptp(table, axis=1).max() > 0.01


class KnownAnswers(Sam):
    """Answers with given logits whatever is asked, so that every score can be told in advance."""

    def __init__(self, rounds: list[Tensor], iou: list[Tensor]) -> None:
        torch.nn.Module.__init__(self)
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.rounds, self.iou_rounds = rounds, iou
        self.asked: list[Prompts] = []

    @property
    def image_size(self) -> int:
        return S

    def encode(self, images: Tensor, image_sizes: Tensor, *, draws: object = None) -> Tensor:
        return torch.zeros(images.shape[0], 1, 1, 1)

    def decode(self, embeddings: Tensor, image_index: Tensor, prompts: Prompts, *,
               multimask: bool, all_present: bool = False) -> Prediction:  # fmt: skip
        turn = len(self.asked)
        self.asked.append(prompts)
        M = image_index.shape[0]
        logits, iou = self.rounds[turn], self.iou_rounds[turn]
        assert logits.shape[0] == (3 if multimask else 1)
        return Prediction(
            mask_logits=logits.expand(M, *logits.shape), iou=iou.expand(M, *iou.shape)
        )


def as_logits(*masks: BoolMask) -> Tensor:
    return torch.from_numpy(np.stack(masks)).float() * 20 - 10


def square(top: int, left: int, side: int) -> BoolMask:
    mask = np.zeros((S, S), dtype=bool)
    mask[top : top + side, left : left + side] = True
    return mask


def test_most_confident_oracle_and_perfect_masks_by_hand() -> None:
    truth = square(16, 16, 20)  # 400 pixels
    half = truth.copy()
    half[26:] = False  # 200 of 400
    twice = square(16, 16, 20) | square(16, 36, 20)  # 800
    quarter = square(16, 16, 10)
    sam = KnownAnswers(
        rounds=[as_logits(quarter, half, truth), as_logits(twice), as_logits(truth)],
        iou=[torch.tensor([0.2, 0.6, 0.1]), torch.tensor([0.5]), torch.tensor([0.9])],
    )
    results: list[ClickResult] = []
    scores = evaluate_clicks(
        sam, [make_batch([[truth]])], clicks=(1, 2, 3, 9), observer=results.append
    )
    assert scores.miou == pytest.approx({1: 0.5, 2: 0.5, 3: 1.0, 9: 1.0})
    assert scores.oracle == 1.0
    # Three rounds were asked, then the mask was perfect and nobody clicked again.
    assert [r.clicks for r in results] == [1, 2, 3]
    assert [r.foreground for r in results] == [True, True, False]
    assert sam.asked[0].mask_logits is None
    fed_back = sam.asked[1].mask_logits
    assert fed_back is not None
    assert torch.equal(fed_back[0], as_logits(half))
    # First in row-major order of the deepest: a 20-square, its missed lower half, the excess.
    assert [r.point for r in results] == [(25.0, 25.0), (20.0, 30.0), (45.0, 25.0)]
    assert sam.asked[2].labels.tolist() == [[FOREGROUND, PAD, FOREGROUND, BACKGROUND]]
    # Pairs: (.2, .25) (.6, .5) (.1, 1) (.5, .5) (.9, 1).
    assert scores.calibration.mean_absolute_error == pytest.approx(
        (0.05 + 0.1 + 0.9 + 0.0 + 0.1) / 5, abs=1e-6
    )
    assert sum(scores.calibration.count) == 5


def test_one_pixel_is_clicked_where_it_is_and_padding_never() -> None:
    photo = np.zeros((40, 100), dtype=bool)
    photo[39, 99] = True
    everything = np.ones((S, S), dtype=bool)
    sam = KnownAnswers(
        rounds=[as_logits(everything, everything, everything), as_logits(everything)],
        iou=[torch.tensor([0.5, 0.4, 0.3]), torch.tensor([0.5])],
    )
    batch = make_batch([[photo]])
    results: list[ClickResult] = []
    evaluate_clicks(sam, [batch], clicks=(2,), observer=results.append)
    h, w = batch.image_sizes[0].tolist()
    assert results[0].point == pytest.approx((99.5 * w / 100 - 0.5, 39.5 * h / 40 - 0.5))
    assert not results[1].foreground
    assert results[1].point[0] < w - 0.5
    assert results[1].point[1] < h - 0.5


def test_first_click_can_be_the_random_point_of_the_batch() -> None:
    batch = two_photos()
    everything = np.ones((S, S), dtype=bool)
    sam = KnownAnswers(
        rounds=[as_logits(everything, everything, everything)], iou=[torch.tensor([0.5, 0.4, 0.3])]
    )
    evaluate_clicks(sam, [batch], clicks=(1,), first="random")
    assert torch.equal(sam.asked[0].coords[:, 0], batch.points)


def test_bad_arguments_are_named(random_sam: Sam) -> None:
    with pytest.raises(ValueError, match="centre"):
        evaluate_clicks(random_sam, [], first="middle")
    with pytest.raises(ValueError, match="from 1"):
        evaluate_clicks(random_sam, [], clicks=(0, 1))
    with pytest.raises(UserError, match="no mask"):
        evaluate_clicks(random_sam, [])
    with pytest.raises(ValueError, match=r"sa_0.*without a pixel"):
        evaluate_clicks(random_sam, [make_batch([[np.zeros((9, 9), dtype=bool)]])])


def plain_boxes(sam: Sam, batch: Batch, *, multimask: bool) -> list[tuple[float, float]]:
    """IoU and predicted IoU of the surest mask of each exact box, one at a time."""
    assert batch.rles is not None
    found = []
    embeddings = sam.encode(batch.images, batch.image_sizes)
    for k, image in enumerate(batch.image_index.tolist()):
        h, w = batch.image_sizes[image].tolist()
        H, W = batch.original_sizes[image].tolist()
        truth = coco_mask.decode(batch.rles[k]).astype(bool)
        x0, y0, x1, y1 = batch.boxes[k].tolist()
        prompts = Prompts(
            coords=torch.tensor([[[x0, y0], [x1, y1]]]),
            labels=torch.tensor([[BOX_TOP_LEFT, BOX_BOTTOM_RIGHT]]),
        )
        answer = sam.decode(embeddings, torch.tensor([image]), prompts, multimask=multimask)
        full = F.interpolate(answer.mask_logits, (S, S), mode="bilinear", align_corners=False)
        full = F.interpolate(full[..., :h, :w], (H, W), mode="bilinear", align_corners=False)
        best = int(answer.iou[0].argmax())
        mask = (full[0, best] > 0).numpy()
        iou = float((mask & truth).sum() / (mask | truth).sum())
        found.append((iou, float(answer.iou[0, best])))
    return found


@torch.no_grad()
@pytest.mark.parametrize("multimask", [True, False])
def test_boxes_agree_with_a_plain_loop_over_masks(random_sam: Sam, multimask: bool) -> None:
    batch, results = two_photos(), []
    generator = torch.Generator().manual_seed(1)
    corners = torch.rand(batch.num_masks, 2, 2, generator=generator) * 40
    batch.boxes = torch.cat([corners.amin(1), corners.amax(1)], dim=1)
    wanted = plain_boxes(random_sam.eval(), batch, multimask=multimask)
    for max_masks in (64, 2):
        results.clear()
        scores = evaluate_clicks(
            random_sam,
            [batch],
            clicks=(1,),
            boxes=True,
            multimask=multimask,
            max_masks=max_masks,
            box_observer=results.append,
        )
        assert scores.box == pytest.approx(np.mean([iou for iou, _ in wanted]), abs=1e-6)
        assert [r.mask_index for r in results] == list(range(batch.num_masks))
        assert [r.iou for r in results] == pytest.approx([iou for iou, _ in wanted], abs=1e-6)
        assert [r.predicted_iou for r in results] == pytest.approx([p for _, p in wanted], rel=1e-5)
        assert [r.box for r in results] == [tuple(box) for box in batch.boxes.tolist()]
        assert {"box", "miou_1", "oracle"} == set(scores.intervals)
        # Asked for one mask, a click has no other to be beaten by.
        assert (scores.oracle == scores.miou[1]) == (not multimask)
    assert np.ptp([iou for iou, _ in wanted]) > 0.01
    assert evaluate_clicks(random_sam, [batch], clicks=(1,)).box is None
