"""Imports between rooms point down the floors, never in a circle, and seldom hide in a function.

A room is a package or a file at the top of `sam_train`; `data_tools` is one room.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path

from source_trees import PACKAGES, Source, imports, is_ours, sources

FLOORS = (
    ("errors", "types"),
    ("settings",),
    ("runtime",),
    ("masks",),
    ("prompts", "model", "data"),
    ("train", "eval", "generate", "export"),
    ("cluster", "demo"),
    ("finetuning",),
    ("cli",),
    ("__main__", "data_tools"),
)
"""A room imports rooms of its own floor and of those before it."""

LATE_IMPORTS = Path(__file__).parent / "late_imports.toml"


def room_of(module: str) -> str:
    """Return the room that a module stands in."""
    parts = module.split(".")
    return parts[1] if parts[0] == "sam_train" and len(parts) > 1 else parts[0]


def floor_of(room: str) -> int:
    """Return the floor of a room; `sam_train/__init__.py` is the door to all of them."""
    if room == "sam_train":
        return len(FLOORS)
    found = [k for k, rooms in enumerate(FLOORS) if room in rooms]
    assert found, f"{room} is a new room: give it a floor in FLOORS"
    return found[0]


def arrows(source: Source) -> set[str]:
    """List the other rooms that a module imports, at once or later."""
    found = {room_of(each.module) for each in imports(source) if is_ours(each.module)}
    return found - {room_of(source.name)}


def test_imports_point_down_the_floors() -> None:
    found = {
        f"{source.place.removeprefix('sam_train/')} -> {room}"
        for source in sources()
        for room in arrows(source)
        if floor_of(room) > floor_of(room_of(source.name))
    }
    assert not found


def test_the_package_does_not_import_the_tools() -> None:
    for source in sources():
        if source.name.split(".")[0] == "sam_train":
            assert "data_tools" not in arrows(source), source.place


def test_rooms_do_not_import_each_other() -> None:
    graph: dict[str, set[str]] = {}
    for source in sources():
        graph.setdefault(room_of(source.name), set()).update(arrows(source))
    assert not circles(graph)


def test_modules_do_not_import_each_other() -> None:
    """Only imports that run when a module is loaded count."""
    graph = {
        source.name: {
            each.module for each in imports(source) if not each.late and is_ours(each.module)
        }
        - {source.name}
        for source in sources()
    }
    assert not circles(graph)


def test_late_imports_are_listed_with_a_reason() -> None:
    listed: dict[str, dict[str, str]] = tomllib.loads(LATE_IMPORTS.read_text())
    assert set(listed) == {"start-up time", "an optional extra"}
    reasons = {entry: reason for table in listed.values() for entry, reason in table.items()}
    found = {
        f"{source.place}: {each.module}"
        for source in sources()
        for each in imports(source)
        if each.late
    }
    assert_shrinks(found, reasons, LATE_IMPORTS.name)
    assert all(len(reason.split()) >= 3 for reason in reasons.values())


def test_every_package_is_looked_at() -> None:
    assert {source.name.split(".")[0] for source in sources()} == set(PACKAGES)
    assert len(sources()) > 200


def assert_shrinks(found: Iterable[str], allowed: Iterable[str], name: str) -> None:
    """Refuse what is new, and entries of a list that are no longer true."""
    new, gone = sorted(set(found) - set(allowed)), sorted(set(allowed) - set(found))
    assert not new, f"new: {new}"
    assert not gone, f"mended; take out of {name}: {gone}"


def circles(graph: Mapping[str, Iterable[str]]) -> list[list[str]]:
    """Find the groups of nodes that reach each other (Tarjan 1972)."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        order[node] = low[node] = len(order)
        stack.append(node)
        for other in graph.get(node, ()):
            if other not in order:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], order[other])
        if low[node] == order[node]:
            group = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(group) > 1:
                found.append(sorted(group))

    for node in graph:
        if node not in order:
            visit(node)
    return found


def test_circles_are_found() -> None:
    assert circles({"a": ["b"], "b": ["c"], "c": []}) == []
    assert circles({"a": ["b"], "b": ["c"], "c": ["b", "d"], "d": []}) == [["b", "c"]]
