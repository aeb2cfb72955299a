"""The findings of checks, their time limit, and the table of all findings."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec

from sam_train.errors import UserError
from sam_train.runtime.text import one_line

OK, WARN, FAIL = "ok", "warn", "FAIL"
FEW_NODES = 4
"""Most nodes of which each has its own row, also where nothing is wrong."""
_THREAD = "doctor: "


@dataclass(frozen=True, slots=True)
class Result:
    """The outcome of one check."""

    found: str
    """The state of the node, in a few words."""
    status: str = OK
    remedy: str = ""
    """The user's next step."""
    alike: str = ""
    """The part that must be the same on all nodes; empty where none must."""


class Finding(msgspec.Struct, kw_only=True, frozen=True):
    """A `Result` with its check and node, which travels between processes as JSON."""

    check: str
    node: str
    found: str
    status: str = OK
    remedy: str = ""
    alike: str = ""


@dataclass(frozen=True, slots=True)
class Check:
    """A question to a node."""

    name: str
    ask: Callable[[], Result]
    silence: str
    """The remedy where no answer comes in time."""


def ask_all(checks: Sequence[Check], *, node: str, seconds: float) -> list[Finding]:
    """Run all checks at once; report those that take longer than `seconds` as not finished."""
    # A thread for each: a file system or a driver that hangs cannot be interrupted, only left
    # behind.
    results: dict[str, Result] = {}
    threads = [
        threading.Thread(target=_ask, args=(c, results), name=_THREAD + c.name, daemon=True)
        for c in checks
    ]
    for thread in threads:
        thread.start()
    # One end for all: were each join to wait `seconds`, several that hang would add up.
    end = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    findings = []
    for check in checks:
        silent = Result(f"not finished after {seconds:g} s", FAIL, check.silence)
        result = results.get(check.name, silent)
        findings.append(
            Finding(
                check=check.name,
                node=node,
                found=result.found,
                status=result.status,
                remedy=result.remedy,
                alike=result.alike,
            )
        )
    return findings


def left_behind() -> bool:
    """Tell whether a check still hangs; if so, only `os._exit` ends the process."""
    return any(thread.name.startswith(_THREAD) for thread in threading.enumerate())


def _ask(check: Check, results: dict[str, Result]) -> None:
    try:
        result = check.ask()
    except UserError as error:
        result = Result(str(error), FAIL)
    except Exception as error:  # whatever a driver or a file system raises is an answer
        result = Result(f"{type(error).__name__}: {one_line(error)}", FAIL)
    results[check.name] = result


def table(findings: Sequence[Finding]) -> str:
    """Format a row for each check and node, with the remedy below it.

    Where there are many nodes, those without a problem share a row.
    """
    nodes = list(dict.fromkeys(f.node for f in findings))
    rows = list(findings) if len(nodes) <= FEW_NODES else _merged(findings)
    order = {name: k for k, name in enumerate(dict.fromkeys(f.check for f in findings))}
    rows.sort(key=lambda f: order[f.check])
    check, node = (
        max(len(name), *(len(getattr(row, name)) for row in rows)) for name in ("check", "node")
    )
    left = f"{'':4}  {'check':{check}}  {'node':{node}}  "
    lines = [left + "found"]
    for row in rows:
        lines.append(f"{row.status:4}  {row.check:{check}}  {row.node:{node}}  {row.found}")
        if row.remedy:
            lines.append(f"{'':{len(left)}}-> {row.remedy}")
    return "\n".join(lines)


def _merged(findings: Sequence[Finding]) -> list[Finding]:
    """Merge the nodes that pass a check into one row, with the result of the first of them."""
    rows = [f for f in findings if f.status != OK]
    for check in dict.fromkeys(f.check for f in findings):
        content = [f for f in findings if f.check == check and f.status == OK]
        if len(content) == 1:
            rows += content
        elif content:
            first = content[0]
            same = all(f.found == first.found for f in content)
            found = first.found if same else f"{first.node}: {first.found}"
            rows.append(Finding(check=check, node=f"{len(content)} nodes", found=found))
    return rows
