"""Things as trees of parts, each with an outline and a material."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from data_tools.scenes.colours import Colour, lighter
from data_tools.scenes.geometry import Outline, Rng
from data_tools.scenes.paint import (
    CHECKS,
    CLOUDS,
    DOTS,
    FADE,
    MARBLE,
    PLAIN,
    SPECKLES,
    STRIPES,
)


@dataclass(slots=True, kw_only=True)
class Material:
    """The look of a surface."""

    base: Colour
    other: Colour
    """Second colour of the pattern."""
    pattern: int = PLAIN
    """One of `paint.PLAIN`, `STRIPES`, …"""
    frequency: float = 8.0
    """Pattern cycles per size of the object (per scene unit for backgrounds)."""
    angle: float = 0.0
    """Radians, direction of the pattern within the object."""
    strength: float = 1.0
    """Share of `other` where the pattern is full."""
    roughness: float = 0.05
    """Relative deviation of the brightness by fine noise."""
    noise_scale: float = 1.0
    """Noise tiles per scene unit."""
    bevel: float = 0.7
    """Strength of the light on the rounded edge."""
    gloss: float = 0.0
    """Height of the highlight."""


@dataclass(slots=True, kw_only=True)
class Part:
    """A node of a thing: what is painted, what hangs on it, and whether it is a mask."""

    outline: Outline | Sequence[Outline] | None = None
    """Polygons in the object's local frame; None for a group that only holds others."""
    material: Material | None = None
    front: list[Part] = field(default_factory=list)
    """Parts painted after this one."""
    back: list[Part] = field(default_factory=list)
    """Parts painted before this one."""
    mask: float = 1.0
    """Probability that this node with everything on it is a ground-truth mask (SA-1B does not
    hold every part either)."""
    clip: bool = False
    """Cut off at the outline of the part it hangs on."""
    rounding: float = 0.25
    """Width of the bevel as a share of the part's smaller side."""
    shadow: float = 0.3
    """Darkness of the soft shadow thrown on what lies behind."""
    thin: bool = False
    """Keeps its mask although it is only a pixel or two wide."""

    def polygons(self) -> list[Outline]:
        """Return this part's own outline as a list."""
        if self.outline is None:
            return []
        return list(self.outline) if isinstance(self.outline, Sequence) else [self.outline]

    def silhouette(self) -> list[Outline]:
        """Collect the polygons that may show beyond those of the parts they hang on."""
        own = self.polygons()
        children = self.back if own else (*self.back, *self.front)
        return own + [o for child in children if not child.clip for o in child.silhouette()]


def plain(
    colour: Colour, *, gloss: float = 0.0, bevel: float = 0.7, rough: float = 0.02
) -> Material:
    """Make one colour with a little life in it."""
    return Material(
        base=lighter(colour, -0.06),
        other=lighter(colour, 0.05),
        roughness=rough,
        gloss=gloss,
        bevel=bevel,
    )


def fade(top: Colour, bottom: Colour, *, gloss: float = 0.0, bevel: float = 0.5) -> Material:
    """Make a gradient down the part."""
    return Material(base=top, other=bottom, pattern=FADE, gloss=gloss, bevel=bevel)


def textured(rng: Rng, colour: Colour, *, gloss: float = 0.0) -> Material:
    """Make `colour` with a random surface that stays near it, so that the part still reads as
    one."""
    kind = int(rng.choice([PLAIN, PLAIN, FADE, STRIPES, CHECKS, SPECKLES, MARBLE, DOTS, CLOUDS]))
    change = float(rng.uniform(0.2, 0.45)) * (1.0 if rng.random() < 0.55 else -1.0)
    if kind == PLAIN:
        return plain(colour, gloss=gloss, rough=float(rng.uniform(0.02, 0.12)))
    return Material(
        base=colour,
        other=lighter(colour, change),
        pattern=kind,
        frequency=float(rng.uniform(2.5, 6.0)),
        angle=float(rng.choice([0.0, 0.0, 0.785, 1.571, rng.uniform(0.0, 3.0)])),
        roughness=float(rng.uniform(0.02, 0.08)),
        gloss=gloss,
    )
