"""The endless sample order: a pure function of (seed, epoch, position), with no state.

Position p of the order lies in epoch p // N; inside an epoch, a keyed permutation says which
sample it is: of all samples, or of windows of a few shards, so that reading stays within those.
Step s of a run takes the next `batch_size` positions, rank r a contiguous part of them, each
accumulated micro-batch a contiguous part of that. So a run resumes from one counter, exactly, at
another number of ranks, workers or micro-batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch.utils.data import Sampler

from sam_train.errors import UserError

# Every use of randomness in the data has its own stream, so that none echoes another.
# Never renumber: recorded runs and resumed ones must draw the same.
STREAM_ORDER = 1
STREAM_SUBSET = 2
STREAM_POINT = 3
STREAM_REPLACEMENT = 4
STREAM_JITTER = 5
STREAM_SHARDS = 6
STREAM_TURNS = 7
STREAM_BUFFER = 8
STREAM_FLIP = 9
STREAM_COLOUR = 10
STREAM_MIX = 11

_MASK = (1 << 64) - 1
# Constants of SplitMix64 (Steele et al. 2014).
_GOLDEN = 0x9E3779B97F4A7C15
_MIX_1 = 0xBF58476D1CE4E5B9
_MIX_2 = 0x94D049BB133111EB
# Four rounds make a Feistel network a good shuffle (Luby, Rackoff 1988); two are to spare.
_ROUNDS = 6


def hash64(*parts: int) -> int:
    """Hash integers to 64 bits, one after the other (SplitMix64's finaliser, chained)."""
    h = 0
    for part in parts:
        # Python ints have no width: the mask makes them uint64, as in `hash_each`.
        h = ((h ^ (part & _MASK)) + _GOLDEN) & _MASK
        h = ((h ^ (h >> 30)) * _MIX_1) & _MASK
        h = ((h ^ (h >> 27)) * _MIX_2) & _MASK
        h ^= h >> 31
    return h


def hash_each(base: int, values: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
    """Hash each value to uint64 [n], keyed by `base` (a `hash64`)."""
    h = (values.astype(np.uint64) ^ np.uint64(base)) + np.uint64(_GOLDEN)
    h = (h ^ (h >> np.uint64(30))) * np.uint64(_MIX_1)
    h = (h ^ (h >> np.uint64(27))) * np.uint64(_MIX_2)
    mixed: npt.NDArray[np.uint64] = h ^ (h >> np.uint64(31))
    return mixed


@dataclass(frozen=True, slots=True)
class Place:
    """The sample that a position of the order stands for."""

    epoch: int
    index: int
    """Sample, 0 .. N - 1 in shard order."""


class Order:
    """N samples, shuffled anew each epoch; any position is found as fast as the first.

    Full shuffle: O(1) time and memory. In windows of W of P shards: O(log P) per position, after
    O(P) once per epoch; the epoch's shards are permuted, W at a time form a window, and the
    samples of a window are permuted among themselves.
    """

    def __init__(
        self,
        *,
        samples: int,
        seed: int,
        shard_first: npt.NDArray[np.int64] | None = None,
        shuffle_window: int = 0,
    ) -> None:
        """Args:
        samples: N >= 1; those from N on are left out.
        seed: of the run.
        shard_first: [P + 1] the first sample of each shard, rising from 0; needed for windows.
        shuffle_window: W; 0 shuffles over everything.
        """
        self.samples = samples
        self.seed = seed
        self._window = shuffle_window
        bounds = np.array([0, samples]) if shard_first is None else shard_first
        # Empty shards, and those behind the last sample, would make empty windows.
        # `unique` merges equal bounds, which are empty shards.
        self._first: npt.NDArray[np.int64] = np.unique(np.minimum(bounds, samples))
        if shuffle_window >= len(self._first) - 1:
            self._window = 0  # one window of everything
        self._layouts: dict[int, _Layout] = {}

    def place(self, position: int) -> Place:
        """Return epoch and sample at a position >= 0."""
        # A step may cross the end of an epoch; the next epoch begins within the batch.
        epoch, index = divmod(position, self.samples)
        key = hash64(self.seed, STREAM_ORDER, epoch)
        if self._window == 0:
            return Place(epoch, permute(index, self.samples, key=key))
        return Place(epoch, self._layout(epoch, key).sample(index))

    def replacement(self, position: int, attempt: int) -> Place:
        """Return the sample to take when the first `attempt` choices for this position were
        unusable.

        Of all shards whatever the window is: it may be the window's shard that is lost.
        """
        draw = hash64(self.seed, STREAM_REPLACEMENT, position, attempt)
        # The modulo favours low numbers by less than N / 2^64.
        return Place(position // self.samples, draw % self.samples)

    def _layout(self, epoch: int, key: int) -> _Layout:
        layout = self._layouts.get(epoch)
        if layout is None:
            layout = _Layout(self._first, window=self._window, key=key)
            # Two, because the batches around an epoch's end go back and forth between both.
            self._layouts = {e: kept for e, kept in self._layouts.items() if e == epoch - 1}
            self._layouts[epoch] = layout
        return layout


class _Layout:
    """The shards of one epoch, in its order and in windows."""

    def __init__(self, first: npt.NDArray[np.int64], *, window: int, key: int) -> None:
        # Sorting hashes permutes the shards, the same on every platform.
        shards = np.argsort(hash_each(hash64(key, STREAM_SHARDS), np.arange(len(first) - 1)))
        self._source = first[:-1][shards]
        # [P + 1] where each of the permuted shards begins in the epoch.
        self._begin = np.concatenate([[0], np.cumsum(np.diff(first)[shards])])
        self._windows = np.append(self._begin[:-1:window], self._begin[-1])
        self._key = key

    def sample(self, index: int) -> int:
        """Return the sample at place `index` of the epoch."""
        # The last window may hold fewer shards; its samples are permuted among themselves all the
        # same.
        window = int(np.searchsorted(self._windows, index, side="right")) - 1
        begin, end = self._windows[window : window + 2].tolist()
        index = begin + permute(index - begin, end - begin, key=hash64(self._key, window))
        shard = int(np.searchsorted(self._begin, index, side="right")) - 1
        return int(self._source[shard]) + index - int(self._begin[shard])


def permute(index: int, count: int, *, key: int) -> int:
    """Return the place to which the permutation of 0 .. count - 1 that `key` names takes `index`;
    O(1)."""
    # Bits of each half of the Feistel network, rounded up.
    half = ((count - 1).bit_length() + 1) // 2
    # A Feistel network permutes the 4^half >= count numbers; walking along its cycle until the
    # number is below count permutes those. The domain is below 4 count: under 4 walks on average.
    while True:
        index = _feistel(index, half, key)
        if index < count:
            return index


def _feistel(value: int, half: int, key: int) -> int:
    mask = (1 << half) - 1
    left, right = value >> half, value & mask
    for i in range(_ROUNDS):
        # Any function of the right half keeps this a permutation, so no inverse is needed.
        left, right = right, left ^ (hash64(key, i, right) & mask)
    return left << half | right


def micro_batch(batch_size: int, *, world_size: int, accumulate: int) -> int:
    """Return the images of one rank in one micro-batch of a step.

    Raises:
        UserError: `batch_size` cannot be divided evenly.
    """
    parts = world_size * accumulate
    if batch_size % parts:
        raise UserError(
            f"data.batch_size={batch_size} is not divisible by {world_size} ranks x "
            f"{accumulate} accumulated batches; take a multiple of {parts}."
        )
    return batch_size // parts


class PositionBatches(Sampler[list[int]]):
    """The positions of each micro-batch of one rank, endlessly.

    Every rank yields the same number of batches of the same size.
    """

    def __init__(
        self,
        start: Callable[[], int],
        *,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        accumulate: int = 1,
    ) -> None:
        """Args:
            start: asked at the beginning of each pass for the first position of its first step.
            batch_size: images per step over all ranks and micro-batches.

        Raises:
            UserError: `batch_size` cannot be divided evenly.
        """
        self._start = start
        self._batch_size = batch_size
        self._micro = micro_batch(batch_size, world_size=world_size, accumulate=accumulate)
        # A rank owns one contiguous part of the step; its micro-batches are parts of that.
        self._offset = rank * accumulate * self._micro
        self._accumulate = accumulate

    def __iter__(self) -> Iterator[list[int]]:
        position = self._start()
        while True:
            for i in range(self._accumulate):
                first = position + self._offset + i * self._micro
                yield list(range(first, first + self._micro))
            position += self._batch_size
