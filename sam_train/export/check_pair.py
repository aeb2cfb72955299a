"""Asks an exported pair as annotation tools do: a photo, then a point, a box and two points on it.

`Predictor` answers the same prompts with the exported model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from sam_train.export.onnx_pair import PairPaths
from sam_train.export.onnx_pair_graphs import FRAME, MASK_SIDE
from sam_train.export.probe import random_probe, relative
from sam_train.model.encoded_photos import Pixels, encode_photos
from sam_train.model.predictor import Predicted, Predictor
from sam_train.model.sam import Sam

Floats = npt.NDArray[np.float32]
Ask = Callable[[Path, dict[str, Any]], Sequence[Floats]]

_CORNERS = (2.0, 3.0)
# Two of three masks may be as good but for rounding; the graph may then take the other.
_TIE = 1e-4


def pair_difference(sam: Sam, folder: Path, ask: Ask) -> float:
    """Return the largest difference of embeddings, logits and scores, relative to the largest.

    Args:
        sam: the exported model.
        folder: what `save_onnx_pair` wrote.
        ask: runs a file with inputs by name.
    """
    paths = PairPaths.under(folder)
    # As large as the tools make a photo: no scaling of theirs comes between.
    probe = random_probe(FRAME)
    (embeddings,) = ask(paths.encoder, {"input_image": probe.pixels.astype(np.float32)})
    expected = encode_photos(sam, [probe.pixels]).embeddings
    worst = relative(torch.from_numpy(embeddings), expected)
    ours = Predictor(sam)
    ours.set_image(probe.pixels)
    first = probe.point.numpy()
    second = np.array([[FRAME * 0.3, FRAME * 0.6]], np.float32)
    box = np.concatenate([np.minimum(first, second), np.maximum(first, second)])
    two = np.concatenate([first, second])
    questions = (
        (first, [1.0], ours.predict(first, [1], return_logits=True)),
        (box, _CORNERS, ours.predict(boxes=box.ravel(), multimask=False, return_logits=True)),
        (two, [1.0, 0.0], ours.predict(two, [1, 0], multimask=False, return_logits=True)),
    )
    for coords, labels, answer in questions:
        inputs = tool_inputs(embeddings, coords, labels, photo=probe.pixels)
        masks, scores, _ = ask(paths.decoder, inputs)
        worst = max(worst, _distance(answer, masks, scores))
    return worst


def tool_inputs(
    embeddings: Floats, coords: npt.NDArray[Any], labels: Sequence[float], *, photo: Pixels
) -> dict[str, Floats]:
    """Build the decoder's inputs for a prompt of the 1024 frame, as the tools do.

    They append padding to every prompt and feed nothing back.
    """
    padded = np.concatenate([coords, np.zeros((1, 2))])[None]
    return {
        "image_embeddings": embeddings,
        "point_coords": padded.astype(np.float32),
        "point_labels": np.array([[*labels, -1.0]], np.float32),
        "mask_input": np.zeros((1, 1, MASK_SIDE, MASK_SIDE), np.float32),
        "has_mask_input": np.zeros(1, np.float32),
        "orig_im_size": np.array(photo.shape[:2], np.float32),
    }


def _distance(answer: Predicted, masks: Floats, scores: Floats) -> float:
    """Compare the one mask of a graph with the best that `Predictor` found."""
    best = answer.scores >= answer.scores.max() - _TIE
    return min(
        max(
            relative(torch.from_numpy(masks[0, 0]), torch.from_numpy(mask)),
            relative(torch.from_numpy(scores[0]), torch.from_numpy(score[None])),
        )
        for mask, score in zip(answer.masks[best], answer.scores[best], strict=True)
    )
