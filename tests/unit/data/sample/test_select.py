"""Filter and draw."""

from __future__ import annotations

from collections import Counter
from itertools import combinations

import numpy as np
from pycocotools import mask as coco

from sam_train.data.feed.order import hash64, hash_each
from sam_train.data.sample import select
from sam_train.masks import rle


def test_only_valid_masks_of_allowed_area_are_usable() -> None:
    areas = [0, 1, 89, 90, 91, 100]
    bitmaps = np.arange(100).reshape(10, 10)
    counts = [
        coco.encode(np.asfortranarray((bitmaps < area).astype(np.uint8)))["counts"]
        for area in areas
    ]
    runs = rle.parse([*counts, b"broken"], height=10, width=10)
    assert select.usable(runs, pixels=100, max_area_fraction=0.9).tolist() == [1, 2, 3]
    assert select.usable(runs, pixels=100, max_area_fraction=1.0).tolist() == [1, 2, 3, 4, 5]


def test_every_subset_is_equally_likely() -> None:
    masks = np.array([2, 3, 5, 7, 11])
    trials = 4000
    drawn = Counter(
        tuple(select.draw(masks, limit=2, key=hash64(9, k)).tolist()) for k in range(trials)
    )
    expected = trials / 10
    chi2 = sum((drawn[pair] - expected) ** 2 / expected for pair in combinations(masks.tolist(), 2))
    assert sum(drawn.values()) == sum(drawn[p] for p in combinations(masks.tolist(), 2))
    assert chi2 < 27.9  # 0.1 % of the chi-square distribution with 9 degrees of freedom


def test_the_drawn_masks_are_those_of_the_smallest_hashes() -> None:
    masks = np.array([3, 4, 9, 20, 21, 40, 77])
    for limit in range(1, 7):
        hashes = {int(m): int(h) for m, h in zip(masks, hash_each(11, masks), strict=True)}
        expected = sorted(sorted(hashes, key=hashes.__getitem__)[:limit])
        drawn = select.draw(masks, limit=limit, key=11)
        assert drawn.tolist() == expected
        assert drawn.dtype == np.int64


def test_a_rank_is_the_share_of_the_area_that_its_hash_is_of_all() -> None:
    masks, areas = np.arange(300), np.arange(1, 301) ** 3
    expected = [
        (int(h) >> 32) * int(area) >> 32 for h, area in zip(hash_each(5, masks), areas, strict=True)
    ]
    ranks = select.draw_ranks(masks, areas, key=5)
    assert ranks.tolist() == expected
    assert ranks.dtype == np.int64


def test_no_limit_and_few_masks_take_all() -> None:
    masks = np.array([1, 4])
    assert select.draw(masks, limit=None, key=0).tolist() == [1, 4]
    assert select.draw(masks, limit=2, key=0).tolist() == [1, 4]


def test_ranks_are_uniform_below_the_area() -> None:
    masks = np.arange(5000)
    ranks = select.draw_ranks(masks, np.full(5000, 7), key=5)
    counts = np.bincount(ranks, minlength=7)
    assert len(counts) == 7
    assert ((counts - 5000 / 7) ** 2 / (5000 / 7)).sum() < 22.5  # 6 degrees of freedom
    assert select.draw_ranks(masks, np.ones(5000, dtype=np.int64), key=5).max() == 0
    large = select.draw_ranks(masks, np.full(5000, 2**31 - 1), key=5)
    assert 0 <= large.min() < 2**21
    assert 2**31 - 2**21 < large.max() < 2**31 - 1
