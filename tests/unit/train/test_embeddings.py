"""The run's decision about the cache of embeddings, and what it says of it."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import tiny_sam
import torch

from sam_train.errors import UserError
from sam_train.model.embedding_cache import EmbeddingCache
from sam_train.model.frozen_part import FrozenPart
from sam_train.settings.run import RunConfig, check_config
from sam_train.train.embeddings import open_embeddings
from sam_train.train.parallel.prepare import prepare
from sam_train.types import Batch


def opened(
    run_dir: Path, *, photos: int | None = 10, splits: bool = False, **settings: object
) -> tuple[EmbeddingCache | None, RunConfig]:
    cfg = RunConfig()
    cfg.embeddings.cache = "auto"
    cfg.optim.frozen_blocks = 1
    for name, value in settings.items():
        section, field = name.split("__")
        setattr(getattr(cfg, section), field, value)
    sam = tiny_sam.tiny()
    prepare(sam, cfg=cfg, recompute="none", compiled=False)
    cache = open_embeddings(
        cfg,
        sam=sam,
        run_dir=run_dir,
        splits_weights=splits,
        photos=lambda: photos,
    )
    return cache, cfg


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, logger="sam_train")
    return caplog


def test_it_is_off_by_default_without_a_word(
    tmp_path: Path, said: pytest.LogCaptureFixture
) -> None:
    assert RunConfig().embeddings.cache == "off"
    assert opened(tmp_path / "run", embeddings__cache="off")[0] is None
    assert not said.records


def test_it_lies_beside_run_dir_or_where_it_is_told(
    tmp_path: Path, said: pytest.LogCaptureFixture
) -> None:
    cache, _ = opened(tmp_path / "run", embeddings__gb=3.0)
    assert cache is not None
    assert (cache.store.folder, cache.store.limit) == (tmp_path / "embeddings", 3_000_000_000)
    assert cache.part == FrozenPart(units=1, whole=False)
    assert f"frozen up to its block 1 of 2, which {tmp_path / 'embeddings'} keeps" in said.text
    cache, _ = opened(tmp_path / "run", embeddings__cache=str(tmp_path / "other"))
    assert cache is not None
    assert cache.store.folder == tmp_path / "other"


@pytest.mark.parametrize(
    ("more", "splits", "reason"),
    [
        ({"optim__frozen_blocks": 0}, False, "training begins at the first block"),
        ({"data__scale_jitter": [0.5, 2]}, False, "data.scale_jitter shows no photo twice"),
        ({"trainer__strategy": "fsdp2"}, True, "trainer.strategy=fsdp2 splits the encoder"),
    ],
)
def test_where_it_is_of_no_use_the_log_says_why(
    tmp_path: Path,
    said: pytest.LogCaptureFixture,
    more: dict[str, object],
    splits: bool,
    reason: str,
) -> None:
    assert opened(tmp_path / "run", splits=splits, **more)[0] is None
    (record,) = said.records
    assert record.getMessage().startswith("embeddings.cache=auto is not used: ")
    assert reason in record.getMessage()
    assert not list(tmp_path.iterdir())


def encode_one(cache: EmbeddingCache | None) -> None:
    assert cache is not None
    sizes = torch.tensor([[64, 64]])
    nothing = torch.zeros(0, dtype=torch.int64)
    batch = Batch(
        images=torch.zeros(1, 3, 64, 64, dtype=torch.uint8),
        image_sizes=sizes,
        original_sizes=sizes,
        masks=torch.zeros(0, 16, 16, dtype=torch.uint8),
        image_index=nothing,
        points=torch.zeros(0, 2),
        boxes=torch.zeros(0, 4),
        mask_ids=nothing,
        keys=["a"],
        positions=[0],
    )
    cache(tiny_sam.tiny(), batch)


def test_it_says_what_it_will_take(tmp_path: Path, said: pytest.LogCaptureFixture) -> None:
    # A block's output is 4 x 4 cells of 16 numbers: 512 bytes, and 64 for its shape.
    encode_one(opened(tmp_path / "a" / "run", photos=1_000_000)[0])
    assert "embeddings: 1000000 photos x 0.00 MB = 0.58 GB" in said.text
    assert [record.levelname for record in said.records] == ["INFO", "INFO"]
    said.clear()
    cache, _ = opened(tmp_path / "b" / "run", photos=1_000_000, embeddings__gb=0.288)
    encode_one(cache)
    encode_one(cache)
    warnings = [record.getMessage() for record in said.records if record.levelname == "WARNING"]
    assert warnings == [
        "embeddings.gb=0.288 has room for 50 % of the photos: the others are encoded each time"
    ]
    said.clear()
    encode_one(opened(tmp_path / "c" / "run", photos=None)[0])
    assert "in at most 20 GB" in said.text


@pytest.mark.parametrize("read", ["False", ""])
def test_a_bare_off_of_a_recipe_is_no_folder(read: str) -> None:
    cfg = RunConfig()
    cfg.data.train, cfg.embeddings.cache = "somewhere", read
    with pytest.raises(UserError, match="in quotes"):
        check_config(cfg)
