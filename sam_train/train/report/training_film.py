"""Held-out masks played through the training rounds: the clicks and boxes a model learns from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from sam_train.eval.pictures.filmstrip import FilmRow
from sam_train.eval.pictures.rows import rows_from_rounds
from sam_train.model import Sam
from sam_train.prompts import PromptsConfig, Rounds
from sam_train.types import BOX_TOP_LEFT, Batch, Prediction, Prompts


@dataclass(slots=True, kw_only=True)
class PlayedRounds:
    """What was asked and answered, one entry per round."""

    prompts: list[Prompts]
    predictions: list[Prediction]


@torch.no_grad()
def training_film(
    sam: Sam, batches: Sequence[Batch], *, cfg: PromptsConfig, seed: int, rows: int
) -> list[FilmRow]:
    """Filmstrip rows of one mask per batch; where it can be, every other row starts with a box.

    The prompts are those of step 0, so that pictures of different steps can be compared as long
    as the model answers alike.

    Args:
        sam: put into eval mode meanwhile.
        batches: on any device; the first `rows` are used.
        cfg: the rounds, all of them whatever a curriculum says.
        seed: of the run.
        rows: masks to show.
    """
    device = next(sam.parameters()).device
    was_training = sam.training
    sam.eval()
    film: list[FilmRow] = []
    try:
        for row, whole in enumerate(batches[:rows]):
            batch = only_mask(whole, _choose(sam, whole, cfg, seed=seed, box=row % 2 == 1))
            on_device = batch.to(device)
            played = _play(sam, on_device, cfg, seed=seed)
            film += rows_from_rounds(
                sam, on_device, prompts=played.prompts, predictions=played.predictions, masks=[0]
            )
    finally:
        sam.train(was_training)
    return film


def only_mask(batch: Batch, mask: int) -> Batch:
    """The same images with a single one of their masks."""
    place = slice(mask, mask + 1)
    return replace(
        batch,
        masks=batch.masks[place],
        image_index=batch.image_index[place],
        points=batch.points[place],
        boxes=batch.boxes[place],
        mask_ids=batch.mask_ids[place],
        rles=batch.rles[place] if batch.rles is not None else None,
    )


def _rounds(sam: Sam, batch: Batch, cfg: PromptsConfig, seed: int) -> Rounds:
    return Rounds(cfg, batch, seed=seed, step=0, image_size=sam.image_size, grid_size=sam.grid_size)


def _choose(sam: Sam, batch: Batch, cfg: PromptsConfig, *, seed: int, box: bool) -> int:
    """The mask of middle area among those that start as wanted, or among all of them."""
    starts_with_box = _rounds(sam, batch, cfg, seed).first().labels[:, 0] == BOX_TOP_LEFT
    wanted = [k for k, has_box in enumerate(starts_with_box.tolist()) if has_box == box]
    areas = batch.masks.flatten(1).sum(1, dtype=torch.int64).tolist()
    ranked = sorted(wanted or range(batch.num_masks), key=lambda k: (areas[k], k))
    return ranked[len(ranked) // 2]


def _play(sam: Sam, batch: Batch, cfg: PromptsConfig, *, seed: int) -> PlayedRounds:
    rounds = _rounds(sam, batch, cfg, seed)
    embeddings = sam.encode(batch.images, batch.image_sizes)
    played = PlayedRounds(prompts=[], predictions=[])
    prompts = rounds.first()
    for r in range(rounds.number):
        prediction = sam.decode(
            embeddings, batch.image_index, prompts, multimask=rounds.multimask(r)
        )
        played.prompts.append(prompts)
        played.predictions.append(prediction)
        if r + 1 < rounds.number:
            prompts = rounds.next(r + 1, prompts, prediction)
    return played
