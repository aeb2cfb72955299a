"""A task on this process's part of its items, and the summary by the last process."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from sam_train.errors import UserError
from sam_train.eval.frame.records import SKIPPED, Record, Records
from sam_train.eval.frame.result import TaskResult
from sam_train.eval.frame.tasks import Run, Task
from sam_train.runtime.fingerprint import settings_fingerprint
from sam_train.runtime.jobs import Progress, SkipItem, work_through
from sam_train.runtime.lock import locked

log = logging.getLogger("sam_train")


def run_task(
    task: Task[Any], run: Run, *, on_item: Callable[[], None] = lambda: None
) -> TaskResult | None:
    """Measure what is left of this process's part; return the result if all parts are done.

    Args:
        on_item: called before each item is measured, as a sign of progress.

    Returns:
        None where other processes still have items to measure. The last of them, or the same
        command again, makes the result.

    Raises:
        UserError: no item could be used, or raised by the task.
    """
    work = Work(task, run)
    work.measure(on_item=on_item)
    return work.result()


class Work:
    """A task and its items, of which this process measures its part."""

    def __init__(self, task: Task[Any], run: Run) -> None:
        """List the items.

        Raises:
            UserError: they cannot be listed, there are none, or two have the same name.
        """
        self._began = time.time()
        self.task, self._run = task, run
        self._items = task.items(run)
        self._keys = [item.key for item in self._items]
        if twice := [key for key, times in Counter(self._keys).items() if times > 1]:
            raise UserError(
                f"{task.name}: two items are called {twice[0]}: give each a name of its own"
            )
        if not self._items:
            raise UserError(f"{task.name}: its data holds nothing to measure")
        # Another task's model has no part in the figures of finished files.
        weights = run.weights if task.needs_model(run.cfg) else "none"
        settings = {"weights": weights, "task": task.name, **task.settings(run.cfg)}
        self._fingerprint = settings_fingerprint({"seed": run.cfg.seed, **settings})
        self._records = Records(run.folder(task) / "records" / self._fingerprint, part=run.part)

    def measure(self, *, on_item: Callable[[], None] = lambda: None) -> None:
        """Measure what is left of this process's part.

        Args:
            on_item: called before each item is measured.

        Raises:
            UserError: raised by the task.
        """
        _measure(self.task, self._run, self._items, self._records, on_item=on_item)
        known = self._records.load()
        if missing := sum(key not in known for key in self._keys):
            log.info(
                "%s: part %d of %d is done; %d of %d items are left to the other processes (if "
                "none runs any more, the same command does them)",
                self.task.name, self._run.part.index + 1, self._run.part.count, missing,
                len(self._items),
            )  # fmt: skip

    def result(self) -> TaskResult | None:
        """Return the result of all items; None while other processes still have some to do.

        Raises:
            UserError: no item could be used, or the records do not suffice for a result.
        """
        known = self._records.load()
        if any(key not in known for key in self._keys):
            return None
        folder = self._run.folder(self.task)
        # Two processes may end together: the second finds the first one's result.
        with locked(folder / "lock"):
            if result := _finished_since(folder, self._fingerprint, self._began):
                return result
            result = _summarise(self.task, self._run, [known[key] for key in self._keys])
            result.fingerprint = self._fingerprint
            result.write(folder)
        return result


def _measure(
    task: Task[Any],
    run: Run,
    items: Sequence[Any],
    records: Records,
    *,
    on_item: Callable[[], None],
) -> None:
    # An item that was left out is tried again, because its file may have been repaired since.
    done = {key for key, record in records.load().items() if SKIPPED not in record}
    todo = [item for item in run.part.of(items) if item.key not in done]
    if done and todo:
        log.info("%s: %d of %d items are measured already", task.name, len(done), len(items))

    def measure(item: Any, loaded: Any) -> Record:
        on_item()
        with torch.no_grad():
            return {"key": item.key, **task.measure(run, item, loaded)}

    def skip(item: Any, reason: SkipItem) -> Record:
        log.warning("%s: %s is left out: %s", task.name, item.key, reason)
        return {"key": item.key, SKIPPED: reason.reason}

    work_through(
        todo,
        load=partial(task.load, run),
        do=measure,
        skip=skip,
        keep=records.append,
        ahead=run.cfg.eval.workers,
        progress=Progress(task.name, total=len(todo)),
    )


def _summarise(task: Task[Any], run: Run, records: Sequence[Record]) -> TaskResult:
    reasons = Counter(str(record[SKIPPED]) for record in records if SKIPPED in record)
    used = [record for record in records if SKIPPED not in record]
    if not used:
        reason, count = reasons.most_common(1)[0]
        raise UserError(
            f"{task.name}: none of {len(records)} items could be used ({count} times: {reason}; "
            f"the first is {records[0]['key']})"
        )
    result = task.summarise(run, used)
    result.skipped = {**result.skipped, **dict(reasons.most_common())}
    if task.needs_model(run.cfg):
        result.checkpoint, result.weights = run.source, run.weights
    return result


def _finished_since(folder: Path, fingerprint: str, began: float) -> TaskResult | None:
    """Return the result that another process wrote while this one was measuring, if any."""
    path = folder / "result.json"
    if not path.is_file() or path.stat().st_mtime < began:
        return None
    result = TaskResult.read(folder)
    return result if result.fingerprint == fingerprint else None
