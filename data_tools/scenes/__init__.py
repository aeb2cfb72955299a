"""Procedural scenes that look like photos, with nested masks of wholes, parts and subparts."""

from data_tools.scenes.framing import close_up, photos_of_a_scene
from data_tools.scenes.scene import Scene, render_scene

REVISION = 8
"""Raised whenever the same seed draws another picture."""

__all__ = ["REVISION", "Scene", "close_up", "photos_of_a_scene", "render_scene"]
