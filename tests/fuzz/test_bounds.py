"""The fuzz tests of the compiled loops once more, with loops that check every index.

numba leaves such checks out; a loop that read beyond an array would answer with what lies there.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
# A row too few: a loop that checks its indices says so, another one reads what lies behind.
PROBE = """
import numpy as np
from sam_train.masks import rle
runs = rle.parse([b"0<"], height=3, width=4)
starts = np.zeros(2, dtype=np.int32)
starts.flags.writeable = False
try:
    rle.rasterise(runs, np.zeros(1, dtype=np.int64), rows=starts, columns=starts, cells=1)
except IndexError:
    raise SystemExit(3) from None
"""


@pytest.mark.skipif("NUMBA_BOUNDSCHECK" in os.environ, reason="all tests of this run check indices")
def test_the_compiled_loops_stay_inside_their_arrays(request: pytest.FixtureRequest) -> None:
    # Kept between runs: compiling takes longer than the tests.
    compiled = request.config.cache.mkdir("numba_bounds")
    environment = {**os.environ, "NUMBA_BOUNDSCHECK": "1", "NUMBA_CACHE_DIR": str(compiled)}
    environment.pop("SAM_TRAIN_FUZZ", None)  # `make fuzz` checks indices in its long run itself

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *arguments],
            capture_output=True,
            text=True,
            env=environment,
            cwd=HERE.parents[1],
            timeout=600,
            check=False,
        )

    assert run("-c", PROBE).returncode == 3, "these loops do not check their indices"
    done = run("-m", "pytest", "-q", "-p", "no:cacheprovider", str(HERE / "test_rle.py"))
    assert done.returncode == 0, done.stdout + done.stderr
