"""`data.mode=stream`: shards read front to back, for what cannot be read anywhere else than there.

    turns -> shards -> pairs -> shuffle buffer -> `Sample`s -> micro-batches

Shards come in turns, without end: turn t is a shard of epoch t // P, each epoch in an order of its
own. The readers of a run (workers of all ranks) take the turns one after the other, so a rank is
never out of samples before another. A run resumes with the turns that were not read to their end;
those that were begun are read again from their beginning. Which sample meets which others depends
on the number of readers, what is drawn of a sample only on (seed, epoch, sample).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import count, islice
from random import Random
from typing import Any

import webdataset as wds
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from sam_train.data.config import DataConfig
from sam_train.data.feed.collate import Collator
from sam_train.data.feed.loader import Loader, check_masks_per_gpu, data_loader
from sam_train.data.feed.order import STREAM_BUFFER, STREAM_TURNS, hash64, micro_batch, permute
from sam_train.data.sample.dataset import draw_sample, report_small
from sam_train.data.sample.decode import BadSample
from sam_train.data.sample.scenes import Scenes
from sam_train.data.shards.exclude import Exclusions, read_exclusions
from sam_train.data.shards.fingerprint import Fingerprint, digest
from sam_train.data.shards.part import Entry
from sam_train.data.shards.patterns import resolve
from sam_train.data.shards.reader import Shards
from sam_train.data.skips import Skips
from sam_train.data.storage.sources import PIPE, short_name
from sam_train.data.storage.tape import read_pairs
from sam_train.errors import UserError
from sam_train.runtime.dist import gather
from sam_train.runtime.text import one_line
from sam_train.types import Batch, Sample

log = logging.getLogger(__name__)

_ROW_BITS = 24
"""A sample's number is its shard's, shifted by this, and its own place in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Consumed:
    """Turns of shards that a run has behind it: all below `before`, and those in `beyond`."""

    before: int = 0
    beyond: frozenset[int] = frozenset()

    def add(self, turns: Iterable[int]) -> Consumed:
        """Add further turns."""
        beyond = self.beyond.union(turns)
        # Compacted, so that a checkpoint does not grow with the length of the run.
        before = next(turn for turn in count(self.before) if turn not in beyond)
        return Consumed(before=before, beyond=frozenset(t for t in beyond if t > before))

    def remaining(self) -> Iterator[int]:
        """Yield the turns to come, without end."""
        return (turn for turn in count(self.before) if turn not in self.beyond)

    def as_state(self) -> dict[str, Any]:
        """Convert to plain types, for a checkpoint."""
        return {"before": self.before, "beyond": sorted(self.beyond)}

    @staticmethod
    def from_state(state: dict[str, Any]) -> Consumed:
        """Restore the object that `as_state` wrote."""
        return Consumed(before=state["before"], beyond=frozenset(state["beyond"]))


@dataclass(slots=True)
class Handed:
    """A micro-batch, and the turns of which it holds the last sample."""

    batch: Batch
    finished: list[int]

    def pin_memory(self) -> Handed:
        """Move the tensors into page-locked memory (called by torch's DataLoader)."""
        return Handed(self.batch.pin_memory(), self.finished)


class StreamShards(Shards):
    """Shards without an index: what can be read of them is what is in memory."""

    def __init__(self, urls: list[str], *, exclusions: Exclusions) -> None:
        super().__init__([])
        self.urls = urls
        self.exclusions = exclusions
        self._held: dict[int, tuple[str, Entry]] = {}

    @property
    def fingerprint(self) -> Fingerprint:
        """Fingerprint of the shards' names: nothing more is known of them."""
        names = [self.name(shard).encode() for shard in range(len(self.urls))]
        # The number of samples is unknown until every shard has been read.
        return Fingerprint(shards=len(self.urls), samples=None, digest=digest([b"\n".join(names)]))

    def hold(self, sample: int, *, key: str, entry: Entry) -> None:
        """Keep one sample, until the next."""
        self._held = {sample: (key, entry)}

    def key(self, sample: int) -> str:
        """Name for messages; of what is not in memory, the shard and the place in it."""
        # A sample's number is its shard and its place in it, in one integer.
        shard, row = sample >> _ROW_BITS, sample & ((1 << _ROW_BITS) - 1)
        key = self._held[sample][0] if sample in self._held else f"sample {row}"
        return f"{self.name(shard)}/{key}"

    def name(self, shard: int) -> str:
        """Name a shard for messages: a command as it is; of a path or URL the last part."""
        url = self.urls[shard]
        return url if url.startswith(PIPE) else short_name(url)

    def read(self, sample: int) -> Entry:
        """Return the bytes of the sample, which are in memory already."""
        return self._held[sample][1]


