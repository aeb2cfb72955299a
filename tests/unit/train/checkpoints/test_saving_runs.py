"""When a run saves, and what it does when it cannot: a real Trainer over a model of one line."""

from __future__ import annotations

import errno
import logging
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from sam_train.errors import UserError
from sam_train.runtime.run_owner import RunOwner
from sam_train.train.checkpoints import saving
from sam_train.train.checkpoints.config import CheckpointConfig
from sam_train.train.checkpoints.file import write_checkpoint
from sam_train.train.checkpoints.resume import RUN_RECORD, inspect
from sam_train.train.checkpoints.rng_state import rng_state, set_rng_state
from sam_train.train.checkpoints.saving import RNG_RECORD, Saver, Wish
from sam_train.train.report.meter import Recorder
from sam_train.train.watch.signals import Notice, Stopped

SILENT = {
    "every_steps": 0,
    "every_minutes": 0.0,
    "keep_best": 0,
    "keep_last": 99,
    "metric": "val/miou_1",
}
"""Nothing is due but the end."""


class Line(LightningModule):
    """One weight per step of the smallest kind."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(1, 1)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        """Any loss."""
        return self.line(batch[0]).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The plainest."""
        return torch.optim.SGD(self.parameters(), lr=0.01)


class After(Callback):
    """Does something after the update of each step, before the saver looks."""

    def __init__(self, act: Callable[[Trainer, int], None]) -> None:
        self.act = act

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """With the number of finished updates."""
        self.act(trainer, trainer.global_step)


@pytest.fixture(autouse=True)
def _generators() -> Iterator[None]:
    before = rng_state()
    yield
    set_rng_state(before)


@pytest.fixture
def said() -> Iterator[list[str]]:
    """What the project's log says."""
    logger, messages = logging.getLogger("sam_train"), []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    yield messages
    logger.removeHandler(handler)


