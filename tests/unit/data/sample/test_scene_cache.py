"""What the cache gives back equals what was put in, and nothing else stays in memory."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sam_train.data.sample import scene_cache
from sam_train.data.sample.decode import as_rle
from sam_train.data.sample.scene import Scene
from sam_train.data.sample.scene_cache import SceneCache
from sam_train.data.sample.scenes import Scenes
from sam_train.data.shards.reader import open_shards
from sam_train.data.skips import Skips


@pytest.fixture
def scenes(shard: Callable[..., Path]) -> list[Scene]:
    shards = open_shards(str(shard(5)), option="data.train")
    skips = Skips(workers=0, max_fraction=1.0)
    source = Scenes(shards, image_size=32, max_area_fraction=0.9, skips=skips)
    return [source.get(k, draw_key=(0, 0, k)) for k in range(5)]


@pytest.mark.parametrize("slab", [1 << 24, 20_000, 1])
def test_scenes_come_back_as_they_were(
    scenes: list[Scene], slab: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one slab, over several, and each in a block of its own."""
    monkeypatch.setattr(scene_cache, "_SLAB", slab)
    cache = SceneCache()
    for index, scene in enumerate(scenes):
        assert cache.get(index) is None
        cache.put(index, scene)
    for index, scene in enumerate(scenes):
        back = cache.get(index)
        assert back is not None
        assert back.frame == scene.frame
        assert np.array_equal(back.image, scene.image)
        assert np.array_equal(back.usable, scene.usable)
        assert back.runs is back.masks.runs
        for name in ("ends", "starts", "status", "areas", "extents"):
            kept, given = getattr(back.runs, name), getattr(scene.runs, name)
            assert kept.dtype == given.dtype
            assert np.array_equal(kept, given)
        height, width = scene.frame.original
        for k in range(len(scene.runs.status)):
            given_rle = as_rle(scene.masks, k, height=height, width=width)
            assert as_rle(back.masks, k, height=height, width=width) == given_rle


def test_a_scene_costs_its_bytes_in_one_slab(scenes: list[Scene]) -> None:
    """Every array of every scene is a view of the same block: no small one lives on alone."""
    cache = SceneCache()
    for index, scene in enumerate(scenes):
        cache.put(index, scene)
    kept = [scene for k in range(5) if (scene := cache.get(k)) is not None]
    arrays = [array for scene in kept for array in (scene.image, scene.usable, scene.runs.ends)]
    begins = sorted(array.ctypes.data for array in arrays)
    assert begins[-1] - begins[0] < sum(scene.image.nbytes + 8192 for scene in scenes)
    assert len({id(array.base) for array in arrays}) == 1


def test_a_spawned_worker_begins_with_an_empty_cache(scenes: list[Scene]) -> None:
    cache = SceneCache()
    cache.put(0, scenes[0])
    data = pickle.dumps(cache)
    assert len(data) < 200
    assert pickle.loads(data).get(0) is None
