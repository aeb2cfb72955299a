"""`Predictor`: one photo, asked with points, boxes and masks in its own pixels; arrays in and out.

It answers as segment-anything's `SamPredictor` does, whose users find its arguments under shorter
names.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from sam_train.data.left_out import SkipImageError
from sam_train.data.photos.rule import PhotoRule
from sam_train.data.photos.show import show_array
from sam_train.model.config import photo_rule
from sam_train.model.encoded_photos import (
    EncodedPhotos,
    check_photo,
    encode_photos,
    split_prompts,
)
from sam_train.model.load import build_sam, load_sam, recorded_model
from sam_train.model.mask_decoder import MULTIMASKS
from sam_train.model.sam import Sam
from sam_train.types import (
    BACKGROUND,
    BOX_BOTTOM_RIGHT,
    BOX_TOP_LEFT,
    FOREGROUND,
    PAD,
    Prompts,
)

Array = npt.NDArray[Any]


class Predicted(NamedTuple):
    """K masks for a prompt, or for each of N prompts, with a leading axis N in every array."""

    masks: Array
    """bool [K, H, W] of the photo's own size; float32 logits with `return_logits`."""
    scores: npt.NDArray[np.float32]
    """[K] the model's own estimate of each mask's IoU."""
    logits: npt.NDArray[np.float32]
    """[K, g, g]; one of them can go back as `mask`."""


def is_deep(photo: Array | Image.Image) -> bool:
    """Tell whether the values of a photo are not those of a screen, 0 to 255."""
    if isinstance(photo, Image.Image):
        return photo.mode.startswith(("I", "F"))
    return photo.dtype != np.uint8


