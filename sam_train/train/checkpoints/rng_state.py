"""The state of the global random generators, in types that a checkpoint may hold.

Training draws nothing from them: what it draws is a function of (seed, step, image or mask). They
are kept for what others may draw, such as a kernel's or a logger's.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch


def rng_state() -> dict[str, Any]:
    """Return the states of Python, numpy, torch and this process's GPU."""
    version, numbers, gauss = random.getstate()
    numpy: Any = np.random.get_state(legacy=True)  # noqa: NPY002 - the global one is meant
    name, keys, *rest = numpy
    state: dict[str, Any] = {
        # As tensors: a list of 625 numbers a rank is slow to read back.
        "python": [version, torch.tensor(numbers), gauss],
        "numpy": [name, torch.from_numpy(keys.astype(np.int64)), *rest],
        "torch": torch.get_rng_state(),
    }
    # Asking first: a process without a GPU's context must not make one for this.
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_rng_state(state: dict[str, Any]) -> None:
    """Set the generators to what `rng_state` returned."""
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers.tolist()), gauss))
    name, keys, *rest = state["numpy"]
    # int64 in the file, because torch has had no uint32 for most of its life.
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    # Lightning may have loaded the file onto the GPU; generators take CPU tensors only.
    torch.set_rng_state(state["torch"].cpu())
    if "cuda" in state and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.set_rng_state(state["cuda"].cpu())
