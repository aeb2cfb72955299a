"""Which checkpoint a run goes on from, what it says about it, and how it is asked to end."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from sam_train.errors import UserError
from sam_train.train.checkpoints.differences import differences, report_differences
from sam_train.train.checkpoints.file import write_checkpoint
from sam_train.train.checkpoints.resume import (
    RUN_RECORD,
    Found,
    align_batch_counters,
    candidates,
    check_model,
    find_resume,
)
from sam_train.train.watch.signals import Notice, requeue


def content(step: int) -> dict[str, Any]:
    return {
        "state_dict": {"weight": torch.full((100,), float(step))},
        "optimizer_states": [{"state": {}, "param_groups": [{"params": [0]}]}],
        "lr_schedulers": [],
        "loops": {},
        "global_step": step,
    }


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """Checkpoints of steps 1, 2 and 3."""
    folder = tmp_path / "checkpoints"
    for step in (1, 2, 3):
        write_checkpoint(content(step), folder / f"step={step}.ckpt", also=folder / "last.ckpt")
    return tmp_path


@pytest.fixture
def said() -> Iterator[list[str]]:
    """What the project's log says."""
    logger, messages = logging.getLogger("sam_train"), []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    yield messages
    logger.removeHandler(handler)
    logger.setLevel(level)


def damage(path: Path) -> None:
    """Change one value; the file's form stays whole."""
    data = bytearray(path.read_bytes())
    value = torch.load(path, weights_only=True)["state_dict"]["weight"]
    data[data.index(value.numpy().tobytes()) + 7] ^= 4
    # Its own file: what is linked to it must not change.
    path.unlink()
    path.write_bytes(data)


def found(run_dir: Path, resume: str = "auto") -> tuple[str, int]:
    result = find_resume(resume, run_dir)
    assert result is not None
    return result.path.name, result.step


def test_the_newest_is_continued(run_dir: Path, said: list[str]) -> None:
    assert found(run_dir) == ("last.ckpt", 3)
    (run_dir / "checkpoints" / "last.ckpt").unlink()
    assert found(run_dir) == ("step=3.ckpt", 3)
    assert find_resume("never", run_dir) is None
    assert find_resume("auto", run_dir / "elsewhere") is None
    assert found(run_dir, str(run_dir / "checkpoints" / "step=1.ckpt")) == ("step=1.ckpt", 1)
    assert said == []


def test_a_damaged_one_is_passed_over_in_one_line(run_dir: Path, said: list[str]) -> None:
    folder = run_dir / "checkpoints"
    damage(folder / "last.ckpt")
    assert found(run_dir) == ("step=3.ckpt", 3)
    damage(folder / "step=3.ckpt")
    (folder / "step=2.ckpt").write_bytes(b"")
    said.clear()
    assert found(run_dir) == ("step=1.ckpt", 1)
    (line,) = said
    assert line.startswith(f"{folder / 'last.ckpt'} is damaged (data/")
    assert "fails its checksum): going back to step=1.ckpt, step 1" in line


def test_one_that_cannot_be_opened_is_passed_over_with_the_systems_words(
    run_dir: Path, said: list[str]
) -> None:
    folder = run_dir / "checkpoints"
    for name in ("last.ckpt", "step=3.ckpt"):
        (folder / name).unlink()
    (folder / "step=3.ckpt").mkdir()
    assert found(run_dir) == ("step=2.ckpt", 2)
    words = "cannot be opened (Is a directory): going back to step=2.ckpt, step 2"
    assert said == [f"{folder / 'step=3.ckpt'} {words}"]


def test_none_that_is_whole_is_refused(run_dir: Path) -> None:
    folder = run_dir / "checkpoints"
    for path in folder.iterdir():
        path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"last\.ckpt cannot be read .* no older one: .*never"):
        find_resume("auto", run_dir)
    with pytest.raises(UserError, match=r"step=1\.ckpt cannot be read .*: give resume="):
        find_resume(str(folder / "step=1.ckpt"), run_dir)


def test_code_in_the_newest_is_not_run(run_dir: Path, said: list[str]) -> None:
    trap = run_dir / "ran"

    class Rude:
        def __reduce__(self) -> Any:
            return (os.mkdir, (str(trap),))

    for name in ("last.ckpt", "step=3.ckpt"):
        (run_dir / "checkpoints" / name).unlink()
        torch.save({**content(3), "callbacks": Rude()}, run_dir / "checkpoints" / name)
    assert found(run_dir) == ("step=2.ckpt", 2)
    assert "it would run code: posix.mkdir" in said[0]
    with pytest.raises(UserError, match="it would run code"):
        find_resume(str(run_dir / "checkpoints" / "last.ckpt"), run_dir)
    assert not trap.exists()


