"""Against the results that the official BSDS500 program gives for its own example."""

from pathlib import Path

import numpy as np
import pytest
from edges_benchmark import evaluate_edges
from places import REAL_DATA

BENCH = REAL_DATA / "bsds500_bench"

pytestmark = pytest.mark.skipif(
    not BENCH.is_dir(), reason="the BSDS500 benchmark's example is not at ../shared/data"
)


@pytest.mark.parametrize(
    ("kind", "test"), [("ucm2", "test_1"), ("png", "test_2"), ("segs", "test_3")]
)
def test_the_official_figures(kind: str, test: str, tmp_path: Path) -> None:
    """Recall, precision, F and AP within 0.002, the thresholds to what six digits show.

    The rest is the official program's chance: it ties pixels to "nobody" at random, so that its own
    results for these three inputs, whose boundary maps are the same, differ by up to 0.0011.
    """
    found = evaluate_edges(BENCH / kind, BENCH / "groundTruth", thresholds=5)
    found.write_official_files(tmp_path)
    for name in ("eval_bdry.txt", "eval_bdry_thr.txt", "eval_bdry_img.txt"):
        ours = np.loadtxt(tmp_path / name)
        official = np.loadtxt(BENCH / test / name)
        assert ours.shape == official.shape
        assert np.abs(ours - official).max() < 0.002, name
    thresholds = np.loadtxt(tmp_path / "eval_bdry_img.txt")[:, 1]
    assert np.allclose(thresholds, np.loadtxt(BENCH / test / "eval_bdry_img.txt")[:, 1], atol=1e-5)
