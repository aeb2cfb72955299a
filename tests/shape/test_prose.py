"""Docstrings are sentences, comments stand beside what surprises, and files stay small.

A function's docstring begins with a verb in the imperative and says what it acts on. The docstring
of a class, a module, a property or a field names the thing. None begins with a word that makes it
half a sentence: "What the caller sees", "Of all ranks", "See Task".
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from source_trees import Function, Source, functions, sources

HALF_A_SENTENCE = frozenset(
    re.findall(
        r"\w+",
        """
    what of as who those see whether where how all each every if between beside which whose whom
    from with without for at in on by to after before around inside outside under when while until
    among towards not whoever why its their called asked there once so
    """,
    )
)
VERBS = frozenset(
    re.findall(
        r"\w+",
        """
        Abort Accept Accumulate Add Advance Align Allocate Answer Append Apply Arrange Ask
        Assemble Assign Attach Attend Average Become Begin Bin Bind Blend Block Blur Bound Bring
        Broadcast Build Cache Call Cancel Cast Change Check Choose Claim Clamp Classify Clear
        Clip Close Collate Collect Combine Compare Compile Complete Compose Compress Compute
        Connect Convert Convolve Copy Correct Count Cover Create Crop Cut Decide Declare Decode
        Deduplicate Delete Derive Describe Detach Detect Develop Disable Discard Divide Download
        Draw Drop Embed Empty Enable Encode End Enforce Enlarge Ensure Enter Enumerate Erase
        Erode Estimate Evaluate Exchange Exclude Exit Expand Explain Export Extend Extract Fail
        Fall Fetch Fill Filter Find Fingerprint Finish Fit Flatten Flip Flush Follow Forget
        Format Forward Free Freeze Fuse Gather Generate Get Give Go Group Grow Guess Handle Hash
        Hide Hold Ignore Import Index Initialise Insert Inspect Install Interpolate Interrupt
        Intersect Invert Iterate Join Keep Label Lay Learn Leave Let Limit Link List Load Locate
        Lock Log Look Lower Make Map Mark Match Maximise Mean Measure Merge Minimise Mirror Mix
        Move Multiply Name Negate Normalise Note Number Observe Offer Offset Open Optimise Order
        Outline Pack Pad Paint Pair Parse Pass Patch Permute Perturb Pick Place Plan Play Plot
        Poll Pool Predict Prefer Prepare Preserve Print Profile Project Prune Publish Pull Push
        Put Quantise Quote Raise Rank Rasterise Read Rebuild Receive Recompute Record Recover
        Reduce Refine Refuse Register Reject Release Reload Remember Remove Rename Render
        Reorder Repeat Replace Replay Report Require Resample Rescale Reset Reshape Resize
        Resolve Restore Resume Retain Retry Return Reuse Rewrite Rotate Round Route Run Sample
        Save Say Scale Scan Score Search Seed Select Send Separate Serialise Set Shade Shard
        Share Shift Shorten Show Shrink Shuffle Shut Sign Silence Simplify Skip Slice Smooth
        Snap Sort Spawn Split Spread Stack Start State Step Stop Store Stream Strip Submit
        Subtract Suggest Sum Summarise Swap Switch Take Tell Test Thin Tile Time Toggle Tokenise
        Total Trace Track Train Transform Translate Treat Trim Truncate Trust Try Tune Turn Undo
        Unpack Unwrap Update Upload Upscale Use Validate Verify View Visit Wait Walk Warn Watch
        Weigh Weight Widen Wrap Write Yield Zero
        """,
    )
)
"""First words of functions' docstrings. Add a verb that is missing; never a noun."""

COMMENTED = ("train", "model", "prompts", "data")
"""Rooms that say why beside the lines that surprise."""
COMMENTS_PER_100_LINES = 4.0
LONG_FILES: dict[str, str] = {}
"""Files of more than 400 lines, each with its reason."""


@dataclass(frozen=True)
class Docstring:
    """One docstring and what it belongs to."""

    where: str
    text: str
    kind: str
    """function, thing (a class, a module or a property) or field."""

    @property
    def first_word(self) -> str:
        """Its first word, without quotes and commas."""
        found = re.match(r"\W*([^\s,.:;`()\[\]]+)", self.text)
        return found[1] if found else ""

    @property
    def is_half_a_sentence(self) -> bool:
        return self.first_word.lower() in HALF_A_SENTENCE

    @property
    def begins_with_a_verb(self) -> bool:
        return self.first_word in VERBS

    def __str__(self) -> str:
        first_line = self.text.splitlines()[0]
        return f"{self.where}: {first_line}"


