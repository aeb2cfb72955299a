"""Checks that take several nodes: clocks, the shared folder, and all-reduce between them."""

from __future__ import annotations

import time
from datetime import timedelta
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed import PrefixStore  # type: ignore[attr-defined]

from sam_train.cluster.doctor.findings import FAIL, WARN, Check, Result
from sam_train.cluster.doctor.meeting import Meeting
from sam_train.cluster.doctor.node import gradient_bytes
from sam_train.cluster.doctor.place import JobRank, devices
from sam_train.runtime.devices import uses_gpus
from sam_train.runtime.dist import largest
from sam_train.settings.run import RunConfig

_SKEW_WARN, _SKEW_FAIL = 1.0, 60.0
"""Seconds. Above the first, logs of two nodes and the times of files mislead; above the second,
signed requests (S3) and munge's credentials are refused."""
_TRIPS = 3
_VALUES = {"nccl": 1 << 25, "gloo": 1 << 20}
"""Number of float32 that are summed to measure: 128 MiB between GPUs, 4 MiB between CPUs."""
_REPEATS = 5
_SLOW = 2.0
"""GB/s below which a link between GPUs is reported as slow."""
_ADVICE = (
    "NCCL_DEBUG=INFO shows the network that is taken, NCCL_SOCKET_IFNAME and GLOO_SOCKET_IFNAME "
    "name another (launch/env.sh)"
)
_MARK = ".doctor-seen"


def checks_between(cfg: RunConfig, meeting: Meeting) -> list[Check]:
    """List the checks of this process with the others; all processes run them in this order."""
    place = meeting.place
    checks = []
    if place.leads and place.ranks > place.local_ranks:
        checks.append(
            Check("clock", partial(clock, meeting), "the first process does not answer any more")
        )
        checks.append(
            Check("one run_dir", partial(shared, cfg, meeting), "the file system does not answer")
        )
    checks.append(Check("all-reduce", partial(all_reduce, cfg, meeting), _ADVICE))
    return checks


def leaders(place: JobRank) -> list[int]:
    """List the ranks that answer for their nodes, which all have as many processes."""
    return list(range(0, place.ranks, place.local_ranks))


def clock(meeting: Meeting) -> Result:
    """Check this node's clock against the first node's, which measures the difference."""
    place, limit = meeting.place, meeting.seconds
    others = [rank for rank in leaders(place) if rank != 0]
    if place.rank == 0:
        for rank in others:
            _measure(meeting, rank)
        return Result("the one that the others are compared with")
    for trip in range(_TRIPS):
        meeting.hear(f"clock/ask/{place.rank}/{trip}", seconds=limit)
        meeting.say(f"clock/answer/{place.rank}/{trip}", repr(time.time()).encode())
    said = meeting.hear(f"clock/skew/{place.rank}", seconds=limit)
    if said is None:
        return Result("not measured", WARN, "the first process did not ask in time")
    skew = float(said)
    found = f"{skew:+.3f} s from the first node's"
    if abs(skew) < _SKEW_WARN:
        return Result(found)
    status = FAIL if abs(skew) >= _SKEW_FAIL else WARN
    return Result(found, status, "start a time service on this node (chronyd, systemd-timesyncd)")


def _measure(meeting: Meeting, rank: int) -> None:
    best, skew = float("inf"), 0.0
    for trip in range(_TRIPS):
        before = time.time()
        meeting.say(f"clock/ask/{rank}/{trip}", b"")
        answer = meeting.hear(f"clock/answer/{rank}/{trip}", seconds=meeting.seconds / 4)
        after = time.time()
        if answer is None:
            return
        # As NTP does: the error is at most half the trip, so the shortest trip is the best one.
        if after - before < best:
            best, skew = after - before, float(answer) - (before + after) / 2
    meeting.say(f"clock/skew/{rank}", repr(skew).encode())


