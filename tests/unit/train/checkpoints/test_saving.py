"""What is written, what is kept, and what becomes of it on a disk that fails."""

from __future__ import annotations

import errno
import logging
import os
import random
import zipfile
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from sam_train.errors import UserError
from sam_train.runtime.background import Background, snapshot
from sam_train.settings.compose import load_config
from sam_train.settings.run import RunConfig, check_config
from sam_train.settings.sections import check_section
from sam_train.train.checkpoints import saving
from sam_train.train.checkpoints.config import CheckpointConfig
from sam_train.train.checkpoints.file import (
    DamagedFileError,
    check_checksums,
    link,
    read_outline,
    remove_unfinished,
    write_checkpoint,
)
from sam_train.train.checkpoints.resume import candidates, inspect
from sam_train.train.checkpoints.retention import (
    best_checkpoint,
    is_stalled,
    steps_in,
    to_keep,
)
from sam_train.train.checkpoints.rng_state import rng_state, set_rng_state
from sam_train.train.checkpoints.saving import Saver, begin_course, identity
from sam_train.train.fit import run_callbacks
from sam_train.train.watch.signals import Notice


def content(step: int = 1) -> dict[str, Any]:
    """As little as a checkpoint may hold."""
    weight = torch.arange(300, dtype=torch.float32).view(20, 15) * step
    return {
        "state_dict": {"weight": weight, "bias": torch.ones(3, dtype=torch.bfloat16)},
        "optimizer_states": [{"state": {0: {"exp_avg": weight + 1}}, "param_groups": []}],
        "lr_schedulers": [],
        "loops": {},
        "global_step": step,
        "run": {"config": {"seed": 0, "name": "a", "betas": [0.9, 0.95], "nothing": None}},
    }


def same(first: Any, second: Any) -> bool:
    if isinstance(first, torch.Tensor):
        return isinstance(second, torch.Tensor) and torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(v, second[k]) for k, v in first.items())
    if isinstance(first, list):
        return len(first) == len(second) and all(map(same, first, second))
    return bool(first == second)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_one_file_under_two_names(tmp_path: Path) -> None:
    first, last = tmp_path / "step=1.ckpt", tmp_path / "last.ckpt"
    write_checkpoint(content(), first, also=last)
    assert names(tmp_path) == {"step=1.ckpt", "last.ckpt"}
    assert first.stat().st_ino == last.stat().st_ino
    assert same(torch.load(last, weights_only=True), content())
    write_checkpoint(content(2), tmp_path / "step=2.ckpt", also=last)
    assert torch.load(first, weights_only=True)["global_step"] == 1
    assert torch.load(last, weights_only=True)["global_step"] == 2
    assert [path.name for path in candidates(tmp_path)] == ["last.ckpt", "step=1.ckpt"]


def test_a_file_system_without_links_gets_a_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    first, last = tmp_path / "step=1.ckpt", tmp_path / "last.ckpt"
    write_checkpoint(content(), first, also=last)
    assert names(tmp_path) == {"step=1.ckpt", "last.ckpt"}
    assert first.read_bytes() == last.read_bytes()


def test_every_changed_bit_is_found_or_means_nothing(tmp_path: Path) -> None:
    """Of the whole file: records, names, paddings, the directory at its end."""
    good, path = tmp_path / "good.ckpt", tmp_path / "bad.ckpt"
    write_checkpoint(content(), good)
    data = good.read_bytes()
    rng = random.Random(0)
    places = [rng.randrange(len(data)) for _ in range(300)]
    places += range(len(data) - 150, len(data))
    flips = [(place, 1 << rng.randrange(8)) for place in places]
    # Says that a record is a folder.
    directory = data.rindex(b"PK\x01\x02")
    flips.append((directory + 38, 0x10))
    found = 0
    for place, bit in flips:
        changed = bytearray(data)
        changed[place] ^= bit
        path.write_bytes(changed)
        try:
            inspect(path)
        except DamagedFileError:
            found += 1
        else:
            assert same(torch.load(path, weights_only=True), content()), place
    assert found > 100


