"""Measurements before and after: those of `validate`, with every object's answer kept."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from sam_train.errors import UserError
from sam_train.eval.clicks.scores import ClickScores
from sam_train.eval.validate import measure
from sam_train.finetuning.objects import Objects
from sam_train.finetuning.photos import held_out_photos
from sam_train.model import Sam
from sam_train.model.checkpoints.trained import load_checkpoint, settings_for_checkpoint
from sam_train.runtime.devices import set_arithmetic
from sam_train.runtime.log import quiet
from sam_train.settings.run import RunConfig

CLICKS = "callbacks.validation.clicks=[1,3,9]"
"""Numbers of clicks in the tables."""
KEPT_IMAGES, KEPT_MASKS = 32, 8
"""Images, and masks of each, on which forgetting is measured."""
SCENES = "the sample scenes that ship"


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """The scores of a model on some data, and the answers behind them."""

    scores: ClickScores
    objects: Objects


def measure_held_out(words: Sequence[str], *, cases: Mapping[str, str]) -> Measured:
    """Measure a checkpoint on the held-out photos.

    Args:
        words: settings of `validate`, with `ckpt` or `init_from`.
        cases: name -> case; intervals resample cases.
    """
    # A window of photos beyond 8 bits is found by training, and stands in the checkpoint alone.
    cfg = settings_for_checkpoint([*words, CLICKS])
    set_arithmetic(cfg.trainer)
    objects = Objects()
    scores = measure(
        _load(cfg),
        cfg,
        observer=objects.see_click,
        box_observer=objects.see_box,
        groups=case_groups(cfg, cases),
    )
    return Measured(scores=scores, objects=objects)


def check_kept(cfg: RunConfig) -> None:
    """Refuse a model that cannot see the scenes that ship.

    Raises:
        UserError: it has more than three bands, and `eval.keep` names nothing else.
    """
    if len(cfg.model.bands) > 3 and not cfg.eval.keep:
        raise UserError(
            f"model.bands={list(cfg.model.bands)}: what the model shall keep is measured on scenes "
            "of three bands; name photos that have these bands with eval.keep="
        )


def measure_kept(words: Sequence[str]) -> ClickScores:
    """Measure a checkpoint on `eval.keep`, or on the scenes that ship.

    Args:
        words: as `measure_held_out` takes them.
    """
    cfg = settings_for_checkpoint([*words, CLICKS])
    cfg.data.val = cfg.eval.keep or str(shipped_scenes())
    cfg.data.val_include = cfg.data.exclude = ""
    # Whole photos, by their own files: these settings are about the user's data.
    cfg.data.index, cfg.data.tile = None, 0
    cfg.data.val_images, cfg.data.val_masks_per_image = KEPT_IMAGES, KEPT_MASKS
    set_arithmetic(cfg.trainer)
    return measure(_load(cfg), cfg)


def case_groups(cfg: RunConfig, cases: Mapping[str, str]) -> dict[int, str]:
    """Return the case of each photo by its place in data.val; {} where each is its own."""
    if len(set(cases.values())) == len(cases):
        return {}
    photos = held_out_photos(cfg)
    names = {place: photos.key(place) for place in range(len(photos))}
    return {place: cases[name] for place, name in names.items() if name in cases}


def _load(cfg: RunConfig) -> Sam:
    # `fit` says what became of each tensor; said at each measurement, it would hide the scores.
    with quiet(logging.WARNING):
        return load_checkpoint(cfg, untrained=True).sam


def shipped_scenes() -> Path:
    """Return the shard of 32 drawn scenes that comes with the package."""
    return Path(str(files("sam_train") / "assets" / "scenes.tar"))
