"""Real processes that ask for one run_dir: together, after a kill, from other machines."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sam_train.cli import main
from sam_train.errors import UserError
from sam_train.runtime import run_owner
from sam_train.runtime.processes import Process
from sam_train.runtime.run_owner import FOLDER, RunOwner, follow, newest, owned
from sam_train.train.checkpoints.retention import CheckpointConfig
from sam_train.train.checkpoints.saving import Saver, Wish
from sam_train.train.report.metrics_file import MetricsFile

CLONE_NEWUTS, CLONE_NEWPID = 0x04000000, 0x20000000


class Forked:
    """A process that asks for a run_dir, says what came of it, and lives until it is ended."""

    def __init__(self, run_dir: Path, *, prepare: Callable[[], None] = lambda: None) -> None:
        self.answer, answer = os.pipe()
        go, self.go = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                # Ends of others' pipes would keep those from ending.
                os.close(self.answer)
                os.close(self.go)
                prepare()
                os.read(go, 1)
                owner = RunOwner(run_dir, beat=0.02)
                try:
                    owner.take(patience=5)
                    os.write(answer, b"yes")
                    # C code, as far as the interpreter can tell.
                    if os.read(go, 1) == b"e":
                        owner.release()
                        os.write(answer, b"done")
                except UserError as error:
                    os.write(answer, str(error).encode())
            finally:
                os._exit(0)
        os.close(answer)
        os.close(go)

    def ask(self) -> None:
        os.write(self.go, b"g")

    def said(self) -> str:
        return os.read(self.answer, 1000).decode()

    def end(self) -> None:
        os.write(self.go, b"e")
        assert self.said() == "done"
        self._close()

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        self._close()

    def _close(self) -> None:
        os.waitpid(self.pid, 0)
        os.close(self.go)
        os.close(self.answer)


def elsewhere(**changes: Any) -> Process:
    """This process, on another machine."""
    return replace(Process.current({}), host="far", machine="another", **changes)


@pytest.mark.parametrize("links", [True, False])
def test_of_those_that_start_together_one_gets_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    if not links:

        def no_links(*_: Any) -> None:
            raise PermissionError

        monkeypatch.setattr(os, "link", no_links)
    for number in range(12):
        asking = [Forked(tmp_path) for _ in range(3)]
        for process in asking:
            process.ask()
        said = [process.said() for process in asking]
        assert said.count("yes") == 1, said
        winner = asking[said.index("yes")]
        refused = [text for text in said if text != "yes"]
        assert all(f"by process {winner.pid} on {socket.gethostname()}" in t for t in refused), said
        # The next round finds an owner that has ended, or one that was killed.
        if number % 2:
            winner.end()
        for process in asking:
            if process is not winner:
                process._close()
        if number % 2 == 0:
            winner.kill()
    files = sorted(int(path.stem) for path in (tmp_path / FOLDER).iterdir())
    assert files == list(range(5, 13))


def test_a_process_that_was_killed_is_known_to_be_dead_at_once(tmp_path: Path) -> None:
    holder = Forked(tmp_path)
    holder.ask()
    assert holder.said() == "yes"
    with pytest.raises(UserError, match=f"process {holder.pid} on .*stop it"):
        RunOwner(tmp_path).take(patience=1e6)
    # Dead, though its parent has not asked for its status yet.
    os.kill(holder.pid, signal.SIGKILL)
    os.waitid(os.P_PID, holder.pid, os.WEXITED | os.WNOWAIT)
    owner = RunOwner(tmp_path)
    owner.take(patience=1e6)
    owner.release()
    holder._close()


def test_a_number_that_is_used_again_is_another_process(tmp_path: Path) -> None:
    owner = RunOwner(tmp_path)
    owner.take()
    _, seen = newest(owner.folder)
    assert seen is not None
    record = json.loads(seen.text)
    assert int(record["process"]["started"]) > 0
    record["process"]["started"] = "1"
    owner.release()
    seen.path.write_text(json.dumps(record))
    other = RunOwner(tmp_path)
    other.take(patience=1e6)
    other.release()


def test_a_life_elsewhere_is_told_by_its_beats(tmp_path: Path) -> None:
    holder = Forked(tmp_path)
    holder.ask()
    assert holder.said() == "yes"
    with pytest.raises(UserError, match=f"in use since 2.* by process {holder.pid}"):
        RunOwner(tmp_path, me=elsewhere()).take(patience=60)
    holder.kill()
    far = RunOwner(tmp_path, me=elsewhere())
    before = time.monotonic()
    far.take(patience=0.5)
    assert time.monotonic() - before >= 0.5
    # Its end, however, is written down.
    far.release()
    near = RunOwner(tmp_path)
    near.take(patience=1e6)
    near.release()


def test_containers_and_other_host_names_are_other_machines(tmp_path: Path) -> None:
    """Process numbers of a container mean nothing outside: really unshared, as far as allowed."""

    def unshare() -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(CLONE_NEWUTS | CLONE_NEWPID):
            os._exit(77)
        socket.sethostname("container")
        # The first child is the first that lives in the new numbers.
        if child := os.fork():
            os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))

    holder = Forked(tmp_path, prepare=unshare)
    holder.ask()
    said = holder.said()
    if not said:
        holder._close()
        pytest.skip("unshare needs root")
    assert said == "yes"
    _, seen = newest(tmp_path / FOLDER)
    assert seen is not None
    process = json.loads(seen.text)["process"]
    assert (process["pid"], process["host"]) == (1, "container")
    # Number 1 is alive here, too.
    with pytest.raises(UserError, match="process 1 on container"):
        RunOwner(tmp_path).take(patience=60)
    holder.end()


def test_the_next_life_of_a_job_gets_in_at_once_and_the_old_one_stops(tmp_path: Path) -> None:
    slurm = {"SLURM_JOB_ID": "7", "SLURM_CLUSTER_NAME": "c", "SLURM_STEP_ID": "0"}
    first = RunOwner(tmp_path, me=replace(Process.current(slurm), machine="lost"), beat=0.02)
    first.take()
    saver = Saver(CheckpointConfig(), run_dir=tmp_path, owner=first)
    trainer: Any = type("Trainer", (), {"is_global_zero": True, "max_steps": 9})
    saver._saved_time = time.monotonic()
    assert saver._wish(trainer, 1) == Wish.NOTHING
    other = Process.current(slurm | {"SLURM_JOB_ID": "8", "SLURM_RESTART_COUNT": "1"})
    with pytest.raises(UserError, match=r"\(Slurm job 7\)"):
        RunOwner(tmp_path, me=replace(other, machine="another")).take(patience=60)
    again = Process.current(slurm | {"SLURM_RESTART_COUNT": "1"})
    second = RunOwner(tmp_path, me=replace(again, machine="another"))
    second.take(patience=1e6)
    assert first._thread is not None
    first._thread.join()
    assert "taken over" in first.lost
    assert saver._wish(trainer, 1) == Wish.FAIL
    with pytest.raises(UserError, match="taken over"):
        saver._fail()
    first.release()
    # The end of the first is not the end of the second.
    with pytest.raises(UserError, match="in use"):
        RunOwner(tmp_path, me=second.me).take()
    second.release()


def test_ranks_belong_to_their_first_process_and_to_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    launched = {"MASTER_ADDR": "n1", "MASTER_PORT": "12007", "SLURM_JOB_ID": "7"}
    me = Process.current(launched)
    owner = RunOwner(tmp_path, me=me)
    follow(tmp_path, me=me)
    owner.take()
    follow(tmp_path, me=replace(me, pid=1, machine="another"))
    # Started by the first process itself, before there was a port.
    follow(tmp_path, me=elsewhere(team="MASTER_PORT=1"))
    monkeypatch.delenv(run_owner.TOKEN)
    with pytest.raises(UserError, match="in use"):
        follow(tmp_path, me=Process.current(launched | {"MASTER_PORT": "12008"}))
    owner.release()
    follow(tmp_path, me=Process.current(launched | {"MASTER_PORT": "12008"}))


@pytest.mark.parametrize(
    ("environment", "first"),
    [
        ({}, True),
        ({"LOCAL_RANK": "1"}, False),
        ({"RANK": "8", "LOCAL_RANK": "0"}, False),
        ({"SLURM_PROCID": "3"}, False),
        ({"NODE_RANK": "1", "LOCAL_RANK": "0"}, False),
        ({"NODE_RANK": "1", "RANK": "0", "LOCAL_RANK": "0"}, True),
    ],
)
def test_the_first_process_alone_becomes_the_owner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], first: bool
) -> None:
    for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID", "NODE_RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with owned(tmp_path) as owner:
        assert (owner is not None) == first
        assert (tmp_path / FOLDER).exists() == first


def test_whatever_ends_a_run_lets_the_next_one_in(tmp_path: Path) -> None:
    for end in (UserError("x"), SystemExit(75), KeyboardInterrupt()):
        with pytest.raises(type(end)), owned(tmp_path):
            raise end
        assert run_owner.TOKEN not in os.environ
    assert newest(tmp_path / FOLDER)[0] == 3
    with owned(tmp_path) as owner:
        assert owner is not None
        # A data worker that ends does not speak for the run.
        if (worker := os.fork()) == 0:
            owner.release()
            os._exit(0)
        os.waitpid(worker, 0)
        with pytest.raises(UserError, match="in use"):
            RunOwner(tmp_path).take()


def test_a_folder_that_was_cleared_away_is_owned_still(tmp_path: Path) -> None:
    owner = RunOwner(tmp_path, beat=1e6)
    owner.take()
    for path in owner.folder.iterdir():
        path.unlink()
    owner._show_life()
    with pytest.raises(UserError, match="in use"):
        RunOwner(tmp_path).take()
    assert not owner.lost
    owner.release()


def test_a_file_that_was_never_finished_is_waited_for(tmp_path: Path) -> None:
    (tmp_path / FOLDER).mkdir()
    (tmp_path / FOLDER / "1.json").write_bytes(b'{"process": {"ho')
    before = time.monotonic()
    owner = RunOwner(tmp_path)
    owner.take(patience=0.3)
    assert time.monotonic() - before >= 0.3
    assert owner.path is not None
    assert owner.path.name == "2.json"
    owner.release()


def test_a_second_fit_is_refused_in_a_line_and_changes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    metrics = MetricsFile(run_dir / "metrics.csv")
    metrics.resume_at(0)
    metrics.write(3, {"loss": 1.0})
    holder = Forked(run_dir)
    holder.ask()
    assert holder.said() == "yes"
    before = (run_dir / "metrics.csv").read_bytes()
    with pytest.raises(SystemExit) as end:
        main(["fit", "+experiment=quickstart", "data.train=nothing", f"run_dir={run_dir}"])
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: run_dir={run_dir} is in use since ")
    assert f"process {holder.pid} on {socket.gethostname()}" in said
    assert said.count("\n") == 1
    assert (run_dir / "metrics.csv").read_bytes() == before
    assert not (run_dir / "config.yaml").exists()
    assert not (run_dir / "log.txt").exists()
    holder.kill()
