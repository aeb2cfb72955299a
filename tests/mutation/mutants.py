"""Small faults in a source file: one operator, constant, default or statement changed at a time.

Each is a replacement of a few bytes that keeps the file's line numbers. Annotations, decorators,
docstrings and the words of messages are left alone.
"""

from __future__ import annotations

import ast
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

_BINARY: dict[type[ast.operator], tuple[str, ...]] = {
    ast.Add: ("-",),
    ast.Sub: ("+",),
    ast.Mult: ("+", "/"),
    ast.Div: ("*", "//"),
    ast.FloorDiv: ("*", "%"),
    ast.Mod: ("//",),
    ast.Pow: ("*",),
    ast.LShift: (">>",),
    ast.RShift: ("<<",),
    ast.BitAnd: ("|",),
    ast.BitOr: ("&",),
    ast.BitXor: ("&", "|"),
}
_COMPARE: dict[type[ast.cmpop], tuple[str, ...]] = {
    ast.Lt: ("<=", ">"),
    ast.LtE: ("<", ">"),
    ast.Gt: (">=", "<"),
    ast.GtE: (">", "<"),
    ast.Eq: ("!=",),
    ast.NotEq: ("==",),
    ast.Is: ("is not",),
    ast.IsNot: ("is",),
    ast.In: ("not in",),
    ast.NotIn: ("in",),
}
_NAMES = {
    "min": "max",
    "any": "all",
    "amin": "amax",
    "argmin": "argmax",
    "minimum": "maximum",
    "zeros": "ones",
    "zeros_like": "ones_like",
    "floor": "ceil",
}
_NAMES |= {other: name for name, other in _NAMES.items()}


@dataclass(frozen=True)
class Mutant:
    """One fault."""

    file: str
    """Below the root."""
    line: int
    was: str
    """The line or lines that change, without indentation."""
    becomes: str
    source: bytes
    """The whole file with the fault."""
    nth: int
    """Of the same change on equal lines of the file."""

    @property
    def key(self) -> tuple[str, str, str, int]:
        """The change by its words: work elsewhere in the file moves lines and leaves it alone."""
        return self.file, self.was, self.becomes, self.nth

    def draw(self, seed: int) -> str:
        """Return the place in the sample, by a hash."""
        return hashlib.sha256(repr((seed, *self.key)).encode()).hexdigest()


class _Text:
    """A source file by (line, column) as `ast` counts them."""

    def __init__(self, source: bytes) -> None:
        self.source = source
        self.lines = source.splitlines(keepends=True)
        self._begin = [0]
        for line in self.lines:
            self._begin.append(self._begin[-1] + len(line))

    def at(self, line: int, column: int) -> int:
        return self._begin[line - 1] + column

    def start(self, node: ast.expr | ast.stmt) -> int:
        return self.at(node.lineno, node.col_offset)

    def stop(self, node: ast.expr | ast.stmt) -> int:
        assert node.end_lineno is not None and node.end_col_offset is not None
        return self.at(node.end_lineno, node.end_col_offset)

    def line_of(self, place: int) -> int:
        return self.source.count(b"\n", 0, place) + 1

    def replaced(self, start: int, stop: int, words: str) -> tuple[bytes, str, str, int]:
        """Return the mutated source, the lines before and after, and the first line's number."""
        old = self.source[start:stop]
        new = words.encode() + b"\n" * (old.count(b"\n") - words.count("\n"))
        source = self.source[:start] + new + self.source[stop:]
        first, last = self.line_of(start), self.line_of(stop)
        begin, end = self._begin[first - 1], self._begin[last]
        shift = len(new) - len(old)
        was, becomes = (
            " ".join(part.decode().split())
            for part in (self.source[begin:end], source[begin : end + shift])
        )
        return source, was, becomes, first


_Change = tuple[int, int, str]
"""Replace source[start:stop] by words."""