def shared(cfg: RunConfig, meeting: Meeting) -> Result:
    """Check that all nodes see the same run_dir, because they all resume from one file in it."""
    mark = Path(cfg.run_dir) / _MARK
    first = meeting.place.rank == 0
    if first:
        mark.write_text(str(time.time_ns()))
        meeting.say("mark", mark.read_bytes())
        for rank in leaders(meeting.place)[1:]:
            meeting.hear(f"seen/{rank}", seconds=meeting.seconds)
        mark.unlink(missing_ok=True)
        return Result(str(Path(cfg.run_dir).resolve()))
    said = meeting.hear("mark", seconds=meeting.seconds)
    end = time.monotonic() + min(10.0, meeting.seconds / 2)
    # Network file systems show a new file some seconds later.
    while not (seen := _content(mark) == said) and time.monotonic() < end:
        time.sleep(0.2)
    meeting.say(f"seen/{meeting.place.rank}", b"")
    if seen:
        return Result(str(Path(cfg.run_dir).resolve()))
    return Result(
        f"{Path(cfg.run_dir).resolve()} is another folder here than on the first node",
        FAIL,
        "run_dir= on a file system that all nodes share",
    )


def _content(path: Path) -> bytes | None:
    # Listing the folder makes NFS look again.
    listed = path.parent.is_dir() and path.name in {p.name for p in path.parent.iterdir()}
    return path.read_bytes() if listed else None


def all_reduce(cfg: RunConfig, meeting: Meeting) -> Result:
    """Check the sums over all processes and measure their speed.

    On GPUs gloo is tried as well, by which training agrees between the hosts.

    Raises:
        UserError: gloo cannot be started.
    """
    place = meeting.place
    if place.ranks == 1:
        return Result("one process, nothing to send")
    backend = "nccl" if uses_gpus(cfg.trainer) else "gloo"
    device = torch.device("cpu")
    if backend == "nccl":
        device = torch.device("cuda", devices(cfg.trainer)[place.local_rank])
        torch.cuda.set_device(device)
    dist.init_process_group(
        backend,
        store=PrefixStore("all-reduce", meeting.store),
        rank=place.rank,
        world_size=place.ranks,
        timeout=timedelta(seconds=meeting.seconds),
    )
    try:
        # `largest` goes through gloo, over the hosts' own network, whatever the backend.
        right = largest(place.rank) == place.ranks - 1
        # Whole numbers below 2^24: float32 adds them exactly, in any order.
        pattern = torch.arange(_VALUES[backend], device=device, dtype=torch.float32) % 1021
        values = pattern + place.rank
        dist.all_reduce(values)
        offsets = place.ranks * (place.ranks - 1) // 2
        right = right and torch.equal(values, pattern * place.ranks + offsets)
        rate = _bandwidth(values)
    finally:
        dist.destroy_process_group()
    return _judge(cfg, place, right=right, rate=rate, gpu=backend == "nccl")


def _bandwidth(values: torch.Tensor) -> float:
    """Measure GB/s on each link as NCCL's tests do, so that the number of ranks cancels out."""
    # Each repeat sums the sums of the one before, so anything but zeros would grow.
    values.zero_()
    begin = time.monotonic()
    for _ in range(_REPEATS):
        dist.all_reduce(values)
    if values.is_cuda:
        torch.cuda.synchronize()
    seconds = (time.monotonic() - begin) / _REPEATS
    ranks = dist.get_world_size()
    return values.nbytes / 1e9 * 2 * (ranks - 1) / ranks / max(seconds, 1e-9)


def _judge(cfg: RunConfig, place: JobRank, *, right: bool, rate: float, gpu: bool) -> Result:
    if not right:
        return Result(
            f"wrong sums on rank {place.rank}",
            FAIL,
            "leave this node out (sbatch --exclude); NCCL_IB_DISABLE=1 or NCCL_P2P_DISABLE=1 show "
            "which link it is",
        )
    seconds = gradient_bytes(cfg) / 1e9 * 2 * (place.ranks - 1) / place.ranks / rate
    found = f"right, {rate:.2g} GB/s: {seconds:.2g} s for the gradients of a step"
    if rate < cfg.doctor.bandwidth:
        return Result(f"{found}, below doctor.bandwidth={cfg.doctor.bandwidth:g}", FAIL, _ADVICE)
    if gpu and rate < _SLOW:
        return Result(found, WARN, f"slow for GPUs: {_ADVICE}")
    return Result(found)
