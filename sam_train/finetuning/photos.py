"""The photos of a fine-tuning, opened as `fit` opens them: tiles and windows included."""

from __future__ import annotations

from typing import Any

from sam_train.data.config import tile_grid
from sam_train.data.photos.window import find_window
from sam_train.data.shards.reader import Shards, open_shards
from sam_train.model.config import photo_rule
from sam_train.settings.run import RunConfig


def training_photos(cfg: RunConfig) -> Shards:
    """Open `data.train`, less what the user excludes.

    Raises:
        UserError: it cannot be opened.
    """
    return _opened(cfg, cfg.data.train, option="data.train", include=cfg.data.include)


def held_out_photos(cfg: RunConfig) -> Shards:
    """Open `data.val`; of a divided data set without it, the part for measuring.

    Raises:
        UserError: it cannot be opened.
    """
    source = cfg.data.val or cfg.data.train
    return _opened(cfg, source, option="data.val", include=cfg.data.val_include)


def window_of(cfg: RunConfig, photos: Shards) -> list[float]:
    """Find the window of photos beyond 8 bits, as `fit` would; [] where none is needed or asked.

    Found once, by the look: the model before and after must see the same pictures.
    """
    if cfg.model.window or cfg.data.window != "dataset" or cfg.data.mode == "stream":
        return []
    images = [path for part in photos.parts for path in part.images()]
    return find_window(images, rule=photo_rule(cfg.model)) if images else []


def show_by_model(cfg: RunConfig, photos: Shards) -> None:
    """Show photos beyond 8 bits by `model.window` and `model.bands`."""
    rule = photo_rule(cfg.model)
    for part in photos.parts:
        part.show_by(rule)


def _opened(cfg: RunConfig, source: Any, *, option: str, include: Any) -> Shards:
    photos = open_shards(
        source,
        option=option,
        index=cfg.data.index,
        exclude=cfg.data.exclude,
        include=include,
        formats=True,
        tiles=tile_grid(cfg.data),
    )
    show_by_model(cfg, photos)
    return photos
