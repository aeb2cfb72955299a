"""Turn your own segmentation data into SA-1B shards: `python -m data_tools.convert KIND ...`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from data_tools import command
from data_tools.convert_output import Summary, fingerprint, finished, replaced_folder, write_lists
from data_tools.convert_run import ConvertConfig, Tally, samples
from data_tools.photo_options import add_photo_options, photo_rule
from sam_train.data.formats.ade20k import list_ade20k
from sam_train.data.formats.bbbc038 import list_bbbc038
from sam_train.data.formats.bsds import DEDUPE_IOU, list_bsds
from sam_train.data.formats.cityscapes import list_cityscapes
from sam_train.data.formats.coco import list_coco
from sam_train.data.formats.foreign import other_kind
from sam_train.data.formats.leftovers import count_unused
from sam_train.data.formats.lvis import list_lvis
from sam_train.data.formats.mask_rules import FOREGROUNDS, LAYOUTS
from sam_train.data.formats.masks import list_masks
from sam_train.data.formats.records import Listing
from sam_train.data.formats.rle import list_rle
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

An unchanged conversion is not made twice; a changed one replaces the folder when it is complete."""

KINDS = ["coco", "lvis", "ade20k", "cityscapes", "bbbc038", "bsds", "masks", "rle"]

NOT_IN_THE_RESULT = ("list", "out", "dry_run", "workers")
"""Arguments that leave the written bytes as they are."""


def _label(text: str) -> int:
    """An argparse type: a label value, as 255 or 0xRRGGBB."""
    return int(text, 0)


def common_options() -> argparse.ArgumentParser:
    """What every kind of source takes."""
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
    """The command's options."""
    parser = command.parser("convert", description=__doc__, examples=EXAMPLES)
    add_kinds(parser, common_options())
    return parser


def add_kinds(parser: argparse.ArgumentParser, common: argparse.ArgumentParser) -> Any:
    """Add a command for every kind of source, each with the common options; `args.list(args)`
    then lists it. Returns argparse's group of commands."""
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="KIND")
    coco = kinds.add_parser("coco", parents=[common], help="a COCO instances JSON")
    coco.add_argument("--annotations", type=Path, required=True, metavar="JSON")
    _add_crowds(coco)
    coco.set_defaults(list=lambda a: list_coco(a.images, a.annotations, crowds=a.crowds))

    lvis = kinds.add_parser("lvis", parents=[common], help="an LVIS v1 JSON")
    lvis.add_argument("--annotations", type=Path, required=True, metavar="JSON")
    _add_crowds(lvis)
    lvis.set_defaults(list=lambda a: list_lvis(a.images, a.annotations, crowds=a.crowds))

    ade = kinds.add_parser("ade20k", parents=[common], help="ADE20K, or its SceneParsing maps")
    ade.add_argument(
        "--masks", type=Path, metavar="DIR",
        help="SceneParsing's annotations; their connected regions become masks (default: the "
        "full data set's objects and parts, in PNGs beside the photos)",
    )  # fmt: skip
    ade.add_argument("--no-parts", dest="parts", action="store_false", help="objects only")
    ade.set_defaults(list=lambda a: list_ade20k(a.images, masks=a.masks, parts=a.parts))

    cityscapes = kinds.add_parser("cityscapes", parents=[common], help="Cityscapes' instanceIds")
    cityscapes.add_argument("--masks", type=Path, required=True, metavar="DIR", help="gtFine")
    cityscapes.set_defaults(list=lambda a: list_cityscapes(a.images, a.masks))

    nuclei = kinds.add_parser("bbbc038", parents=[common], help="BBBC038v1: ID/images, ID/masks")
    nuclei.set_defaults(list=lambda a: list_bbbc038(a.images))

    bsds = kinds.add_parser("bsds", parents=[common], help="BSDS500's .mat files")
    bsds.add_argument("--ground-truth", type=Path, required=True, metavar="DIR")
    bsds.add_argument(
        "--dedupe", type=command.between(0, 1, float), default=DEDUPE_IOU, metavar="IOU",
        help="merge masks of one photo that overlap more than this (default: %(default)s; 1: none)",
    )  # fmt: skip
    bsds.set_defaults(list=lambda a: list_bsds(a.images, a.ground_truth, dedupe_iou=a.dedupe))

    _add_masks(kinds, common)
    rle = kinds.add_parser(
        "rle", parents=[common], help='a JSON {image: {"size": [h, w], "counts": [RLE, ...]}}'
    )
    rle.add_argument("--masks", type=Path, required=True, metavar="JSON")
    rle.set_defaults(list=lambda a: list_rle(a.images, a.masks))
    return kinds