def test_every_cut_is_found(tmp_path: Path) -> None:
    good, path = tmp_path / "good.ckpt", tmp_path / "bad.ckpt"
    write_checkpoint(content(), good)
    data = good.read_bytes()
    for length in [*range(0, len(data), 97), len(data) - 1]:
        path.write_bytes(data[:length])
        with pytest.raises(DamagedFileError):
            inspect(path)


def test_a_wrong_value_is_named(tmp_path: Path) -> None:
    """torch.load itself reads it without a word."""
    path = tmp_path / "step=1.ckpt"
    write_checkpoint(content(), path)
    with zipfile.ZipFile(path) as archive:
        record = next(name for name in archive.namelist() if name.endswith("data/0"))
    data = bytearray(path.read_bytes())
    data[data.index(torch.arange(300.0).numpy().tobytes()) + 40] ^= 1
    path.write_bytes(data)
    assert not same(torch.load(path, weights_only=True), content())
    with pytest.raises(DamagedFileError, match=f"{record.partition('/')[2]} fails its checksum"):
        check_checksums(path)


class Rude:
    """A pickle that does something when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


def test_code_in_a_checkpoint_is_never_run(tmp_path: Path) -> None:
    trap = tmp_path / "ran"
    path = tmp_path / "step=1.ckpt"
    torch.save({**content(), "callbacks": Rude(trap)}, path)
    with pytest.raises(DamagedFileError, match="it would run code"):
        read_outline(path)
    with pytest.raises(DamagedFileError, match="cannot be read as a checkpoint"):
        inspect(path)
    assert not trap.exists()


def test_what_only_code_could_bring_back_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "step=1.ckpt"
    write_checkpoint(content(), path)
    with pytest.raises(DamagedFileError, match="it would run code"):
        write_checkpoint({**content(2), "path": Path("x")}, path)
    assert names(tmp_path) == {"step=1.ckpt"}
    assert torch.load(path, weights_only=True)["global_step"] == 1


def test_a_full_disk_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    last = tmp_path / "last.ckpt"
    write_checkpoint(content(), last)
    opened = Path.open

    class Full(BytesIO):
        def write(self, data: Any) -> int:
            if self.tell() > 500:
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(data)

    def full(self: Path, *arguments: Any) -> Any:
        return Full() if arguments == ("wb",) else opened(self, *arguments)

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(OSError, match="No space left"):
        write_checkpoint(content(2), tmp_path / "step=2.ckpt", also=last)
    monkeypatch.undo()
    assert names(tmp_path) == {"last.ckpt"}
    assert torch.load(last, weights_only=True)["global_step"] == 1


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    write_checkpoint(content(), tmp_path / "last.ckpt")
    (tmp_path / ".step=2.ckpt.123.partial").write_bytes(b"half")
    remove_unfinished(tmp_path)
    assert names(tmp_path) == {"last.ckpt"}


def test_what_stays() -> None:
    scores = {100: 0.2, 200: 0.5, 300: 0.5, 400: 0.1, 500: float("nan")}
    steps = [500, 100, 300, 200, 400]

    def kept(**more: Any) -> set[int]:
        return to_keep(steps, scores=scores, cfg=CheckpointConfig(**more))

    assert kept(keep_last=1, keep_best=0) == {500}
    assert kept(keep_last=2, keep_best=1) == {400, 500, 300}
    assert kept(keep_last=1, keep_best=2) == {500, 300, 200}
    assert kept(keep_last=1, keep_best=1, higher_is_better=False) == {500, 400}
    assert kept(keep_last=1, keep_best=0, keep_every=200) == {500, 200, 400}
    assert kept(keep_last=9, keep_best=9) == set(steps)


@pytest.mark.parametrize(
    ("name", "value"), [("keep_last", 0), ("every_steps", -1), ("grace_seconds", float("nan"))]
)
def test_settings_that_mean_nothing(name: str, value: Any) -> None:
    with pytest.raises(UserError, match=f"checkpoint.{name}="):
        check_section(CheckpointConfig(**{name: value}))


def test_a_course_that_is_given_up_is_not_taken_for_the_newest(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        write_checkpoint(content(step), tmp_path / f"step={step}.ckpt", also=tmp_path / "last.ckpt")
    begin_course(tmp_path, step=3)
    assert names(tmp_path) == {"step=1.ckpt", "step=2.ckpt", "step=3.ckpt", "last.ckpt"}
    begin_course(tmp_path, step=2)
    assert names(tmp_path) == {"step=1.ckpt", "step=2.ckpt", "step=3.ckpt.old", "last.ckpt"}
    assert inspect(tmp_path / "last.ckpt").step == 2
    begin_course(tmp_path, step=0)
    assert steps_in(tmp_path) == []
    assert not list(candidates(tmp_path))
    assert inspect(tmp_path / "step=2.ckpt.old").step == 2


class Other:
    """A rank beside this one, and what it found."""

    def __init__(self, said: str) -> None:
        self.said = said

    def start(self) -> None:
        pass

    def same(self, text: str) -> bool:
        return text == self.said


def test_ranks_that_found_different_files_of_one_name_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each machine with a run_dir of its own: all of them have a last.ckpt."""
    contents = {"first": content(4), "copy": content(4), "later": content(8), "other": content(4)}
    contents["other"]["state_dict"]["weight"] += 1
    trainer: Any = SimpleNamespace(global_rank=1)
    module: Any = None
    for name, of in contents.items():
        path = tmp_path / name / "last.ckpt"
        write_checkpoint(of, path)
        saver = Saver(CheckpointConfig(), run_dir=tmp_path, resume_from=inspect(path))
        other = Other(identity(inspect(tmp_path / "first" / "last.ckpt")))
        monkeypatch.setattr(saving, "dist", other)
        if name in ("first", "copy"):
            saver.setup(trainer, module, "fit")
            continue
        said = rf"rank 1: last\.ckpt of step {of['global_step']}, checksum \w{{8}}\)"
        with pytest.raises(UserError, match=said):
            saver.setup(trainer, module, "fit")


