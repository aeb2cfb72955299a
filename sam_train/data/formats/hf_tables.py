"""Rows of Arrow and Parquet files as Hugging Face's `datasets` writes them, read one at a time.

pyarrow alone reads them. `datasets` would add pandas, an HTTP client and a process pool, and is
made to download, which nothing here does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec

from sam_train.data.formats.parts import part_in, part_of
from sam_train.errors import UserError

ARROW, PARQUET = ".arrow", ".parquet"
MAX_GROUP = 4 << 30
"""Bytes of the largest row group that is read, since one row of it needs all of it."""
_SPLITS = "dataset_dict.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class RowPlace:
    """The place of a row."""

    file: Path
    group: int
    """The row group of a Parquet file; 0 in an Arrow file, which has none."""
    row: int
    """The number of the row in its group."""


def has_tables(path: Path) -> bool:
    """Tell from names whether a file or folder holds tables of `datasets`."""
    return bool(table_files(path))


def table_files(path: Path) -> list[Path]:
    """Return the tables at a path, sorted: a file, a glob, or a folder of them.

    Of a folder that `save_to_disk` wrote these are its Arrow files; of a repository on the hub its
    Parquet files, wherever they lie.
    """
    if path.is_file():
        return [path] if path.suffix in (ARROW, PARQUET) else []
    if "*" in path.name:
        return sorted(path.parent.glob(path.name))
    if not path.is_dir():
        return []
    saved = [p for p in (path, *_split_folders(path)) if (p / "state.json").is_file()]
    arrows = [file for folder in saved for file in sorted(folder.glob(f"*{ARROW}"))]
    # Files that `map` and `filter` leave behind hold the same rows in other forms.
    arrows = [file for file in arrows if not file.name.startswith(("cache-", "tmp"))]
    if arrows:
        return arrows
    places = (f"*{PARQUET}", f"data/*{PARQUET}", f"*/*{PARQUET}", f"*/*/*{PARQUET}")
    return next((found for place in places if (found := sorted(path.glob(place)))), [])


def split_places(path: Path) -> dict[str, Path]:
    """Return the folder or glob of each part of a data set, by part; none of one in one piece."""
    found: dict[str, Path] = {}
    for folder in _split_folders(path) if path.is_dir() else ():
        if (part := part_of(folder.name)) is not None:
            found.setdefault(part, folder)
    if found or not path.is_dir():
        return found
    for file in table_files(path):
        if file.suffix != PARQUET:
            continue
        if (part := part_of(file.parent.name)) is not None:
            found.setdefault(part, file.parent)
        # `train-00000-of-00002.parquet`, as `push_to_hub` names them.
        elif (named := part_in(file.stem)) is not None and file.stem.startswith(named[1]):
            found.setdefault(named[0], file.with_name(f"{named[1]}*{PARQUET}"))
    return found


def _split_folders(path: Path) -> list[Path]:
    try:
        content = msgspec.json.decode((path / _SPLITS).read_bytes(), type=dict[str, Any])
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return []
    names = content.get("splits")
    named = [n for n in names if isinstance(n, str)] if isinstance(names, list) else []
    # A name from a file: it must not lead out of the folder.
    return [path / n for n in named if Path(n).name == n and (path / n).is_dir()]


def _pyarrow() -> Any:
    try:
        # Here: an optional library, and slow to import.
        import pyarrow  # noqa: PLC0415
        import pyarrow.ipc  # noqa: PLC0415
        import pyarrow.parquet  # noqa: PLC0415
    except ImportError:
        raise UserError(
            "Hugging Face's Arrow and Parquet files need pyarrow: pip install 'sam_train[hf]'"
        ) from None
    return pyarrow


def schema_of(file: Path) -> Any:
    """Return a table's pyarrow schema.

    Raises:
        UserError: it cannot be read, or pyarrow is missing.
    """
    arrow = _pyarrow()
    try:
        if file.suffix == PARQUET:
            return arrow.parquet.read_schema(file)
        return _arrow_table(file).schema
    except (OSError, UnicodeError, arrow.ArrowException) as error:
        raise UserError(f"{file} is damaged or no table ({error})") from None


def rows_of(file: Path, column: str) -> Iterator[tuple[RowPlace, Any]]:
    """Yield the place of each row with the value of one column, `image.path` for a field of one.

    Raises:
        UserError: the table cannot be read.
    """
    arrow = _pyarrow()
    try:
        if file.suffix == PARQUET:
            with arrow.parquet.ParquetFile(file) as table:
                for group in range(table.num_row_groups):
                    size = table.metadata.row_group(group).total_byte_size
                    if size > MAX_GROUP:
                        raise UserError(
                            f"{file} has row groups of {size >> 20:,} MiB, too large to read one "
                            "row: write it with smaller ones, or by save_to_disk"
                        )
                    found = table.read_row_group(group, columns=[column], use_threads=False)
                    for row, value in enumerate(_values(found, column)):
                        yield RowPlace(file=file, group=group, row=row), value
        else:
            for row, value in enumerate(_values(_arrow_table(file), column)):
                yield RowPlace(file=file, group=0, row=row), value
    except (OSError, UnicodeError, arrow.ArrowException) as error:
        raise UserError(f"{file} is damaged or no table ({error})") from None


def _values(table: Any, column: str) -> Iterator[Any]:
    name, *field = column.split(".")
    for chunk in table.column(name).chunks:
        values = chunk.field(field[0]) if field else chunk
        yield from (value.as_py() for value in values)


def read_row(place: RowPlace, columns: Sequence[str]) -> dict[str, Any]:
    """Read columns of one row as python values.

    Raises:
        OSError: the table is gone or damaged.
    """
    arrow = _pyarrow()
    try:
        if place.file.suffix == PARQUET:
            table = _row_group(place, tuple(columns))
        else:
            table = _arrow_table(place.file)
        return {name: table.column(name)[place.row].as_py() for name in columns}
    except (UnicodeError, IndexError, arrow.ArrowException) as error:
        raise OSError(f"{place.file}: row {place.row}: {error}") from None


def _arrow_table(file: Path) -> Any:
    return _mapped(file, file.stat().st_mtime_ns)


@lru_cache(maxsize=64)
def _mapped(file: Path, changed: int) -> Any:
    """Return an Arrow file as a table whose columns stay on disk until they are read.

    Args:
        changed: when, so that a file that is replaced is opened anew.
    """
    arrow = _pyarrow()
    source = arrow.memory_map(str(file))
    try:
        table = arrow.ipc.open_stream(source).read_all()
    except arrow.ArrowInvalid:
        # `datasets` writes streams; other programs write files, with a table of contents.
        table = arrow.ipc.open_file(source).read_all()
    # Places of a damaged file may lie beyond its end, and reading there would end the process.
    table.validate(full=True)
    return table


def _row_group(place: RowPlace, columns: tuple[str, ...]) -> Any:
    return _group(place.file, place.file.stat().st_mtime_ns, place.group, columns)


@lru_cache(maxsize=2)
def _group(file: Path, changed: int, group: int, columns: tuple[str, ...]) -> Any:
    # Two of them: a group holds all photos of its rows, and each worker has its own.
    with _pyarrow().parquet.ParquetFile(file) as table:
        return table.read_row_group(group, columns=list(columns), use_threads=False)
