"""Random numbers that are a pure function of (seed, step, stream, mask), not of hidden state.

A counter-based generator: splitmix64's finaliser (Steele, Lea, Flood 2014; constants of Stafford's
variant 13) over int64 tensors, whose products wrap around alike on CPUs and GPUs. What a mask
draws therefore depends neither on the number of ranks nor on which masks share its batch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor

# 2^64 over the golden ratio, the stride of the counters, then Stafford's two multipliers.
_WEYL = 0x9E3779B97F4A7C15
_FIRST = 0xBF58476D1CE4E5B9
_SECOND = 0x94D049BB133111EB
_WORD = (1 << 64) - 1


class Stream(IntEnum):
    """The purposes of random numbers, a stream each. Never renumber: runs would change."""

    FIRST_PROMPT = 1
    BOX_NOISE = 2
    MASK_ONLY_ROUND = 3
    CLICK = 4
    LOSS_POINTS = 5
    DROP_PATH = 6
    LEARNT_ROUND = 7
    LOOSE_BOX = 8
    SECOND_POINT = 9


def _signed(word: int) -> int:
    """Convert a 64-bit word to the int64 with the same bits, with which torch multiplies."""
    return word - (1 << 64) if word >> 63 else word


def _mix_word(word: int) -> int:
    word &= _WORD
    word = ((word ^ (word >> 30)) * _FIRST) & _WORD
    word = ((word ^ (word >> 27)) * _SECOND) & _WORD
    return word ^ (word >> 31)


def _shift(words: Tensor, bits: int) -> Tensor:
    """Shift right logically; torch's own shift copies the sign bit."""
    return (words >> bits) & ((1 << (64 - bits)) - 1)


def _mix(words: Tensor) -> Tensor:
    words = (words ^ _shift(words, 30)) * _signed(_FIRST)
    words = (words ^ _shift(words, 27)) * _signed(_SECOND)
    return words ^ _shift(words, 31)


def _key(*parts: int) -> int:
    key = 0
    for part in parts:
        # The last summand keeps a part of 0 from leaving a key of 0 as it is: 0 mixes to 0.
        key = _mix_word(key + part * _WEYL + _WEYL)
    return key


def number_below(end: int, *, seed: int, step: int, stream: Stream) -> int:
    """Draw one number from 0 to `end` - 1 on the host, the same on every rank."""
    # The modulo favours small numbers by less than end / 2^64.
    return _key(seed, step, stream) % end


def words(
    seed: int, step: int, stream: int, ids: Tensor, *, index: int = 0, count: int = 1
) -> Tensor:
    """Draw 64 random bits for each id and each of `count` draws.

    Args:
        seed: `seed` of the run.
        step: training step.
        stream: the purpose, see `Stream`.
        ids: int64 [M] mask ids.
        index: a further number beside the stream, such as the round.
        count: N draws of each id.

    Returns:
        int64 [M, N].
    """
    key = _key(seed, step, stream, index)
    counters = torch.arange(1, count + 1, device=ids.device) * _signed(_WEYL)
    # Mixed twice: neighbouring ids and neighbouring counters must not give related words.
    return _mix(_mix(ids * _signed(_WEYL) + _signed(key))[:, None] + counters)


def uniform(
    seed: int, step: int, stream: int, ids: Tensor, *, index: int = 0, count: int = 1
) -> Tensor:
    """Draw float64 [M, N] in [0, 1), 53 random bits each; arguments as `words`.

    Float64, because a float32 has too few bits to pick one of 1024 x 1024 cells evenly.
    """
    bits = words(seed, step, stream, ids, index=index, count=count)
    # 53 bits are a float64's whole precision; 64 of them would round up to 1.0 now and then.
    return _shift(bits, 11).double() * 2.0**-53


def normal(
    seed: int, step: int, stream: int, ids: Tensor, *, index: int = 0, count: int = 1
) -> Tensor:
    """Draw float64 [M, N], standard normal by Box and Muller (1958); arguments as `words`."""
    bits = words(seed, step, stream, ids, index=index, count=2 * count)
    # The radius takes (0, 1], because its logarithm must be finite.
    radius, angle = ((_shift(bits, 11).double() + 1) * 2.0**-53).chunk(2, dim=1)
    # The pair's other half, the sine, stays unused: each number has two counters of its own.
    return torch.sqrt(-2 * torch.log(radius)) * torch.cos(2 * math.pi * angle)


@dataclass(slots=True, frozen=True, kw_only=True)
class Draw:
    """The random numbers of one training step, for a flat list of masks."""

    seed: int
    """`seed` of the run."""
    step: int
    """Training step."""
    ids: Tensor
    """int64 [M]; unique within the step and the same on any number of ranks."""

    def uniform(self, stream: Stream, *, index: int = 0, count: int = 1) -> Tensor:
        """Draw float64 [M, count] in [0, 1); `index` tells rounds apart."""
        return uniform(self.seed, self.step, stream, self.ids, index=index, count=count)

    def normal(self, stream: Stream, *, index: int = 0, count: int = 1) -> Tensor:
        """Draw float64 [M, count], standard normal; `index` tells rounds apart."""
        return normal(self.seed, self.step, stream, self.ids, index=index, count=count)
