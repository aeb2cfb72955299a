"""`data.mix`: several data sets in one order, each with its share of the samples.

    position -> (shuffled within a window) -> set, and how many of its samples came before

The second arrow deals places out as evenly as whole numbers can: of the first n places a set has
n times its share, give or take one for each set. So each set advances through its own shuffled
epochs, and as all of it follows from the position, a run resumes exactly on any number of ranks.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from sam_train.data.config import DataConfig, tile_grid
from sam_train.data.feed.order import (
    STREAM_MIX,
    STREAM_REPLACEMENT,
    Order,
    Place,
    hash64,
    permute,
)
from sam_train.data.shards.exclude import Exclusions, read_exclusions
from sam_train.data.shards.fingerprint import Fingerprint, digest
from sam_train.data.shards.reader import Shards, open_shards
from sam_train.errors import UserError

_WINDOW = 64
"""Places that are shuffled among themselves. Without it one rank might read all samples of a set;
a longer one would bring photos of a small set back sooner."""
_SHARE = re.compile(r"(?P<spec>.+):(?P<share>[-+]?(?:\d+\.?\d*|\.\d+))", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A data set of a mix."""

    source: Any
    """Written as `data.train` has it."""
    share: Fraction
    """The part of the samples that it gives; the shares of a mix add up to 1."""


def read_mix(mix: Any) -> list[Part]:
    """Read the sets of `data.mix` and their shares, which need not add up to 1 there.

    Args:
        mix: texts `SPEC:SHARE`, of which the last colon counts, or mappings with a `share`.

    Raises:
        UserError: a share is missing or not above 0.
    """
    entries = [mix] if isinstance(mix, str | Mapping) else list(mix or [])
    parts = [_read_part(entry) for entry in entries]
    total = sum((part.share for part in parts), Fraction(0))
    return [replace(part, share=part.share / total) for part in parts]


def _read_part(entry: Any) -> Part:
    if isinstance(entry, Mapping):
        source: Any = {name: value for name, value in entry.items() if name != "share"}
        name, share = source.get("path", source), str(entry.get("share", ""))
        found = _SHARE.fullmatch(f"-:{share}")
    else:
        found = _SHARE.fullmatch(str(entry))
        source = name = found["spec"] if found else entry
    if found is None:
        raise UserError(f"data.mix: {name} has no share: write SPEC:NUMBER, such as {name}:0.5")
    # Exact, so that 0.1 is a tenth: a float's error would move samples after 2^53 places.
    if (share_of := Fraction(found["share"])) <= 0:
        raise UserError(f"data.mix: the share {found['share']} of {name} must be above 0")
    return Part(source=source, share=share_of)


class MixedShards(Shards):
    """The shards of several sets, one set after the other, and their shares."""

    def __init__(
        self, sets: Sequence[Shards], mix: Sequence[Part], *, exclusions: Exclusions
    ) -> None:
        parts = [part for one in sets for part in one.parts]
        super().__init__(parts, exclusions=exclusions)
        self.mix = list(mix)
        self.sets: list[Shards] = list(sets)

    @property
    def fingerprint(self) -> Fingerprint:
        """The fingerprint of the samples and of their shares: both decide the order."""
        found = super().fingerprint
        lengths = [len(one) for one in self.sets]
        shares = repr([lengths, [str(part.share) for part in self.mix]])
        return replace(found, digest=digest([found.digest.encode(), shares.encode()]))

    def lines(self, *, samples: int) -> list[str]:
        """Return a line about each set.

        Args:
            samples: those that the whole run will draw.
        """
        return [
            f"data.mix: {float(part.share):.4g} of the samples from {part.source}: {len(one):,} "
            f"samples, {float(samples * part.share) / len(one):.3g} passes in this run"
            for part, one in zip(self.mix, self.sets, strict=True)
        ]


def open_mix(cfg: DataConfig) -> MixedShards:
    """Open the sets of `data.mix`.

    Raises:
        UserError: a set cannot be opened, or a setting asks for what a mix has not.
    """
    if cfg.mode == "stream":
        raise UserError("data.mix needs places in an order: set data.mode=indexed")
    if cfg.limit is not None:
        raise UserError(
            f"data.limit={cfg.limit} counts samples of one set: set data.limit=null, or name what "
            "is to be trained on by data.include"
        )
    mix = read_mix(cfg.mix)
    sets = [
        open_shards(
            part.source if isinstance(part.source, str) else [part.source],
            option="data.mix",
            index=cfg.index,
            exclude=cfg.exclude,
            include=cfg.include,
            formats=True,
            tiles=tile_grid(cfg),
        )
        for part in mix
    ]
    return MixedShards(sets, mix, exclusions=read_exclusions(cfg.exclude, include=cfg.include))


class MixedOrder:
    """The endless order of a mix; any position is found as fast as the first."""

    def __init__(self, shards: MixedShards, *, seed: int, shuffle_window: int = 0) -> None:
        """Args:
        seed: of the run.
        shuffle_window: of each set, see `Order`.
        """
        self.seed = seed
        self._orders: list[Order] = []
        self._begins: list[int] = []
        self._rest: list[Fraction] = []
        begin, left = 0, Fraction(1)
        for number, (one, part) in enumerate(zip(shards.sets, shards.mix, strict=True)):
            self._orders.append(
                Order(
                    samples=len(one),
                    # Sets of one size would else be shuffled alike; the first keeps the order that
                    # it has as data.train.
                    seed=hash64(seed, STREAM_MIX, number) if number else seed,
                    shard_first=one.first,
                    shuffle_window=shuffle_window,
                )
            )
            self._begins.append(begin)
            # Of what the sets before have left over; of the last one, all.
            self._rest.append(part.share / left)
            begin, left = begin + len(one), left - part.share

    def place(self, position: int) -> Place:
        """Return epoch of its set, and sample, at a position >= 0."""
        number, turn = self._dealt(position)
        place = self._orders[number].place(turn)
        return Place(place.epoch, self._begins[number] + place.index)

    def replacement(self, position: int, attempt: int) -> Place:
        """Return the sample to take when the first `attempt` choices for this position were
        unusable; one of the same set, so that shares stay as they are."""
        number, turn = self._dealt(position)
        samples = self._orders[number].samples
        draw = hash64(self.seed, STREAM_REPLACEMENT, position, attempt)
        return Place(turn // samples, self._begins[number] + draw % samples)

    def _dealt(self, position: int) -> tuple[int, int]:
        """Return the set of a position, and how many earlier places of the deal it has."""
        window, inner = divmod(position, _WINDOW)
        key = hash64(self.seed, STREAM_MIX, window)
        place = window * _WINDOW + permute(inner, _WINDOW, key=key)
        for number, share in enumerate(self._rest):
            # A line of this slope, from half a step up; a place where it crosses a whole number is
            # the set's. Rounding whole numbers needs no floats.
            above, below = share.numerator, share.denominator
            before = (place * above + below // 2) // below
            if ((place + 1) * above + below // 2) // below > before:
                return number, before
            place -= before
        raise AssertionError("the last share is 1")
