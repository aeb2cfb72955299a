"""Settings of the data; `SamDataModule` is their owner."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sam_train.data.tiles.grid import TileGrid
from sam_train.errors import UserError
from sam_train.settings.sections import check_section, run_check, section, setting

if TYPE_CHECKING:
    from sam_train.settings.run import RunConfig

MIN_TILE = 16
"""Least side of a tile in pixels: a patch of the paper's encoders."""


@section("data", order=40)
@dataclass
class DataConfig:
    """The shards, the images and masks that a step takes, and how they are read.

    The input side S and the loss grid R belong to the model and the loss, not to the data.
    """

    train: Any = setting("", path="many", resume="applies")
    """Training shards: a path, a folder of `.tar`, a glob, a brace pattern such as
    `sa_{000000..000999}.tar`, a list file (`.txt`, one a line), an http(s), s3 or gs URL; or a data
    set of another format, `coco:FOLDER`, as `eval.datasets` names it; or a list of these."""
    mix: Any = setting("", path="many", resume="applies")
    """Several sets in place of `train`, and the share of samples that each gives:
    `[coco:mine:0.8, /sa1b:0.2]`. The last `:NUMBER` is the share; shares count relative to their
    sum. Each set is shuffled by itself and begins anew when it is through."""
    val: Any = setting("", path="many", resume="harmless")
    """Validation shards, written like `train`."""
    index: str | None = setting(None, path="one", resume="harmless")
    """Index file of `python -m data_tools.index`; null takes the `sa_index.bin` beside the shards
    where there is one, and walks the headers of the shards that no index knows."""
    exclude: Any = setting("", path="many", resume="applies")
    """Samples that are left out as if they were not there: a text file with `shard.tar/key` or
    `key` a line, the report of `python -m data_tools.verify`, or a list of such files. Another
    exclusion is another order."""
    include: Any = setting("", path="many", resume="applies")
    """The only training samples that are taken, written like `exclude`: to train on a part of the
    shards without copying them (`python -m data_tools.subset` writes lists of 1 % and 10 %). Not
    for `val`, which has `val_include`. Another list is another order."""
    val_include: Any = setting("", path="many", resume="harmless")
    """The only validation samples that are taken, written like `include`: where `train` and `val`
    are parts of one data set."""
    batch_size: int = setting(256, minimum=1, resume="applies")
    """Images per optimizer step over ALL ranks and accumulated micro-batches (256 for ViT-H, 128
    for ViT-L and ViT-B; paper A). Must be divisible by ranks x accumulation."""
    masks_per_image: int = setting(64, minimum=1, maximum=65535, resume="applies")
    """Most masks of an image that a step draws (paper A: 64 per GPU, with one image on each). Which
    ones is decided by (seed, epoch, sample) alone."""
    masks_per_gpu: int | None = setting(None, minimum=1, resume="harmless")
    """Most masks that a GPU may be given at a time; null is no bound, and the paper's recipes set
    its 64 (paper A) as long as `masks_per_image` is its 64, too. An upper limit on settings, not a
    draw: images on a GPU x `masks_per_image` above it is refused, with the `trainer.accumulate`
    that keeps within it. A CPU has no limit. Were the masks of an image cut down to what its GPU
    has room for, a run resumed on other GPUs would train on other masks."""
    mode: str = setting("indexed", choices=("indexed", "stream"), resume="applies")
    """indexed: reads samples where they lie, in any order, and resumes exactly. stream: reads
    training shards front to back, which is all that a `pipe:COMMAND` allows (the command prints a
    tar), and resumes at whole shards: those that were begun are read again. Validation shards are
    always indexed."""
    shuffle_buffer: int = setting(256, minimum=1, resume="applies")
    """Samples that each worker of mode stream shuffles among (about 1 MB each); the shards' order
    is shuffled in any case."""
    shuffle_window: int = setting(0, minimum=0, resume="applies")
    """0: each epoch shuffles all samples. W > 0: it shuffles the shards, takes W at a time and
    shuffles the samples of these, so that reading stays within W files: for disks that seek
    slowly, where W shards fit into the file cache (SA-1B: 11 GB each). The paper is silent."""
    limit: int | None = setting(None, minimum=1, resume="applies")
    """Only the first samples of the training shards, in shard order; null takes all. To overfit a
    few photos on purpose."""
    jpeg: str = setting("exact", choices=("exact", "scaled"), resume="applies")
    """exact: decode training photos in full, then resize: the pixels that segment-anything and our
    validation make. scaled: leave the first halvings to the JPEG decoder, for half the time of a
    1500 x 2250 photo at 1024 and 43 to 53 dB of PSNR between the two (docs/benchmarks/data.md).
    Exact feeds a GPU with one or two processes, so the paper's recipes take no difference for
    speed. Not with `scale_jitter`, which needs photos in their own size."""
    mask_sampling: str = setting("nearest", choices=("nearest", "area"), resume="applies")
    """Value of a loss grid's cell: nearest is the mask's pixel at the cell's centre; area is 1
    where the mask covers at least half of the cell. Nearest may keep a line thinner than a cell in
    pieces that area drops; the paper is silent."""
    scale_jitter: list[float] = setting([], resume="applies")
    """[low, high]: scale each training photo by a factor drawn uniformly between them, relative
    to the input side, and take a random S x S window of it (paper A, data-engine variant:
    [0.1, 2.0]). Empty: off, as in the paper's released models."""
    hflip: float = setting(0.0, minimum=0, maximum=1, resume="applies")
    """Probability that a training photo is mirrored left to right, masks and points with it (paper
    A: no augmentation). For fine-tuning on few photos: .5."""
    vflip: float = setting(0.0, minimum=0, maximum=1, resume="applies")
    """Probability that it is mirrored top to bottom. Only for photos without a top: microscopy,
    photos from above."""
    colour: float = setting(0.0, minimum=0, below=1, resume="applies")
    """Largest change of a training photo's brightness, contrast and saturation, as a fraction: 0.2
    draws each factor from 0.8 to 1.2, and makes a photo in 20 grey (0.2 / 4). No view comes twice,
    so no embedding can be kept."""
    max_area_fraction: float = setting(0.9, minimum=0, maximum=1, resume="applies")
    """Masks that cover more of the image, or of the window that `scale_jitter` takes, than this
    are dropped (paper A: 90 %)."""
    val_images: int | None = setting(None, resume="harmless")
    """Only the first images of the validation shards, in shard order; null takes all."""
    val_masks_per_image: int | None = setting(None, resume="harmless")
    """Most masks of a validation image, the same in every run; null takes all."""
    val_batch_size: int = setting(1, minimum=1, resume="harmless")
    """Validation images per rank and batch; has no influence on the result."""
    workers: int = setting(2, minimum=0, resume="harmless")
    """Reading processes per rank; 0 reads in the training process. No influence on the order."""
    prefetch: int = setting(4, minimum=1, resume="harmless")
    """Batches that each worker prepares ahead."""
    start_method: str | None = setting(
        None, choices=("fork", "spawn", "forkserver"), resume="harmless"
    )
    """The start of workers: fork, spawn or forkserver; null is the platform's own."""
    cache: bool = setting(False, resume="harmless")
    """Keep the resized photos and the parsed masks in memory, for sets that fit: 3 S^2 bytes an
    image, once per worker. With `scale_jitter` the photos are kept in their own size."""
    tile: int = setting(0, minimum=0, resume="applies")
    """Side in pixels of the overlapping tiles that the photos of a data set are cut into when they
    are read, for photos far larger than the input; 0: whole photos. Objects are cut at borders, and
    slivers are left out, as `python -m data_tools.tile` does for shards."""
    tile_overlap: int | None = setting(None, minimum=0, resume="applies")
    """Pixels that neighbouring tiles share: no larger object is cut in all of its tiles. Left out:
    an eighth of `tile`."""
    window: str = setting("dataset", choices=("dataset", "photo"), resume="applies")
    """Stretch of photos beyond 8 bits where `model.window` gives no numbers: dataset takes the
    percentiles 0.5 and 99.5 of a sample of the training set, the same for all of its photos; photo
    takes those of each photo."""
    disk_cache: str = setting("", path="one", resume="harmless")
    """Folder that keeps the resized photos and the parsed masks over epochs and runs: each photo is
    decoded once. Keyed by the files' sizes and times and the settings; any number of processes may
    share it. Empty: off."""
    disk_cache_gb: float = setting(20.0, above=0, resume="harmless")
    """Most gigabytes of `disk_cache`: 3 S^2 bytes an image. What finds no room is decoded again."""
    max_skip_fraction: float = setting(0.1, minimum=0, maximum=1, resume="harmless")
    """Training stops when more than this part of the samples read could not be used: a few bad
    files are normal, many mean a wrong folder or a damaged disk."""


