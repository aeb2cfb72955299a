"""This process's place in the job, whoever started it, and the start of the others."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from sam_train.errors import UserError
from sam_train.runtime.devices import parse_devices, uses_gpus
from sam_train.train.config import TrainerConfig

_NOT_JOBS = ("bash", "interactive")
"""Names of Slurm jobs that are a shell: Lightning, too, trains there as if there were no Slurm."""


@dataclass(frozen=True, kw_only=True)
class JobRank:
    """A process among those that would train."""

    rank: int
    ranks: int
    local_rank: int
    local_ranks: int
    """Processes on this node."""
    node: str
    """The scheduler's name of this machine, else its own."""
    address: str
    port: int
    """The port on which the first process listens, at `address`."""
    nodes: tuple[str, ...] = ()
    """The node of each rank, by the scheduler; empty where there is none."""
    hosted: bool = False
    """True where the launcher runs the store at that address."""

    @property
    def leads(self) -> bool:
        """True on the process that answers for its node."""
        return self.local_rank == 0

    def node_of(self, rank: int) -> str:
        """Name the node of a rank, or the rank itself where the scheduler named none."""
        return self.nodes[rank] if rank < len(self.nodes) else f"rank {rank}"


def find_place(cfg: TrainerConfig) -> JobRank:
    """Read the place from the environment that srun or torchrun left.

    Without either this is the first of `trainer.devices` processes.

    Raises:
        UserError: several nodes, and nothing that started processes on them.
    """
    env = os.environ
    if _started_by_slurm():
        return _of_slurm()
    if "RANK" in env and "WORLD_SIZE" in env:
        return JobRank(
            rank=int(env["RANK"]),
            ranks=int(env["WORLD_SIZE"]),
            local_rank=int(env.get("LOCAL_RANK", "0")),
            local_ranks=int(env.get("LOCAL_WORLD_SIZE", "1")),
            node=socket.gethostname(),
            address=env.get("MASTER_ADDR", "127.0.0.1"),
            port=int(env.get("MASTER_PORT", "29500")),
            hosted=env.get("TORCHELASTIC_USE_AGENT_STORE") == "True",
        )
    if cfg.num_nodes > 1:
        raise UserError(
            f"trainer.num_nodes={cfg.num_nodes}, but this process was started alone: use "
            "launch/slurm.sbatch, which asks the doctor first, or VERB=doctor launch/torchrun.sh"
        )
    count = len(devices(cfg)) or 1
    return JobRank(
        rank=0,
        ranks=count,
        local_rank=0,
        local_ranks=count,
        node=socket.gethostname(),
        address="127.0.0.1",
        port=_free_port(),
    )


def devices(cfg: TrainerConfig) -> list[int]:
    """Number the GPUs (or the CPU processes) that a node trains on."""
    asked = parse_devices(cfg.devices)
    if isinstance(asked, list):
        return asked
    if isinstance(asked, int):
        return list(range(asked))
    return list(range(torch.cuda.device_count())) if uses_gpus(cfg) else [0]


def start_others(place: JobRank, overrides: Sequence[str]) -> list[subprocess.Popen[bytes]]:
    """Start the other processes of this machine, unless a launcher has."""
    if place.ranks == 1 or "RANK" in os.environ or _started_by_slurm():
        return []
    # As torchrun sets them, so that the others find their places by the same way.
    place_of_all = {
        "WORLD_SIZE": str(place.ranks),
        "LOCAL_WORLD_SIZE": str(place.ranks),
        "MASTER_ADDR": place.address,
        "MASTER_PORT": str(place.port),
    }
    return [
        subprocess.Popen(
            [sys.executable, "-m", "sam_train", "doctor", *overrides],
            env={**os.environ, **place_of_all, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(1, place.ranks)
    ]


def _started_by_slurm() -> bool:
    # As Lightning decides it. A batch job without --ntasks has no SLURM_NTASKS: one process.
    env = os.environ
    there = "SLURM_PROCID" in env and "SLURM_NTASKS" in env
    return there and env.get("SLURM_JOB_NAME") not in _NOT_JOBS


def _of_slurm() -> JobRank:
    env = os.environ
    ranks, per_node = int(env["SLURM_NTASKS"]), int(env.get("SLURM_NTASKS_PER_NODE", "1"))
    nodes = _hosts(env.get("SLURM_STEP_NODELIST") or env.get("SLURM_JOB_NODELIST", ""))
    # The job's own port serves training; launch/slurm.sbatch passes another one for the doctor.
    return JobRank(
        rank=int(env["SLURM_PROCID"]),
        ranks=ranks,
        local_rank=int(env.get("SLURM_LOCALID", "0")),
        local_ranks=per_node,
        node=env.get("SLURMD_NODENAME", socket.gethostname()),
        address=env.get("MASTER_ADDR") or (nodes[0] if nodes else "127.0.0.1"),
        port=int(env.get("MASTER_PORT", "0")) or 22000 + int(env["SLURM_JOB_ID"]) % 10000,
        nodes=tuple(node for node in nodes for _ in range(per_node)),
    )


def _hosts(listed: str) -> list[str]:
    """Expand Slurm's n[1-32] to a list of names."""
    try:
        done = subprocess.run(
            ["scontrol", "show", "hostnames", listed],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    return done.stdout.split()


def _free_port() -> int:
    # The system picks a free one, and a fixed one might be in use by another run.
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port