def test_a_snapshot_is_a_copy(tmp_path: Path) -> None:
    weight = torch.zeros(3)
    tree = {"a": weight, "b": [weight, (1, {"c": weight[1:]})], "d": weight.view(3, 1)}
    copy = snapshot(tree)
    weight += 1
    assert copy["a"].tolist() == [0, 0, 0]
    assert copy["b"][1][1]["c"].tolist() == [0, 0]
    assert copy["b"][0] is copy["a"]
    assert copy["d"].shape == (3, 1)


def test_an_error_of_the_thread_comes_back() -> None:
    writer = Background()
    writer.start(lambda: None)
    writer.wait()
    assert writer.error is None

    def fail() -> None:
        raise OSError(errno.EIO, "broken")

    writer.start(fail)
    writer.wait()
    assert isinstance(writer.error, OSError)


def test_random_generators_go_on_where_they_were(tmp_path: Path) -> None:
    def draw() -> list[float]:
        return [random.random(), float(np.random.rand()), float(torch.rand(()))]  # noqa: NPY002

    before = rng_state()
    try:
        draw()
        write_checkpoint({"rng": rng_state()}, tmp_path / "rng.ckpt")
        first = draw()
        draw()
        set_rng_state(torch.load(tmp_path / "rng.ckpt", weights_only=True)["rng"])
        assert draw() == first
    finally:
        set_rng_state(before)


