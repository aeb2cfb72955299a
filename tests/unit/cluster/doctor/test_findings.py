"""The table, and checks that never answer."""

from __future__ import annotations

import threading

from sam_train.cluster.doctor.findings import FAIL, WARN, Check, Finding, Result, ask_all, table
from sam_train.errors import UserError

TWO_NODES = """\
      check     node  found
ok    versions  n1    torch 2.13
FAIL  versions  n2    torch 2.12
                      -> make it the same
warn  clock     n2    +3.000 s
                      -> start chronyd"""


def test_a_row_for_each_check_and_node() -> None:
    findings = [
        Finding(check="versions", node="n1", found="torch 2.13"),
        Finding(check="clock", node="n2", found="+3.000 s", status=WARN, remedy="start chronyd"),
        Finding(
            check="versions", node="n2", found="torch 2.12", status=FAIL, remedy="make it the same"
        ),
    ]
    assert table(findings) == TWO_NODES


def test_many_nodes_that_are_content_share_a_row() -> None:
    findings = [Finding(check="gpus", node=f"n{k}", found="8 x H100") for k in range(31)]
    findings += [Finding(check="gpus", node="n31", found="7 visible, 8 needed", status=FAIL)]
    findings += [Finding(check="disk", node=f"n{k}", found=f"{k} GiB free") for k in range(32)]
    assert [line.split() for line in table(findings).splitlines()[1:]] == [
        ["FAIL", "gpus", "n31", *["7", "visible,", "8", "needed"]],
        ["ok", "gpus", "31", "nodes", "8", "x", "H100"],
        ["ok", "disk", "32", "nodes", *["n0:", "0", "GiB", "free"]],
    ]


def test_what_hangs_and_what_breaks_are_answers() -> None:
    for_ever = threading.Event()

    def hang() -> Result:
        for_ever.wait()
        return Result("too late")

    def break_down() -> Result:
        raise ZeroDivisionError("by zero")

    def refuse() -> Result:
        raise UserError("data.train is not set")

    checks = [
        Check("disk", hang, "look at dmesg"),
        Check("gpus", break_down, ""),
        Check("shards", refuse, ""),
        Check("clock", lambda: Result("right"), ""),
    ]
    findings = ask_all(checks, node="n1", seconds=0.3)
    for_ever.set()
    assert [(f.check, f.status, f.found) for f in findings] == [
        ("disk", FAIL, "not finished after 0.3 s"),
        ("gpus", FAIL, "ZeroDivisionError: by zero"),
        ("shards", FAIL, "data.train is not set"),
        ("clock", "ok", "right"),
    ]
    assert findings[0].remedy == "look at dmesg"
