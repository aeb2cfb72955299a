"""Finds the checkpoint from which a run resumes, and fits it to how the run is split now."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from sam_train.errors import UserError
from sam_train.train.checkpoints.file import DamagedFileError, check_checksums, read_outline
from sam_train.train.checkpoints.retention import LAST, path_of, steps_in

log = logging.getLogger("sam_train")

RUN_RECORD = "run"
"""The checkpoint's entry with the settings, the versions and the number of processes of the run."""
# Weights alone have some of these keys; only training state has all of them.
_WRITTEN_BY_FIT = ("state_dict", "optimizer_states", "lr_schedulers", "loops", "global_step")
_WAY_OUT = "give resume= another checkpoint of the run, or resume=never to start afresh"


@dataclass(slots=True, kw_only=True)
class Found:
    """A checkpoint that passes its checksums."""

    path: Path
    outline: dict[str, Any]
    """The whole content but the tensors' values."""

    @property
    def step(self) -> int:
        """Finished updates."""
        return int(self.outline["global_step"])

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of the run that wrote it; {} where they were not recorded yet."""
        # The file may come from an older version or another program, so nothing is taken for
        # granted.
        record = self.outline.get(RUN_RECORD)
        settings = record.get("config") if isinstance(record, dict) else None
        return settings if isinstance(settings, dict) else {}


def find_resume(resume: str, run_dir: Path) -> Found | None:
    """Find the checkpoint from which to resume; None to start afresh.

    auto takes the newest of run_dir/checkpoints that is whole, and says so where that is not the
    newest of all.

    Raises:
        UserError: `resume` names no checkpoint of `fit`, or none of run_dir is whole.
    """
    if resume == "never":
        return None
    if resume != "auto":
        path = Path(resume).expanduser()
        if not path.is_file():
            raise UserError(
                f"resume={resume} is not a file: use resume=auto, never or a checkpoint"
            )
        try:
            return inspect(path)
        except (DamagedFileError, OSError) as error:
            raise UserError(f"{path} {_reason(error)}: {_WAY_OUT}") from error
    first: str | None = None
    for path in candidates(run_dir / "checkpoints"):
        try:
            found = inspect(path)
        except (DamagedFileError, OSError) as error:
            # The newest one's fault is reported, because that is the file a person expects.
            first = first or f"{path} {_reason(error)}"
            continue
        if first is not None:
            log.warning("%s: going back to %s, step %d", first, path.name, found.step)
        return found
    if first is not None:
        raise UserError(f"{first}, and there is no older one: {_WAY_OUT}")
    return None


def candidates(folder: Path) -> Iterator[Path]:
    """Yield the checkpoints of a run, newest first, each file once."""
    last = folder / LAST
    seen: set[tuple[int, int]] = set()
    for path in (last, *(path_of(folder, step) for step in reversed(steps_in(folder)))):
        try:
            status = path.stat()
        except FileNotFoundError:
            continue
        # last.ckpt is a second name of the newest file: it would be read, and reported, twice.
        if (file := (status.st_dev, status.st_ino)) not in seen:
            seen.add(file)
            yield path


def inspect(path: Path) -> Found:
    """Read every byte of a checkpoint, and run nothing of it.

    Raises:
        DamagedFileError: it is not what was written, or holds no training state.
        OSError: it cannot be opened.
    """
    try:
        # Before the checksums: those read every byte, the outline a few kilobytes.
        outline = read_outline(path)
    except DamagedFileError as error:
        raise DamagedFileError(f"cannot be read as a checkpoint ({error})") from error
    if not isinstance(outline, dict) or any(key not in outline for key in _WRITTEN_BY_FIT):
        raise DamagedFileError(
            "holds no training state to continue (weights alone go to init_from=)"
        )
    try:
        check_checksums(path)
    except DamagedFileError as error:
        raise DamagedFileError(f"is damaged ({error})") from error
    return Found(path=path, outline=outline)


def check_model(found: Found, module: nn.Module) -> None:
    """Refuse to resume with a model or an optimizer that Lightning would stumble over.

    Raises:
        UserError: names the first tensor that differs, or the setting that chooses the others.
    """
    own, stored = module.state_dict(), found.outline["state_dict"]
    for name in dict.fromkeys([*stored, *own]):
        here, there = (tuple(s[name].shape) if name in s else None for s in (own, stored))
        if here != there:
            if ".lora_" in name:
                raise UserError(
                    f"{found.path} was trained with other adapters ({name} is "
                    f"{there or 'missing'} in it, {here or 'missing'} here): set optim.tune and "
                    f"lora.* as in the run's config.yaml, or {_WAY_OUT}"
                )
            raise UserError(
                f"{found.path} is of another model ({name} is {there or 'missing'} in it, "
                f"{here or 'missing'} here): set model= as in the run's config.yaml, or {_WAY_OUT}"
            )
    groups = [g for state in found.outline["optimizer_states"] for g in state["param_groups"]]
    # Moments fit only the tensors that they were made for. torch's own error speaks of group
    # sizes, not of a setting.
    trained = sum(len(group["params"]) for group in groups)
    trainable = sum(p.requires_grad for p in module.parameters())
    if trained != trainable:
        raise UserError(
            f"{found.path} was trained with another optim.frozen_blocks ({trained} tensors, now "
            f"{trainable}) or optim.tune: set both as in the run's config.yaml, or start afresh "
            "from its weights with init_from= and another run_dir="
        )


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
    # The same shift for all: their differences say where in a micro-batch the file was written.
    shift = checkpoint["global_step"] * accumulate - finished
    for name in ("ready", "started", "processed", "completed"):
        counters[name] += shift


def _reason(error: Exception) -> str:
    if isinstance(error, OSError):
        return f"cannot be opened ({error.strerror or error})"
    return str(error)
