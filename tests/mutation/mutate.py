"""Measure the unit tests: `make mutate` breaks the code a little, many times, and counts failures.

Each mutant (`mutants.py`) is tried in a fork of one process that has torch and the other libraries
imported, with the unit tests that mirror its file and no others. A mutant that no test notices has
survived, unless `equivalent.toml` says why no test can notice it.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import math
import os
import resource
import signal
import sys
import tempfile
import time
import tomllib
import traceback
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hook
import pytest
from hypothesis import Phase, settings
from mutants import ROOT, Mutant, find, uncached

FILES = {
    file: sorted(
        str(test.relative_to(ROOT))
        for folder in [ROOT / "tests/unit" / Path(file).parent.relative_to("sam_train")]
        for pattern in (f"test_{name}.py", f"test_{name}_*.py")
        for test in folder.glob(pattern)
    )
    for file, name in {
        "sam_train/prompts/clicks.py": "clicks",
        "sam_train/prompts/rng.py": "rng",
        "sam_train/prompts/config.py": "rounds",
        "sam_train/prompts/rounds.py": "rounds",
        "sam_train/train/loss_config.py": "losses",
        "sam_train/train/losses.py": "losses",
        "sam_train/train/optim.py": "optim",
        "sam_train/train/optim_config.py": "optim",
        "sam_train/data/feed/order.py": "order",
        "sam_train/data/sample/select.py": "select",
        "sam_train/masks/rle_kernels.py": "rle",
        "sam_train/train/checkpoints/saving.py": "saving",
        "sam_train/train/checkpoints/resume.py": "resume",
        "sam_train/train/rounds_backward.py": "rounds_backward",
        "sam_train/eval/clicks/scores.py": "scores",
        "sam_train/masks/nms.py": "nms",
        "sam_train/masks/trace.py": "trace",
        "sam_train/masks/trace_kernels.py": "trace",
    }.items()
}
"""Each measured file and the tests that mirror it: `test_NAME.py` and `test_NAME_*.py`."""

LARGEST_SHARE = 0.05
"""Of the mutants that are not equivalent, how many may survive."""
_MEMORY = 8 << 30
KILLED, SURVIVED, TIMEOUT, EQUIVALENT = "killed", "survived", "timeout", "equivalent"


@dataclass(frozen=True)
class Limits:
    """Seconds after which a fork is given up: a loop that does not end counts as noticed."""

    cpu: float
    wall: float


@dataclass(frozen=True)
class Ended:
    """A fork that is over."""

    status: int
    """As the shell has it; negative for a signal."""
    cpu: float
    wall: float
    late: bool


def fork(work: Callable[[], int], *, output: Path, limits: Limits) -> Ended:
    """Do `work` in a fork, with a process group of its own of which nothing is left."""
    began = time.monotonic()
    child = os.fork()
    if child == 0:
        status = 70
        try:
            os.setsid()
            file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(file, 1)
            os.dup2(file, 2)
            resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(limits.cpu),) * 2)
            resource.setrlimit(resource.RLIMIT_DATA, (_MEMORY, _MEMORY))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            status = work()
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    late = False
    while True:
        pid, code, used = os.wait4(child, os.WNOHANG)
        if pid:
            break
        if not late and time.monotonic() - began > limits.wall:
            late = True
            os.killpg(child, signal.SIGKILL)
        time.sleep(0.01)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)  # what the tests started and a mutant made them leave
    status = os.waitstatus_to_exitcode(code)
    late = late or status in {-signal.SIGXCPU, -signal.SIGKILL}
    return Ended(status, used.ru_utime + used.ru_stime, time.monotonic() - began, late)


def run_tests(tests: list[str], *, place: Path, more: Iterable[str] = ()) -> int:
    """Run test files, for ever in the same way: drawn examples are derived from the tests' code."""
    settings.register_profile(
        "mutation",
        derandomize=True,
        database=None,
        deadline=None,
        report_multiple_bugs=False,
        phases=[Phase.explicit, Phase.generate],
    )
    settings.load_profile("mutation")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(place), str(ROOT)])
    flags = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", f"--basetemp={place / 'temp'}"]
    return int(pytest.main([*flags, *more, *(str(ROOT / test) for test in tests)]))


