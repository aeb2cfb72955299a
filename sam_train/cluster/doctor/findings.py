"""The findings of checks, their time limits, and the table that shows them."""

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
"""Up to so many nodes each has its own row, also where nothing is wrong."""
_THREAD = "doctor: "


@dataclass(frozen=True, slots=True)
class Result:
    """The result of one check."""

    found: str
    """State of affairs, in a few words."""
    status: str = OK
    remedy: str = ""
    """Remedy, if one is needed."""
    alike: str = ""
    """Part that must be the same on all nodes, if any."""


class Finding(msgspec.Struct, kw_only=True, frozen=True):
    """A `Result`, and whose it is. Travels between processes as JSON."""

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
    """Remedy if there is no answer in time."""


def ask_all(checks: Sequence[Check], *, node: str, seconds: float) -> list[Finding]:
    """Collect the answers that come within `seconds`; report the other checks as unfinished.

    All at once, each in a thread of its own: what hangs (a file system, a driver) cannot be
    interrupted, only be left behind.
    """
    results: dict[str, Result] = {}
    threads = [
        threading.Thread(target=_ask, args=(c, results), name=_THREAD + c.name, daemon=True)
        for c in checks
    ]
    for thread in threads:
        thread.start()
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
    """Tell whether a check still hangs: then only `os._exit` ends the process."""
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
    """Format a row per check and node, with remedies below it.

    Of many nodes only those with something to say have rows of their own.
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
    """Merge the nodes on which a check is content into one row, with the first one's words."""
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
