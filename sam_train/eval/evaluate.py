"""The verb `evaluate`: the paper's measurements of any checkpoint, by `task=`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sam_train.errors import UserError
from sam_train.eval.frame.report import write_report
from sam_train.eval.frame.result import TaskResult
from sam_train.eval.frame.tasks import Run, Task, load_task, task_names
from sam_train.eval.frame.work import Work
from sam_train.model.checkpoints.trained import load_checkpoint, settings_for_checkpoint
from sam_train.runtime.allocator import keep_freed_memory
from sam_train.runtime.devices import autocast, check_inference, find_device
from sam_train.runtime.inference import start_inference
from sam_train.runtime.parts import Share
from sam_train.settings.compose import load_config
from sam_train.settings.run import RunConfig
from sam_train.settings.sections import check_section

log = logging.getLogger("sam_train")


def evaluate(overrides: Sequence[str]) -> list[TaskResult]:
    """Run the tasks that `task` names, print and write what they find.

    Each task writes result.json, table.csv, pictures and the records of its items to
    `run_dir/TASK/`. From the records the same command resumes after a stop. Several processes
    (torchrun, srun, a SLURM array) share the items, and the last one makes the result.
    `run_dir/report.html` shows all results.

    Returns:
        The results of tasks on which no other process is still at work.

    Raises:
        UserError: no such task, or a setting or checkpoint that does not fit. A task that could
            not be measured raises once the others are in the report.
    """
    overrides = ["name=evaluate", *overrides]
    cfg = load_config(overrides)
    check_section(cfg.eval)
    part = Share.from_environment()
    tasks, left_out = chosen_tasks(cfg)
    needs_model = any(task.needs_model(cfg) for task in tasks)
    if needs_model:
        cfg = settings_for_checkpoint(overrides)
        check_inference(cfg.trainer)
    run_dir = start_inference(cfg.run_dir, cfg.trainer, part)
    # Upscaled masks are freed and allocated again and again: without this the kernel's pages take
    # half the time of a large photo.
    keep_freed_memory()
    for name, reason in left_out.items():
        log.info("%s is left out: %s", name, reason)
    run = Run(cfg=cfg, run_dir=run_dir, part=part, device=find_device(cfg.trainer))
    if needs_model:
        loaded = load_checkpoint(cfg)
        run.model, run.source = loaded.sam.to(run.device), loaded.source
    found = run_tasks(tasks, run)
    if found.results:
        page = write_report(found.results, run_dir, left_out=left_out, failed=found.failed)
        log.info("%s", page)
    # An exit status ends all other processes under torchrun, so only the last process gives one.
    # A failure in listing or in the summary reaches the last one, too.
    if found.failed and not found.waiting:
        raise UserError(found.failure(of=len(tasks)))
    return found.results


@dataclass(slots=True, kw_only=True)
class Outcome:
    """The outcome of several tasks."""

    results: list[TaskResult] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    """Reasons of the tasks that could not be measured, by task."""
    waiting: list[str] = field(default_factory=list)
    """Tasks on which other processes are still at work."""

    def failure(self, *, of: int) -> str:
        """Summarise the failures among `of` tasks on one line."""
        if of == 1:
            return next(iter(self.failed.values()))
        reasons = "; ".join(f"{name}: {reason}" for name, reason in self.failed.items())
        return f"{len(self.failed)} of {of} tasks could not be measured ({reasons})"


def run_tasks(tasks: Sequence[Task[Any]], run: Run) -> Outcome:
    """Run `tasks` one after the other and print results as they come.

    A task that fails does not keep the others from being measured.
    """
    found, waiting = Outcome(), []
    for task in tasks:
        try:
            with autocast(run.cfg.trainer, run.device):
                work = Work(task, run)
                work.measure()
        except UserError as error:
            _fail(task, error, found, say=len(tasks) > 1)
            continue
        if not _finish(work, run, found, say=len(tasks) > 1):
            waiting.append(work)
    # Other processes may have measured the rest by now, and the last to end makes the result.
    for work in waiting:
        if not _finish(work, run, found, say=len(tasks) > 1):
            found.waiting.append(work.task.name)
    return found


def _finish(work: Work, run: Run, found: Outcome, *, say: bool) -> bool:
    """Add a task's result, or the reason of its failure; return False if others are at work."""
    try:
        with autocast(run.cfg.trainer, run.device):
            result = work.result()
    except UserError as error:
        _fail(work.task, error, found, say=say)
        return True
    if result is None:
        return False
    found.results.append(result)
    source = f" of {result.checkpoint}" if result.checkpoint else ""
    log.info("\n%s%s\n%s", result.title, source, result.table())
    folder = run.folder(work.task)
    for path in (folder / "result.json", folder / "table.csv"):
        log.info("%s", path)
    for picture in result.pictures:
        log.info("%s", run.run_dir / picture.path)
    return True


def _fail(task: Task[Any], error: UserError, found: Outcome, *, say: bool) -> None:
    found.failed[task.name] = str(error)
    if say:  # the message names the task, and so do some reasons
        reason = found.failed[task.name] = str(error).removeprefix(f"{task.name}: ")
        log.warning("%s could not be measured: %s", task.name, reason)


def chosen_tasks(cfg: RunConfig) -> tuple[list[Task[Any]], dict[str, str]]:
    """Return the tasks of `task`, and those that `task=all` leaves out, with the reason.

    Raises:
        UserError: no task, an unknown one, or one whose settings do not fit.
    """
    if not cfg.task:
        raise UserError(f"task is not set: task={'|'.join(task_names())}|all, or a list of them")
    if cfg.task != "all":
        given = [cfg.task] if isinstance(cfg.task, str) else cfg.task
        names = list(dict.fromkeys(str(name) for name in given))
        tasks = [load_task(name) for name in names]
        for task in tasks:
            task.check(cfg)
        return tasks, {}
    tasks, left_out = [], {}
    for name in task_names():
        task = load_task(name)
        try:
            task.check(cfg)
            tasks.append(task)
        except UserError as error:
            left_out[name] = str(error)
    if not tasks:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in left_out.items())
        raise UserError(f"task=all has nothing to do ({reasons})")
    return tasks, left_out
