"""launch/slurm.sbatch on a real cluster of two nodes, as a user would submit it, while everything
that happens to a job on a cluster happens to it; in the end nothing of it can be seen.

Without Slurm this is skipped, unless SAM_TRAIN_REQUIRE_SLURM=1.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from http_server import Behaviour, HostileServer
from slurm_cluster import Cluster, cluster, missing, wait_until

from sam_train.train.report.metrics_file import read_rows

ROOT = Path(__file__).resolve().parents[2]
STEPS, EVERY = 72, 3
LEARNT = re.compile(r"step|loss|lr$|grad_norm|iou|predicted_iou")
"""Columns of metrics.csv that are about learning, not about time."""
STATE = ("global_step", "state_dict", "optimizer_states", "lr_schedulers", "rng_states")
TWO_NODES = ("--ntasks-per-node=1", "--gpus-per-node=1", "--cpus-per-task=1")
PATIENCE = 400.0
"""Seconds: for machines that do other things, too."""
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "BOOT_FAIL")
"""States of a job that Slurm will not start again."""
SLOW = Behaviour(bytes_per_second=800)
"""About one step in five seconds: Slurm may take a minute to see what has happened to a node."""


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    if lacking := missing():
        reason = f"no Slurm here ({', '.join(lacking)}): apt-get install slurm-wlm munge"
        if os.environ.get("SAM_TRAIN_REQUIRE_SLURM") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHON", sys.executable)
        patch.setenv("OMP_NUM_THREADS", "1")
        with cluster(tmp_path_factory.mktemp("slurm")) as made:
            yield made


class Job:
    """A training under Slurm, and what its user can see of it."""

    def __init__(self, slurm: Cluster, run_dir: Path, *, number: str) -> None:
        self.slurm = slurm
        self.run_dir = run_dir
        self.number = number

    def step(self) -> int:
        """Newest row of metrics.csv."""
        path = self.run_dir / "metrics.csv"
        rows = read_rows(path) if path.is_file() else []
        return int(rows[-1]["step"]) if rows else 0

    def restarts(self) -> int:
        return int(self.slurm.job(self.number)["Restarts"])

    def trains(self, *, more: int = 1) -> None:
        """Wait until this life has made some steps."""
        self.wait(lambda: "step " in self.life(), "training")
        target = self.step() + more
        self.wait(lambda: self.step() >= target, f"step {target}")

    def life(self) -> str:
        """What rank 0 says in this one."""
        path = self.run_dir / "logs" / f"{self.number}.{self.restarts() + 1}" / "rank-0.txt"
        return path.read_text() if path.is_file() else ""

    @contextlib.contextmanager
    def restarted(self) -> Iterator[None]:
        """What is done inside costs a life; waits for the next."""
        lives = self.restarts()
        yield
        self.wait(lambda: self.restarts() > lives, f"life {lives + 2}")

    def wait(self, true: Callable[[], bool], what: str) -> None:
        """Until it is so, or the job has ended otherwise."""

        def looked() -> bool:
            return true() or self.slurm.job(self.number)["JobState"] in ENDED

        try:
            wait_until(looked, what=what, seconds=PATIENCE, pause=0.2)
        except TimeoutError as error:
            raise TimeoutError(f"{error}\n{self.said()}\n{self.slurm.logs()}") from error
        assert true(), f"{what} is not to come\n{self.said()}\n{self.slurm.logs()}"

    def done(self) -> None:
        """Wait for the end, which must be a good one."""
        self.wait(lambda: self.slurm.job(self.number)["JobState"] == "COMPLETED", "the end")

    def said(self) -> str:
        """All output, of the script and of the ranks."""
        files = [*self.run_dir.parent.glob(f"slurm-{self.number}.out")]
        files += sorted(self.run_dir.glob("logs/*/rank-*.txt"))
        return "\n".join(f"--- {path}\n{path.read_text()}" for path in files)


def submit(slurm: Cluster, run_dir: Path, words: list[str], *options: str) -> Job:
    options = (*TWO_NODES, f"--output={run_dir.parent}/slurm-%j.out", *options)
    words = [*words, f"run_dir={run_dir}"]
    number = slurm.submit(ROOT / "launch" / "slurm.sbatch", words, *options, cwd=ROOT)
    return Job(slurm, run_dir, number=number)


@pytest.mark.slow
def test_whatever_happens_the_end_is_the_same(
    slurm: Cluster, tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    tiny.pack(data / "sa_000000.tar", tiny.good(8))
    with HostileServer(data) as server:
        words = [
            *(w for w in tiny.settings if not w.startswith(("trainer.devices", "trainer.max"))),
            *(f"data.train={server.url('sa_000000.tar')}", "data.workers=1"),
            *(f"trainer.max_steps={STEPS}", f"checkpoint.every_steps={EVERY}"),
            *("model.drop_path=0.1", "optim.warmup_steps=5", "callbacks.progress.line_seconds=0"),
        ]
        # One node is what the script asks for by itself: it hands over to a job of two.
        first = submit(slurm, tmp_path / "whole", [*words, "trainer.num_nodes=2"])
        whole = Job(slurm, first.run_dir, number=str(int(first.number) + 1))
        first.done()
        whole.done()
        said = whole.said()
        assert "nothing stands in the way of training" in said
        assert {"n1", "n2"} <= {line.split()[2] for line in said.splitlines() if "versions" in line}

        monkeypatch.setenv("SKIP_DOCTOR", "1")
        # A busy machine may make Slurm start a job once more than it has to.
        monkeypatch.setenv("MAX_CRASHES", "6")
        options = ("--nodes=2", "--time=60", "--signal=USR1@30")
        suffering = submit(slurm, tmp_path / "broken", words, *options)
        suffer(suffering, server)
        suffering.done()
    assert suffering.restarts() >= 5
    log = (suffering.run_dir / "log.txt").read_text()
    for reason in ("SIGUSR1", "SIGTERM"):
        assert f"{reason}: saved at step" in log
    assert log.count("continuing ") >= 5
    compare(whole.run_dir, suffering.run_dir)


def suffer(job: Job, server: HostileServer) -> None:
    """All of it, one life each."""
    slurm = job.slurm
    # The time limit. The controller looks every 30 seconds, so steps are made slow meanwhile.
    job.trains()
    server.behave("sa_000000.tar", SLOW)
    with job.restarted():
        slurm.call("scontrol", "update", f"JobId={job.number}", "TimeLimit=1")
    server.behave("sa_000000.tar", Behaviour())
    slurm.call("scontrol", "update", f"JobId={job.number}", "TimeLimit=60")

    job.trains(more=EVERY)
    with job.restarted():
        slurm.call("scontrol", "requeue", job.number)

    job.trains(more=EVERY)
    with job.restarted():
        os.kill(slurm.ranks(job.number)[1], signal.SIGKILL)

    job.trains()
    with job.restarted():
        kill_during_save(job)

    job.trains()
    server.behave("sa_000000.tar", SLOW)
    with job.restarted():
        slurm.kill_node("n2")
    server.behave("sa_000000.tar", Behaviour())
    # The rank there notices by itself that the other one has left. A slurmd that comes back before
    # it is gone would be told to end the job's processes, and end those of the next life.
    job.wait(lambda: not slurm.steps(job.number), "the end of the lost node's rank")
    slurm.start_node("n2")


def kill_during_save(job: Job) -> None:
    victim = job.slurm.ranks(job.number)[0]
    folder = job.run_dir / "checkpoints"
    end = time.monotonic() + PATIENCE
    while not any(folder.glob(".*.partial")) and time.monotonic() < end:
        time.sleep(0.001)
    os.kill(victim, signal.SIGKILL)
    assert time.monotonic() < end, "no save was seen"


def compare(whole: Path, broken: Path) -> None:
    a, b = (
        torch.load(run / "checkpoints" / "last.ckpt", weights_only=True) for run in (whole, broken)
    )
    assert a["global_step"] == STEPS
    for name in STATE:
        assert same(a[name], b[name]), name
    assert learnt(whole) == learnt(broken)
    assert len(learnt(whole)) == STEPS


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
    rows = read_rows(run_dir / "metrics.csv")
    return [{k: v for k, v in row.items() if LEARNT.match(k)} for row in rows]


@pytest.mark.slow
def test_shards_are_copied_to_the_node_first(
    slurm: Cluster, tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "shared").mkdir()
    shard = tiny.pack(tmp_path / "shared" / "sa_000000.tar", tiny.good(4))
    scratch = tmp_path / "scratch"
    monkeypatch.setenv("STAGE_TO", str(scratch))
    monkeypatch.setenv("SKIP_DOCTOR", "1")
    words = [w for w in tiny.settings if not w.startswith("trainer.devices")]
    # Two ranks on one node, which copies once.
    options = ("--ntasks-per-node=2", "--gpus-per-node=2")
    job = submit(slurm, tmp_path / "run", [*words, f"data.train={shard}"], *options)
    job.done()
    assert (scratch / "sa_000000.tar").read_bytes() == shard.read_bytes()
    assert job.said().count("1 shard, 1 copied") == 1
    assert f"train: {scratch}/shards.txt" in (job.run_dir / "config.yaml").read_text()
    record = torch.load(job.run_dir / "checkpoints" / "last.ckpt", weights_only=True)["run"]
    assert record["processes"] == 2


@pytest.mark.slow
def test_what_a_person_has_to_mend_is_not_tried_again(slurm: Cluster, tmp_path: Path) -> None:
    job = submit(slurm, tmp_path / "run", ["data.train=nowhere/sa_000000.tar"])
    job.wait(lambda: job.slurm.job(job.number)["JobState"] == "FAILED", "the refusal")
    assert slurm.job(job.number)["ExitCode"] == "2:0"
    assert job.restarts() == 0
    said = job.said()
    assert re.search(
        r"^FAIL  shards +n1 .*nowhere/sa_000000.tar does not exist", said, re.MULTILINE
    )
    assert not (job.run_dir / "metrics.csv").exists()