def preload(tests: list[str], *, place: Path) -> None:
    """Import all that the tests import and that is not the project's, once for all forks."""
    names = place / "names"

    def collect() -> int:
        status = run_tests(tests, place=place, more=["--collect-only"])
        mine = [
            name
            for name, module in list(sys.modules.items())
            if not str(getattr(module, "__file__", None) or ROOT).startswith(str(ROOT) + os.sep)
            and getattr(module, "__spec__", None) is not None
        ]
        names.write_text("\n".join(mine))
        return status

    ended = fork(collect, output=place / "output", limits=Limits(600, 600))
    if ended.status:
        raise SystemExit(f"the tests cannot be collected:\n{(place / 'output').read_text()}")
    for name in names.read_text().split():
        try:
            importlib.import_module(name)
        except ImportError:  # a module that another one makes
            continue


def measure(file: str, *, place: Path) -> Limits:
    """Run the tests of the sound file, which also fills numba's cache; return a mutant's limits."""
    output = place / "output"
    limits = Limits(600, 1800)
    first = fork(lambda: run_tests(FILES[file], place=place), output=output, limits=limits)
    if first.status:
        raise SystemExit(f"the tests of {file} fail without a fault:\n{output.read_text()}")
    return Limits(cpu=3 * first.cpu + 30, wall=5 * first.wall + 120)


def attempt(mutant: Mutant, *, place: Path, limits: Limits) -> str:
    """Return killed, survived or timeout."""
    path = ROOT / mutant.file
    source = place / "mutant.py"
    source.write_bytes(uncached(mutant.source, path.read_bytes()))
    module = mutant.file.removesuffix(".py").replace("/", ".")

    def work() -> int:
        hook.install(module, path, source)
        return run_tests(FILES[mutant.file], place=place)

    ended = fork(work, output=place / "output", limits=limits)
    if ended.late:
        return TIMEOUT
    if ended.status in {3, 4, 5, 70}:
        raise SystemExit(f"{mutant}\n{(place / 'output').read_text()}")
    return SURVIVED if ended.status == 0 else KILLED


def sample(number: int, seed: int, files: Iterable[str]) -> list[Mutant]:
    """Draw mutants of all files, of each in proportion to the root of how many it has."""
    pools = {file: find(file) for file in FILES}
    roots = {file: math.sqrt(len(pool)) for file, pool in pools.items()}
    drawn: list[Mutant] = []
    for file in files:
        share = math.ceil(number * roots[file] / sum(roots.values()))
        drawn += sorted(pools[file], key=lambda mutant: mutant.draw(seed))[:share]
    return drawn


def equivalents() -> set[tuple[str, str, str]]:
    """Read `equivalent.toml`; name entries that no line of the code fits any more."""
    entries = tomllib.loads((Path(__file__).parent / "equivalent.toml").read_text())["mutant"]
    listed = {(entry["file"], entry["was"], entry["becomes"]) for entry in entries}
    known = {(m.file, m.was, m.becomes) for file in FILES for m in find(file)}
    for file, was, becomes in sorted(listed - known):
        print(f"equivalent.toml: {file} has no `{was}` that becomes `{becomes}`", file=sys.stderr)
    return listed


@dataclass
class Tried:
    """A mutant and how it ended."""

    mutant: Mutant
    outcome: str
    """Empty: not tried yet."""
    seconds: float = 0.0

    def line(self) -> str:
        """Return it as a line of the file of outcomes."""
        entry: dict[str, Any] = {"outcome": self.outcome, "file": self.mutant.file}
        entry |= {"line": self.mutant.line, "was": self.mutant.was, "becomes": self.mutant.becomes}
        entry |= {"nth": self.mutant.nth, "seconds": round(self.seconds, 1)}
        return json.dumps(entry) + "\n"