def check(cfg: DataConfig) -> None:
    """Refuse values that no run can mean.

    Raises:
        UserError: names the option and what it may be.
    """
    check_section(cfg)
    if cfg.tile and cfg.tile < MIN_TILE:
        raise UserError(f"data.tile={cfg.tile} must be 0 or at least {MIN_TILE}")
    # The next tile would begin where this one does, or before.
    if cfg.tile and (cfg.tile_overlap or 0) >= cfg.tile:
        raise UserError(
            f"data.tile_overlap={cfg.tile_overlap} must be smaller than data.tile={cfg.tile}"
        )
    if cfg.tile and cfg.mode == "stream":
        raise UserError("data.tile cuts data sets of other formats: not with data.mode=stream")
    jitter = list(cfg.scale_jitter)
    if jitter and not (len(jitter) == 2 and 0 < jitter[0] <= jitter[1] < math.inf):
        raise UserError(
            f"data.scale_jitter={jitter} must be [] or two factors [low, high], 0 < low <= high."
        )


def never_repeats(cfg: DataConfig) -> str:
    """Name the augmentation that shows a photo differently each time; empty where there is none."""
    if cfg.scale_jitter:
        return "data.scale_jitter"
    return "data.colour" if cfg.colour else ""


def tile_grid(cfg: DataConfig) -> TileGrid | None:
    """Return the tiles that photos are cut into; None for whole photos."""
    if not cfg.tile:
        return None
    overlap = cfg.tile // 8 if cfg.tile_overlap is None else cfg.tile_overlap
    return TileGrid(size=cfg.tile, overlap=overlap)


@run_check
def _check_run(cfg: RunConfig) -> None:
    check(cfg.data)
    if not cfg.data.train and not cfg.data.mix:
        raise UserError(
            "data.train is not set: give shards, such as data.train=/sa1b/sa_{000000..000999}.tar "
            "(`python -m data_tools.sample --out DIR` makes some to try)"
        )