def docstrings(source: Source) -> Iterator[Docstring]:
    """Yield the docstrings of a module, of what it defines, and of fields."""
    for node in ast.walk(source.tree):
        if not isinstance(node, ast.Module | ast.ClassDef | Function):
            continue
        where = f"{source.place}:{getattr(node, 'lineno', 1)}"
        text = ast.get_docstring(node)
        # A constructor's may have nothing to say but its arguments.
        if text and not text.startswith(("Args:", "Raises:")):
            kind = "function" if isinstance(node, Function) and not is_a_property(node) else "thing"
            yield Docstring(where, text, kind)
        for field, below in zip(node.body, node.body[1:], strict=False):
            if isinstance(field, ast.Assign | ast.AnnAssign) and is_a_string(below):
                yield Docstring(f"{source.place}:{below.lineno}", below.value.value, "field")


def is_a_property(node: Function) -> bool:
    return any("property" in ast.unparse(decorator) for decorator in node.decorator_list)


def is_a_string(node: ast.stmt) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


@pytest.fixture(scope="module")
def every_docstring() -> list[Docstring]:
    return [each for source in sources() for each in docstrings(source)]


def test_docstrings_are_not_half_sentences(every_docstring: list[Docstring]) -> None:
    assert len(every_docstring) > 3000
    assert not [str(each) for each in every_docstring if each.is_half_a_sentence]


def test_functions_begin_with_a_verb(every_docstring: list[Docstring]) -> None:
    of = [each for each in every_docstring if each.kind == "function"]
    assert not [str(each) for each in of if not each.begins_with_a_verb]


@pytest.mark.parametrize("room", COMMENTED)
def test_comments_stand_beside_what_surprises(room: str) -> None:
    of_room = [each for each in sources() if each.name.startswith(f"sam_train.{room}.")]
    lines = sum(len(each.text.splitlines()) for each in of_room)
    found = 100 * sum(comments(each.text) for each in of_room) / lines
    assert found >= COMMENTS_PER_100_LINES, f"{found:.2f} comments for 100 lines"


def comments(text: str) -> int:
    """Count the comments that say something; a bare `noqa` does not."""
    found = 0
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            said = re.sub(r"noqa(: [A-Z0-9, ]+)?|type: ignore(\[[\w, -]+\])?", "", token.string)
            found += len(re.findall(r"\w+", said)) >= 2
    return found


def test_bare_marks_for_tools_are_no_comments() -> None:
    text = "a = 1  # noqa: E501, F401\nb = 2  # type: ignore[no-any-return]\n# half a pixel\n"
    assert comments(text) == 1
    assert comments("import x  # noqa: PLC0415 (takes seconds)\n") == 1


def test_functions_are_short_and_annotated() -> None:
    for source in sources():
        for node in functions(source.tree):
            where = f"{source.place}:{node.lineno} {node.name}"
            assert (node.end_lineno or 0) - node.lineno < 60, f"{where} has more than 60 lines"
            given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            given += [each for each in (node.args.vararg, node.args.kwarg) if each]
            bare = [each.arg for each in given if each.annotation is None]
            assert node.returns is not None, f"{where} does not say what it returns"
            assert set(bare) <= {"self", "cls"}, f"{where}: {bare} have no type"


def test_files_are_short() -> None:
    long = {each.place for each in sources() if len(each.text.splitlines()) > 400}
    assert long == set(LONG_FILES), f"of more than 400 lines: {sorted(long)}"


def test_half_a_sentence_is_recognised() -> None:
    def docstring(text: str) -> Docstring:
        return Docstring("", text, "function")

    assert docstring("What the caller sees.").is_half_a_sentence
    assert docstring("`Of` all ranks.").is_half_a_sentence
    assert not docstring("Return what the caller sees.").is_half_a_sentence
    assert docstring("Return the sum.").begins_with_a_verb
    assert not docstring("Returns the sum.").begins_with_a_verb
    assert not docstring("The sum.").begins_with_a_verb
