"""One task on this process's part of its items, and the summary by whoever finishes last."""

from __future__ import annotations

import fcntl
import logging
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from sam_train.errors import UserError
from sam_train.eval.frame.records import SKIPPED, Record, Records
from sam_train.eval.frame.result import TaskResult
from sam_train.eval.frame.tasks import Run, SkipItem, Task
from sam_train.model.checkpoints.digest import settings_digest

log = logging.getLogger("sam_train")

_SECONDS_BETWEEN_LINES = 20.0


def run_task(task: Task[Any], run: Run) -> TaskResult | None:
    """Measure what is left of this process's part; the result if all parts are done.

    Returns:
        None where other processes still have items to do: the last of them, or the same command
        again, makes the result.

    Raises:
        UserError: no item could be used, or what the task raises.
    """
    work = Work(task, run)
    work.measure()
    return work.result()


class Work:
    """A task's items, listed once: what this process does of them, and the result of all."""

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
        self._fingerprint = settings_digest({"seed": run.cfg.seed, **settings})
        self._records = Records(run.folder(task) / "records" / self._fingerprint, part=run.part)

    def measure(self) -> None:
        """What is left of this process's part.

        Raises:
            UserError: what the task raises.
        """
        _measure(self.task, self._run, self._items, self._records)
        known = self._records.load()
        if missing := sum(key not in known for key in self._keys):
            log.info(
                "%s: part %d of %d is done; %d of %d items are left to the other processes (if "
                "none runs any more, the same command does them)",
                self.task.name, self._run.part.index + 1, self._run.part.count, missing,
                len(self._items),
            )  # fmt: skip

    def result(self) -> TaskResult | None:
        """Of the items of all processes; None as long as these still have some to do.

        Raises:
            UserError: no item could be used, or nothing can be said from them.
        """
        known = self._records.load()
        if any(key not in known for key in self._keys):
            return None
        folder = self._run.folder(self.task)
        with _one_at_a_time(folder):
            if result := _finished_since(folder, self._fingerprint, self._began):
                return result
            result = _summarise(self.task, self._run, [known[key] for key in self._keys])
            result.fingerprint = self._fingerprint
            result.write(folder)
        return result


def _measure(task: Task[Any], run: Run, items: Sequence[Any], records: Records) -> None:
    # An item that was left out is tried again: its file may have been mended since.
    done = {key for key, record in records.load().items() if SKIPPED not in record}
    todo = [item for item in run.part.of(items) if item.key not in done]
    if done and todo:
        log.info("%s: %d of %d items are measured already", task.name, len(done), len(items))
    progress = _Progress(task.name, total=len(todo))
    for item, loading in _read_ahead(task, run, todo):
        try:
            loaded = loading.result()
            with torch.no_grad():
                record = task.measure(run, item, loaded)
        except SkipItem as skip:
            log.warning("%s: %s is left out: %s", task.name, item.key, skip)
            record = {SKIPPED: skip.reason}
        records.append(item.key, record)
        progress.step()


def _read_ahead(
    task: Task[Any], run: Run, todo: Sequence[Any]
) -> Iterator[tuple[Any, Future[Any]]]:
    workers = run.cfg.eval.workers
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[tuple[Any, Future[Any]]] = deque()
        try:
            for item in todo:
                waiting.append((item, pool.submit(task.load, run, item)))
                if len(waiting) > workers:
                    yield waiting.popleft()
            while waiting:
                yield waiting.popleft()
        finally:
            pool.shutdown(cancel_futures=True)


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
    """The result, if another process wrote it while this one was measuring."""
    path = folder / "result.json"
    if not path.is_file() or path.stat().st_mtime < began:
        return None
    result = TaskResult.read(folder)
    return result if result.fingerprint == fingerprint else None


@contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Whoever comes second waits; the lock of a process that dies is freed."""
    with (folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


class _Progress:
    """A line now and then where it takes long."""

    def __init__(self, name: str, *, total: int) -> None:
        self._name, self._total, self._done = name, total, 0
        self._began = self._said = time.monotonic()

    def step(self) -> None:
        self._done += 1
        now = time.monotonic()
        if now - self._said > _SECONDS_BETWEEN_LINES:
            self._said = now
            left = (now - self._began) / self._done * (self._total - self._done)
            log.info(
                "%s: %d of %d, %.1f a second, %d:%02d left",
                self._name, self._done, self._total, self._done / (now - self._began),
                left // 60, left % 60,
            )  # fmt: skip
