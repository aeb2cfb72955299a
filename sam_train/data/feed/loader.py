"""Batches for training and validation, without Lightning."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader

from sam_train.data.config import DataConfig
from sam_train.data.feed.collate import Collator
from sam_train.data.feed.mix import MixedOrder, MixedShards
from sam_train.data.feed.order import Order, PositionBatches, micro_batch
from sam_train.data.feed.slots import Receiver, slots_needed
from sam_train.data.feed.worker_signals import outlive_signals, sigterm_held_back
from sam_train.data.sample.dataset import TrainDataset, ValDataset
from sam_train.data.sample.scenes import Scenes
from sam_train.data.shards.reader import Shards
from sam_train.data.skips import Skips
from sam_train.errors import UserError
from sam_train.runtime.allocator import keep_freed_memory
from sam_train.types import Batch


class Loader:
    """Batches from a torch DataLoader, with the errors of its workers as their own.

    Not a DataLoader, so that Lightning does not put a sampler of its own into it.
    """

    def __init__(self, loader: DataLoader[Any]) -> None:
        self._loader = loader
        self._receiver = Receiver(loader.num_workers * slots_needed(loader.prefetch_factor or 0))

    def __iter__(self) -> Iterator[Batch]:
        """Raises:
        UserError: too many samples are unusable.
        """
        for batch in self._loader:
            # A value, not raised in the worker: torch would wrap it in a traceback.
            if isinstance(batch, UserError):
                raise batch
            # None: every sample of a validation batch was unusable.
            if batch is not None:
                yield self._receiver.take(batch)


class SizedLoader(Loader):
    """A `Loader` that ends."""

    def __init__(self, loader: DataLoader[Any], *, batches: int) -> None:
        super().__init__(loader)
        self._batches = batches

    def __len__(self) -> int:
        """Return the batches in a pass; fewer come if all samples of one are unusable."""
        return self._batches


def data_loader(dataset: Any, *, cfg: DataConfig, **batches: Any) -> DataLoader[Any]:
    """Make torch's loader with the processes that `cfg` asks for.

    Args:
        batches: `batch_sampler` and `collate_fn`, or `batch_size=None` for ready batches.
    """
    workers = cfg.workers
    return _Workers(
        dataset,
        num_workers=workers,
        # torch refuses these three without workers.
        prefetch_factor=cfg.prefetch if workers else None,
        persistent_workers=workers > 0,
        multiprocessing_context=cfg.start_method if workers else None,
        worker_init_fn=_start_worker,
        # Only where this process has a GPU in use: a run on the CPU leaves those of others alone.
        pin_memory=torch.cuda.is_initialized(),  # type: ignore[no-untyped-call]
        **batches,
    )


class _Workers(DataLoader[Any]):
    """torch's loader, whose workers end when this process says so and for no other signal."""

    def __iter__(self) -> Any:
        """Start the workers, or have those of the last pass begin again."""
        with sigterm_held_back():
            return super().__iter__()


def _start_worker(_worker: int) -> None:
    # A job's SIGTERM reaches every process; only the main one saves and ends.
    outlive_signals()
    keep_freed_memory()


def make_train_loader(
    shards: Shards,
    cfg: DataConfig,
    *,
    image_size: int,
    grid_size: int,
    seed: int,
    skips: Skips,
    start: Callable[[], int] = lambda: 0,
    rank: int = 0,
    world_size: int = 1,
    accumulate: int = 1,
    hashed: bool = False,
) -> Loader:
    """Make an endless loader of this rank's micro-batches.

    Args:
        image_size: S.
        grid_size: R.
        start: first position of the order, asked at the beginning of each pass.
        hashed: as `collate` takes it.

    Raises:
        UserError: the batch cannot be divided evenly, or gives a GPU too many masks.
    """
    check_masks_per_gpu(cfg, world_size=world_size, accumulate=accumulate)
    scenes = Scenes.for_training(
        shards, cfg, image_size=image_size, grid_size=grid_size, skips=skips
    )
    dataset = TrainDataset(
        scenes,
        order=_order(shards, cfg, seed=seed),
        masks_per_image=cfg.masks_per_image,
        grid_size=grid_size,
    )
    batches = PositionBatches(
        start,
        batch_size=cfg.batch_size,
        rank=rank,
        world_size=world_size,
        accumulate=accumulate,
    )
    # Without workers a batch is made here and needs no shared memory.
    slots = slots_needed(cfg.prefetch) if cfg.workers else 0
    collate = Collator(image_size, slots=slots, hashed=hashed)
    return Loader(data_loader(dataset, cfg=cfg, batch_sampler=batches, collate_fn=collate))