class _Finder(ast.NodeVisitor):
    """All changes of a tree."""

    def __init__(self, text: _Text) -> None:
        self.text = text
        self.changes: list[_Change] = []

    def whole(self, node: ast.expr | ast.stmt, words: str) -> None:
        self.changes.append((self.text.start(node), self.text.stop(node), words))

    def of(self, node: ast.expr) -> str:
        return self.text.source[self.text.start(node) : self.text.stop(node)].decode()

    def between(self, left: ast.expr, right: ast.expr, old: str, new: str) -> None:
        """Replace the operator between two operands, of which either may stand in parentheses."""
        start, stop = self.text.stop(left), self.text.start(right)
        gap = self.text.source[start:stop].decode()
        pattern = re.compile(r"(?<![\w])" + r"\s+".join(map(re.escape, old.split())))
        found = pattern.search(re.sub(r"#[^\n]*", lambda m: " " * len(m.group()), gap))
        assert found, (old, gap)
        begin = start + len(gap[: found.start()].encode())
        self.changes.append((begin, begin + len(found.group().encode()), new))

    # What is left alone.
    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        """Leave messages alone."""

    def visit_Raise(self, node: ast.Raise) -> None:
        self.whole(node, "pass")

    def visit_arguments(self, node: ast.arguments) -> None:
        for default in (*node.defaults, *node.kw_defaults):
            if default is not None:
                self.default(default)
                self.visit(default)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self.visit(node.args)
        for statement in node.body:
            self.visit(statement)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        for statement in node.body:
            self.visit(statement)

    # Statements.
    def visit_Expr(self, node: ast.Expr) -> None:
        if isinstance(node.value, ast.Constant):
            return  # a docstring
        if isinstance(node.value, ast.Call):
            self.whole(node, "pass")
        self.visit(node.value)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.default(node.value)
            self.visit(node.value)

    def visit_Assign(self, node: ast.Assign) -> None:
        if any(isinstance(target, ast.Name) and target.id == "__all__" for target in node.targets):
            return
        for target in node.targets:
            self.visit(target)
        self.visit(node.value)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        old = {ast.Add: "+=", ast.Sub: "-="}.get(type(node.op))
        if old:
            self.between(node.target, node.value, old, "-=" if old == "+=" else "+=")
        else:
            self.whole(node, "pass")
        self.visit(node.target)
        self.visit(node.value)

    def visit_Continue(self, node: ast.Continue) -> None:
        self.whole(node, "break")

    def visit_Break(self, node: ast.Break) -> None:
        self.whole(node, "continue")

    def visit_If(self, node: ast.If) -> None:
        self.whole(node.test, "False")
        self.generic_visit(node)

    def visit_Return(self, node: ast.Return) -> None:
        if node.value is not None:
            if not (isinstance(node.value, ast.Constant) and node.value.value is None):
                self.whole(node.value, "None")
            self.visit(node.value)

    # Expressions.
    def visit_IfExp(self, node: ast.IfExp) -> None:
        self.whole(node.test, f"not ({self.of(node.test)})")
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        if not (isinstance(node.op, ast.Mod) and isinstance(node.left, ast.Constant)):
            old = ast.unparse(ast.BinOp(ast.Name("a"), node.op, ast.Name("b"))).split()[1]
            for new in _BINARY.get(type(node.op), ()):
                self.between(node.left, node.right, old, new)
        self.generic_visit(node)

    def visit_Compare(self, node: ast.Compare) -> None:
        operands = [node.left, *node.comparators]
        for left, operator, right in zip(operands, node.ops, operands[1:], strict=False):
            old = ast.unparse(ast.Compare(ast.Name("a"), [operator], [ast.Name("b")]))[2:-2]
            for new in _COMPARE[type(operator)]:
                self.between(left, right, old, new)
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        old, new = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
        for left, right in zip(node.values, node.values[1:], strict=False):
            self.between(left, right, old, new)
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        if not isinstance(node.operand, ast.Constant):  # axes -1 and 1 are too often the same
            self.whole(node, f"({self.of(node.operand)})")
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        value = node.value
        if isinstance(value, bool):
            self.whole(node, str(not value))
        elif isinstance(value, int):
            self.whole(node, f"({value + 1})")
            if value:  # nor are places 0 and -1 different where there is one
                self.whole(node, f"({value - 1})")
        elif isinstance(value, float):
            self.whole(node, f"({value * 2 if value else 1.0})")
            self.whole(node, f"({value + 0.1!r})")

    def visit_Name(self, node: ast.Name) -> None:
        if node.id in _NAMES:
            self.whole(node, _NAMES[node.id])

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if node.attr in _NAMES:
            stop = self.text.stop(node)
            self.changes.append((stop - len(node.attr.encode()), stop, _NAMES[node.attr]))
        self.visit(node.value)

    def default(self, node: ast.expr) -> None:
        """Change a default that no other rule changes: words, None, a member of an enumeration."""
        if isinstance(node, ast.Constant):
            if isinstance(node.value, str):
                self.whole(node, repr(node.value + "_"))
            elif node.value is None:
                self.whole(node, "1")
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            kind = self.of(node.value)
            self.whole(node, f"[m for m in {kind} if m is not {self.of(node)}][0]")


def find(file: str) -> list[Mutant]:
    """Return all mutants of a file below the root that still compile."""
    text = _Text((ROOT / file).read_bytes())
    finder = _Finder(text)
    finder.visit(ast.parse(text.source))
    return list(_mutants(file, text, finder.changes))


def _mutants(file: str, text: _Text, changes: list[_Change]) -> Iterator[Mutant]:
    seen: dict[tuple[str, str], int] = {}
    for start, stop, words in sorted(set(changes)):
        source, was, becomes, line = text.replaced(start, stop, words)
        try:
            compile(source, file, "exec")
        except SyntaxError:
            continue
        nth = seen[was, becomes] = seen.get((was, becomes), -1) + 1
        yield Mutant(file, line, was, becomes, source, nth)


def uncached(source: bytes, was: bytes) -> bytes:
    """Return the mutated source with numba's cache off for what the fault reaches.

    The cache on disk knows a function by its bytecode and the file's time, not by constants or by
    the functions that it calls, so it would answer with the sound ones.
    """
    tree = ast.parse(source)
    lines, old = source.split(b"\n"), was.split(b"\n")
    changed = {i + 1 for i, (a, b) in enumerate(zip(lines, old, strict=True)) if a != b}
    uses, reached = {}, set()
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else [node]
        names = {
            inner.id if isinstance(inner, ast.Name) else inner.name
            for target in targets
            for inner in ast.walk(target)
            if isinstance(inner, ast.FunctionDef)
            or (isinstance(inner, ast.Name) and isinstance(node, ast.Assign))
        }
        used = {inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name)}
        uses.update(dict.fromkeys(names, used))
        if changed & set(range(node.lineno, (node.end_lineno or 0) + 1)):
            reached |= names
    while more := {name for name, used in uses.items() if used & reached} - reached:
        reached |= more
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name in reached:
            for i in range(
                min([d.lineno for d in node.decorator_list] + [node.lineno]), node.lineno
            ):
                lines[i - 1] = lines[i - 1].replace(b"cache=True", b"cache=False")
    return b"\n".join(lines)
