"""Kinds of data sets: name, options, where the files usually lie, and the reader.

A format is one file of this folder, or of a plug-in, that registers a subclass of `Format`.
`data.train=NAME:PATH`, `eval.datasets=NAME:PATH` and `python -m data_tools.convert NAME` find it
there; no list names it.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from sam_train.data.formats.parts import Part, part_folders
from sam_train.data.formats.records import Listing
from sam_train.runtime.registry import Registry, import_all
from sam_train.settings.plugins import load_plugins

_OPTION = "option"
_Kind = TypeVar("_Kind", bound="type[Format]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """The form of one option on a command line and in an entry of a data set."""

    help: str
    flag: str
    """The flag of the command line. Empty: `--NAME`, or `--no-NAME` if it is on by default."""
    parse: Callable[[str], Any]
    """Reads the value from text; raises a ValueError that says what it must be."""
    choices: tuple[Any, ...]
    metavar: str | None
    many: bool
    """The value is a tuple of any number of them."""
    const: Any
    """The value that the flag alone stands for; None: a value must follow."""
    entry: Callable[[Any], Any] | None
    """Changes the value of an entry where it means something else than on the command line."""


def option(
    default: Any,
    *,
    help: str,
    flag: str = "",
    parse: Callable[[str], Any] = str,
    choices: tuple[Any, ...] = (),
    metavar: str | None = None,
    many: bool = False,
    const: Any = None,
    entry: Callable[[Any], Any] | None = None,
) -> Any:
    """Declare a field of a format as an option; the arguments are those of `Option`."""
    said = Option(
        help=help,
        flag=flag,
        parse=parse,
        choices=choices,
        metavar=metavar,
        many=many,
        const=const,
        entry=entry,
    )
    return field(default=default, metadata={_OPTION: said})


@dataclass(frozen=True, slots=True, kw_only=True)
class Annotations:
    """The flag by which the command line asks for the masks of a format."""

    flag: str
    metavar: str
    help: str = ""
    required: bool = True


class Format(ABC):
    """A kind of data set. Subclasses are frozen dataclasses whose fields are their options."""

    name: ClassVar[str]
    summary: ClassVar[str]
    """The files it reads, in a few words."""
    image_places: ClassVar[tuple[str, ...]] = ("images", "")
    """Places of the photos below the data set's folder; "" is the folder itself. The first that
    exists counts, so a folder stands before the one it lies in."""
    annotation_places: ClassVar[tuple[str, ...]]
    """The same for annotations; globs."""
    annotations: ClassVar[Annotations | None]
    """None: they lie among the photos."""
    loose: ClassVar[bool] = False
    """True if its look is so general that any other format that fits comes first."""

    @abstractmethod
    def list(self, images: Path, annotations: Path) -> Listing:
        """List all photos, in the order in which they will be numbered.

        Args:
            images: the folder of photos.
            annotations: the file or folder of masks; `images` where a format has no other.

        Raises:
            UserError: a path is missing, or the files are not of this format.
        """

    def fits(self, images: Path, annotations: Path) -> bool:
        """Tell from a few names and files whether a data set is of this format."""
        return False

    def find_parts(self, path: Path) -> Sequence[Part]:
        """Find the parts of a divided data set of this format; none where it is one whole.

        By default these are folders `train`, `valid`, `test`, each a data set by itself, or such
        folders below the photos' place and below that of the annotations.
        """
        return list(_own_folders(self, path)) or list(_twin_folders(self, path))

    @classmethod
    def options(cls) -> dict[str, tuple[Option, Field[Any]]]:
        """Return the options by the names of their fields."""
        assert issubclass(cls, Format)
        # Subclasses are dataclasses, which a type checker cannot know of this base.
        own: tuple[Field[Any], ...] = fields(cls)  # type: ignore[arg-type]
        return {each.name: (each.metadata[_OPTION], each) for each in own}


FORMATS: Registry[type[Format]] = Registry("format")


def register(kind: _Kind) -> _Kind:
    """Register a format under its own name.

    Raises:
        UserError: another file has registered that name.
    """
    FORMATS.add(kind.name, kind)
    return kind


def formats() -> dict[str, type[Format]]:
    """Return all formats by their names, those of plug-ins included."""
    package = importlib.import_module(__package__ or "")
    import_all(package.__name__, package.__path__)
    load_plugins()
    return dict(sorted(FORMATS.items()))


def _own_folders(kind: Format, path: Path) -> Iterator[Part]:
    for name, folder in part_folders(path).items():
        images, annotations = usual_paths(type(kind), folder)
        if images is not None and annotations is not None and kind.fits(images, annotations):
            yield Part(name=name, path=folder, images=images, annotations=annotations)


def _twin_folders(kind: Format, path: Path) -> Iterator[Part]:
    for place in kind.image_places:
        photos = part_folders(path / place) if place else {}
        for other in kind.annotation_places if photos else ():
            # Globs are of files, and a folder itself has no twin.
            masks = part_folders(path / other) if other and "*" not in other else {}
            parts = [
                Part(name=name, images=photos[name], annotations=masks[name])
                for name in photos
                if name in masks and kind.fits(photos[name], masks[name])
            ]
            if parts:
                yield from parts
                return


def usual_paths(kind: type[Format], folder: Path) -> tuple[Path | None, Path | None]:
    """Return a data set's photos and annotations where they usually lie, None for what is not."""
    images = _first(folder, kind.image_places)
    return images, _first(folder, kind.annotation_places)


def _first(folder: Path, places: tuple[str, ...]) -> Path | None:
    for place in places:
        if not place:
            return folder if folder.is_dir() else None
        # The first by name, the same on every file system.
        for found in sorted(folder.glob(place)):
            return found
    return None