def test_a_link_replaces_what_was_there(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
    link(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_text() == "a"
    assert names(tmp_path) == {"a", "b"}


@pytest.mark.parametrize(
    ("metric", "boxes", "column"),
    [
        ("auto", 0.5, "val/miou_2"),
        ("auto", 0.0, "val/miou_2"),
        ("auto", 1.0, "val/box"),
        ("val/miou_9", 1.0, "val/miou_9"),
    ],
)
def test_the_best_of_a_run_that_trains_boxes_only_is_best_by_boxes(
    metric: str, boxes: float, column: str, tmp_path: Path
) -> None:
    cfg = RunConfig()
    cfg.checkpoint.metric, cfg.prompts.box_probability = metric, boxes
    cfg.callbacks.validation.clicks = [9, 2]
    notice = Notice(grace_seconds=1.0)
    made = run_callbacks(cfg, run_dir=tmp_path, notice=notice, plain={}, found=None)
    (saver,) = (each for each in made if isinstance(each, Saver))
    assert saver.cfg.metric == column
    assert saver.cfg.keep_last == cfg.checkpoint.keep_last
    assert cfg.checkpoint.metric == metric


def test_a_course_begins_where_its_file_lies(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The four states of a folder between the two names of a checkpoint."""

    def files(**steps: int) -> Path:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        for name, step in steps.items():
            content = {"state_dict": {}, "global_step": step}
            write_checkpoint(content, folder / f"{name.replace('_', '=')}.ckpt")
        return folder

    caplog.set_level(logging.INFO, logger="sam_train")
    begin_course(tmp_path / "none", step=3)
    assert not (tmp_path / "none").exists()
    killed = files(last=4, step_2=2)
    begin_course(killed, step=4)
    assert (killed / "step=4.ckpt").samefile(killed / "last.ckpt")
    assert caplog.messages == []
    behind = files(last=4, step_2=2, step_4=4)
    begin_course(behind, step=2)
    assert (behind / "step=2.ckpt").samefile(behind / "last.ckpt")
    assert caplog.messages[-1] == "not continued, renamed to *.old: step=4.ckpt"
    gone = files(last=4, step_4=4, step_1=1)
    begin_course(gone, step=3)
    assert {p.name for p in gone.iterdir()} == {"step=1.ckpt", "step=4.ckpt.old", "last.ckpt.old"}
    assert caplog.messages[-1] == "not continued, renamed to *.old: step=4.ckpt, last.ckpt"
    damaged = files(step_2=2)
    (damaged / "last.ckpt").write_bytes(b"half")
    begin_course(damaged, step=2)
    assert (damaged / "last.ckpt").samefile(damaged / "step=2.ckpt")
    odd = files(step_2=2)
    write_checkpoint({"state_dict": {}, "global_step": "many"}, odd / "last.ckpt")
    begin_course(odd, step=2)
    assert (odd / "last.ckpt").samefile(odd / "step=2.ckpt")


def test_patience_counts_measurements_since_the_best_and_not_steps() -> None:
    nan = float("nan")

    def stalled(*values: float, patience: int = 2, **more: Any) -> bool:
        scores = {10 * step: value for step, value in enumerate(values)}
        return is_stalled(scores, CheckpointConfig(patience=patience, **more))

    assert not stalled()
    assert not stalled(nan, nan, nan, nan)
    assert not stalled(0.1, 0.2, 0.1)
    assert stalled(0.1, 0.2, 0.1, 0.15)
    assert not stalled(0.1, 0.2, nan, nan, 0.1)
    # A score that comes back is no improvement; one that is better starts the count anew.
    assert stalled(0.2, 0.1, 0.2)
    assert not stalled(0.2, 0.1, 0.1, 0.3, 0.1)
    assert not stalled(0.9, 0.1, 0.1, patience=0)
    assert stalled(0.1, 0.2, 0.3, higher_is_better=False)


def test_the_best_checkpoint_is_that_of_the_best_score_that_is_still_there(tmp_path: Path) -> None:
    cfg = CheckpointConfig(metric="val/box")
    assert best_checkpoint(tmp_path, cfg) is None
    (tmp_path / "metrics.csv").write_text("step,val/box\n1,0.5\n2,0.9\n3,\n4,0.7\n")
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    for step in (1, 3, 4):
        (folder / f"step={step}.ckpt").touch()
    assert best_checkpoint(tmp_path, cfg) == folder / "step=4.ckpt"
    low = CheckpointConfig(metric="val/box", higher_is_better=False)
    assert best_checkpoint(tmp_path, low) == folder / "step=1.ckpt"


def test_patience_without_measurements_is_refused() -> None:
    with pytest.raises(UserError, match=r"data\.val and callbacks\.validation\.every"):
        check_config(load_config(["data.train=x", "checkpoint.patience=2"]))
