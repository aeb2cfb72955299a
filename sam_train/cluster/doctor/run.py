"""The course of `doctor`: every process checks its node, the first one collects and judges."""

from __future__ import annotations

import subprocess
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from sam_train.cluster.doctor.findings import FAIL, OK, Finding, ask_all, left_behind, table
from sam_train.cluster.doctor.meeting import Meeting
from sam_train.cluster.doctor.network import checks_between
from sam_train.cluster.doctor.node import checks_of
from sam_train.cluster.doctor.place import JobRank, find_place, start_others
from sam_train.runtime.devices import uses_gpus
from sam_train.runtime.open_files import allow_many
from sam_train.settings.compose import load_config
from sam_train.settings.run import RunConfig
from sam_train.settings.sections import check_section

_MAKE_ALIKE = "make it the same on all nodes: environment, code, conf/ and command line"
_COPY_AGAIN = (
    "most nodes have others, or of other sizes: copy them again (`python -m data_tools.stage_in` "
    "copies what is missing or cut)"
)
_MARGIN = 15.0
"""Seconds that a message may take beyond the checks that it reports."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The outcome of the pre-flight."""

    table: str
    """Empty on all processes but the first."""
    problems: int
    """Failed checks on all nodes; 1 on a process that does not hear the first one's count."""
    checks: int
    seconds: float
    hangs: bool
    """True while a check hangs, so that the process must end without waiting for it."""

    @property
    def report(self) -> str:
        """The table, and a last line with the verdict."""
        last = f"doctor: {self.checks} checks in {self.seconds:.1f} s, "
        if self.problems:
            last += f"{self.problems} failed: this job would not train"
        else:
            last += "nothing stands in the way of training"
        return f"{self.table}\n{last}"


def examine(overrides: Sequence[str]) -> Verdict:
    """Look at all nodes of the job that `fit` with the same settings would be.

    Raises:
        UserError: settings that cannot be read, or the first process cannot be reached.
    """
    begin = time.monotonic()
    cfg = load_config(overrides)
    check_section(cfg.doctor)
    # Training raises the limit of open files first, and the check of it must see the same one.
    allow_many()
    place = find_place(cfg.trainer)
    others = start_others(place, overrides)
    try:
        meeting = Meeting(place, seconds=cfg.doctor.seconds)
        findings = _ask(cfg, meeting)
        problems = _part(meeting, findings)
    finally:
        _wait_for(others)
    return Verdict(
        table=table(findings) if place.rank == 0 else "",
        problems=problems,
        checks=len(findings),
        seconds=time.monotonic() - begin,
        hangs=left_behind(),
    )


def _ask(cfg: RunConfig, meeting: Meeting) -> list[Finding]:
    """Run the three stages: attendance, each node by itself, the nodes together.

    Returns:
        All findings on the first process, their own on the others.
    """
    place, seconds = meeting.place, cfg.doctor.seconds
    device = "GPUs" if uses_gpus(cfg.trainer) else "the CPU"
    meeting.say(f"here/{place.rank}", f"{place.node}\n{device}".encode())
    found: list[Finding] = []
    if place.rank == 0:
        here = meeting.hear_all("here", seconds=seconds)
        found += _missing(place, here, seconds) + _unlike_devices(here)
        meeting.say("together", b"" if found else b"yes")
    own: list[Finding] = []
    if place.leads:
        number = place.rank // place.local_ranks
        own = ask_all(checks_of(cfg, place, node_number=number), node=place.node, seconds=seconds)
    # The first process may have waited in vain for somebody.
    if meeting.hear("together", seconds=seconds + _MARGIN) == b"yes":
        # One after the other, because a check that waits holds the only connection to the store.
        for question in checks_between(cfg, meeting):
            answer = ask_all([question], node=place.node, seconds=seconds)
            own += [f for f in answer if place.leads or f.status != OK]
    meeting.say(f"found/{place.rank}", msgspec.json.encode(own))
    if place.rank != 0:
        return own
    there = list(here)
    # Rank 0's own report is in the store already; the others' checks may take both stages.
    heard = {
        rank: meeting.hear(f"found/{rank}", seconds=2 * seconds + _MARGIN if rank else 1.0)
        for rank in there
    }
    for rank, message in heard.items():
        if message is None:
            found.append(_silent(place, rank, here[rank]))
        else:
            found += msgspec.json.decode(message, type=list[Finding])
    return compare(found)


def _missing(place: JobRank, here: dict[int, bytes], seconds: float) -> list[Finding]:
    absent = [rank for rank in range(place.ranks) if rank not in here]
    nodes = Counter(place.node_of(rank) for rank in absent)
    return [
        Finding(
            check="there",
            node=node,
            found=f"{count} of its processes did not come within {seconds:g} s",
            status=FAIL,
            remedy="its own lines above say why, if it has any; can it reach "
            f"{place.address}:{place.port}?",
        )
        for node, count in nodes.items()
    ]


def _unlike_devices(here: dict[int, bytes]) -> list[Finding]:
    kinds = dict(message.decode().split("\n") for message in here.values())
    if len(set(kinds.values())) < 2:
        return []
    return [
        Finding(
            check="there",
            node=node,
            found="would train on the CPU, others on GPUs",
            status=FAIL,
            remedy="nvidia-smi, and torch.cuda.is_available() in this environment, on this node",
        )
        for node, kind in kinds.items()
        if kind == "the CPU"
    ]


def _silent(place: JobRank, rank: int, said: bytes) -> Finding:
    node = said.decode().split("\n")[0]
    return Finding(
        check="there",
        node=node,
        found=f"rank {rank} came, and went without a report",
        status=FAIL,
        remedy="its own lines above say why, if it has any",
    )


def compare(findings: Sequence[Finding]) -> list[Finding]:
    """Turn what must be alike and is not into failures of the smaller group."""
    judged = list(findings)
    for name in dict.fromkeys(f.check for f in findings if f.alike):
        answers = Counter(f.alike for f in findings if f.check == name and f.status == OK)
        if len(answers) < 2:
            continue
        usual = answers.most_common(1)[0][0]
        remedy = _COPY_AGAIN if name == "shards" else _MAKE_ALIKE
        judged = [
            msgspec.structs.replace(f, status=FAIL, remedy=remedy)
            if f.check == name and f.status == OK and f.alike != usual
            else f
            for f in judged
        ]
    return judged


def _part(meeting: Meeting, findings: Sequence[Finding]) -> int:
    """Share the number of problems and leave, the first process last."""
    # The first process holds the store: were it to leave earlier, the others' reads would fail.
    place, seconds = meeting.place, meeting.seconds
    if place.rank == 0:
        problems = sum(f.status == FAIL for f in findings)
        meeting.say("verdict", str(problems).encode())
        meeting.say("bye/0", b"")
        meeting.hear_all("bye", seconds=5.0)
        return problems
    verdict = meeting.hear("verdict", seconds=4 * seconds + _MARGIN)
    meeting.say(f"bye/{place.rank}", b"")
    return int(verdict) if verdict is not None else 1


def _wait_for(others: Sequence[subprocess.Popen[bytes]]) -> None:
    for process in others:
        try:
            process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
