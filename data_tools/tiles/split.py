"""The choice of scenes for validation: never a part of one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from data_tools.subset import rank
from sam_train.data.formats.records import Record
from sam_train.errors import UserError


def validation_scenes(text: str, records: Sequence[Record]) -> set[str]:
    """Return the names of the scenes that `--split` takes for validation.

    Args:
        text: `val=0.1`, a share of the scenes by the hash of their names (at least one, never
            all); or `val=FILE`, with a scene a line, with or without ending.
        records: the scenes.

    Raises:
        UserError: it says neither, or leaves one side empty.
    """
    side, _, value = text.partition("=")
    if side != "val" or not value:
        raise UserError(f"--split: say val=SHARE or val=FILE, got {text}")
    names = [record.name for record in records]
    try:
        share = float(value)
    except ValueError:
        chosen = _listed(Path(value), names)
    else:
        if not 0 < share < 1:
            raise UserError(f"--split: the share must lie between 0 and 1, got {value}")
        count = min(max(1, round(share * len(names))), len(names) - 1)
        chosen = set(sorted(names, key=rank)[len(names) - count :]) if count > 0 else set()
    if not chosen or len(chosen) == len(set(names)):
        raise UserError(
            f"--split {text} leaves one side empty: there are {len(names)} scenes, and a scene's "
            "tiles stay on one side. Leave --split out, or cut the scene in two yourself"
        )
    return chosen


def _listed(path: Path, names: Sequence[str]) -> set[str]:
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--split: {path} cannot be read ({error})") from None
    by_stem = {str(PurePosixPath(name).with_suffix("")): name for name in names}
    known = {**by_stem, **{name: name for name in names}}
    wanted = [line for line in lines if line and not line.startswith("#")]
    if missing := [line for line in wanted if line not in known]:
        raise UserError(f"--split: {path} names {missing[0]}, which is no scene with masks")
    return {known[line] for line in wanted}