def fit(
    own: Saver,
    *callbacks: Callback,
    steps: int = 6,
    accumulate: int = 1,
    ckpt: Path | None = None,
) -> None:
    trainer = Trainer(
        max_steps=steps,
        accumulate_grad_batches=accumulate,
        accelerator="cpu",
        devices=1,
        logger=False,
        callbacks=[*callbacks, own],
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    data = DataLoader(TensorDataset(torch.ones(4, 1)), batch_size=1)
    trainer.fit(Line(), data, ckpt_path=ckpt, weights_only=True)


def train(
    run_dir: Path,
    *callbacks: Callback,
    steps: int = 6,
    ckpt: Path | None = None,
    saver: Mapping[str, Any] | None = None,
    **cfg: Any,
) -> None:
    own = Saver(CheckpointConfig(**(SILENT | cfg)), run_dir=run_dir, **(saver or {}))
    fit(own, *callbacks, steps=steps, ckpt=ckpt)


def saved(run_dir: Path) -> list[int]:
    """The steps of which there is a checkpoint; last.ckpt is always the newest of them."""
    folder = run_dir / "checkpoints"
    steps = sorted(int(path.stem.removeprefix("step=")) for path in folder.glob("step=*.ckpt"))
    assert inspect(folder / "last.ckpt").step == steps[-1]
    return steps


@pytest.mark.parametrize(
    ("cfg", "steps"),
    [
        ({}, [6]),
        ({"every_steps": 2}, [2, 4, 6]),
        ({"every_steps": 4}, [4, 6]),
        ({"every_steps": 1, "keep_last": 2}, [5, 6]),
        ({"keep_every": 3, "keep_last": 1}, [3, 6]),
        ({"every_minutes": 1e-9}, [1, 2, 3, 4, 5, 6]),
        ({"every_minutes": 60.0}, [6]),
        ({"every_steps": 4, "background": False}, [4, 6]),
    ],
)
def test_steps_that_are_saved(tmp_path: Path, cfg: dict[str, Any], steps: list[int]) -> None:
    train(tmp_path, **cfg)
    assert saved(tmp_path) == steps


def test_a_file_holds_the_step_it_is_named_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Training goes on while the file is written, and must not be seen in it."""
    moved, weights = threading.Event(), {}

    def late(content: dict[str, Any], path: Path, *, also: Path) -> None:
        assert moved.wait(120)
        write_checkpoint(content, path, also=also)

    def note(trainer: Trainer, step: int) -> None:
        module: Any = trainer.lightning_module
        weights[step] = module.line.weight.detach().clone()
        if step == 3:
            moved.set()

    monkeypatch.setattr(saving, "write_checkpoint", late)
    train(tmp_path, After(note), every_steps=2, steps=3)
    stored = torch.load(tmp_path / "checkpoints" / "step=2.ckpt", weights_only=True)
    assert torch.equal(stored["state_dict"]["line.weight"], weights[2])
    assert not torch.equal(weights[2], weights[3])


def test_minutes_count_from_the_last_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock by hand: 25 seconds a step, a save each minute."""
    clock = [1000.0]
    monkeypatch.setattr(saving.time, "monotonic", lambda: clock[0])

    def tick(trainer: Trainer, step: int) -> None:
        clock[0] += 25

    train(tmp_path, After(tick), every_minutes=1.25, steps=8)
    assert saved(tmp_path) == [3, 6, 8]


def test_micro_batches_of_one_update_are_saved_once(tmp_path: Path) -> None:
    """After two micro-batches there is one update, and only then is anything looked at."""
    asked = []

    class Counting(Saver):
        def _wish(self, trainer: Trainer, step: int) -> Wish:
            asked.append(step)
            return super()._wish(trainer, step)

    fit(Counting(CheckpointConfig(**SILENT), run_dir=tmp_path), steps=2, accumulate=2)
    assert asked == [1, 2]
    assert saved(tmp_path) == [2]


@pytest.mark.parametrize(
    ("best", "higher", "kept"), [(1, True, [4, 6]), (2, True, [2, 4, 6]), (1, False, [5, 6])]
)
def test_measured_steps_are_saved_and_the_best_stay(
    tmp_path: Path, best: int, higher: bool, kept: list[int]
) -> None:
    """Steps 2, 4 and 5 are measured; of other columns nothing is thought."""
    scores = {2: 0.5, 4: 0.9, 5: 0.1}
    recorder = Recorder(tmp_path)

    def measure(trainer: Trainer, step: int) -> None:
        recorder.record(trainer, {"loss": float(step)})
        if step in scores:
            recorder.record(trainer, {"val/miou_1": scores[step]})

    train(
        tmp_path,
        recorder,
        After(measure),
        keep_best=best,
        keep_last=1,
        higher_is_better=higher,
        background=False,
    )
    assert saved(tmp_path) == kept


@pytest.mark.parametrize(
    ("patience", "higher", "end"), [(0, True, 9), (1, True, 3), (2, True, 6), (2, False, 3)]
)
def test_a_run_ends_after_its_patience_and_says_which_was_best(
    tmp_path: Path, said: list[str], patience: int, higher: bool, end: int
) -> None:
    """Five scores by hand; a step that is not measured is nobody's fault."""
    scores = {1: 0.2, 2: 0.5, 3: 0.5, 4: 0.6, 5: 0.3, 6: 0.4}
    recorder = Recorder(tmp_path)

    def measure(trainer: Trainer, step: int) -> None:
        recorder.record(trainer, {"loss": float(step)})
        if step in scores:
            recorder.record(trainer, {"val/miou_1": scores[step]})

    cfg: dict[str, Any] = {"patience": patience, "higher_is_better": higher}
    train(tmp_path, recorder, After(measure), steps=9, **cfg)
    # The step of the end is saved, whether or not the best are.
    assert saved(tmp_path) == [end]
    ended = [line for line in said if "brought no better val/miou_1" in line]
    assert len(ended) == (end < 9)
    assert all(f"ended at step {end}" in line for line in ended)


def test_a_run_that_ended_early_goes_on_with_more_patience(tmp_path: Path) -> None:
    """What it then trains is what it would have trained without the end."""
    recorder = Recorder(tmp_path)

    def measure(trainer: Trainer, step: int) -> None:
        recorder.record(trainer, {"val/miou_1": 0.5})

    torch.manual_seed(5)
    train(tmp_path, recorder, After(measure), patience=2)
    assert saved(tmp_path) == [3]
    last = tmp_path / "checkpoints" / "last.ckpt"
    train(tmp_path, recorder, After(measure), patience=0, ckpt=last)
    torch.manual_seed(5)
    train(tmp_path / "whole")
    ours, whole = (
        torch.load(folder / "checkpoints" / "step=6.ckpt", weights_only=True)["state_dict"]
        for folder in (tmp_path, tmp_path / "whole")
    )
    assert all(torch.equal(ours[name], whole[name]) for name in whole)


def test_a_checkpoint_holds_the_record_the_processes_and_the_generators(tmp_path: Path) -> None:
    torch.manual_seed(5)
    random.seed(5)
    drawn: list[tuple[float, float]] = []

    def draw(trainer: Trainer, step: int) -> None:
        drawn.append((random.random(), float(torch.rand(()))))

    record = {"config": {"seed": 3}}
    train(tmp_path / "whole", After(draw), every_steps=3, saver={"record": record})
    folder = tmp_path / "whole" / "checkpoints"
    content = torch.load(folder / "step=3.ckpt", weights_only=True)
    assert content[RUN_RECORD] == {"config": {"seed": 3}, "processes": 1}
    assert len(content[RNG_RECORD]) == 1
    assert content["global_step"] == 3
    whole, drawn[:] = list(drawn), []
    # Continued, the generators draw what they drew, whatever came before.
    torch.manual_seed(99)
    random.seed(99)
    train(tmp_path / "rest", After(draw), ckpt=folder / "step=3.ckpt")
    assert drawn == whole[3:]
    # Saved by two processes, it says nothing about the generators of one.
    content[RNG_RECORD] = content[RNG_RECORD] * 2
    write_checkpoint(content, tmp_path / "two.ckpt")
    drawn.clear()
    train(tmp_path / "other", After(draw), ckpt=tmp_path / "two.ckpt")
    assert len(drawn) == 3 and drawn != whole[3:]


def test_a_continued_run_gives_up_what_lies_beyond(tmp_path: Path) -> None:
    train(tmp_path, every_steps=1, steps=3)
    train(tmp_path, ckpt=tmp_path / "checkpoints" / "step=2.ckpt", every_steps=4, steps=5)
    assert saved(tmp_path) == [1, 2, 4, 5]
    assert (tmp_path / "checkpoints" / "step=3.ckpt.old").is_file()


def test_a_run_that_is_over_is_not_saved_again(tmp_path: Path) -> None:
    """Its max_steps are reached before the first step: nothing is written, nothing is lost."""
    train(tmp_path, every_steps=1, steps=3)
    before = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "checkpoints").iterdir()}
    train(tmp_path, ckpt=tmp_path / "checkpoints" / "last.ckpt", steps=3)
    assert {p.name: p.stat().st_mtime_ns for p in (tmp_path / "checkpoints").iterdir()} == before


