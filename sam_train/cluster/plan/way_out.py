"""A way out for a run whose memory ended, counted in a process of its own.

The run's process may not even load a library any more.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace

from sam_train.errors import MemoryInUse, OutOfMemoryError
from sam_train.settings.compose import load_config
from sam_train.settings.run import RunConfig

_GAPS_ON_CPU = 0.3
"""Share of a CPU's tensors that its allocator holds beside them, as it keeps what was freed."""
_SECONDS = 600.0


def ask(error: OutOfMemoryError, overrides: Sequence[str]) -> str:
    """Return a line about the settings that would fit.

    Args:
        error: that ended the run.
        overrides: the run's settings, as on the command line.
    """
    figures = json.dumps({"ranks": error.ranks, "memory": asdict(error.memory)})
    # The count needs no GPU, and the run's own may be full.
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    try:
        done = subprocess.run(
            [sys.executable, "-m", __name__, figures, *overrides],
            capture_output=True,
            text=True,
            env=environment,
            timeout=_SECONDS,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return "what would fit, `python -m sam_train plan` counts with the same settings"
    return done.stdout.strip()


def way_out(cfg: RunConfig, memory: MemoryInUse, *, ranks: int) -> str:
    """Count the cheapest settings that fit into `memory`.

    The count is scaled by the bytes that were really in use, so that it holds what no tensor
    does, such as the program itself on a CPU.
    """
    # Imported by the child process alone: the run's may have no room for it.
    from sam_train.cluster.plan.advice import cheapest  # noqa: PLC0415
    from sam_train.cluster.plan.memory import GIB, Simulator  # noqa: PLC0415
    from sam_train.cluster.plan.settings import setting_of  # noqa: PLC0415

    cfg = replace(cfg, trainer=replace(cfg.trainer, num_nodes=1, devices=str(ranks)))
    simulator = Simulator(cfg=cfg, ranks=ranks, as_gpu=memory.on_gpu)
    setting = setting_of(cfg)
    reserve = max(0.0, memory.base - simulator.states(setting).weights)
    gaps = (memory.used - reserve) / simulator.memory(setting).tensors - 1
    least = cfg.plan.gaps if memory.on_gpu else _GAPS_ON_CPU
    plan = replace(cfg.plan, reserve_gib=reserve / GIB, gaps=max(least, gaps))
    way = cheapest(replace(cfg, plan=plan), setting, simulator, room=int(memory.total))
    if way is None:
        return "no other batch, precision or strategy would fit: a smaller model, or more memory"
    words = " ".join(way.setting.words(setting))
    changes = "" if way.same_training else ", which trains otherwise"
    return f"would fit, as plan counts: {words} (about {way.needed / GIB:.3g} GiB{changes})"


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    print(way_out(load_config(sys.argv[2:]), MemoryInUse(**given["memory"]), ranks=given["ranks"]))
