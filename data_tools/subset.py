"""Lists of a subset by a published rule: `python -m data_tools.subset SHARDS... --out DIR`.

An image's rank is a hash of its name (see `rank`). A fraction f of a data set is every image whose
rank lies below f, and a validation fraction v is every image from 1 - v on. So 1 % lies inside 10 %
lies inside everything, the validation images are the same beside every fraction, and nobody needs
this program or the data to say which images they are:

    from hashlib import sha256
    rank = lambda name: int.from_bytes(sha256(name.encode()).digest()[:6], "big") / 2**48
    subset = [name for name in names if rank(name) < 0.01]  # name: "sa_224577"

Where `groups.tsv` beside the shards names an image's scene, patient or slide, that text is ranked
in place of the image's name: a group lies on one side of every split.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from data_tools import command
from sam_train.data.shards.groups_file import groups_of
from sam_train.data.shards.reader import Shards, open_shards
from sam_train.errors import UserError
from sam_train.runtime.files import write_bytes
from sam_train.runtime.text import count

EXAMPLES = """examples:
  python -m data_tools.subset 'sa1b/*.tar' --out lists
  python -m data_tools.subset --keys names.txt --fraction 0.001 --val-fraction 0.002 --out lists

Training takes a list as data.include=lists/subset_0.01.txt, and data_tools.reshard as --ids."""

FRACTIONS = (0.01, 0.1)
"""0.1 M and 1 M of SA-1B's 11 M images: the amounts of data that the paper compares (7.6)."""


def rank(name: str) -> float:
    """Place an image in [0, 1): the first 6 bytes of the SHA-256 of its name, / 2^48.

    Args:
        name: of its files, without folder and extension: `sa_224577`.
    """
    # 48 bits: a float holds them exactly, so no rank is rounded up to 1.
    return int.from_bytes(sha256(name.encode()).digest()[:6], "big") / 2**48


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """The rule that puts images into a subset, into its validation part, or into neither; never
    into both."""

    fraction: float = 1.0
    """Ranks below this belong to the subset."""
    val_fraction: float = 0.0
    """Ranks from 1 - this on are validation."""

    def trains(self, name: str) -> bool:
        """Return whether the image is in the subset; with both fractions high, validation comes
        first."""
        return rank(name) < min(self.fraction, 1 - self.val_fraction)

    def validates(self, name: str) -> bool:
        """Return whether the image is for validation."""
        return self.val_fraction > 0 and rank(name) >= 1 - self.val_fraction


def short(key: str) -> str:
    """Shorten the image's name in a member or list entry: `./sa_1.jpg`, `sa_000000.tar/sa_1`,
    `sa_1`."""
    last = key.rsplit("/", 1)[-1]
    return re.sub(r"\.(jpg|jpeg|json)$", "", last)


