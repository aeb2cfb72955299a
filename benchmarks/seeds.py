"""Train a recipe with several seeds and thread counts, and print mean and spread of its scores.

    python benchmarks/seeds.py --out runs/photos_seeds --seeds 0 1 2 --threads 1 2 \
        --also COCO128=data/photos/coco128 -- \
        +experiment=photos init_from=dinov2:dinov2_vits14_fp16.pt trainer.devices=1

Everything after `--` goes to `fit` as it is. Each pair of seed and thread count is a run of its
own, in OUT/seed0_threads1 and so on. With the first thread count it trains to the end. With the
others it ends as soon as it has left the plateau of empty masks, since another thread count is
only another rounding. `--also NAME=SHARDS` scores each finished run on more shards. The same
command continues a benchmark that was stopped. The table is printed as Markdown and kept in
OUT/seeds.md.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

WINDOW = 5
"""Rows of metrics.csv that are averaged: fifty steps at the default `trainer.log_every`."""
LEFT_AT = 0.1
"""IoU of the last round above which masks are no longer empty; on the plateau it is below .01."""
CLICKS = ("1", "2", "3", "5", "9")
SAVED = 75
"""Exit status of `fit` when it was asked to stop and has saved its state."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One training run."""

    seed: int
    threads: int
    folder: Path
    whole: bool
    """True where it trains to the end rather than to the end of the plateau."""

    def left_plateau(self) -> int | None:
        """Return the step at which the run left the plateau of empty masks, if it has."""
        path = self.folder / "metrics.csv"
        if not path.exists():
            return None
        with path.open(newline="") as file:
            return plateau_end(list(csv.DictReader(file)))


def plateau_end(rows: list[dict[str, str]]) -> int | None:
    """Find the step at which training left the plateau of empty masks.

    Args:
        rows: of metrics.csv, in the order of their steps.

    Returns:
        The first step at which the last round's IoU on training masks, averaged over `WINDOW`
        rows, exceeds `LEFT_AT`; None if it never does.
    """
    seen: list[float] = []
    for row in rows:
        rounds = [row[name] for name in sorted(row) if name.startswith("iou_r") and row[name]]
        if not rounds:
            continue
        seen.append(float(rounds[-1]))
        if len(seen) >= WINDOW and statistics.mean(seen[-WINDOW:]) > LEFT_AT:
            return int(row["step"])
    return None


def start(verb: str, arguments: list[str], *, run: Run, log: Path) -> subprocess.Popen[bytes]:
    """Start one verb in a process of its own, whose output goes to `log`."""
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"OMP_NUM_THREADS": str(run.threads)}
    with log.open("ab") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "sam_train", verb, *arguments],
            env=environment, stdout=file, stderr=file,
        )  # fmt: skip


def require(status: int, *, log: Path, allowed: tuple[int, ...] = (0,)) -> None:
    """Stop the benchmark if a process failed.

    Raises:
        SystemExit: the status is not an allowed one.
    """
    if status not in allowed:
        raise SystemExit(f"ended with status {status}; its output is in {log}")


def train(run: Run, *, settings: list[str], also: dict[str, str]) -> None:
    """Train one run as far as it goes, and score a whole one on the other shards."""
    common = [*settings, f"seed={run.seed}", f"trainer.threads={run.threads}"]
    log = run.folder / "output.txt"
    if not run.whole and run.left_plateau() is not None:
        return
    process = start("fit", [*common, f"run_dir={run.folder}"], run=run, log=log)
    while process.poll() is None:
        time.sleep(2)
        if not run.whole and run.left_plateau() is not None:
            process.send_signal(signal.SIGTERM)
            break
    require(process.wait(), log=log, allowed=(0,) if run.whole else (0, SAVED))
    if not run.whole:
        return
    measured = [setting for setting in common if not setting.startswith("init_from=")]
    for name, shards in also.items():
        where = run.folder / name
        last = run.folder / "checkpoints" / "last.ckpt"
        arguments = [*measured, f"ckpt={last}", f"data.val={shards}", f"run_dir={where}"]
        log = where / "output.txt"
        require(start("validate", arguments, run=run, log=log).wait(), log=log)


def scores_of(run: Run, name: str) -> dict[str, float]:
    """Read the scores of a finished run: on its own held-out shards ("") or on others."""
    path = run.folder / name / "scores.json" if name else run.folder / "scores_after.json"
    content: dict[str, Any] = json.loads(path.read_text())
    clicks = {f"{n} click{'s' if n != '1' else ''}": content["miou"][n] for n in CLICKS}
    one = "1 click"
    return {one: clicks.pop(one), "oracle": content["oracle"], **clicks}


def table(header: list[str], rows: list[list[str]]) -> list[str]:
    """Format a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return [f"| {' | '.join(line)} |" for line in lines]


def report(runs: list[Run], *, others: list[str]) -> str:
    """Format when each run left the plateau, and the scores with mean and standard deviation."""
    ends = {run: run.left_plateau() for run in runs}
    rows = [[str(r.seed), str(r.threads), str(ends[r] or "never")] for r in runs]
    lines = ["Step at which masks were no longer empty:", ""]
    lines += table(["seed", "threads", "step"], rows)
    whole = [run for run in runs if run.whole]
    for name in ["", *others]:
        scores = [scores_of(run, name) for run in whole]
        columns = list(scores[0])
        rows = [
            [f"seed {run.seed}", *(f"{score[c]:.3f}" for c in columns)]
            for run, score in zip(whole, scores, strict=True)
        ]
        values = [[score[c] for score in scores] for c in columns]
        rows.append(["**mean**", *(f"**{statistics.mean(v):.3f}**" for v in values)])
        if len(whole) > 1:
            rows.append(["standard deviation", *(f"{statistics.stdev(v):.3f}" for v in values)])
        lines += ["", f"Mean IoU, {name or 'held-out shards of the run'}:", ""]
        lines += table(["", *columns], rows)
    return "\n".join(lines) + "\n"


def main() -> None:
    """Parse the command line, train what is missing, and write the report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--also", nargs="*", default=[], metavar="NAME=SHARDS")
    parser.add_argument("--parallel", type=int, default=1, help="runs at a time (default: 1)")
    parser.add_argument("settings", nargs="+", help="what goes to fit")
    args = parser.parse_args()
    also = dict(pair.split("=", 1) for pair in args.also)
    runs = [
        Run(
            seed=seed,
            threads=threads,
            folder=args.out / f"seed{seed}_threads{threads}",
            whole=threads == args.threads[0],
        )
        for threads in args.threads
        for seed in args.seeds
    ]
    with ThreadPoolExecutor(args.parallel) as pool:
        list(pool.map(partial(train, settings=args.settings, also=also), runs))
    text = report(runs, others=list(also))
    (args.out / "seeds.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