def open_stream(cfg: DataConfig, *, option: str) -> StreamShards:
    """Return the shards of `data.train`; nothing of them is read.

    Raises:
        UserError: they are missing, or fewer samples are asked for than they hold.
    """
    if cfg.limit is not None:
        raise UserError(
            f"data.limit={cfg.limit} counts samples of an index, which data.mode=stream has none "
            "of: set data.limit=null, or data.mode=indexed."
        )
    # Whoever set them, a recipe or a person: they make reading faster and change no sample.
    for name, off in (("cache", False), ("shuffle_window", 0), ("index", None)):
        if getattr(cfg, name) != off:
            log.info("data.%s has no effect with data.mode=stream", name)
    urls = resolve(cfg.train, option=option, pipes=True)
    return StreamShards(urls, exclusions=read_exclusions(cfg.exclude, include=cfg.include))


@dataclass(slots=True, kw_only=True)
class _Raw:
    """A sample before decoding."""

    turn: int
    row: int
    key: str
    entry: Entry


@dataclass(slots=True)
class _Count:
    """The progress of a micro-batch."""

    read: int = 0
    given: int = 0
    ended: bool = False


class StreamDataset(IterableDataset[Handed | UserError]):
    """The micro-batches of one rank; each worker reads its own shards."""

    def __init__(
        self,
        scenes: Scenes,
        shards: StreamShards,
        cfg: DataConfig,
        *,
        micro: int,
        image_size: int,
        grid_size: int,
        seed: int,
        consumed: Consumed,
        rank: int,
        world_size: int,
        hashed: bool,
    ) -> None:
        """Args:
        scenes: of `shards`.
        micro: images in a micro-batch.
        image_size: S.
        grid_size: R.
        consumed: turns that are not read again.
        hashed: as `collate` takes it.
        """
        self._scenes, self._shards, self._cfg = scenes, shards, cfg
        self._micro, self._grid_size, self._seed = micro, grid_size, seed
        self._collate = Collator(image_size, hashed=hashed)
        self._consumed = consumed
        self._rank, self._world_size = rank, world_size
        self._counts: dict[int, _Count] = {}
        self._problem = "it is empty"

    def __iter__(self) -> Iterator[Handed | UserError]:
        """Yield batches without end; an error comes as a value, see `TrainDataset`."""
        # A pass begins anew; turns of an earlier one would never end.
        self._counts = {}
        worker = get_worker_info()
        workers, number = (1, 0) if worker is None else (worker.num_workers, worker.id)
        # Readers are the workers of all ranks; each takes every n-th shard of the epoch.
        reader, readers = self._rank * workers + number, self._world_size * workers
        size = self._cfg.shuffle_buffer
        # From what was consumed, so that a resumed run draws from the buffer anew.
        seed = hash64(self._seed, STREAM_BUFFER, self._consumed.before, reader)
        pipeline = wds.DataPipeline(
            lambda: islice(self._consumed.remaining(), reader, None, readers),
            self._pairs,
            # `initial`: nothing goes out before the buffer is full.
            wds.shuffle(size, initial=size, rng=Random(seed)),
            self._samples,
            self._batches,
        )
        try:
            yield from pipeline
        except UserError as error:
            yield error

    def _pairs(self, turns: Iterator[int]) -> Iterator[_Raw]:
        failed = fruitless = 0
        for begun, turn in enumerate(turns, 1):
            state = self._counts[turn] = _Count()
            try:
                yield from self._shard(turn, state)
            except OSError as error:
                failed += 1
                self._report_failure(turn, error, failed=failed, begun=begun)
            state.ended = True
            # As many shards in a row as there are: a whole pass gave nothing.
            fruitless = 0 if state.read else fruitless + 1
            if fruitless >= len(self._shards.urls):
                raise UserError(
                    "no shard of data.train gave a single pair of .jpg and .json (the last: "
                    f"{self._name(turn)}: {self._problem}); check the shards."
                )

    def _shard(self, turn: int, state: _Count) -> Iterator[_Raw]:
        url, excluded = self._url(turn), self._shards.exclusions

        def left_out(problem: str) -> None:
            self._skip(turn, row, problem)

        row = 0
        for row, pair in enumerate(read_pairs(url, left_out=left_out)):
            if not excluded.covers(url, pair.key):
                state.read += 1
                yield _Raw(turn=turn, row=row, key=pair.key, entry=pair.entry)

    def _report_failure(self, turn: int, error: OSError, *, failed: int, begun: int) -> None:
        """Count a lost shard as one skip. Many lost shards are a fault of the whole.

        Raises:
            UserError: more than `max_skip_fraction` of the shards failed.
        """
        read = self._counts[turn].read
        self._skip(turn, read, f"{one_line(error)}, after {read} samples")
        # Two may fail whatever the fraction, which means little after a few shards.
        if failed > max(2, self._cfg.max_skip_fraction * begun):
            raise UserError(
                f"{failed} of {begun} shards could not be read to their end (the last: "
                f"{self._name(turn)}: {self._problem}): check them, or raise "
                f"data.max_skip_fraction above {self._cfg.max_skip_fraction}."
            )

    def _skip(self, turn: int, row: int, problem: str) -> None:
        self._problem = problem
        message = f"{self._name(turn)}: {problem}"
        self._scenes.skips.read()
        self._scenes.skips.add("unreadable", message, index=self._index(turn, row))

    def _samples(self, raws: Iterable[_Raw]) -> Iterator[Sample]:
        skips = self._scenes.skips
        for raw in raws:
            self._counts[raw.turn].given += 1
            index = self._index(raw.turn, raw.row)
            self._shards.hold(index, key=raw.key, entry=raw.entry)
            draw_key = (self._seed, raw.turn // len(self._shards.urls), index)
            skips.read()
            try:
                sample = draw_sample(
                    self._scenes.get(index, draw_key=draw_key),
                    key=self._shards.key(index),
                    # Unique in the endless sequence, as the position of an indexed order is.
                    position=raw.turn << _ROW_BITS | raw.row,
                    draw_key=draw_key,
                    limit=self._cfg.masks_per_image,
                    grid_size=self._grid_size,
                    mask_sampling=self._scenes.mask_sampling,
                )
            except BadSample as bad:
                message = f"{self._shards.key(index)}: {bad}"
                skips.add(bad.kind, message, index=index)
                skips.check(last=message)
                continue
            report_small(sample, skips, index=index)
            yield sample

    def _batches(self, samples: Iterator[Sample]) -> Iterator[Handed]:
        while batch := self._collate(list(islice(samples, self._micro))):
            assert isinstance(batch, Batch)
            # The shuffle buffer may still hold samples of a shard that was read to its end.
            finished = [t for t, c in self._counts.items() if c.ended and c.given == c.read]
            for turn in finished:
                del self._counts[turn]
            yield Handed(batch, finished)

    def _url(self, turn: int) -> str:
        return self._shards.urls[self._shard_of(turn)]

    def _name(self, turn: int) -> str:
        return self._shards.name(self._shard_of(turn))

    def _shard_of(self, turn: int) -> int:
        shards = len(self._shards.urls)
        epoch, place = divmod(turn, shards)
        return permute(place, shards, key=hash64(self._seed, STREAM_TURNS, epoch))

    def _index(self, turn: int, row: int) -> int:
        return self._shard_of(turn) << _ROW_BITS | row


class StreamLoader(Loader):
    """Batches of a stream, and what they have consumed."""

    def __init__(self, loader: DataLoader[Any], *, consumed: Consumed) -> None:
        super().__init__(loader)
        self._start = consumed
        self._finished: list[list[int]] = []

    def __iter__(self) -> Iterator[Batch]:
        """Raises:
        UserError: too much of the data is unusable.
        """
        self._finished = []
        for handed in self._loader:
            if isinstance(handed, UserError):
                raise handed
            self._finished.append(handed.finished)
            yield handed.batch

    def consumed(self, batches: int) -> Consumed:
        """Return the shards that are behind all ranks once each has trained on so many batches.

        Asked by all of them at the same time.
        """
        # Not all that was handed out: `Turns` holds a step of micro-batches ahead.
        own = [t for turns in self._finished[:batches] for t in turns]
        return self._start.add(t for turns in gather(own) for t in turns)


def make_stream_loader(
    shards: StreamShards,
    cfg: DataConfig,
    *,
    image_size: int,
    grid_size: int,
    seed: int,
    skips: Skips,
    consumed: Consumed | None = None,
    rank: int = 0,
    world_size: int = 1,
    accumulate: int = 1,
    hashed: bool = False,
) -> StreamLoader:
    """Make an endless loader of this rank's micro-batches; arguments as `make_train_loader`.

    Args:
        consumed: the turns that an earlier run has behind it.
    """
    check_masks_per_gpu(cfg, world_size=world_size, accumulate=accumulate)
    scenes = Scenes.for_training(
        shards, cfg, image_size=image_size, grid_size=grid_size, skips=skips
    )
    start = consumed if consumed is not None else Consumed()
    if start != Consumed():
        log.info(
            "data.mode=stream goes on at whole shards: %d were read to their end, and those that "
            "were begun besides are read again from their beginning",
            start.before + len(start.beyond),
        )
    dataset = StreamDataset(
        scenes,
        shards,
        cfg,
        micro=micro_batch(cfg.batch_size, world_size=world_size, accumulate=accumulate),
        image_size=image_size,
        grid_size=grid_size,
        seed=seed,
        consumed=start,
        rank=rank,
        world_size=world_size,
        hashed=hashed,
    )
    return StreamLoader(data_loader(dataset, cfg=cfg, batch_size=None), consumed=start)
