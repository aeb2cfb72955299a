"""The cost of one training sample before it reaches the model, beside the ways of other projects.

    python benchmarks/data.py                                          # drawn scenes
    python benchmarks/data.py --shards bsds_train --photos FOLDER      # true masks, true photos
    python benchmarks/data.py --loader                                 # one worker and two
    python benchmarks/data.py --memory 10000                           # a worker's memory

Photos of 1500 x 2250 pixels, at most 64 masks of each, input side 1024, loss grid 256. With
`--shards` the masks of any SA-1B-format set are enlarged to that size, and with `--photos` the
pixels are those of a folder's JPEGs, enlarged too. All ways take turns in one run, each on one
thread of a process of its own; the time is CPU time, each photo's fastest.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import data_peers
import numpy as np
import psutil
import torch
from PIL import Image
from pycocotools import mask as coco

from data_tools.sample import SampleConfig, write_sample
from sam_train.data.config import DataConfig
from sam_train.data.feed.collate import collate
from sam_train.data.feed.loader import make_train_loader
from sam_train.data.feed.order import Order
from sam_train.data.sample.dataset import TrainDataset
from sam_train.data.sample.scenes import Scenes
from sam_train.data.shards.reader import Shards, open_shards
from sam_train.data.shards.writer import ShardSample, annotation_from_rle, write_shards
from sam_train.data.skips import Skips
from sam_train.runtime.allocator import keep_freed_memory

HEIGHT, WIDTH = 1500, 2250
SIDE, CELLS, MASKS = data_peers.SIDE, data_peers.CELLS, data_peers.MASKS
OURS = {
    "ours, data.jpeg=scaled": {"jpeg": "scaled"},
    "ours, data.jpeg=scaled, data.mask_sampling=area": {"jpeg": "scaled", "mask_sampling": "area"},
    "ours, data.jpeg=exact": {"jpeg": "exact"},
}
PEERS = {
    "pycocotools and resize": data_peers.pycocotools,
    "sam2": data_peers.sam2,
    "efficientvit": data_peers.efficientvit,
    "EdgeSAM": data_peers.edge_sam,
}


def enlarged(shards: Shards, *, count: int, photos: list[Path]) -> Iterator[ShardSample]:
    """Take the samples with most masks, photo and masks enlarged to 1500 x 2250."""
    records = [json.loads(shards.read(k).json)["annotations"] for k in range(len(shards))]
    order = sorted(range(len(shards)), key=lambda k: -len(records[k]))
    for image_id, index in enumerate(order[:count], start=1):
        picture = photos[image_id % len(photos)] if photos else io.BytesIO(shards.read(index).jpeg)
        jpeg = io.BytesIO()
        with Image.open(picture) as photo:
            large = photo.convert("RGB").resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
        large.save(jpeg, "JPEG", quality=90)
        annotations = []
        for k, annotation in enumerate(records[index][:100]):
            mask = Image.fromarray(coco.decode(annotation["segmentation"]))
            large_mask = np.asarray(mask.resize((WIDTH, HEIGHT), Image.Resampling.NEAREST))
            rle = coco.encode(np.asfortranarray(large_mask))
            annotations.append(annotation_from_rle(rle, id=1000 * image_id + k))
        yield ShardSample(
            image_id=image_id,
            jpeg=jpeg.getvalue(),
            width=WIDTH,
            height=HEIGHT,
            annotations=annotations,
        )


def prepare(args: argparse.Namespace, folder: Path) -> Shards:
    """Write the samples to measure on, as a shard in `folder`."""
    if args.shards is None:
        cfg = SampleConfig(scenes=args.count, height=HEIGHT, width=WIDTH)
        write_sample(cfg, folder)
    else:
        source = open_shards(args.shards, option="--shards")
        photos = sorted(args.photos.glob("*.jpg")) if args.photos else []
        write_shards(enlarged(source, count=args.count, photos=photos), folder)
    return open_shards(str(folder), option="--shards")


def dataset(shards: Shards, **options: str) -> TrainDataset:
    """Build the training set as a worker holds it."""
    skips = Skips(workers=0, max_fraction=1.0)
    scenes = Scenes(shards, image_size=SIDE, max_area_fraction=0.9, skips=skips, **options)
    order = Order(samples=len(shards), seed=0)
    return TrainDataset(scenes, order=order, masks_per_image=MASKS, grid_size=CELLS)


def cpu(action: Callable[[], Any]) -> float:
    """Measure CPU seconds of this thread."""
    begin = time.thread_time()
    action()
    return time.thread_time() - begin


def compare(shards: Shards, *, rounds: int) -> dict[str, float]:
    """Measure way -> CPU seconds a sample, from the shard to a batch of one: the photos' mean."""
    entries = [shards.read(k) for k in range(len(shards))]
    ways: dict[str, Callable[[int], Any]] = {}
    for name, options in OURS.items():
        own = dataset(shards, **options)
        ways[name] = lambda k, own=own: collate([own.sample(k)], image_size=SIDE)
    for name, peer in PEERS.items():
        ways[name] = lambda k, peer=peer: peer(entries[k].jpeg, entries[k].json)
    best = {name: [float("inf")] * len(entries) for name in ways}
    for _, (name, way) in itertools.product(range(rounds), ways.items()):
        times = in_worker(way, photos=len(entries), ours=name in OURS)
        best[name] = [min(pair) for pair in zip(best[name], times, strict=True)]
    return {name: sum(times) / len(times) for name, times in best.items()}


