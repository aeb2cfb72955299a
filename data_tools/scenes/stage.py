"""Facts about a thing's place that its family may use."""

from __future__ import annotations

from dataclasses import dataclass, field

from data_tools.scenes.colours import CLEARLY_APART, Colour, Hues, pick
from data_tools.scenes.geometry import Rng


@dataclass(frozen=True, slots=True)
class Stage:
    """Random numbers and the colours already there."""

    rng: Rng
    behind: list[Colour] = field(default_factory=list)

    def colour(self, hues: Hues, *others: Colour, gap: float = CLEARLY_APART) -> Colour:
        """Pick a colour that stands out from `others`, or from the background when none are
        given."""
        return pick(self.rng, hues, others or self.behind, gap=gap)