def table(tried: list[Tried]) -> str:
    """Return the counts by file as Markdown."""
    lines = [
        "| file | mutants | killed | of them by time | survived | equivalent |",
        "|---|---|---|---|---|---|",
    ]
    counts = {file: Counter(t.outcome for t in tried if t.mutant.file == file) for file in FILES}
    counts["all"] = Counter(t.outcome for t in tried)
    for file, count in counts.items():
        if count:
            killed = count[KILLED] + count[TIMEOUT]
            cells = (count.total(), killed, count[TIMEOUT], count[SURVIVED], count[EQUIVALENT])
            lines.append(f"| {file} | {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Break the code and see whether a test fails.")
    parser.add_argument("files", nargs="*", help="parts of names of measured files; all by default")
    parser.add_argument("--mutants", type=int, default=430, help="about how many, over all files")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument(
        "--survivors", action="store_true", help="only those that survived in OUT; the rest stays"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "runs/mutation.jsonl", help="outcomes")
    return parser.parse_args()


def chosen(given: argparse.Namespace) -> list[Tried]:
    """Return the mutants that the command line asks for, and what is known of them."""
    files = [f for f in FILES if not given.files or any(part in f for part in given.files)]
    listed = equivalents()
    if given.survivors:
        last = [json.loads(line) for line in given.out.read_text().splitlines()]
        known = {(o["file"], o["was"], o["becomes"], o["nth"]): o["outcome"] for o in last}
        all_of_them = [m for file in FILES for m in find(file) if m.key in known]
        tried = [Tried(mutant, known[mutant.key]) for mutant in all_of_them]
    else:
        tried = [Tried(mutant, "") for mutant in sample(given.mutants, given.seed, files)]
    for each in tried:
        if each.mutant.key[:3] in listed:
            each.outcome = EQUIVALENT
        elif each.outcome == SURVIVED and each.mutant.file in files:
            each.outcome = ""
    return tried


def main() -> int:
    """Try all mutants; 1 if too many survive."""
    given = arguments()
    tried = chosen(given)
    todo = [each for each in tried if not each.outcome]
    os.environ["OMP_NUM_THREADS"] = "1"
    os.chdir(ROOT)
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    limits: dict[str, Limits] = {}
    given.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, given.out.open("w") as out:
        out.writelines(each.line() for each in tried if each.outcome)
        place = Path(folder)
        # Each mutant of a compiled loop is compiled anew: quickly, and not into the user's cache.
        # What reads or writes beside an array is noticed, as in `make fuzz`.
        os.environ |= {"NUMBA_OPT": "0", "NUMBA_BOUNDSCHECK": "1"}
        os.environ["NUMBA_CACHE_DIR"] = str(place / "numba")
        (place / "sitecustomize.py").write_text(
            f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
            "import hook; hook.install_from_environment(); del sys.path[0]\n"
        )
        preload(sorted({t for each in todo for t in FILES[each.mutant.file]}), place=place)
        for each in todo:
            mutant, began = each.mutant, time.monotonic()
            if mutant.file not in limits:
                limits[mutant.file] = measure(mutant.file, place=place)
            each.outcome = attempt(mutant, place=place, limits=limits[mutant.file])
            each.seconds = time.monotonic() - began
            out.write(each.line())
            out.flush()
            if each.outcome == SURVIVED:
                print(f"{mutant.file}:{mutant.line}\n  - {mutant.was}\n  + {mutant.becomes}")
                sys.stdout.flush()
    print(table(tried))
    survived = sum(each.outcome == SURVIVED for each in tried)
    counted = sum(each.outcome != EQUIVALENT for each in tried)
    return int(survived > LARGEST_SHARE * counted)


if __name__ == "__main__":
    sys.exit(main())
