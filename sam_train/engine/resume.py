"""What Lightning's checkpoints get wrong about going on with another split of the batch."""

from __future__ import annotations

from typing import Any


def align_batch_counters(checkpoint: dict[str, Any], *, accumulate: int) -> None:
    """Make Lightning's count of micro-batches fit the number of updates, in place.

    Lightning updates whenever that count is a multiple of `accumulate`. Saved at step 3 with one
    micro-batch a step it says 3, and resumed with two a step the first update would have one. A
    checkpoint made between two updates holds no gradients, so its update begins anew, too.

    Args:
        checkpoint: as Lightning saved it; nothing happens where it holds no counters.
        accumulate: micro-batches per update from now on.
    """
    loops = checkpoint.get("loops", {}).get("fit_loop", {})
    counters = loops.get("epoch_loop.batch_progress", {}).get("current")
    if counters is None:
        return
    finished = counters["completed"]
    # Saved in the hook at the end of a micro-batch, which Lightning counts as completed on resume.
    finished += counters["ready"] == counters["processed"] == finished + 1
    shift = checkpoint["global_step"] * accumulate - finished
    for name in ("ready", "started", "processed", "completed"):
        counters[name] += shift


__all__ = ["align_batch_counters"]
