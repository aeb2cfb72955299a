"""Places where a scene may play: each paints a backdrop and says which things may stand where."""

from __future__ import annotations

from collections.abc import Callable

from data_tools.scenes.backdrop import Setting
from data_tools.scenes.canvas import Canvas
from data_tools.scenes.geometry import Rng
from data_tools.scenes.indoors import desk, table
from data_tools.scenes.outdoors import lake, meadow, sea, street

SETTINGS: tuple[tuple[Callable[[Canvas, Rng], Setting], float], ...] = (
    (meadow, 0.24), (street, 0.18), (table, 0.25), (desk, 0.19), (sea, 0.08), (lake, 0.06),
)  # fmt: skip
"""Shares of the settings among the scenes."""
