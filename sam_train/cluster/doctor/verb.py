"""The verb `doctor`."""

from __future__ import annotations

import os
from collections.abc import Sequence

from sam_train.settings.verbs import verb


@verb(
    summary="look at every node before training: versions, GPUs, shards, disk, clocks, all-reduce",
    example="python -m sam_train doctor +experiment=vit_b data.train=/sa1b trainer.devices=8",
    order=20,
)
def doctor(overrides: Sequence[str]) -> None:
    """Check the nodes of a job; exit with status 2 where it would not train."""
    # torch's store complains of each message that does not come; the table says it once.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    from sam_train.cluster.doctor.run import examine

    verdict = examine(overrides)
    if verdict.table:
        print(verdict.report, flush=True)
    if verdict.hangs:
        # A check that hangs would keep the process from ending.
        os._exit(2)
    if verdict.problems:
        raise SystemExit(2)
