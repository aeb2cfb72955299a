"""CPU-seconds of an epoch of fine-tuning with a frozen encoder, with and without its cache.

    python benchmarks/embedding_cache.py COCO [--images 4] [--threads 1] [--model vit_b]

COCO is a folder with `images/` and `instances.json`. The weights are random: they change no time.
In one run, on the same photos and at 1024 pixels:

    ours, one box a photo      as it is, while the cache is filled, and from the cache
    ours, the paper's rounds   as it is, and from the cache: 11 answers for each box, not one
    ours, several boxes        from the cache
    Hugging Face               the fine-tuning loop that its users know: `SamModel`, vision encoder
                               frozen, a DataLoader of `SamProcessor`'s output with one box a photo,
                               Adam on the mask decoder, Dice and cross-entropy at 256 x 256

Reading and decoding photos is part of every row. Needs `transformers` (in the `dev` extra).
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from pycocotools.coco import COCO
from torch.nn import functional as F

from sam_train.data.datamodule import SamDataModule
from sam_train.model.embedding_cache import BatchEncoder, EmbeddingCache, encode_batch
from sam_train.model.frozen_part import frozen_part, keep_frozen
from sam_train.runtime.disk_store import DiskStore
from sam_train.settings.run import RunConfig
from sam_train.train.module import SamModule
from sam_train.train.objectives import At
from sam_train.train.objectives.base import loss_of_step, mask_weight
from sam_train.train.records import RoundLog
from sam_train.types import Batch


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """An epoch that was measured."""

    what: str
    cpu: float
    wall: float
    masks: int


def measured(what: str, epoch: Callable[[], int]) -> Row:
    """Time an epoch, which returns the masks it has learnt from."""
    cpu, wall = time.process_time(), time.perf_counter()
    masks = epoch()
    row = Row(
        what=what,
        cpu=time.process_time() - cpu,
        wall=time.perf_counter() - wall,
        masks=masks,
    )
    print(f"{row.what}: {row.cpu:.1f} CPU-s, {row.wall:.1f} s, {row.masks} masks", flush=True)
    return row


def settings(args: argparse.Namespace, *, masks: int, points: int, mask_only: int) -> RunConfig:
    """Compose a run: boxes first, on the first photos of the folder, a photo a step."""
    cfg = RunConfig()
    cfg.model.name = args.model
    cfg.data.train, cfg.data.limit = f"coco:{args.coco}", args.images
    cfg.data.workers, cfg.data.batch_size, cfg.data.masks_per_image = 0, 1, masks
    cfg.prompts.box_probability = 1.0
    cfg.prompts.points, cfg.prompts.mask_only = points, mask_only
    return cfg


class Ours:
    """Our step on one model, with an encoder that is frozen."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        torch.manual_seed(0)
        self.sam = SamModule(settings(args, masks=1, points=0, mask_only=0)).sam
        self.sam.image_encoder.requires_grad_(False)
        keep_frozen(self.sam)

    def cache(self, folder: Path) -> EmbeddingCache:
        """Open the cache as a new run would."""
        part = frozen_part(self.sam)
        assert part is not None
        store = DiskStore(folder, limit=1 << 40, setting="--cache")
        return EmbeddingCache(store, part=part)

    def batches(self, cfg: RunConfig) -> Iterator[Batch]:
        """Read the photos of one epoch."""
        data = SamDataModule(
            cfg.data,
            image_size=self.sam.image_size,
            grid_size=self.sam.grid_size,
            seed=0,
            accumulate=1,
        )
        data.hash_images = True
        data.setup("fit")
        return islice(iter(data.train_dataloader()), self.args.images)

    def epoch(
        self, embed: BatchEncoder, *, masks: int = 1, points: int = 0, mask_only: int = 0
    ) -> int:
        """Train for an epoch."""
        cfg = settings(self.args, masks=masks, points=points, mask_only=mask_only)
        module = SamModule(cfg, sam=self.sam)
        # `SamModule` decides what is trained; here it is the decoder alone.
        self.sam.image_encoder.requires_grad_(False)
        keep_frozen(self.sam)
        module.objective.embed = embed
        trained = [p for p in self.sam.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=1e-5)
        seen = 0
        for step, batch in enumerate(self.batches(cfg)):
            at = At(seed=0, step=step, progress=1.0)
            loss = loss_of_step(
                module.objective,
                self.sam,
                batch,
                at,
                embeddings=module.objective.encode(self.sam, batch, at),
                weight=mask_weight(batch, accumulate=1, device=torch.device("cpu")),
                log=RoundLog(),
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            seen += batch.num_masks
        return seen


class Boxes(torch.utils.data.Dataset[dict[str, Any]]):
    """A photo, one of its masks and that mask's box, as the published loop prepares them."""

    def __init__(self, coco: Path, *, names: list[str], processor: Any) -> None:
        self.folder, self.processor = coco / "images", processor
        self.api = COCO(str(coco / "instances.json"))
        by_stem = {Path(image["file_name"]).stem: image for image in self.api.imgs.values()}
        self.images = [by_stem[name] for name in names]

    def __len__(self) -> int:
        """Return the photos."""
        return len(self.images)

    def __getitem__(self, place: int) -> dict[str, Any]:
        """Prepare the photo's largest mask."""
        about = self.images[place]
        found = self.api.loadAnns(self.api.getAnnIds(imgIds=about["id"], iscrowd=False))
        mask = self.api.annToMask(max(found, key=lambda one: one["area"]))
        rows, columns = np.nonzero(mask)
        box = [columns.min(), rows.min(), columns.max(), rows.max()]
        with Image.open(self.folder / about["file_name"]) as photo:
            inputs = self.processor(
                photo.convert("RGB"), input_boxes=[[list(map(float, box))]], return_tensors="pt"
            )
        target = torch.from_numpy(mask).float()[None, None]
        side = 1024 / max(mask.shape)
        size = [round(edge * side / 4) for edge in mask.shape]
        target = F.interpolate(target, size)[0]
        target = F.pad(target, (0, 256 - size[1], 0, 256 - size[0]))
        return {name: tensor[0] for name, tensor in inputs.items()} | {"mask": target}


def huggingface_epoch(coco: Path, *, names: list[str]) -> Callable[[], int]:
    """Build the model, and return an epoch of its loop."""
    # A ViT-B is the default of both.
    from transformers import SamConfig, SamModel, SamProcessor  # noqa: PLC0415 - seconds
    from transformers.models.sam.image_processing_pil_sam import (  # noqa: PLC0415
        SamImageProcessorPil,
    )

    torch.manual_seed(0)
    model: Any = SamModel(SamConfig())
    for name, parameter in model.named_parameters():
        if name.startswith(("vision_encoder", "prompt_encoder")):
            parameter.requires_grad_(False)
    photos = Boxes(coco, names=names, processor=SamProcessor(SamImageProcessorPil()))
    loader = torch.utils.data.DataLoader(photos, batch_size=2, shuffle=True)
    optimizer = torch.optim.Adam(model.mask_decoder.parameters(), lr=1e-5)

    def epoch() -> int:
        model.train()
        seen = 0
        for batch in loader:
            outputs = model(
                pixel_values=batch["pixel_values"],
                input_boxes=batch["input_boxes"],
                multimask_output=False,
            )
            logits, target = outputs.pred_masks.squeeze(1), batch["mask"]
            chance = logits.sigmoid()
            overlap = 2 * (chance * target).sum((1, 2, 3))
            dice = 1 - overlap / (chance + target).sum((1, 2, 3)).clamp(min=1e-5)
            loss = dice.mean() + F.binary_cross_entropy_with_logits(logits, target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            seen += len(target)
        return seen

    return epoch


def table(rows: list[Row]) -> Iterator[str]:
    """Write the rows as Markdown."""
    yield "| what | masks | CPU-s an epoch | masks per CPU-s | masks/s | of Hugging Face's |"
    yield "|---|---|---|---|---|---|"
    *_, last = rows
    for row in rows:
        rates = f"{row.masks / row.cpu:.3f} | {row.masks / row.wall:.3f}"
        times = row.masks / row.cpu / (last.masks / last.cpu)
        yield f"| {row.what} | {row.masks} | {row.cpu:.1f} | {rates} | {times:.1f} times |"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("coco", type=Path)
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--model", default="vit_b")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    folder = Path(tempfile.mkdtemp(prefix="embeddings"))
    try:
        ours = Ours(args)
        names = [
            Path(key).stem
            for batch in ours.batches(settings(args, masks=1, points=0, mask_only=0))
            for key in batch.keys
        ]
        filled = ours.cache(folder)
        rows = [
            measured("no cache, 1 box a photo", lambda: ours.epoch(encode_batch)),
            measured(
                "no cache, 1 box and the paper's 11 rounds",
                lambda: ours.epoch(encode_batch, points=8, mask_only=2),
            ),
            measured("first epoch of a cache", lambda: ours.epoch(filled)),
        ]
        # Opened anew: the fingerprint of the weights is a part of a run's first epoch.
        read = ours.cache(folder)
        rows += [
            measured("cache, its first epoch in a new run", lambda: ours.epoch(read)),
            measured("cache, 1 box a photo", lambda: ours.epoch(read)),
            measured("cache, 8 boxes a photo", lambda: ours.epoch(read, masks=8)),
            measured(
                "cache, 1 box and the paper's 11 rounds",
                lambda: ours.epoch(read, points=8, mask_only=2),
            ),
        ]
        size = sum(path.stat().st_size for path in folder.glob("??/*")) / 1e6 / args.images
        rows.append(
            measured("Hugging Face, 1 box a photo", huggingface_epoch(args.coco, names=names))
        )
    finally:
        shutil.rmtree(folder)
    print(
        f"\n{args.model}, {args.images} photos, {args.threads} thread(s), {size:.2f} MB a photo\n"
    )
    print("\n".join(table(rows)))
    by_name = {row.what: row.cpu for row in rows}
    for what in ("1 box a photo", "1 box and the paper's 11 rounds"):
        ratio = by_name[f"no cache, {what}"] / by_name[f"cache, {what}"]
        print(f"\n{what}: {ratio:.1f} times the CPU-seconds without the cache")


if __name__ == "__main__":
    main()