def _order(shards: Shards, cfg: DataConfig, *, seed: int) -> Order | MixedOrder:
    if isinstance(shards, MixedShards):
        return MixedOrder(shards, seed=seed, shuffle_window=cfg.shuffle_window)
    # `data.limit` takes the first samples in shard order; no shuffle decides which.
    samples = len(shards) if cfg.limit is None else min(cfg.limit, len(shards))
    return Order(
        samples=samples, seed=seed, shard_first=shards.first, shuffle_window=cfg.shuffle_window
    )


def check_masks_per_gpu(cfg: DataConfig, *, world_size: int, accumulate: int) -> None:
    """Keep within `data.masks_per_gpu` without a say in what is drawn.

    Raises:
        UserError: a micro-batch could hold more masks, or the batch cannot be divided evenly;
            names the ways out.
    """
    images = micro_batch(cfg.batch_size, world_size=world_size, accumulate=accumulate)
    if cfg.masks_per_gpu is None or images * cfg.masks_per_image <= cfg.masks_per_gpu:
        return
    per_rank = cfg.batch_size // world_size
    # The smallest accumulation that keeps within the bound comes first, since it costs least.
    fits = [
        n
        for n in range(1, per_rank + 1)
        if per_rank % n == 0 and per_rank // n * cfg.masks_per_image <= cfg.masks_per_gpu
    ]
    split = f"set trainer.accumulate={fits[0]}" if fits else "use a smaller data.masks_per_image"
    raise UserError(
        f"{images} images on a GPU at a time with data.masks_per_image={cfg.masks_per_image} are "
        f"up to {images * cfg.masks_per_image} masks, more than "
        f"data.masks_per_gpu={cfg.masks_per_gpu}: {split}, or raise data.masks_per_gpu where "
        "memory allows (null: no bound)."
    )


def make_val_loader(
    shards: Shards,
    cfg: DataConfig,
    *,
    image_size: int,
    grid_size: int,
    skips: Skips,
    rank: int = 0,
    world_size: int = 1,
    hashed: bool = False,
) -> SizedLoader:
    """Make a loader over this rank's share of the first `val_images` images, in shard order.

    Ranks take every `world_size`-th image and none twice, so the last ranks may have one less.
    """
    images = len(shards) if cfg.val_images is None else min(cfg.val_images, len(shards))
    # Strided: the ranks' shares differ by one image at most.
    own = range(rank, images, world_size)
    size = cfg.val_batch_size
    batches = [list(own[i : i + size]) for i in range(0, len(own), size)]
    scenes = Scenes(
        shards,
        image_size=image_size,
        max_area_fraction=cfg.max_area_fraction,
        skips=skips,
        cache=cfg.cache,
        disk_cache=cfg.disk_cache,
        disk_cache_gb=cfg.disk_cache_gb,
        # No jitter, no scaled JPEG and no cell that is required: photos are scored as they are.
        mask_sampling=cfg.mask_sampling,
    )
    dataset = ValDataset(scenes, masks_per_image=cfg.val_masks_per_image, grid_size=grid_size)
    collator = Collator(image_size, hashed=hashed)
    loader = data_loader(dataset, cfg=cfg, batch_sampler=batches, collate_fn=collator)
    return SizedLoader(loader, batches=math.ceil(len(own) / size))