def read_names(path: Path, *, option: str) -> list[str]:
    """Read the names in a text file, one a line, without empty lines and those that begin with #.

    Raises:
        UserError: the file is missing, not text, or names nothing.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UserError(f"{option}: cannot read {path}: {error.strerror or error}") from error
    except UnicodeDecodeError:
        raise UserError(f"{option}: {path} is not a text file with one name a line") from None
    names = [short(line.strip()) for line in lines if line.strip() and line.lstrip()[0] != "#"]
    if not names:
        raise UserError(f"{option}: {path} names no image")
    return names


def natural(name: str) -> tuple[str | int, ...]:
    """Make a key that sorts `sa_9` before `sa_10`."""
    parts = re.split(r"(\d+)", name)
    return tuple(int(part) if i % 2 else part for i, part in enumerate(parts))


@dataclass(slots=True)
class SubsetLists:
    """The names of each list, by file name."""

    names: dict[str, list[str]] = field(default_factory=dict)
    total: int = 0
    """Different images looked at."""
    repeated: int = 0
    """Entries whose image had been seen before."""


def make_lists(
    names: Iterable[str],
    *,
    fractions: Sequence[float],
    val_fraction: float = 0.0,
    groups: Mapping[str, str] | None = None,
) -> SubsetLists:
    """Sort the names into `subset_F.txt` for each fraction and `val_V.txt`.

    Args:
        names: of the images.
        fractions: one list each.
        val_fraction: never in any of them.
        groups: name -> scene, patient or slide, which is ranked in the image's place.
    """
    rules = {f"subset_{f:g}.txt": Rule(fraction=f, val_fraction=val_fraction) for f in fractions}
    lists = SubsetLists({name: [] for name in rules})
    val_list: list[str] = []
    seen: set[str] = set()
    entries = 0
    for name in names:
        entries += 1
        if name in seen:
            continue
        seen.add(name)
        place = rank((groups or {}).get(name, name))
        if place >= 1 - val_fraction:
            val_list.append(name)
            continue
        for file, rule in rules.items():
            if place < rule.fraction:
                lists.names[file].append(name)
    if val_fraction:
        lists.names[f"val_{val_fraction:g}.txt"] = val_list
    lists.total, lists.repeated = len(seen), entries - len(seen)
    # By number, so that the file says nothing about the order of the shards.
    lists.names = {file: sorted(found, key=natural) for file, found in lists.names.items()}
    return lists


def _names(args: argparse.Namespace, shards: Shards | None) -> Iterator[str]:
    """List every image's name, from the shards and the key lists."""
    for path in args.keys:
        yield from read_names(path, option="--keys")
    if shards is None:
        return
    with command.progress("ranking", total=len(shards), unit="images") as bar:
        for sample in range(len(shards)):
            yield short(shards.key(sample))
            if sample % 1000 == 999:
                bar.advance(1000)


def _write(path: Path, names: Sequence[str]) -> None:
    text = "".join(f"{name}\n" for name in names).encode()
    write_bytes(path, text)


def subset(args: argparse.Namespace) -> str:
    """Write the subset that the arguments ask for; returns the closing lines.

    Raises:
        UserError: no source is given, or one cannot be read.
    """
    if not args.shards and not args.keys:
        raise UserError("nothing to choose from: give shards, or --keys FILE")
    shards = open_shards(args.shards, option="SHARDS") if args.shards else None
    known = {} if shards is None else groups_of(shards, samples=len(shards))
    lists = make_lists(
        _names(args, shards),
        fractions=args.fraction,
        val_fraction=args.val_fraction,
        groups={short(shards.key(k)): group for k, group in known.items()} if shards else {},
    )
    answer = [count(lists.total, "image")]
    if lists.repeated:
        answer[0] += f"; {count(lists.repeated, 'repeated name')} counted once"
    for file, names in lists.names.items():
        if not args.dry_run:
            args.out.mkdir(parents=True, exist_ok=True)
            _write(args.out / file, names)
        answer.append(f"{args.out / file}: {count(len(names), 'image')}")
    if args.dry_run:
        answer.append("dry run: nothing was written")
    return "\n".join(answer)


def parser() -> argparse.ArgumentParser:
    """Make the command's options."""
    parser = command.parser("subset", description=__doc__, examples=EXAMPLES)
    part = command.between(0, 1, float)
    parser.add_argument("shards", nargs="*", metavar="SHARDS", help="tars, folders, globs or URLs")
    parser.add_argument(
        "--keys", type=Path, nargs="+", default=[], metavar="FILE",
        help="text files with an image's name a line, instead of or beside shards",
    )  # fmt: skip
    parser.add_argument(
        "--fraction", type=part, nargs="+", default=FRACTIONS, metavar="F",
        help="one list each (default: 0.01 0.1)",
    )  # fmt: skip
    parser.add_argument(
        "--val-fraction", type=part, default=0.0, metavar="F",
        help="a list for validation, disjoint from the others (default: none)",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="for the lists")
    parser.add_argument("--dry-run", action="store_true", help="count only, write nothing")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0, or 2 for an error that the user must
    mend."""
    return command.run(lambda: subset(parser().parse_args(argv)))


if __name__ == "__main__":
    raise SystemExit(main())
