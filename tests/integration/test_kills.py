"""Killed at random, a run of two processes loses no more than the steps since the last save,
damages nothing, and ends as if it had never been killed, bit for bit.

`make test-kill` (SAM_TRAIN_KILLS=100) kills a hundred times instead of a few. As a program,
`python test_kills.py FOLDER KILLS SEED`, this file is what starts and kills; it forks its ranks, so
that importing everything is paid for once.
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from sam_train.cli import main
from sam_train.train.checkpoints.resume import find_resume, inspect
from sam_train.train.fit import fit as _  # noqa: F401 - imported before the fork, once
from sam_train.train.report.metrics_file import read_rows
from sam_train.train.watch.signals import STATUS_CONTINUE

EVERY = 2
SHORT, STEPS_PER_KILL = 5, 3
LEARNT = re.compile(r"step|loss|lr$|grad_norm|iou|predicted_iou|val/")
"""Columns of metrics.csv that are about learning, not about time."""
PATIENCE = 200.0


@dataclass
class Report:
    """What was done and what came of it."""

    kills: dict[str, int] = field(default_factory=dict)
    torn: int = 0
    """Kills that left a checkpoint half written."""
    stops: int = 0
    """By SIGTERM, which saves first."""
    lost: list[int] = field(default_factory=list)
    """Steps that were logged and had to be done again, after each kill."""
    wrong: list[str] = field(default_factory=list)


def same(first: Any, second: Any) -> bool:
    """Bit for bit, whatever it is made of."""
    if isinstance(first, torch.Tensor):
        return first.dtype == second.dtype and torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(v, second[k]) for k, v in first.items())
    if isinstance(first, (list, tuple)):
        return len(first) == len(second) and all(map(same, first, second))
    return bool(first == second)


def learnt(run_dir: Path) -> list[dict[str, str]]:
    """metrics.csv without what a clock says."""
    rows = read_rows(run_dir / "metrics.csv")
    return [{k: v for k, v in row.items() if LEARNT.match(k)} for row in rows]


class Ranks:
    """Two processes of one run, forked from this one."""

    def __init__(self, settings: list[str], log: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        self.status: dict[int, int] = {}
        self.pids = [self._fork(settings, log, rank, port) for rank in range(2)]

    @staticmethod
    def _fork(settings: list[str], log: Path, rank: int, port: str) -> int:
        pid = os.fork()
        if pid:
            return pid
        status = 1
        try:
            handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(handle, 1)
            os.dup2(handle, 2)
            os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
            os.environ |= {"NODE_RANK": "0", "LOCAL_RANK": str(rank)}
            main(["fit", *settings])
            status = 0
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 1
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)

    def running(self) -> bool:
        """Whether any of them is."""
        for pid in self.pids:
            if pid not in self.status:
                done, status = os.waitpid(pid, os.WNOHANG)
                if done:
                    self.status[pid] = os.waitstatus_to_exitcode(status)
        return len(self.status) < len(self.pids)

    def wait(self, until: Callable[[], bool] = lambda: False, *, pause: float = 0.01) -> bool:
        """Until something is so, or all have ended (False)."""
        end = time.monotonic() + PATIENCE
        while self.running():
            if until():
                return True
            if time.monotonic() > end:
                self.send(signal.SIGKILL, [0, 1])
                raise TimeoutError(f"{self.pids} neither advance nor end")
            time.sleep(pause)
        return False

    def writing(self, checkpoints: Path) -> bool:
        """Whether one of them is in the middle of a checkpoint, or was when it died."""
        # Those that were killed before left theirs, too.
        return any(any(checkpoints.glob(f".*.{pid}.partial")) for pid in self.pids)

    def send(self, number: int, victims: list[int]) -> None:
        """A signal to those of the ranks that still run."""
        for rank in victims:
            if self.running() and self.pids[rank] not in self.status:
                os.kill(self.pids[rank], number)


class Torture:
    """One run, killed again and again until it has ended."""

    def __init__(self, folder: Path, *, kills: int, seed: int) -> None:
        self.rng = random.Random(seed)
        self.settings: list[str] = json.loads((folder / "settings.json").read_text())
        self.settings.append(f"trainer.max_steps={STEPS_PER_KILL * kills}")
        self.folder = folder
        self.kills = kills
        self.report = Report()

    def start(self, name: str) -> Ranks:
        settings = [*self.settings, f"run_dir={self.folder / name}"]
        return Ranks(settings, self.folder / f"{name}.log")

    def step(self) -> int:
        """Newest row of metrics.csv."""
        rows = read_rows(self.folder / "killed" / "metrics.csv")
        return int(rows[-1]["step"]) if rows else 0

    def saved(self) -> int:
        """The step from which the run would go on; none of its files may be damaged."""
        run_dir = self.folder / "killed"
        for path in (run_dir / "checkpoints").glob("*.ckpt"):
            inspect(path)
        found = find_resume("auto", run_dir)
        return found.step if found else 0

    def strike(self, ranks: Ranks) -> None:
        """Kill one rank or both: at the start, between steps, or while a checkpoint is written."""
        # The one that matters most must not be left to chance.
        often = ["start", "step", "step", "save", "save"] if self.report.torn else ["save"]
        when = self.rng.choice(often)
        checkpoints = self.folder / "killed" / "checkpoints"
        if when == "start":
            time.sleep(self.rng.uniform(0, 2))
        elif when == "step":
            begin, more = self.step(), self.rng.randint(1, 2 * EVERY)
            ranks.wait(lambda: self.step() >= begin + more)
            time.sleep(self.rng.uniform(0, 0.2))
        else:
            ranks.wait(lambda: ranks.writing(checkpoints), pause=0.001)
            time.sleep(self.rng.uniform(0, 0.02) if self.report.torn else 0)
        if not ranks.running():
            return
        victims = self.rng.choice([[0, 1], [0], [1]])
        if when == "step" and self.rng.random() < 0.25:
            self.ask_to_stop(ranks, victims)
            return
        before = self.step()
        ranks.send(signal.SIGKILL, victims)
        if when == "start":
            # A rank that has not met the others waits for them; a launcher ends it.
            time.sleep(self.rng.uniform(0, 0.5))
            ranks.send(signal.SIGKILL, [0, 1])
        ranks.wait()
        self.report.torn += ranks.writing(checkpoints)
        lost = max(before, self.step()) - self.saved()
        self.report.lost.append(lost)
        # One save may be under way, and the next waits for it.
        if lost > 2 * EVERY:
            self.report.wrong.append(f"{lost} steps lost")
        name = f"{when} {victims}"
        self.report.kills[name] = self.report.kills.get(name, 0) + 1

    def ask_to_stop(self, ranks: Ranks, victims: list[int]) -> None:
        ranks.send(signal.SIGTERM, victims)
        ranks.wait()
        # Both end with the status, or the signal came when the last step was behind them.
        if set(ranks.status.values()) not in ({STATUS_CONTINUE}, {0}):
            self.report.wrong.append(f"SIGTERM: {ranks.status}")
        if self.saved() != self.step():
            self.report.wrong.append(f"SIGTERM: {self.saved()} saved of {self.step()}")
        self.report.stops += 1

    def run(self) -> Report:
        ranks = self.start("whole")
        ranks.wait()
        if set(ranks.status.values()) != {0}:
            self.report.wrong.append(f"unbroken: {ranks.status}")
            return self.report
        while True:
            ranks = self.start("killed")
            if sum(self.report.kills.values()) < self.kills:
                self.strike(ranks)
            ranks.wait()
            if set(ranks.status.values()) == {0}:
                break
            if 1 in ranks.status.values():
                self.report.wrong.append("a traceback")
                break
        self.compare()
        return self.report

    def compare(self) -> None:
        whole, killed = (self.folder / name for name in ("whole", "killed"))
        a, b = (
            torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
            for run in (whole, killed)
        )
        for name in (
            "global_step",
            "state_dict",
            "optimizer_states",
            "lr_schedulers",
            "rng_states",
            "average",
        ):
            if not same(a[name], b[name]):
                self.report.wrong.append(f"another {name} at the end")
        if learnt(whole) != learnt(killed):
            self.report.wrong.append("another metrics.csv")
        kept = [{p.name for p in (run / "checkpoints").iterdir()} for run in (whole, killed)]
        if kept[0] != kept[1]:
            self.report.wrong.append(f"files {kept[1]} instead of {kept[0]}")


@pytest.mark.slow
def test_kill_after_kill(tiny: Any, tmp_path: Path) -> None:
    shard = tiny.pack(tmp_path / "sa_000000.tar", tiny.good(6))
    settings = [
        *(
            word
            for word in tiny.settings
            if not word.startswith(("trainer.devices", "trainer.max"))
        ),
        *(f"data.train={shard}", f"data.val={shard}", "trainer.devices=2", "trainer.strategy=ddp"),
        *("callbacks.validation.images=2", "callbacks.validation.film_rows=0"),
        *("callbacks.validation.clicks=[1]", "callbacks.progress.line_seconds=0"),
        *(f"checkpoint.every_steps={EVERY}", "model.drop_path=0.1", "optim.warmup_steps=5"),
        "optim.ema=0.9",
    ]
    import forked  # noqa: PLC0415 - as a program, this file stands where tests/ is no path

    total, seed, done = int(os.environ.get("SAM_TRAIN_KILLS", str(SHORT))), 0, 0
    lost: list[int] = []
    while done < total:
        folder = tmp_path / str(seed)
        folder.mkdir()
        (folder / "settings.json").write_text(json.dumps(settings))
        kills = min(total - done, 20)
        program = subprocess.run(
            [forked.python(), __file__, str(folder), str(kills), str(seed)],
            capture_output=True,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            check=False,
        )
        assert program.returncode == 0, program.stderr
        report = Report(**json.loads(program.stdout.splitlines()[-1]))
        said = "".join(path.read_text() for path in folder.glob("*.log"))
        assert report.wrong == [], said
        assert "Traceback" not in said, said
        assert report.torn
        done += sum(report.kills.values())
        lost += report.lost
        seed += 1
        print(
            f"{done} kills: {report.kills}, {report.torn} in a write, {report.stops} stops, "
            f"steps lost {report.lost}"
        )
    assert max(lost) <= 2 * EVERY


if __name__ == "__main__":
    torch.set_num_threads(1)
    result = Torture(Path(sys.argv[1]), kills=int(sys.argv[2]), seed=int(sys.argv[3])).run()
    print(json.dumps(asdict(result)))
