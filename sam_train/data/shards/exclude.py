"""`data.exclude=` and `data.include=`: samples that are none, because a list says so.

A list is a text file with `shard.tar/key`, `folder/key` or `key` a line. There `#` begins a
comment, at a line's beginning or behind a space. It may also be a JSON file whose `exclude` or
`include` is a list of such names, as `python -m data_tools.verify` and `finetune` write it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from sam_train.data.shards.index import Index, KeySet
from sam_train.data.storage.sources import short_name
from sam_train.errors import UserError
from sam_train.runtime.text import one_line

_NONE = KeySet(())


class _Report(msgspec.Struct):
    exclude: list[str] | None = None
    include: list[str] | None = None


class Exclusions:
    """Names of samples, with their shard or without; and of the only ones to take, if any are."""

    def __init__(self, names: Sequence[str], *, only: Sequence[str] | None = None) -> None:
        anywhere: set[str] = set()
        in_shard: dict[str, set[str]] = defaultdict(set)
        for name in names:
            # The first `.tar/` ends the shard's name; keys may hold slashes of their own.
            shard, slash, key = name.partition(".tar/")
            if slash:
                in_shard[f"{shard}.tar"].add(key.removeprefix("./"))
                continue
            anywhere.add(name.removeprefix("./"))
            # A sample of an unpacked folder, or a member of any tar that has a folder in its name.
            folder, slash, key = name.removeprefix("./").partition("/")
            if slash:
                in_shard[folder].add(key)
        self._anywhere = KeySet(anywhere)
        self._in_shard = {shard: KeySet(keys) for shard, keys in in_shard.items()}
        self._names = len(anywhere) + sum(
            len(keys) for shard, keys in in_shard.items() if shard.endswith(".tar")
        )
        self._only = None if only is None else Exclusions(only)

    def __bool__(self) -> bool:
        return len(self) > 0 or self._only is not None

    def __len__(self) -> int:
        return self._names

    def covers(self, path: str, key: str) -> bool:
        """Return whether the sample `key` of the shard at `path` is excluded."""
        return any(key in keys for keys in self._of(path)) or (
            self._only is not None and not self._only.covers(path, key)
        )

    def rows(self, path: str, index: Index, shard: int) -> npt.NDArray[np.int64]:
        """Return the excluded samples of one shard of an index, rising.

        Args:
            path: of the shard.
        """
        found = [index.find(shard, keys) for keys in self._of(path) if len(keys)]
        if self._only is not None:
            # Whatever `include` does not name is excluded, so one set of rows says both.
            others = np.ones(index.rows[shard].samples, dtype=bool)
            others[self._only.rows(path, index, shard)] = False
            found.append(np.flatnonzero(others))
        return np.unique(np.concatenate([np.empty(0, np.int64), *found]))

    def _of(self, path: str) -> list[KeySet]:
        return [self._anywhere, self._in_shard.get(short_name(path), _NONE)]


def read_exclusions(
    exclude: str | Sequence[str] | None, *, include: str | Sequence[str] | None = None
) -> Exclusions:
    """Read one or several lists of samples to leave out; none without a path.

    Args:
        exclude: lists of samples to leave out.
        include: lists of the only samples to take.

    Raises:
        UserError: a list is missing or cannot be understood, or `include` names nothing.
    """
    only = _names(include, option="data.include")
    if only is not None and not only:
        raise UserError(f"data.include={include} names no sample.")
    return Exclusions(_names(exclude, option="data.exclude") or [], only=only)


def _names(paths: str | Sequence[str] | None, *, option: str) -> list[str] | None:
    given = [paths] if isinstance(paths, str) else list(paths or [])
    files = [Path(str(path)) for path in given if str(path)]
    return [name for path in files for name in _read(path, option=option)] if files else None


def _read(path: Path, *, option: str) -> list[str]:
    try:
        data = path.expanduser().read_bytes()
        if path.suffix == ".json":
            report = msgspec.json.decode(data, type=_Report)
            # Either name, whatever the setting: a list of one may serve as the other.
            names = report.exclude if report.exclude is not None else report.include
            if names is None:
                raise ValueError("it has no list `exclude` or `include`")
            return names
        lines = data.decode("utf-8").splitlines()
    except FileNotFoundError:
        raise UserError(f"{option}={path} does not exist.") from None
    except (OSError, ValueError) as error:  # msgspec's errors are ValueErrors
        raise UserError(
            f"{option}={path} cannot be read ({one_line(error)}); it must be a list of "
            "shard.tar/key, one a line, or the JSON of data_tools.verify."
        ) from None
    # With a space before it, since a name may hold a `#`.
    lines_of = (line.split(" #", 1)[0].strip() for line in lines)
    return [name for name in lines_of if name and not name.startswith("#")]