def in_worker(way: Callable[[int], Any], *, photos: int, ours: bool) -> list[float]:
    """Measure CPU seconds of each photo in a process of its own, as a loader's worker is one.

    Args:
        ours: a worker of ours keeps freed memory; others leave the allocator as it is.
    """

    def work() -> None:
        if ours:
            keep_freed_memory()
        repeats = 6 if ours else 2
        there.send([min(cpu(partial(way, k)) for _ in range(repeats)) for k in range(photos)])

    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=work)
    process.start()
    times: list[float] = here.recv()
    process.join()
    return times


def print_table(seconds: dict[str, float]) -> None:
    """Format a table of CPU time, samples a second, and each way against the fastest of ours."""
    reference = seconds["ours, data.jpeg=scaled"]
    exact = seconds["ours, data.jpeg=exact"]
    print("| way | CPU ms | samples/s | ours, scaled, is faster by | ours, exact, by |")
    print("|---|---|---|---|---|")
    for name, time_ in seconds.items():
        ratios = f"{time_ / reference:.1f} | {time_ / exact:.1f}"
        print(f"| {name} | {time_ * 1e3:.1f} | {1 / time_:.1f} | {ratios} |")


def scale(shards: Shards, *, samples: int, rounds: int) -> None:
    """Measure samples a second from a loader of one worker and of two, alternately."""
    loaders = {}
    for workers in (1, 2):
        cfg = DataConfig(batch_size=1, workers=workers, prefetch=4, jpeg="scaled")
        skips = Skips(workers=workers, max_fraction=1.0)
        loader = make_train_loader(
            shards, cfg, image_size=SIDE, grid_size=CELLS, seed=0, skips=skips
        )
        loaders[workers] = iter(loader)
    best = dict.fromkeys(loaders, float("inf"))
    for _ in range(rounds):
        for workers, loader in loaders.items():
            for _ in range(4 * workers + 2):  # what was prepared while the other had its turn
                next(loader)
            begin = time.perf_counter()
            for _ in range(samples):
                next(loader)
            best[workers] = min(best[workers], (time.perf_counter() - begin) / samples)
    one, two = (1 / best[workers] for workers in (1, 2))
    print(f"1 worker {one:.1f} samples/s, 2 workers {two:.1f}: {two / one:.2f} times, wall time")


def memory(shards: Shards, *, samples: int) -> None:
    """Measure the USS of a process that makes sample after sample, ten times on the way."""
    keep_freed_memory()  # as a worker does
    own, process = dataset(shards, jpeg="scaled"), psutil.Process()
    for k in range(samples + 1):
        collate([own.sample(k)], image_size=SIDE)
        if k % max(1, samples // 10) == 0:
            print(f"{k} samples: {process.memory_full_info().uss >> 20} MiB", flush=True)


def main() -> None:
    """Parse, prepare, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shards", help="SA-1B-format set whose masks are taken (default: drawn)")
    parser.add_argument("--photos", type=Path, help="folder of JPEGs whose pixels are taken")
    parser.add_argument("--count", type=int, default=4, help="photos to measure on")
    parser.add_argument("--rounds", type=int, default=3, help="of which the fastest counts")
    parser.add_argument("--loader", action="store_true", help="one worker against two instead")
    parser.add_argument("--memory", type=int, metavar="SAMPLES", help="memory curve instead")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        shards = prepare(args, Path(folder))
        counts = [len(json.loads(shards.read(k).json)["annotations"]) for k in range(len(shards))]
        sizes = [len(shards.read(k).jpeg) >> 10 for k in range(len(shards))]
        print(f"{len(shards)} photos of {HEIGHT} x {WIDTH}, masks {counts}, JPEGs {sizes} KiB\n")
        if args.memory:
            memory(shards, samples=args.memory)
        elif args.loader:
            scale(shards, samples=100, rounds=args.rounds)
        else:
            print_table(compare(shards, rounds=args.rounds))


if __name__ == "__main__":
    main()
