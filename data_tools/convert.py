"""Turn your own segmentation data into SA-1B shards: `python -m data_tools.convert KIND ...`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from data_tools import command
from data_tools.convert_output import Summary, fingerprint, finished, replaced_folder, write_lists
from data_tools.convert_run import ConvertConfig, Tally, samples
from data_tools.photo_options import add_photo_options, photo_rule
from sam_train.data.formats.base import Format, Option, formats
from sam_train.data.formats.foreign import other_kind
from sam_train.data.formats.leftovers import count_unused
from sam_train.data.formats.records import Listing
from sam_train.data.photos.jpeg import JPEG_QUALITY
from sam_train.data.shards.writer import SAMPLES_PER_SHARD, ShardSample, write_shards
from sam_train.errors import UserError
from sam_train.runtime.text import count

EXAMPLES = """examples:
  python -m data_tools.convert coco  --images val2017 --annotations instances_val2017.json --out DIR
  python -m data_tools.convert lvis  --images coco --annotations lvis_v1_train.json --out DIR
  python -m data_tools.convert ade20k --images ADE20K_2021_17_01/images/ADE/training --out DIR
  python -m data_tools.convert cityscapes --images leftImg8bit/val --masks gtFine/val --out DIR
  python -m data_tools.convert bbbc038 --images stage1_train --out DIR
  python -m data_tools.convert bsds  --images images/val --ground-truth groundTruth/val --out DIR
  python -m data_tools.convert masks --images photos --masks masks --out DIR
  python -m data_tools.convert rle   --images images --masks masks_rle.json --out DIR
  python -m data_tools.convert yolo  --images train/images --out DIR
  python -m data_tools.convert cvat  --images images --annotations annotations.xml --out DIR

An unchanged conversion is not made twice; a changed one replaces the folder when it is complete."""

NOT_IN_THE_RESULT = ("list", "out", "dry_run", "workers")
"""Arguments that leave the written bytes as they are."""


def common_options() -> argparse.ArgumentParser:
    """Make a parser of the options that every kind of source takes."""
    count = command.between(1, sys.maxsize, int)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--images", type=Path, required=True, metavar="DIR", help="the photos")
    common.add_argument("--out", type=Path, required=True, metavar="DIR", help="for the shards")
    common.add_argument(
        "--shard-size", type=count, default=SAMPLES_PER_SHARD, metavar="N",
        help="images per tar (default: %(default)s)",
    )  # fmt: skip
    common.add_argument(
        "--jpeg-quality", type=command.between(1, 100, int), default=JPEG_QUALITY, metavar="Q",
        help="of images that are no upright RGB JPEG; those are copied (default: %(default)s)",
    )  # fmt: skip
    common.add_argument(
        "--min-area", type=count, default=1, metavar="PIXELS",
        help="leave out smaller masks (default: %(default)s)",
    )  # fmt: skip
    common.add_argument("--limit", type=count, metavar="N", help="only the first N images")
    common.add_argument("--dry-run", action="store_true", help="count only, write nothing")
    add_photo_options(common)
    command.add_workers(common)
    return common


def parser() -> argparse.ArgumentParser:
    """Make the parser of the command line."""
    parser = command.parser("convert", description=__doc__, examples=EXAMPLES)
    add_kinds(parser, common_options())
    return parser


def add_kinds(parser: argparse.ArgumentParser, common: argparse.ArgumentParser) -> Any:
    """Add a command for every format, with the common options; `args.list(args)` then lists its
    source. Return argparse's group of commands."""
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="KIND")
    for name, kind in formats().items():
        command = kinds.add_parser(name, parents=[common], help=kind.summary)
        if kind.annotations is not None:
            command.add_argument(
                kind.annotations.flag,
                type=Path,
                required=kind.annotations.required,
                metavar=kind.annotations.metavar,
                help=kind.annotations.help or None,
            )
        for field, (said, own) in kind.options().items():
            _add_option(command, field, said, own.default)
        command.set_defaults(list=partial(_listing, kind))
    return kinds