@pytest.mark.parametrize("background", [True, False])
def test_a_disk_that_is_full_ends_the_run_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, background: bool
) -> None:
    reached = []

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def note(trainer: Trainer, step: int) -> None:
        reached.append(step)
        if background:  # the thread ends before the next step asks about it
            writer.wait()

    own = Saver(
        CheckpointConfig(**SILENT | {"every_steps": 2, "background": background}), run_dir=tmp_path
    )
    writer = own._writer
    monkeypatch.setattr(saving, "write_checkpoint", full)
    with pytest.raises(UserError, match=r"No space left on device.*of step 2 is not") as caught:
        fit(own, After(note))
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)
    assert reached == ([1, 2, 3] if background else [1, 2])


def test_a_fault_of_ours_is_not_called_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("ours")

    monkeypatch.setattr(saving, "write_checkpoint", broken)
    with pytest.raises(ZeroDivisionError, match="ours"):
        train(tmp_path, background=False)


def test_the_last_write_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However the run ends: what `fit` returns from is on the disk."""
    write = saving.write_checkpoint

    def slow(*given: Any, **named: Any) -> None:
        time.sleep(0.2)
        write(*given, **named)

    monkeypatch.setattr(saving, "write_checkpoint", slow)
    train(tmp_path / "end")
    assert saved(tmp_path / "end") == [6]

    def stumble(trainer: Trainer, step: int) -> None:
        if step == 3:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        train(tmp_path / "stumbled", After(stumble), every_steps=2)
    assert saved(tmp_path / "stumbled") == [2]


def test_the_last_write_that_fails_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    monkeypatch.setattr(saving, "write_checkpoint", full)
    with pytest.raises(UserError, match=r"Disk quota exceeded.*of step 6 is not saved"):
        train(tmp_path)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_run_that_is_asked_to_end_is_saved_first(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    said: list[str],
    number: signal.Signals,
) -> None:
    """On the disk before it ends; requeued only where the notice says so."""
    requeued = []
    monkeypatch.setattr(saving, "requeue", lambda: requeued.append(saved(tmp_path)))
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    notice = Notice(grace_seconds=0)

    def ask(trainer: Trainer, step: int) -> None:
        if step == 3:
            notice.received = number

    with pytest.raises(Stopped) as caught:
        train(tmp_path, After(ask), saver={"notice": notice})
    assert (caught.value.step, caught.value.reason) == (3, number.name)
    assert saved(tmp_path) == [3]
    assert f"{number.name}: saved at step 3; the same command goes on from there" in said
    assert requeued == ([[3]] if number == signal.SIGUSR1 else [])


class Beside:
    """Another rank, and what it wants each time that the ranks agree; nothing after that."""

    def __init__(self, *wants: int) -> None:
        self.wants = list(wants)

    def start(self) -> None:
        """There is no process to meet."""

    def largest(self, value: int) -> int:
        """The larger of both."""
        return max(value, self.wants.pop(0)) if self.wants else value

    def same(self, text: str) -> bool:
        """Both found the same."""
        return True

    def gather(self, value: Any) -> list[Any]:
        """Both say the same."""
        return [value, value]

    def barrier(self) -> None:
        """The other is there already."""


WithAnother = Callable[..., Saver]


@pytest.fixture
def with_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WithAnother:
    def make(*wants: int) -> Saver:
        monkeypatch.setattr(saving, "dist", Beside(*wants))
        return Saver(CheckpointConfig(**SILENT), run_dir=tmp_path)

    return make


def test_what_another_rank_wants_happens_here_too(
    tmp_path: Path, with_another: WithAnother
) -> None:
    fit(with_another(Wish.NOTHING, Wish.SAVE), steps=4)
    assert saved(tmp_path) == [2, 4]


@pytest.mark.parametrize("requeues", [0, 1])
def test_a_rank_that_alone_is_asked_to_end_ends_all(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    said: list[str],
    requeues: int,
    with_another: WithAnother,
) -> None:
    """Step 1; then the save's own agreement, and who requeues."""
    called = []
    monkeypatch.setattr(saving, "requeue", lambda: called.append(True))
    with pytest.raises(Stopped) as caught:
        fit(with_another(Wish.SAVE_AND_STOP, Wish.NOTHING, requeues))
    assert (caught.value.step, caught.value.reason) == (1, "another process")
    assert said == ["another process: saved at step 1; the same command goes on from there"]
    assert saved(tmp_path) == [1]
    assert len(called) == requeues


