"""Tells one process from every other: machine, number and start; job and life under a launcher."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """A process among all of a cluster, as it is written down for others to read."""

    host: str
    machine: str
    """Equal where process numbers mean the same; empty where that cannot be known."""
    pid: int
    started: str
    """The start of the process; process numbers are used again, the pair with `pid` is not."""
    job: str = ""
    """The Slurm job, with its cluster."""
    life: int = 0
    """Restarts of the job before this one."""
    team: str = ""
    """The same for all ranks of one start, and for no other start; empty without a launcher."""

    @classmethod
    def current(cls, environment: Mapping[str, str] = os.environ) -> Process:
        """Describe this process."""
        return cls(
            host=socket.gethostname(),
            machine=_machine(),
            pid=os.getpid(),
            started=_start_of(os.getpid()) or "",
            job=_slurm_job(environment),
            life=int(environment.get("SLURM_RESTART_COUNT", "0") or 0),
            team=_team(environment),
        )

    def is_alive(self) -> bool:
        """Tell whether it still runs. Ask only on its own machine, see `machine`."""
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except OSError:
            # Somebody else's process: it is there.
            pass
        started = _start_of(self.pid)
        # A process that others may not look at counts as the one that was there before.
        return started is None or (started != "" and (not self.started or started == self.started))


def _slurm_job(environment: Mapping[str, str]) -> str:
    number = environment.get("SLURM_JOB_ID", "")
    return f"{environment.get('SLURM_CLUSTER_NAME', '')}/{number}" if number else ""


def _team(environment: Mapping[str, str]) -> str:
    """Join what a launcher (srun, torchrun, a person by hand) gives to all ranks of a start."""
    names = (
        *("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT"),
        *("TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT", "MASTER_ADDR", "MASTER_PORT"),
    )
    return " ".join(f"{name}={environment[name]}" for name in names if environment.get(name))


def _machine() -> str:
    """Name the machine and container: containers boot together and number processes apart."""
    host = socket.gethostname()
    if sys.platform != "linux":
        return f"{host} {uuid.getnode():x}"
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        space = Path("/proc/self/ns/pid").readlink()
    except OSError:
        return ""
    return f"{host} {boot} {space}"


def _start_of(pid: int) -> str | None:
    """Return a process's start in the machine's own terms; "" if it ended, None if hidden."""
    if sys.platform != "linux":
        asked = ["ps", "-o", "lstart=", "-p", str(pid)]
        done = subprocess.run(asked, capture_output=True, text=True, check=False)
        return done.stdout.strip()
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The name before the last bracket may hold anything. Fields 3 and 22 of proc(5).
    fields = text.rpartition(")")[2].split()
    return "" if fields[0] in "ZX" else fields[19]
