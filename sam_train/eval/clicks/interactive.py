"""Interactive evaluation by clicks: mean IoU after 1, 2, 3, 5 and 9 of them (paper §7.1, D)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypedDict

import numpy as np
import numpy.typing as npt
import torch
from pycocotools import mask as coco_mask
from torch import Tensor

from sam_train.eval.clicks.box_prompt import BoxObserver, measure_boxes
from sam_train.eval.clicks.scores import ClickScores, ClickTally
from sam_train.eval.config import CLICKS, FIRST_CLICKS
from sam_train.eval.frame.by_group import photo_sums
from sam_train.masks.error_region import Bitmap, Click, centre, deepest_error, mask_iou
from sam_train.model import Sam
from sam_train.model.embedding_cache import BatchEncoder, encode_batch
from sam_train.model.encoded_photos import EncodedPhotos
from sam_train.types import BACKGROUND, FOREGROUND, PAD, RLE, Batch, Prediction, Prompts


@dataclass(slots=True, kw_only=True)
class ClickResult:
    """The state of one mask after one more click, as an observer sees it."""

    batch: Batch
    """The batch on the device, with `rles`."""
    batch_number: int
    """Number of the batch in the evaluation, from 0."""
    mask_index: int
    """Flat index in the batch."""
    clicks: int
    """Number of clicks that the mask has, from 1."""
    point: tuple[float, float]
    """The newest click (x, y), input frame."""
    foreground: bool
    """Label of the newest click."""
    mask: Bitmap
    """uint8 [H, W], original frame; the most confident of three after one click."""
    iou: float
    predicted_iou: float


Observer = Callable[[ClickResult], None]


class _Asked(TypedDict):
    """Arguments that clicks and boxes have in common."""

    multimask: bool
    max_masks: int
    batch_number: int


@contextmanager
def _evaluating(sam: Sam) -> Iterator[None]:
    """Put the model into eval mode for the block."""
    was_training = sam.training
    sam.eval()
    try:
        yield
    finally:
        sam.train(was_training)


@torch.no_grad()
def evaluate_clicks(
    sam: Sam,
    batches: Iterable[Batch],
    *,
    clicks: Sequence[int] = CLICKS,
    first: str = "centre",
    max_masks: int = 64,
    boxes: bool = False,
    multimask: bool = True,
    groups: Mapping[int, str] | None = None,
    device: torch.device | str | None = None,
    observer: Observer | None = None,
    box_observer: BoxObserver | None = None,
    embed: BatchEncoder = encode_batch,
) -> ClickScores:
    """Run the interactive evaluation and measure the IoU after each click.

    The first click asks for three masks. The one of highest predicted IoU is fed back, and
    "oracle" is the best of the three. Each next click is the deepest pixel of the error region at
    the original resolution and asks for one mask. A perfect mask gets no further click and keeps
    its IoU of 1.

    Args:
        sam: put into eval mode meanwhile. Runs under the caller's autocast, if any.
        batches: with `rles`. On several ranks, each rank's own part, of any length.
        clicks: numbers of clicks to report.
        first: "centre" (farthest from the mask's boundary) or "random" (the batch's `points`).
        max_masks: decoded at once; bounds memory.
        boxes: measure each mask's exact box, too (`box_prompt.measure_boxes`).
        multimask: a single prompt asks for three masks; else for one, which is its own oracle.
        groups: position in data.val -> scene, patient or slide, for the intervals.
        device: of `sam`; its parameters' by default.
        observer, box_observer: see every mask of a click, and of a box. `embed` encodes a batch.

    Returns:
        Scores over the masks of all ranks.

    Raises:
        ValueError: unknown `first`, clicks below 1, no rles, an empty mask. UserError: no mask.
    """
    _check(clicks, first)
    place = torch.device(device) if device is not None else next(sam.parameters()).device
    tally = ClickTally(rounds=max(clicks), boxes=boxes)

    def measure(batch: Batch, number: int) -> None:
        embeddings = embed(sam, batch)
        asked = _Asked(multimask=multimask, max_masks=max_masks, batch_number=number)
        box = None
        if boxes:
            box = measure_boxes(sam, batch, embeddings, observer=box_observer, **asked)
        clicked = play_clicks(
            sam, batch, embeddings, rounds=tally.rounds, first=first, observer=observer, **asked
        )
        clicked.add_to(tally, batch, box=box, groups=groups or {})

    # During `fit` the model comes in training mode, in which drop_path skips blocks at random.
    with _evaluating(sam):
        for number, batch in enumerate(batches):
            measure(batch.to(place), number)
    return tally.scores(sorted(set(clicks)), device=place)


def _check(clicks: Sequence[int], first: str) -> None:
    if first not in FIRST_CLICKS:
        raise ValueError(f"first click must be 'centre' or 'random', not '{first}'")
    if not clicks or min(clicks) < 1:
        raise ValueError(f"clicks must be numbers from 1, not {list(clicks)}")


@dataclass(slots=True, kw_only=True)
class Clicked:
    """The scores of the M masks of a batch after clicking."""

    iou: npt.NDArray[np.float64]
    """[M, rounds] of the most confident mask; a mask that was no longer clicked keeps its last."""
    oracle: npt.NDArray[np.float64]
    """[M] of the best of the three masks after one click."""
    predicted: list[float] = field(default_factory=list)
    real: list[float] = field(default_factory=list)
    """IoU of every mask that was returned, predicted and measured."""

    def add_to(
        self,
        tally: ClickTally,
        batch: Batch,
        *,
        box: npt.NDArray[np.float64] | None,
        groups: Mapping[int, str],
    ) -> None:
        """Count these masks, and their photos for the intervals.

        Args:
            tally: of all batches.
            batch: of these masks.
            box: [M] IoU by the exact box, where it was measured.
            groups: as `evaluate_clicks` takes them.
        """
        boxes = [] if box is None else [box]
        tally.box += [torch.from_numpy(value) for value in boxes]
        tally.images += len(batch.keys)
        tally.photos += photo_sums(
            np.column_stack([self.iou, self.oracle, *boxes]),
            owners=batch.image_index.tolist(),
            positions=batch.positions,
            groups=groups,
        )
        tally.iou.append(torch.from_numpy(self.iou))
        tally.oracle.append(torch.from_numpy(self.oracle))
        tally.predicted.extend(self.predicted)
        tally.real.extend(self.real)


@torch.no_grad()
def play_clicks(
    sam: Sam,
    batch: Batch,
    embeddings: Tensor,
    *,
    rounds: int,
    first: str = "centre",
    max_masks: int = 64,
    multimask: bool = True,
    enough: tuple[int, float] | None = None,
    observer: Observer | None = None,
    batch_number: int = 0,
) -> Clicked:
    """Run the interactive evaluation of `evaluate_clicks` on one batch, whose images are encoded.

    Args:
        sam: in eval mode.
        batch: with `rles`, on the model's device.
        embeddings: of its images, [B, C, h, w].
        rounds: most clicks a mask gets.
        enough: (n, iou): a mask at least that good is no longer clicked from click n on.
        first, max_masks, multimask, observer: as `evaluate_clicks` takes them.
        batch_number: reported to the observer.

    Raises:
        ValueError: a batch without rles, or an empty mask.
    """
    photos = EncodedPhotos.of_batch(sam, batch, embeddings)
    found = Clicked(iou=np.zeros((batch.num_masks, rounds)), oracle=np.zeros(batch.num_masks))
    for start in range(0, batch.num_masks, max_masks):
        masks = np.arange(start, min(start + max_masks, batch.num_masks))
        clicking = _Clicking(
            photos=photos, batch=batch, masks=masks, batch_number=batch_number, multimask=multimask
        )
        clicking.begin(first)
        for n in range(1, rounds + 1):
            stop_at = enough[1] if enough is not None and n >= enough[0] else 1.0
            clicking.click(n, found, observer, stop_at=stop_at)
        found.iou[masks] = clicking.iou[:, 1:]
        found.oracle[masks] = clicking.oracle
    return found


@dataclass(slots=True, kw_only=True)
class _Clicking:
    """The interactive evaluation of several masks of one batch at the same time."""

    photos: EncodedPhotos
    batch: Batch
    masks: npt.NDArray[np.int64]
    """[m] flat indices in the batch."""
    batch_number: int = 0
    multimask: bool = True
    """The first click asks for three masks."""
    truths: list[Bitmap] = field(default_factory=list)
    """m times uint8 [H, W]."""
    active: npt.NDArray[np.int64] = field(init=False)
    """Rows of this evaluation whose masks are not perfect yet."""
    coords: npt.NDArray[np.float32] = field(init=False)
    """[m, T, 2], input frame."""
    labels: npt.NDArray[np.int64] = field(init=False)
    """[m, T]."""
    logits: Tensor | None = None
    """[len(active), 1, g, g] of the round before."""
    iou: npt.NDArray[np.float64] = field(init=False)
    """[m, 1 + rounds so far]; column 0 is no click at all."""
    oracle: npt.NDArray[np.float64] = field(init=False)
    owner: list[int] = field(init=False)
    """m image numbers, on the host once."""

    def begin(self, first: str) -> None:
        """Decode the truths and place the first clicks."""
        batch, m = self.batch, len(self.masks)
        if batch.rles is None:
            raise ValueError("evaluation by clicks needs batches that carry their RLEs")
        self.owner = batch.image_index[torch.from_numpy(self.masks)].tolist()
        self.truths = [_decode(batch.rles[k]) for k in self.masks]
        self.active = np.arange(m)
        self.iou = np.zeros((m, 1))
        self.oracle = np.zeros(m)
        # The PAD token behind the first point: see types.Prompts.
        self.coords = np.zeros((m, 2, 2), dtype=np.float32)
        self.labels = np.full((m, 2), PAD, dtype=np.int64)
        self.labels[:, 0] = FOREGROUND
        given = batch.points[torch.from_numpy(self.masks)].cpu().numpy()
        for row, truth in enumerate(self.truths):
            click = centre(truth)
            if click is None:
                key = batch.keys[self.owner[row]]
                raise ValueError(
                    f"{key}: a mask without a pixel cannot be evaluated; filter it out"
                )
            # `given` is in the input frame already.
            self.coords[row, 0] = given[row] if first == "random" else self._to_input(row, click)

    def click(
        self, n: int, found: Clicked, observer: Observer | None, *, stop_at: float = 1.0
    ) -> None:
        """Decode with n clicks, measure, and place click n + 1 where IoU is below `stop_at`."""
        # A mask that is no longer clicked keeps its last IoU in all later columns.
        self.iou = np.concatenate([self.iou, self.iou[:, -1:]], axis=1)
        if len(self.active) == 0:
            return
        prediction = self._decode_active(multimask=n == 1 and self.multimask)
        predicted = prediction.iou.float().cpu().numpy()
        # The prediction decides, as for a person who has no ground truth to compare with.
        carried = predicted.argmax(axis=1)
        next_clicks: dict[int, Click] = {}
        kept = np.zeros(len(self.active), dtype=bool)
        bitmaps = self.photos.bitmaps(
            prediction.mask_logits, [self.owner[row] for row in self.active]
        )
        for slot, masks in enumerate(bitmaps):
            row = int(self.active[slot])
            real = [mask_iou(mask, self.truths[row]) for mask in masks]
            best = int(carried[slot])
            self.iou[row, -1] = real[best]
            if n == 1:
                self.oracle[row] = max(real)
            found.predicted.extend(predicted[slot].tolist())
            found.real.extend(real)
            if observer is not None:
                # The first click stands before the PAD token, later ones behind it.
                token = 0 if n == 1 else n
                x, y = self.coords[row, token].tolist()
                observer(
                    ClickResult(
                        batch=self.batch,
                        batch_number=self.batch_number,
                        mask_index=int(self.masks[row]),
                        clicks=n,
                        point=(x, y),
                        foreground=bool(self.labels[row, token] == FOREGROUND),
                        mask=masks[best],
                        iou=real[best],
                        predicted_iou=float(predicted[slot, best]),
                    )
                )
            if real[best] >= stop_at:
                continue
            click = deepest_error(masks[best], self.truths[row])
            if click is not None:
                next_clicks[row] = click
                kept[slot] = True
        # Logits of finished masks are dropped, so that rows of `logits` and `active` agree.
        slots = torch.from_numpy(np.flatnonzero(kept)).to(prediction.mask_logits.device)
        chosen = torch.from_numpy(carried[kept]).to(slots.device)
        self.logits = prediction.mask_logits[slots, chosen][:, None]
        self.active = self.active[kept]
        self._append(next_clicks)

    def _decode_active(self, *, multimask: bool) -> Prediction:
        prompts = Prompts(
            coords=torch.from_numpy(self.coords[self.active]),
            labels=torch.from_numpy(self.labels[self.active]),
            mask_logits=self.logits,
        )
        # Finished masks are not decoded: on easy data most are done after a few clicks.
        owners = torch.tensor([self.owner[row] for row in self.active])
        return self.photos.decode(prompts, owners, multimask=multimask)

    def _append(self, clicks: dict[int, Click]) -> None:
        m = len(self.masks)
        coords = np.zeros((m, 1, 2), dtype=np.float32)
        # Finished masks get a PAD token, which keeps the table rectangular and is never decoded.
        labels = np.full((m, 1), PAD, dtype=np.int64)
        for row, click in clicks.items():
            coords[row, 0] = self._to_input(row, click)
            labels[row, 0] = FOREGROUND if click.foreground else BACKGROUND
        self.coords = np.concatenate([self.coords, coords], axis=1)
        self.labels = np.concatenate([self.labels, labels], axis=1)

    def _to_input(self, row: int, click: Click) -> tuple[float, float]:
        """Map pixel indices of the original frame to the input frame, centre to centre."""
        image = self.owner[row]
        (h, w), (height, width) = self.photos.sizes[image], self.photos.originals[image]
        return (
            (click.column + 0.5) * w / width - 0.5,
            (click.row + 0.5) * h / height - 0.5,
        )


def _decode(rle: RLE) -> Bitmap:
    # pycocotools returns column-major arrays; the kernels walk rows.
    return np.ascontiguousarray(coco_mask.decode(rle))