class Predictor:
    """Masks for prompts on a photo, which is encoded once: points, boxes, earlier masks.

    Points and boxes are (x, y) in pixels of the photo. They are scaled to the model's input
    without a half pixel, as segment-anything's `SamPredictor` does, so the answers are equal.

    Args:
        sam: a model in evaluation mode, on any device.
        max_masks: prompts decoded at once; bounds memory.
        photos: the way that the model was shown photos beyond 8-bit RGB (`photo_rule(cfg.model)`).
    """

    def __init__(self, sam: Sam, *, max_masks: int = 64, photos: PhotoRule | None = None) -> None:
        self.sam = sam
        self._rule = photos or PhotoRule()
        self._max_masks = max_masks
        self._photo: EncodedPhotos | None = None

    @classmethod
    def from_checkpoint(
        cls,
        path: str | Path,
        model: str | None = None,
        *,
        device: torch.device | str = "cpu",
        **sizes: Any,
    ) -> Predictor:
        """Load a model of any kind that `ckpt=` takes.

        Args:
            path: one of our checkpoints, a Hugging Face folder, an official `.pth`, safetensors.
            model: the model's name (vit_b, vit_h, ...) where the file does not record its sizes.
            device: to predict on.
            sizes: fields of `ModelConfig` that differ from the name's.

        Raises:
            UserError: an unreadable file, a wrong size, or weights that are missing.
        """
        path = Path(path).expanduser()
        record = recorded_model(path)
        if model is None and not sizes:
            sam = load_sam(path)
        else:
            # Sizes without a name are differences from vit_b, the smallest of the paper's models.
            sam = build_sam(model or "vit_b", checkpoint=path, **sizes).eval()
        return cls(sam.to(device), photos=None if record is None else photo_rule(record))

    @torch.no_grad()
    def set_image(self, photo: Array | Image.Image) -> None:
        """Encode a photo, which the next calls of `predict` ask about.

        Args:
            photo: uint8 [H, W, 3] RGB, or a picture that Pillow has opened. A model with a
                window also takes the 16-bit or float values of a file, [H, W] or [H, W, bands];
                one with bands takes all bands of a file.

        Raises:
            ValueError: another shape or type.
        """
        if self._rule.bands or (self._rule.windows and is_deep(photo)):
            try:
                photo = show_array(np.asarray(photo), self._rule)
            except SkipImageError as error:
                raise ValueError(f"{error.reason} ({error.detail})") from None
        channels = self.sam.image_encoder.in_channels
        if isinstance(photo, Image.Image):
            # A palette's indices or a grey picture's single band would have the wrong shape or
            # meaning.
            photo = np.asarray(photo.convert("RGB"))
        self._photo = encode_photos(self.sam, [check_photo(photo, channels=channels)])

    @torch.no_grad()
    def predict(
        self,
        points: npt.ArrayLike | None = None,
        labels: npt.ArrayLike | None = None,
        boxes: npt.ArrayLike | None = None,
        mask: npt.ArrayLike | None = None,
        *,
        multimask: bool = True,
        return_logits: bool = False,
    ) -> Predicted:
        """Answer one prompt, or N of them at once where an argument has a leading axis N.

        Args:
            points: [T, 2] or [N, T, 2] (x, y).
            labels: [T] or [N, T], 1 for points on the object and 0 for points beside it.
            boxes: [4] or [N, 4], x0 y0 x1 y1.
            mask: [g, g] or [N, g, g], logits of an answer before; [1, g, g] is taken, too.
            multimask: three masks, which a single point or box wants, else one.
            return_logits: the upscaled logits as `masks`, not yet thresholded at 0.

        Raises:
            RuntimeError: no photo has been set.
            ValueError: nothing to go by, or shapes, labels or places that do not fit.
        """
        photo = self._photo
        if photo is None:
            raise RuntimeError("no photo to predict on: call set_image(photo) first")
        given = _Given.of(points, labels, boxes, mask, side=self.sam.grid_size)
        given.check_places(photo.originals[0])
        prompts = given.prompts(photo)
        N, K, g = len(prompts.labels), MULTIMASKS if multimask else 1, self.sam.grid_size
        # On the host and filled group by group: N masks of a large photo may exceed the GPU's
        # memory.
        masks: Array = np.empty(
            (N, K, *photo.originals[0]), np.float32 if return_logits else np.bool_
        )
        scores = np.empty((N, K), np.float32)
        logits = np.empty((N, K, g, g), np.float32)
        begin = 0
        for part in split_prompts(prompts, self._max_masks):
            # PAD is a token like others, and no slot is ABSENT here, so nothing has to be hidden.
            answer = photo.decode(part, multimask=multimask, all_present=True)
            own = slice(begin, begin + len(part.labels))
            scores[own] = answer.iou.float().cpu().numpy()
            logits[own] = answer.mask_logits.float().cpu().numpy()
            for group in photo.upscaled(answer.mask_logits):
                shown = group if return_logits else group > 0
                masks[begin : begin + len(group)] = shown.cpu().numpy()
                begin += len(group)
        found = Predicted(masks=masks, scores=scores, logits=logits)
        return found if given.batched else Predicted(*(array[0] for array in found))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Given:
    """The arguments of `predict` with a leading axis N, whether given or added."""

    batched: bool
    points: npt.NDArray[np.float64]
    """[N, T, 2], T = 0 where there are none."""
    labels: npt.NDArray[np.int64]
    """[N, T]."""
    boxes: npt.NDArray[np.float64] | None
    """[N, 4]."""
    mask: npt.NDArray[np.float32] | None
    """[N, 1, g, g]."""

    @classmethod
    def of(
        cls,
        points: npt.ArrayLike | None,
        labels: npt.ArrayLike | None,
        boxes: npt.ArrayLike | None,
        mask: npt.ArrayLike | None,
        *,
        side: int,
    ) -> _Given:
        """Bring the arguments into one shape; `side` is g."""
        if (points is None) != (labels is None):
            raise ValueError("points and labels go together: a 1 or a 0 for every point")
        xy, kinds, corners, fed = (
            None if value is None else np.asarray(value) for value in (points, labels, boxes, mask)
        )
        if (xy is None or not xy.size) and corners is None and fed is None:
            raise ValueError("nothing to go by: give points and labels, boxes or mask")
        batched = any(
            value is not None and value.ndim == axes
            for value, axes in ((xy, 3), (corners, 2), (fed, 4))
        )
        if fed is not None and fed.ndim == (3 if batched else 2):
            fed = fed[:, None] if batched else fed[None]
        if not batched:
            xy, kinds, corners, fed = (
                None if value is None else value[None] for value in (xy, kinds, corners, fed)
            )
        N = next(len(value) for value in (corners, xy, fed) if value is not None)
        if xy is None or kinds is None:
            xy, kinds = np.empty((N, 0, 2)), np.empty((N, 0), np.int64)
        T = xy.shape[1] if xy.ndim > 1 else 0
        for name, value, shape, form in (
            ("points", xy, (N, T, 2), "T, 2"),
            ("labels", kinds, (N, T), "T"),
            ("boxes", corners, (N, 4), "4"),
            ("mask", fed, (N, 1, side, side), f"{side}, {side}"),
        ):
            if value is not None and value.shape != shape:
                fits = f"[N, {form}] with N = {N}, T = {T}" if batched else f"[{form}]"
                shown = list(value.shape if batched else value.shape[1:])
                raise ValueError(f"{name} must be {fits}, not {shown}")
        if not np.isin(kinds, (BACKGROUND, FOREGROUND)).all():
            raise ValueError("labels must be 1 (on the object) or 0 (beside it)")
        return cls(
            batched=batched,
            points=xy.astype(np.float64),
            labels=kinds.astype(np.int64),
            boxes=None if corners is None else corners.astype(np.float64),
            mask=None if fed is None else fed.astype(np.float32),
        )

    def check_places(self, photo: tuple[int, int]) -> None:
        """Refuse points and boxes that lie beside the photo of (H, W), which are mistakes."""
        size = np.array(photo[::-1])
        # The far border is allowed: a point there is half a pixel beyond the last centre at most.
        on = ((self.points >= 0) & (self.points <= size)).all(-1)
        if not on.all():
            x, y = self.points[~on][0].tolist()
            raise ValueError(
                f"point ({x:g}, {y:g}) is outside the photo of {size[0]} x {size[1]}: points are "
                "(x, y) in its pixels"
            )
        if self.boxes is None:
            return
        low, high = self.boxes[:, :2], self.boxes[:, 2:]
        # Detectors give boxes that reach a little beyond the photo.
        on = ((low <= high) & (low <= size) & (high >= 0)).all(-1)
        if not on.all():
            shown = ", ".join(f"{value:g}" for value in self.boxes[~on][0].tolist())
            raise ValueError(
                f"box ({shown}) does not lie on the photo of {size[0]} x {size[1]}: boxes are "
                "x0 y0 x1 y1 in its pixels, not x y width height"
            )

    def prompts(self, photo: EncodedPhotos) -> Prompts:
        """Scale to the input frame. A box takes the place of the PAD token behind points."""
        (height, width), (h, w) = photo.originals[0], photo.sizes[0]
        # A factor for each axis: the shorter side was rounded to whole pixels.
        scale = np.array([w / width, h / height])
        N, T, _ = self.points.shape
        if self.boxes is not None:
            more, kinds = self.boxes.reshape(N, 2, 2), [BOX_TOP_LEFT, BOX_BOTTOM_RIGHT]
        else:
            # Points alone are followed by one PAD token (paper A); a mask alone has no token at
            # all.
            more, kinds = np.zeros((N, min(T, 1), 2)), [PAD] * min(T, 1)
        coords = np.concatenate([self.points, more], axis=1) * scale
        labels = np.concatenate([self.labels, np.broadcast_to(kinds, (N, len(kinds)))], axis=1)
        return Prompts(
            coords=torch.from_numpy(coords.astype(np.float32)),
            labels=torch.from_numpy(labels.astype(np.int64)),
            mask_logits=None if self.mask is None else torch.from_numpy(self.mask),
        )
