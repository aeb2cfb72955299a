"""Filmstrips of held-out masks in the training rounds: the clicks and boxes a model learns from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from sam_train.eval.pictures.filmstrip import FilmRow
from sam_train.eval.pictures.rows import rows_from_rounds
from sam_train.model import Sam
from sam_train.prompts import Draw
from sam_train.prompts.rounds import first_prompts
from sam_train.train.objectives import At, Objective
from sam_train.types import BOX_TOP_LEFT, Batch


@torch.no_grad()
def training_film(
    sam: Sam, batches: Sequence[Batch], *, objective: Objective, rows: int
) -> list[FilmRow]:
    """Draw filmstrip rows of one mask per batch; if possible, every other row starts with a box.

    The prompts are those of step 0, so that pictures of different steps can be compared.

    Args:
        sam: is in eval mode meanwhile.
        batches: on any device; the first `rows` are used.
        objective: its rounds at the end of training, beyond every stage of a curriculum.
        rows: masks to show.
    """
    # Not the step of now: the same draws give the same first prompts in every picture.
    at = At(seed=objective.cfg.seed, step=0, progress=1.0)
    device = next(sam.parameters()).device
    was_training = sam.training
    sam.eval()
    film: list[FilmRow] = []
    try:
        for row, whole in enumerate(batches[:rows]):
            mask = _choose(whole, objective, at, box=row % 2 == 1)
            batch = only_mask(whole, mask).to(device)
            # Not `objective.encode`: a held-out image has no place in the order to draw for.
            embeddings = objective.embed(sam, batch)
            outcomes = list(objective.rounds(sam, batch, at, embeddings))
            film += rows_from_rounds(
                sam,
                batch,
                prompts=[outcome.prompts for outcome in outcomes],
                predictions=[outcome.prediction for outcome in outcomes],
                masks=[0],
            )
    finally:
        sam.train(was_training)
    return film


def only_mask(batch: Batch, mask: int) -> Batch:
    """Return the same images with a single one of their masks."""
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


def _choose(batch: Batch, objective: Objective, at: At, *, box: bool) -> int:
    """Choose the mask of middle area among those that start as wanted, or among all of them."""
    draw = Draw(seed=at.seed, step=at.step, ids=batch.mask_ids)
    first = first_prompts(batch, cfg=objective.cfg.prompts, draw=draw)
    starts_with_box = first.labels[:, 0] == BOX_TOP_LEFT
    # Neither kind need occur: with prompts.box_probability=1 every mask starts with a box.
    wanted = [k for k, has_box in enumerate(starts_with_box.tolist()) if has_box == box]
    areas = batch.masks.flatten(1).sum(1, dtype=torch.int64).tolist()
    # By number where areas are equal, so that pictures of different steps show the same mask.
    ranked = sorted(wanted or range(batch.num_masks), key=lambda k: (areas[k], k))
    return ranked[len(ranked) // 2]
