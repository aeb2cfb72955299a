"""A real Slurm cluster of two nodes on this machine, in a folder, for as long as it is needed.

Its daemons run as whoever runs the tests, with a key, a socket and ports of their own, so that
neither root nor an idle machine is needed, and a cluster that this machine belongs to is untouched.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue", "scancel")
NODES = ("n1", "n2")

CONF = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
# A requeued job waits this long, so that the credentials of its last life are void: 120 by default.
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool_%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd_%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SwitchType=switch/none
MpiDefault=none
SchedulerParameters=sched_interval=2,batch_sched_delay=0,sched_min_interval=100000
SlurmdParameters=config_overrides
ReturnToService=2
JobRequeue=1
KillWait=30
SlurmdTimeout=15
# A busy machine answers late, and a message that is sent twice ends a job's next life, too.
MessageTimeout=100
GresTypes=gpu
{nodes}
PartitionName=all Nodes={names} Default=YES MaxTime=2-0 OverTimeLimit=0 State=UP
"""
NODE = "NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=4 Gres=gpu:2"


def missing() -> list[str]:
    """List the programs that a cluster needs and that this machine lacks."""
    return [name for name in PROGRAMS if _program(name) is None]


def _program(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def wait_until(
    true: Callable[[], object], *, what: str, seconds: float, pause: float = 0.5
) -> None:
    """Wait until a condition holds, and look again and again.

    Raises:
        TimeoutError: it did not become so; says `what`.
    """
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            raise TimeoutError(f"not within {seconds:g} s: {what}")
        time.sleep(pause)


@dataclass
class Cluster:
    """Two nodes n1 and n2, each with two GPUs as far as the scheduler is concerned."""

    folder: Path
    daemons: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        """The environment of a user of this cluster."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM", "SBATCH"))}
        return {**kept, "SLURM_CONF": str(self.folder / "slurm.conf")}

    def call(self, *command: str, check: bool = True) -> str:
        """Return what a Slurm command printed, on both streams."""
        done = subprocess.run(
            command,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=60,
        )
        if check and done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stdout}")
        return done.stdout.strip()

    def job(self, job: str) -> dict[str, str]:
        """Read `scontrol show job`, field by field."""
        words = self.call("scontrol", "--oneliner", "show", "job", job).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def submit(self, script: Path, arguments: Sequence[str], *options: str, cwd: Path) -> str:
        """Submit a script by `sbatch`, and return the job's number."""
        done = subprocess.run(
            ["sbatch", "--parsable", *options, str(script), *arguments],
            env=self.environment,
            cwd=cwd,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        if done.returncode:
            raise RuntimeError(f"sbatch: {done.stderr}")
        return done.stdout.strip()

    def start(self) -> None:
        """Bring everything up.

        Raises:
            TimeoutError: the nodes did not become idle; with the end of each log.
        """
        self._write_conf()
        subprocess.run(
            [_program("mungekey") or "mungekey", "--create", f"--keyfile={self.folder}/munge.key"],
            check=True,
        )
        self._spawn(
            "munged",
            *("--foreground", "--force", f"--key-file={self.folder}/munge.key"),
            *(f"--socket={self.folder}/munge.socket", f"--pid-file={self.folder}/munged.pid"),
            f"--seed-file={self.folder}/munged.seed",
        )
        wait_until((self.folder / "munge.socket").exists, what="munged's socket", seconds=30)
        self._spawn("slurmctld", "-D", "-f", f"{self.folder}/slurm.conf")
        for node in NODES:
            self.start_node(node)
        try:
            wait_until(self.idle, what="two idle nodes", seconds=60)
        except TimeoutError as error:
            raise TimeoutError(f"{error}\n{self.logs()}") from error

    def start_node(self, node: str) -> None:
        """Start a node's slurmd."""
        self._spawn("slurmd", "-D", "-N", node, "-f", f"{self.folder}/slurm.conf", name=node)

    def ranks(self, job: str) -> dict[int, int]:
        """Map rank -> process of the training of a job, wherever it runs."""
        found: dict[int, tuple[int, int]] = {}
        for folder in Path("/proc").iterdir():
            with contextlib.suppress(OSError, ValueError):
                words = (folder / "cmdline").read_bytes().split(b"\0")
                if b"sam_train" not in words or b"fit" not in words:
                    continue
                entries = (folder / "environ").read_bytes().decode(errors="replace").split("\0")
                variables = dict(entry.split("=", 1) for entry in entries if "=" in entry)
                if variables.get("SLURM_CONF") != str(self.folder / "slurm.conf"):
                    continue
                if variables.get("SLURM_JOB_ID") == job and "SLURM_STEP_ID" in variables:
                    # srun has a rank's words, too; data workers come later than their parents.
                    started = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[19])
                    rank = int(variables["SLURM_PROCID"])
                    process = (started, int(folder.name))
                    found[rank] = min(found.get(rank, process), process)
        return {rank: pid for rank, (_, pid) in found.items()}

    def steps(self, job: str) -> list[int]:
        """List the processes by which the nodes run a job's tasks, also those of a lost node."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if (folder / "cmdline").read_bytes().startswith(f"slurmstepd: [{job}.".encode()):
                    found.append(int(folder.name))
        return found

    def kill_node(self, node: str) -> None:
        """Send `kill -9` to a node's slurmd; its children live on, as after a real one."""
        self.daemons[node].kill()
        self.daemons.pop(node).wait()

    def idle(self) -> bool:
        """Return True if both nodes wait for work."""
        said = self.call("sinfo", "--noheader", "--Node", "--format=%t", check=False)
        return said.split() == ["idle", "idle"]

    def logs(self) -> str:
        """Return the end of each daemon's log."""
        parts = []
        for path in sorted(self.folder.glob("*.log")):
            lines = path.read_text(errors="replace").splitlines()
            parts.append("\n".join([f"--- {path.name}", *lines[-20:]]))
        return "\n".join(parts)

    def stop(self) -> None:
        """Stop the jobs first, then the daemons."""
        with contextlib.suppress(RuntimeError, subprocess.TimeoutExpired):
            self.call("scancel", "--signal=KILL", "--full", "--user", _user())
            self.call("scancel", "--user", _user())
        for name in (*NODES, "slurmctld", "munged"):
            if (daemon := self.daemons.pop(name, None)) is None:
                continue
            daemon.terminate()
            try:
                daemon.wait(timeout=10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()

    def _spawn(self, program: str, *arguments: str, name: str = "") -> None:
        path = _program(program)
        assert path is not None, "asked of `missing` before"
        with (self.folder / f"{name or program}.log").open("ab") as out:
            self.daemons[name or program] = subprocess.Popen(
                [path, *arguments],
                stdout=out,
                stderr=subprocess.STDOUT,
                env=self.environment,
                start_new_session=True,
            )

    def _write_conf(self) -> None:
        host, ports = socket.gethostname(), _free_ports(1 + len(NODES))
        (self.folder / "state").mkdir()
        for node in NODES:
            (self.folder / f"spool_{node}").mkdir()
        nodes = (
            NODE.format(name=name, host=host, port=port)
            for name, port in zip(NODES, ports[1:], strict=True)
        )
        (self.folder / "slurm.conf").write_text(
            CONF.format(
                host=host,
                controller_port=ports[0],
                user=_user(),
                folder=self.folder,
                nodes="\n".join(nodes),
                names=",".join(NODES),
            )
        )
        gpu = f"NodeName={','.join(NODES)} Name=gpu File="
        # Devices that are everywhere, and that nobody opens.
        (self.folder / "gres.conf").write_text(f"{gpu}/dev/null\n{gpu}/dev/zero\n")


def _user() -> str:
    import pwd  # noqa: PLC0415 - only where there is Slurm, which is where there is Linux

    return pwd.getpwuid(os.getuid()).pw_name


@contextlib.contextmanager
def cluster(folder: Path) -> Iterator[Cluster]:
    """Yield a cluster that is up, and gone afterwards."""
    made = Cluster(folder)
    try:
        made.start()
        yield made
    finally:
        made.stop()
