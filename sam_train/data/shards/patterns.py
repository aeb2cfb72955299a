"""Paths of shards from what a person writes: folders, globs, braces, lists, URLs."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from pathlib import Path

from braceexpand import braceexpand

from sam_train.data.shards.places import shards_below
from sam_train.data.storage.sources import PIPE, filesystem_of, is_http, is_remote, is_sample_file
from sam_train.errors import UserError
from sam_train.runtime.text import one_line

_MAX_LIST = 1 << 26
"""Bytes of a list file; a shard given by mistake is larger."""


def resolve(patterns: str | Sequence[str], *, option: str, pipes: bool = False) -> list[str]:
    """Return the shards that paths, folders, globs, brace patterns, list files (`.txt`, a path or
    URL a line) and URLs stand for, sorted. Folders of photos and JSONs are shards, too, see
    `unpacked`.

    Args:
        option: the setting they come from, for messages (`data.train`).
        pipes: whether `pipe:` commands may be among them; braces in them are expanded.

    Raises:
        UserError: nothing is given, a pattern matches nothing, or a path does not exist.
    """
    given = [patterns] if isinstance(patterns, str) else list(patterns or [])
    given = [str(p) for p in given if str(p)]
    if not given:
        raise UserError(f"{option} is not set: give it the path of a tar or of a folder of tars.")
    # A set: a shard that two patterns name is read once.
    shards = {shard for pattern in given for shard in _expand(pattern, option=option)}
    if not pipes and (piped := sorted(s for s in shards if s.startswith(PIPE))):
        raise UserError(
            f"{option}={piped[0]} can only be read front to back: set data.mode=stream."
        )
    # Sorted, so that the order of samples does not depend on how the shards were named.
    return sorted(shards)


def _expand(pattern: str, *, option: str) -> list[str]:
    # A name that exists is taken as it is, even with brackets or braces in it.
    if _is_local(pattern) and Path(pattern).expanduser().exists():
        names = [pattern]
    else:
        try:
            names = list(braceexpand(pattern))
        except ValueError:  # braceexpand's UnbalancedBracesError
            raise UserError(f"{option}={pattern}: the braces do not balance.") from None
    return [shard for name in names for shard in _expand_name(name, option=option)]


def _is_local(name: str) -> bool:
    return not (is_remote(name) or name.startswith(PIPE))


def _expand_name(name: str, *, option: str) -> list[str]:
    if is_remote(name):
        return _expand_url(name, option=option)
    if name.startswith(PIPE):
        return [name]
    path = Path(name).expanduser()
    if path.is_dir():
        return shards_below(path, option=option)
    if path.suffix == ".txt" and path.is_file():
        return _read_list(path, option=option)
    if path.exists():
        # A single sample's name may hold `[`, which would be read as a pattern later.
        place = path.parent / glob.escape(path.name) if is_sample_file(str(path)) else path
        return [str(place)]

    # Not `Path.glob`, which takes no absolute patterns.
    found = sorted(glob.glob(str(path), recursive=True))  # noqa: PTH207
    if not found:
        _refuse_kinds(name, option=option)
        problem = f"{path} matches nothing" if glob.has_magic(name) else f"{path} does not exist"
        raise UserError(f"{option}: {problem}; check the path, or make shards first.")
    return [shard for place in _of_glob(found, path.name) for shard in _opened(place, option)]


def _refuse_kinds(name: str, *, option: str) -> None:
    """Refuse a data set of another format where only shards can be read.

    Raises:
        UserError: it is one, or looks like one of an unknown kind.
    """
    # Here, for the start of runs on shards: readers of formats import those of all photos.
    from sam_train.data.formats.spec import kind_written  # noqa: PLC0415

    if (kind := kind_written(name, setting=option)) is not None:
        raise UserError(
            f"{option}={name}: only data.train and data.val with data.mode=indexed, and "
            f"eval.datasets, read a data set of this kind; `python -m data_tools.convert {kind} "
            "--help` makes shards of it."
        )


def _opened(place: str, option: str) -> list[str]:
    return shards_below(Path(place), option=option) if Path(place).is_dir() else [place]


def _of_glob(found: Sequence[str], pattern: str) -> list[str]:
    """Put the photos and JSONs that a glob found together by their folders.

    Args:
        pattern: the glob's last part.
    """
    others = [place for place in found if not is_sample_file(place) or Path(place).is_dir()]
    folders = {str(Path(place).parent) for place in found if place not in set(others)}
    if not is_sample_file(pattern):
        pattern = pattern.removesuffix(".*").removesuffix("*") + "*.json"
    return [*others, *(str(Path(folder) / pattern) for folder in sorted(folders))]


def _expand_url(url: str, *, option: str) -> list[str]:
    if is_http(url):
        # `*` and `?` may stand in a web address; that of a folder cannot be listed.
        if url.endswith("/"):
            raise UserError(
                f"{option}={url}: a web server does not list its files; use a brace pattern such "
                "as sa_{000000..000999}.tar, or a list file."
            )
        return [url]
    folder = url.endswith("/")
    if not folder and not glob.has_magic(url):
        return [url]
    filesystem, pattern = filesystem_of(f"{url}*.tar" if folder else url)
    try:
        found = [str(filesystem.unstrip_protocol(name)) for name in filesystem.glob(pattern)]
    except Exception as error:  # fsspec's backends raise what they like
        raise UserError(f"{option}={url} cannot be listed ({one_line(error)}).") from None
    if not found:
        raise UserError(f"{option}: {url} matches nothing; check the URL.")
    return found


def _read_list(path: Path, *, option: str) -> list[str]:
    try:
        if path.stat().st_size > _MAX_LIST:
            raise UserError(f"{option}: {path} is too long for a list of shards.")
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise UserError(f"{option}: {path} cannot be read ({one_line(error)}).") from None
    names = [line.strip() for line in lines]
    names = [name for name in names if name and not name.startswith("#")]
    if not names:
        raise UserError(f"{option}: the list {path} is empty; write a path or URL a line.")
    if nested := [name for name in names if name.endswith(".txt")]:
        # Two lists could name each other without end.
        raise UserError(f"{option}: the list {path} names another list, {nested[0]}.")
    # Relative to the list, which then can be moved together with its shards.
    places = [name if not _is_local(name) else str(path.parent / name) for name in names]
    return [shard for place in places for shard in _expand(place, option=option)]