@pytest.mark.parametrize("wants", [(Wish.FAIL,), (*[Wish.NOTHING] * 6, Wish.FAIL)])
def test_a_rank_whose_disk_is_full_says_it_alone(
    with_another: WithAnother, wants: tuple[Wish, ...]
) -> None:
    """This one ends with the same status and without a word; in the run, and at its end."""
    with pytest.raises(SystemExit) as caught:
        fit(with_another(*wants), steps=6)
    assert caught.value.code == 2


def test_only_the_first_rank_looks_at_clock_and_figures(tmp_path: Path) -> None:
    notice = Notice(grace_seconds=0)
    cfg = CheckpointConfig(every_steps=1, every_minutes=1e-9, keep_every=1)
    own = Saver(cfg, run_dir=tmp_path, notice=notice)
    first, other = (
        cast(Trainer, SimpleNamespace(is_global_zero=zero, max_steps=4)) for zero in (True, False)
    )
    assert own._wish(first, 4) is Wish.SAVE
    assert own._wish(other, 4) is Wish.NOTHING
    notice.received = signal.SIGTERM
    assert own._wish(first, 1) is own._wish(other, 1) is Wish.SAVE_AND_STOP


def test_a_run_dir_that_another_process_took_over_is_left_to_it(tmp_path: Path) -> None:
    """At the next step, in the words of whoever noticed it, and without a checkpoint."""
    owner = cast(RunOwner, SimpleNamespace(lost=""))

    def lose(trainer: Trainer, step: int) -> None:
        if step == 3:
            owner.lost = "run_dir is another process's now"

    with pytest.raises(UserError, match="run_dir is another process's now"):
        train(tmp_path, After(lose), saver={"owner": owner}, every_steps=3)
    assert not (tmp_path / "checkpoints").exists()


def test_the_last_measurement_may_make_another_one_the_best(tmp_path: Path) -> None:
    """It comes after the last save, whose rotation did not know of it yet."""
    recorder = Recorder(tmp_path)

    class AtTheEnd(Callback):
        def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
            if trainer.global_step == 2:
                recorder.record(trainer, {"val/miou_1": 0.5})

        def on_train_epoch_end(self, trainer: Trainer, *_: Any) -> None:
            if trainer.global_step == 4:
                recorder.record(trainer, {"val/miou_1": 0.9})

    train(tmp_path, recorder, AtTheEnd(), steps=4, keep_best=1, keep_last=1, background=False)
    assert saved(tmp_path) == [4]


def test_wishes_are_ordered_by_what_must_happen() -> None:
    assert Wish.NOTHING < Wish.SAVE < Wish.SAVE_AND_STOP < Wish.FAIL