def _add_option(command: argparse.ArgumentParser, field: str, said: Option, default: Any) -> None:
    if isinstance(default, bool):
        flag = said.flag or f"--{'no-' if default else ''}{field}"
        action = "store_false" if default else "store_true"
        command.add_argument(flag, dest=field, action=action, help=said.help)
        return
    more: dict[str, Any] = {"metavar": said.metavar} if said.metavar else {}
    if said.choices:
        more["choices"] = said.choices
    if said.many:
        more["nargs"] = "*"
    elif said.const is not None:
        more |= {"nargs": "?", "const": said.const}
    flag = said.flag or f"--{field}"
    command.add_argument(flag, type=_parser(said), default=default, help=said.help, **more)


def _parser(said: Option) -> Callable[[str], Any]:
    """Return an option's parser, whose errors argparse shows as they are."""

    def parse(text: str) -> Any:
        try:
            return said.parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return parse


def _listing(kind: type[Format], args: argparse.Namespace) -> Listing:
    """List a source as its format's options say."""
    given = {
        field: getattr(args, _name(said.flag) if said.flag else field)
        for field, (said, _) in kind.options().items()
    }
    return kind(**given).list(args.images, _annotations(kind, args) or args.images)


def _annotations(kind: type[Format], args: argparse.Namespace) -> Path | None:
    if kind.annotations is None:
        return None
    path: Path | None = getattr(args, _name(kind.annotations.flag))
    return path


def _name(flag: str) -> str:
    """Return argparse's name for the value of a flag."""
    return flag.removeprefix("--").replace("-", "_")


def _known_kind(argv: Sequence[str]) -> None:
    """Refuse a kind that is not there, with the way to one that is."""
    if argv and not argv[0].startswith("-") and argv[0] not in (known := list(formats())):
        raise UserError(other_kind(argv[0], known))


def _with_progress(
    stream: Iterator[ShardSample], tally: Tally, total: int
) -> Iterator[ShardSample]:
    """Pass the samples on and show how far they are; silent where nobody watches."""
    with command.progress("converting", total=total, unit="images") as bar:
        for sample in stream:
            bar.reach(sample.image_id, note=f"images, {tally.masks:,} masks")
            yield sample
        bar.reach(total)


def complete_listing(args: argparse.Namespace) -> Listing:
    """Return what the format lists, with every other file below --images as left out.

    Raises:
        UserError: as `Format.list`.
    """
    listing: Listing = args.list(args)
    kind = formats().get(args.kind)
    masks = None if kind is None else _annotations(kind, args)
    # If photos and masks share a folder, all of it is looked at.
    apart = [masks] if masks is not None and masks.resolve() != args.images.resolve() else []
    count_unused(listing, args.images, without=[*apart, args.out], shared=not apart)
    return listing


def convert(args: argparse.Namespace) -> str:
    """Convert as the arguments say and return what to print.

    Raises:
        UserError: as `Format.list`; or nothing could be converted.
    """
    config = ConvertConfig(
        jpeg_quality=args.jpeg_quality,
        min_area=args.min_area,
        photos=photo_rule(args),
        workers=args.workers,
    )
    listing = complete_listing(args)
    listing.records = listing.records[: args.limit]
    settings = {k: str(v) for k, v in sorted(vars(args).items()) if k not in NOT_IN_THE_RESULT}
    mark = fingerprint(listing, settings)
    if not args.dry_run and (earlier := finished(args.out, mark)):
        return "\n".join([*earlier.lines(), f"{args.out} has them already: nothing to do"])

    tally = Tally()
    stream = _with_progress(samples(listing, config, tally), tally, len(listing.records))
    if args.dry_run:
        for _ in stream:
            pass
        return "\n".join([*Summary.of(tally).lines(), "dry run: nothing was written"])
    with replaced_folder(args.out) as folder:
        shards = write_shards(stream, folder, samples_per_shard=args.shard_size)
        if not shards:
            raise UserError(" | ".join(["nothing to convert", *Summary.of(tally).lines()]))
        write_lists(folder, tally, mark)
    written = f"wrote {count(len(shards), 'shard')} to {args.out}"
    return "\n".join([*Summary.of(tally).lines(), written])


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status: 0, or 2 for what the user must mend."""

    def tool() -> str:
        _known_kind(sys.argv[1:] if argv is None else argv)
        return convert(parser().parse_args(argv))

    return command.run(tool, stopped="stopped; nothing was left behind")


if __name__ == "__main__":
    sys.exit(main())
