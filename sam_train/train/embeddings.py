"""The embedding cache of a run: where it is, if it is of use, and what it will take."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from sam_train.data.config import never_repeats
from sam_train.model import Sam
from sam_train.model.embedding_cache import EmbeddingCache
from sam_train.model.frozen_part import frozen_part
from sam_train.runtime.disk_store import DiskStore

if TYPE_CHECKING:
    from lightning import Trainer

    from sam_train.data.datamodule import SamDataModule
    from sam_train.settings.run import RunConfig
    from sam_train.train.module import SamModule

log = logging.getLogger("sam_train")


def use_embeddings(
    cfg: RunConfig, *, module: SamModule, data: SamDataModule, trainer: Trainer, run_dir: Path
) -> None:
    """Give training and validation the cache of embeddings, where there is one."""
    embeddings = open_embeddings(
        cfg,
        sam=module.sam,
        run_dir=run_dir,
        splits_weights=getattr(trainer.strategy, "splits_weights", False),
        photos=data.count_photos,
    )
    if embeddings is not None:
        module.objective.embed = embeddings
        # In the data workers: pixels on a GPU would have to come back for it.
        data.hash_images = True


def open_embeddings(
    cfg: RunConfig,
    *,
    sam: Sam,
    run_dir: Path,
    splits_weights: bool,
    photos: Callable[[], int | None],
) -> EmbeddingCache | None:
    """Open the cache that `embeddings.cache` asks for; return None, and say why, if of no use.

    Args:
        sam: after it was decided what is trained.
        splits_weights: the strategy runs a forward pass on all ranks at once.
        photos: counts the photos of the run, once the data are open; None where nobody knows.
    """
    asked = cfg.embeddings.cache
    if asked == "off":
        return None
    part = frozen_part(sam)
    if part is None:
        reason = "training begins at the first block of the encoder (optim.tune, frozen_blocks)"
    elif augmented := never_repeats(cfg.data):
        reason = f"{augmented} shows no photo twice alike"
    elif splits_weights:
        # Ranks have different misses, and a split encoder runs on all of them or on none.
        reason = f"trainer.strategy={cfg.trainer.strategy} splits the encoder over the ranks"
    else:
        beside = run_dir.absolute().parent / "embeddings"
        folder = beside if asked == "auto" else Path(asked).expanduser()
        limit = int(cfg.embeddings.gb * 1e9)
        store = DiskStore(folder, limit=limit, setting="embeddings.cache")
        blocks = len(sam.image_encoder.units())
        last = "output" if part.whole else f"block {part.units} of {blocks}"
        log.info("the encoder is frozen up to its %s, which %s keeps", last, folder)

        def report(size: int) -> None:
            _report(folder, size=size, limit=limit, photos=photos())

        return EmbeddingCache(store, part=part, on_first=report)
    log.info("embeddings.cache=%s is not used: %s", asked, reason)
    return None


def _report(folder: Path, *, size: int, limit: int, photos: int | None) -> None:
    """Log what the folder will take, and warn where bound or disk are too small for it."""
    if photos is None:
        log.info(
            "embeddings: %.2f MB for each photo and view, in at most %g GB", size / 1e6, limit / 1e9
        )
        return
    needed = size * photos
    log.info(
        "embeddings: %d photos x %.2f MB = %.2f GB for one view of each (embeddings.gb=%g)",
        photos,
        size / 1e6,
        needed / 1e9,
        limit / 1e9,
    )
    if needed > limit:
        log.warning(
            "embeddings.gb=%g has room for %d %% of the photos: the others are encoded each time",
            limit / 1e9,
            100 * limit // needed,
        )
    elif folder.is_dir() and needed > shutil.disk_usage(folder).free:
        log.warning("%s may fill its disk: see embeddings.gb", folder)