def test_another_model_or_other_frozen_blocks_are_refused() -> None:
    class Model(nn.Module):
        def __init__(self, size: int) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(size))

    checkpoint = Found(path=Path("a.ckpt"), outline=content(1))
    check_model(checkpoint, Model(100))
    with pytest.raises(UserError, match=r"a\.ckpt is of another model \(weight is \(100,\)"):
        check_model(checkpoint, Model(99))
    frozen = Model(100).requires_grad_(False)
    with pytest.raises(UserError, match=r"another optim\.frozen_blocks \(1 tensors, now 0\)"):
        check_model(checkpoint, frozen)


def test_a_tensor_that_only_one_of_them_has_is_named() -> None:
    class Model(nn.Module):
        def __init__(self, *names: str) -> None:
            super().__init__()
            for name in names:
                self.register_buffer(name, torch.zeros(100))

    checkpoint = Found(path=Path("a.ckpt"), outline=content(1))
    with pytest.raises(UserError, match=r"\(weight is \(100,\) in it, missing here\)"):
        check_model(checkpoint, Model())
    with pytest.raises(UserError, match=r"\(more is missing in it, \(100,\) here\)"):
        check_model(checkpoint, Model("weight", "more"))


def test_settings_of_a_checkpoint_are_empty_where_it_has_none() -> None:
    records: list[tuple[Any, dict[str, Any]]] = [
        ({"config": {"seed": 3}, "processes": 2}, {"seed": 3}),
        ({"config": None}, {}),
        ({"config": ["seed"]}, {}),
        ({}, {}),
        ("text", {}),
        (None, {}),
    ]
    for record, expected in records:
        found = Found(path=Path("a.ckpt"), outline={**content(4), RUN_RECORD: record})
        assert found.settings == expected
        assert found.step == 4
    assert Found(path=Path("a.ckpt"), outline=content(4)).settings == {}


def test_candidates_come_newest_first_and_each_file_once(run_dir: Path) -> None:
    folder = run_dir / "checkpoints"
    steps = ["step=2.ckpt", "step=1.ckpt"]
    assert [path.name for path in candidates(folder)] == ["last.ckpt", *steps]
    (folder / "step=10.ckpt").write_bytes((folder / "step=1.ckpt").read_bytes())
    # A copy is another file than what it was made of.
    expected = ["last.ckpt", "step=10.ckpt", "step=3.ckpt", *steps]
    copied = (folder / "last.ckpt").read_bytes()
    (folder / "last.ckpt").unlink()
    (folder / "last.ckpt").write_bytes(copied)
    assert [path.name for path in candidates(folder)] == expected
    (folder / "last.ckpt").unlink()
    assert [path.name for path in candidates(folder)] == expected[1:]
    assert list(candidates(run_dir / "none")) == []


def test_weights_alone_are_no_checkpoint_to_continue(run_dir: Path) -> None:
    path = run_dir / "weights.ckpt"
    for name in content(1):
        write_checkpoint({key: v for key, v in content(1).items() if key != name}, path)
        with pytest.raises(UserError, match=r"weights\.ckpt holds no training state .*init_from="):
            find_resume(str(path), run_dir)
    torch.save([1, 2], path)
    with pytest.raises(UserError, match="holds no training state"):
        find_resume(str(path), run_dir)
    with pytest.raises(UserError, match=r"resume=none\.ckpt is not a file"):
        find_resume("none.ckpt", run_dir)


def counted(*, step: int, completed: int, open_batch: bool) -> dict[str, Any]:
    """As Lightning saves its counters: at the end of a micro-batch `completed` is one behind."""
    ready = completed + open_batch
    now = {"ready": ready, "started": ready, "processed": ready, "completed": completed}
    loop = {"epoch_loop.batch_progress": {"current": now, "total": dict(now)}}
    return {"global_step": step, "loops": {"fit_loop": loop}}


@pytest.mark.parametrize("accumulate", [1, 2, 5])
@pytest.mark.parametrize(("step", "before"), [(3, 1), (3, 4), (0, 1)])
@pytest.mark.parametrize("open_batch", [True, False])
def test_counters_stand_at_a_whole_number_of_updates(
    accumulate: int, step: int, before: int, open_batch: bool
) -> None:
    """Lightning completes what stood open on resume, and updates at multiples of `accumulate`."""
    checkpoint = counted(
        step=step, completed=step * before - (open_batch and step > 0), open_batch=open_batch
    )
    total = dict(checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["total"])
    align_batch_counters(checkpoint, accumulate=accumulate)
    progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
    current = progress["current"]
    assert current["completed"] + open_batch == step * accumulate
    assert current["ready"] == current["started"] == current["processed"] == step * accumulate
    assert progress["total"] == total


def test_a_batch_that_failed_midway_is_not_counted() -> None:
    """Ready, but not processed: its update begins anew, as if it had not been fetched."""
    checkpoint = counted(step=2, completed=2, open_batch=False)
    current = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["current"]
    current["ready"] += 1
    align_batch_counters(checkpoint, accumulate=3)
    assert current == {"ready": 7, "started": 6, "processed": 6, "completed": 6}