def _add_crowds(kind: argparse.ArgumentParser) -> None:
    kind.add_argument(
        "--crowds", action="store_true",
        help="regions of many objects (iscrowd=1) are masks, too (default: left out and counted)",
    )  # fmt: skip


def _add_masks(kinds: Any, common: argparse.ArgumentParser) -> None:
    masks = kinds.add_parser("masks", parents=[common], help="mask files: PNG, TIF, JPEG, npy, ...")
    masks.add_argument("--masks", type=Path, required=True, metavar="DIR")
    masks.add_argument(
        "--layout", choices=LAYOUTS, default="auto",
        help="labels: each value of a file is an object; binary: each file is one "
        "(default: %(default)s, as the values say)",
    )  # fmt: skip
    masks.add_argument(
        "--regions", type=int, nargs="?", const=4, default=0, choices=(4, 8),
        help="each connected region is an object: pixels touch by a side (4, where no number is "
        "given) or also by a corner (8)",
    )  # fmt: skip
    masks.add_argument(
        "--foreground", choices=FOREGROUNDS, default="auto",
        help="of black-and-white masks: which of the two is the object (default: bright, and dark "
        "where several files, and all, are white all around)",
    )  # fmt: skip
    masks.add_argument(
        "--mask-suffix", default="", metavar="TEXT",
        help="a mask is named as its image + this (default: any of the usual ways)",
    )  # fmt: skip
    masks.add_argument(
        "--ignore", type=_label, nargs="*", metavar="LABEL",
        help="label values that are no mask, as 255 or 0xRRGGBB (default: 0 and below, and 255 "
        "where the other values are classes)",
    )  # fmt: skip
    masks.set_defaults(
        list=lambda a: list_masks(
            a.images, a.masks, layout=a.layout, suffix=a.mask_suffix, ignore=a.ignore,
            regions=a.regions, foreground=a.foreground,
        )
    )  # fmt: skip


def _known_kind(argv: Sequence[str]) -> None:
    """Refuse a kind that is not there, with the way to one that is."""
    if argv and not argv[0].startswith("-") and argv[0] not in KINDS:
        raise UserError(other_kind(argv[0], KINDS))


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
    """Return what the reader lists, with every other file below --images as left out.

    Raises:
        UserError: see the readers.
    """
    listing: Listing = args.list(args)
    masks = [path for name in ("masks", "ground_truth") if (path := getattr(args, name, None))]
    # If photos and masks share a folder, all of it is looked at.
    apart = [path for path in masks if path.resolve() != args.images.resolve()]
    count_unused(listing, args.images, without=[*apart, args.out], shared=not apart)
    return listing


def convert(args: argparse.Namespace) -> str:
    """Do what the arguments say; returns what to print.

    Raises:
        UserError: see the readers; or nothing could be converted.
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
    """The command line; returns the exit status: 0, or 2 for what the user must mend."""

    def tool() -> str:
        _known_kind(sys.argv[1:] if argv is None else argv)
        return convert(parser().parse_args(argv))

    return command.run(tool, stopped="stopped; nothing was left behind")


if __name__ == "__main__":
    sys.exit(main())
