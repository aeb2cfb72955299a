"""What the GPU check measures and judges, as far as a CPU can show it."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import forked
import pytest

PROGRAM = Path(__file__).parents[2] / "benchmarks" / "gpu_check.py"
# DeepSpeed asks about autocast on GPUs, whatever device it trains on: here it is told of the CPU's.
AS_ON_GPUS = f"""
import sys, torch
ask = torch.is_autocast_enabled
torch.is_autocast_enabled = lambda *device: ask(*(device or ("cpu",)))
sys.path.insert(0, {str(PROGRAM.parent)!r})
import gpu_check
gpu_check.STEPS = 4
raise SystemExit(gpu_check.main())
"""


@pytest.fixture
def gpu_check(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu_check", PROGRAM)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "gpu_check", module)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("case", ["bf16, zero2"])
def test_deepspeed_computes_in_what_was_asked_for(tmp_path: Path, case: str) -> None:
    path = tmp_path / "row.json"
    words = ["--rehearse", "--model", "vit_b", "--case", case, "--row", str(path)]
    done = subprocess.run(
        [forked.python(), "-c", AS_ON_GPUS, *words],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(path.read_text())["computes_in"] == ["bfloat16"]


def test_another_precision_than_asked_for_is_not_good(gpu_check: ModuleType) -> None:
    figures = {"loss": [1.0] * 4, "grad_norm": [1.0] * 4, "images_per_second": 1.0}
    row: dict[str, Any] = {**figures, "seconds_per_step": 1.0, "peak_gib": None}
    rows = {
        "float32": {**row, "computes_in": ["float32"]},
        "bf16": {**row, "computes_in": ["bfloat16"]},
        "bf16, zero2": {**row, "computes_in": ["float32"]},
    }
    gpu_check.judge(rows)
    assert {name: row["precise"] for name, row in rows.items()} == {
        "float32": True,
        "bf16": True,
        "bf16, zero2": False,
    }
    lines = [gpu_check.line("vit_b", name, row) for name, row in rows.items()]
    assert [line.endswith("computes in float32") for line in lines] == [False, False, True]
    assert all(row["agrees"] for row in rows.values())