def test_a_checkpoint_without_counters_stays_as_it_is() -> None:
    for loops in ({}, {"fit_loop": {}}, {"fit_loop": {"epoch_loop.batch_progress": {}}}):
        checkpoint: dict[str, Any] = {"global_step": 3, "loops": loops}
        align_batch_counters(checkpoint, accumulate=2)
        assert checkpoint == {"global_step": 3, "loops": loops}
    alone: dict[str, Any] = {"global_step": 3}
    align_batch_counters(alone, accumulate=2)
    assert alone == {"global_step": 3}


THEN = {
    "seed": 0,
    "run_dir": "a",
    "optim": {"lr": 1e-3, "name": "adamw", "frozen_blocks": 0, "betas": [0.9, 0.999]},
    "trainer": {"devices": "1", "max_steps": 10},
    "gone": 1,
}


def changed(**groups: dict[str, Any]) -> dict[str, Any]:
    now: dict[str, Any] = {**THEN, "new": 2, "run_dir": "b"}
    del now["gone"]
    return now | {name: {**now[name], **values} for name, values in groups.items()}


def test_differences_say_what_comes_of_them(said: list[str]) -> None:
    now = changed(optim={"lr": 2e-3}, trainer={"devices": "2", "max_steps": 20}) | {"seed": 1}
    assert {(d.name, d.effect) for d in differences(THEN, now)} == {
        ("seed", "from here on"),
        ("optim.lr", "none: the checkpoint's value goes on"),
        ("trainer.devices", "none on what is learnt"),
        ("trainer.max_steps", "from here on"),
    }
    report_differences(THEN, now, source="last.ckpt")
    table, harmless = said
    assert table.splitlines()[1:] == [
        "setting            then   now    effect",
        "seed               0      1      from here on",
        "optim.lr           0.001  0.002  none: the checkpoint's value goes on",
        "trainer.max_steps  10     20     from here on",
    ]
    assert harmless.endswith("no effect on what is learnt: trainer.devices")
    said.clear()
    report_differences(THEN, changed(), source="last.ckpt")
    report_differences({}, changed(), source="last.ckpt")
    assert said == []


@pytest.mark.parametrize("setting", [{"frozen_blocks": 2}, {"name": "muon"}])
def test_another_optimizer_is_refused_in_one_line(setting: dict[str, Any]) -> None:
    (name, value), *_ = setting.items()
    with pytest.raises(UserError) as caught:
        report_differences(THEN, changed(optim=setting), source="last.ckpt")
    assert str(caught.value).startswith(f"optim.{name}={value}, but last.ckpt was trained with")
    assert "\n" not in str(caught.value)


@pytest.fixture
def notice() -> Iterator[Notice]:
    owner = Notice(grace_seconds=30)
    owner.install()
    yield owner
    owner.restore()


def test_a_signal_is_noted_and_the_handlers_go_back(notice: Notice) -> None:
    assert notice.received is None
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGUSR1)
    assert notice.received == signal.SIGTERM
    # As Lightning does in between; it gets nothing back either.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    notice.install()
    notice.restore()
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL


def test_a_data_worker_survives_the_signal_but_not_for_ever() -> None:
    notice = Notice(grace_seconds=1)
    notice.install()
    child = os.fork()
    if not child:
        os.kill(os.getpid(), signal.SIGTERM)
        end = time.monotonic() + 60
        while time.monotonic() < end:
            time.sleep(0.05)
        os._exit(0)
    notice.restore()
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == -signal.SIGALRM
    assert notice.received is None


def test_a_process_that_cannot_finish_in_time_ends_by_itself() -> None:
    child = os.fork()
    if not child:
        notice = Notice(grace_seconds=0.2)
        notice.install()
        os.kill(os.getpid(), signal.SIGTERM)
        while True:
            time.sleep(0.05)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 75


@pytest.mark.parametrize(
    "case",
    [
        ({"SLURM_JOB_ID": "12"}, signal.SIGUSR1, "requeue 12"),
        (
            {"SLURM_JOB_ID": "12", "SLURM_ARRAY_JOB_ID": "10", "SLURM_ARRAY_TASK_ID": "3"},
            signal.SIGUSR1,
            "requeue 10_3",
        ),
        # Pre-emption, where Slurm requeues, or a person's scancel.
        ({"SLURM_JOB_ID": "12"}, signal.SIGTERM, None),
        ({}, signal.SIGUSR1, None),
    ],
)
def test_only_a_job_out_of_time_requeues_itself(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    said: list[str],
    case: tuple[dict[str, str], signal.Signals, str | None],
) -> None:
    environment, number, expected = case
    for name in ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    notice = Notice(grace_seconds=0)
    notice.received = number
    assert notice.requeues == (expected is not None)
    if expected is None:
        return
    program = tmp_path / "scontrol"
    program.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/called\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    requeue()
    assert (tmp_path / "called").read_text().strip() == expected
    program.write_text("#!/bin/sh\necho no such job >&2\nexit 1\n")
    requeue()
    assert "is not requeued (no such job)" in said[-1]
