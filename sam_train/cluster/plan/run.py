"""The verb `plan`: memory, time and cost of a run, printed and written to plan.json."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from sam_train.cluster.plan.advice import Way, cheapest
from sam_train.cluster.plan.config import check
from sam_train.cluster.plan.estimate import Plan, make_plan
from sam_train.cluster.plan.memory import Simulator
from sam_train.cluster.plan.settings import devices_of
from sam_train.cluster.plan.table import show
from sam_train.data.feed.loader import check_masks_per_gpu
from sam_train.errors import UserError
from sam_train.settings.compose import load_config
from sam_train.settings.run import RunConfig, check_config


def plan(overrides: Sequence[str]) -> Path:
    """Count the memory and time that `fit` with the same settings would take.

    Returns:
        The path of plan.json.

    Raises:
        UserError: settings that `fit` would refuse, too, or a file that cannot be written.
    """
    cfg = load_config(overrides)
    check_plan(cfg)
    simulator = Simulator(cfg=cfg, ranks=cfg.trainer.num_nodes * devices_of(cfg))
    found = make_plan(cfg, simulator)
    way = None
    if not found.fits:
        way = cheapest(cfg, found.setting, simulator, room=found.room)
    show(found, cfg, way)
    return write(cfg, found, way)


def check_plan(cfg: RunConfig) -> None:
    """Check settings as `fit` does, but for a machine that is not this one.

    Raises:
        UserError: settings that `fit` would refuse there.
    """
    check(cfg.plan)
    elsewhere = replace(cfg.trainer, accelerator="auto")
    data = cfg.data if cfg.data.train else replace(cfg.data, train="elsewhere")
    check_config(replace(cfg, trainer=elsewhere, data=data))
    if cfg.trainer.precision == "64-true":
        raise UserError(
            "trainer.precision=64-true is for tests: plan counts 32-true, bf16-mixed and 16-mixed"
        )
    ranks = cfg.trainer.num_nodes * devices_of(cfg)
    check_masks_per_gpu(cfg.data, world_size=ranks, accumulate=cfg.trainer.accumulate)


def write(cfg: RunConfig, found: Plan, way: Way | None) -> Path:
    """Write plan.json: every figure that is printed, in bytes, FLOPs and seconds.

    Raises:
        UserError: it cannot be written.
    """
    path = Path(cfg.plan.out).expanduser() if cfg.plan.out else Path(cfg.run_dir) / "plan.json"
    record: dict[str, Any] = asdict(found) | {"fits": found.fits, "assumed": asdict(cfg.plan)}
    if not found.fits:
        record["would_fit"] = None if way is None else asdict(way)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(record, indent=1) + "\n")
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}): set plan.out=") from error
    print(f"\nwrote {path}")
    return path
