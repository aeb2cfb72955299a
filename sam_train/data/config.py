"""What a person may set about the data; `SamDataModule` is its owner."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from sam_train.errors import UserError

_JPEG = ("exact", "scaled")
_MASK_SAMPLING = ("nearest", "area")


@dataclass
class DataConfig:
    """Where the shards are, how many images and masks a step takes, and how they are read.

    The input side S and the loss grid R belong to the model and the loss, not to the data.
    """

    train: Any = ""
    """Training shards: a path, a folder of `.tar`, a glob, a brace pattern such as
    `sa_{000000..000999}.tar`, a list file (`.txt`, one a line), an http(s), s3 or gs URL; or a data
    set of another format, `coco:FOLDER`, as `eval.datasets` names it; or a list of these."""
    val: Any = ""
    """Validation shards, written like `train`."""
    index: str | None = None
    """Index file of `python -m data_tools.index`; null takes the `sa_index.bin` beside the shards
    where there is one, and walks the headers of the shards that no index knows."""
    exclude: Any = ""
    """Samples that are left out as if they were not there: a text file with `shard.tar/key` or
    `key` a line, the report of `python -m data_tools.verify`, or a list of such files. Another
    exclusion is another order."""
    include: Any = ""
    """The only training samples that are taken, written like `exclude`: to train on a part of the
    shards without copying them (`python -m data_tools.subset` writes lists of 1 % and 10 %). Not
    for `val`. Another list is another order."""
    batch_size: int = 256
    """Images per optimizer step over ALL ranks and accumulated micro-batches (256 for ViT-H, 128
    for ViT-L and ViT-B; paper A). Must be divisible by ranks x accumulation."""
    masks_per_image: int = 64
    """At most this many masks of an image are drawn per step (paper A: 64 per GPU, with one image
    on each). Which ones is decided by (seed, epoch, sample) alone."""
    masks_per_gpu: int | None = None
    """Most masks that a GPU may be given at a time; null is no bound, and the paper's recipes set
    its 64 (paper A). An upper limit on settings, not a draw: images on a GPU x `masks_per_image`
    above it is refused, with the `trainer.accumulate` that keeps within it. A CPU has no limit.
    Were the masks of an image cut down to what its GPU has room for, a run resumed on other GPUs
    would train on other masks."""
    mode: str = "indexed"
    """indexed: reads samples where they lie, in any order, and resumes exactly. stream: reads
    training shards front to back, which is all that a `pipe:COMMAND` allows (the command prints a
    tar), and resumes at whole shards: those that were begun are read again. Validation shards are
    always indexed."""
    shuffle_buffer: int = 256
    """Samples that each worker of mode stream shuffles among (about 1 MB each); the shards' order
    is shuffled in any case."""
    shuffle_window: int = 0
    """0: each epoch shuffles all samples. W > 0: it shuffles the shards, takes W at a time and
    shuffles the samples of these, so that reading stays within W files: for disks that seek
    slowly, where W shards fit into the file cache (SA-1B: 11 GB each). The paper is silent."""
    limit: int | None = None
    """Only the first samples of the training shards, in shard order; null takes all. To overfit a
    few photos on purpose."""
    jpeg: str = "exact"
    """exact: decode training photos in full, then resize: the pixels that segment-anything and our
    validation make. scaled: leave the first halvings to the JPEG decoder, for half the time of a
    1500 x 2250 photo at 1024 and 43 to 53 dB of PSNR between the two (docs/benchmarks/data.md).
    Exact feeds a GPU with one or two processes, so the paper's recipes take no difference for
    speed. Not with `scale_jitter`, which needs photos in their own size."""
    mask_sampling: str = "nearest"
    """Value of a loss grid's cell: nearest is the mask's pixel at the cell's centre; area is 1
    where the mask covers at least half of the cell. Nearest may keep a line thinner than a cell in
    pieces that area drops; the paper is silent."""
    scale_jitter: list[float] = field(default_factory=list)
    """[low, high]: scale each training photo by a factor drawn uniformly between them, relative
    to the input side, and take a random S x S window of it (paper A, data-engine variant:
    [0.1, 2.0]). Empty: off, as in the paper's released models."""
    max_area_fraction: float = 0.9
    """Masks that cover more of the image, or of the window that `scale_jitter` takes, than this
    are dropped (paper A: 90 %)."""
    val_images: int | None = None
    """Only the first images of the validation shards, in shard order; null takes all."""
    val_masks_per_image: int | None = None
    """At most this many masks of a validation image, the same in every run; null takes all."""
    val_batch_size: int = 1
    """Validation images per rank and batch; has no influence on the result."""
    workers: int = 2
    """Reading processes per rank; 0 reads in the training process. No influence on the order."""
    prefetch: int = 4
    """Batches that each worker prepares ahead."""
    start_method: str | None = None
    """How workers start: fork, spawn or forkserver; null is the platform's own."""
    cache: bool = False
    """Keep the resized photos and the parsed masks in memory, for sets that fit: 3 S^2 bytes an
    image, once per worker. With `scale_jitter` the photos are kept in their own size."""
    max_skip_fraction: float = 0.1
    """Training stops when more than this part of the samples read could not be used: a few bad
    files are normal, many mean a wrong folder or a damaged disk."""


def check(cfg: DataConfig) -> None:
    """Refuse values that no run can mean.

    Raises:
        UserError: names the option and what it may be.
    """
    at_least = {"batch_size": 1, "masks_per_image": 1, "val_batch_size": 1, "workers": 0}
    at_least |= {"prefetch": 1, "shuffle_window": 0, "shuffle_buffer": 1}
    for name, least in at_least.items():
        if getattr(cfg, name) < least:
            raise UserError(f"data.{name}={getattr(cfg, name)} must be at least {least}.")
    for name in ("max_area_fraction", "max_skip_fraction"):
        if not 0 <= getattr(cfg, name) <= 1:
            raise UserError(f"data.{name}={getattr(cfg, name)} must lie between 0 and 1.")
    if cfg.mode not in {"indexed", "stream"}:
        raise UserError(f"data.mode={cfg.mode} must be indexed or stream.")
    if cfg.masks_per_gpu is not None and cfg.masks_per_gpu < 1:
        raise UserError(
            f"data.masks_per_gpu={cfg.masks_per_gpu} must be at least 1, or null for no bound."
        )
    if cfg.limit is not None and cfg.limit < 1:
        raise UserError(f"data.limit={cfg.limit} must be at least 1, or null for all samples.")
    jitter = list(cfg.scale_jitter)
    if jitter and not (len(jitter) == 2 and 0 < jitter[0] <= jitter[1] < math.inf):
        raise UserError(
            f"data.scale_jitter={jitter} must be [] or two factors [low, high], 0 < low <= high."
        )
    for name, values in {"jpeg": _JPEG, "mask_sampling": _MASK_SAMPLING}.items():
        if getattr(cfg, name) not in values:
            raise UserError(f"data.{name}={getattr(cfg, name)} must be {' or '.join(values)}.")
    if cfg.masks_per_image > 65535:
        raise UserError(f"data.masks_per_image={cfg.masks_per_image} must be at most 65535.")
    if cfg.start_method not in {None, "fork", "spawn", "forkserver"}:
        raise UserError(
            f"data.start_method={cfg.start_method} must be fork, spawn, forkserver or null."
        )
