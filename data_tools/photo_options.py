"""The command line's options about photos."""

from __future__ import annotations

import argparse
import math
import sys

from data_tools import command
from sam_train.data.photos.rule import PERCENTILES, PhotoRule
from sam_train.errors import UserError


def add_photo_options(to: argparse.ArgumentParser) -> None:
    """Add --bands, --nodata, --stretch and --range."""
    band = command.between(1, sys.maxsize, int)
    group = to.add_argument_group("photos that are not 8-bit RGB")
    group.add_argument(
        "--bands", type=band, nargs="+", default=[], metavar="N",
        help="bands to show, from 1: red, green and blue; two for magenta and green; or one "
        "(default: the first three)",
    )  # fmt: skip
    group.add_argument(
        "--nodata",
        type=float,
        nargs="+",
        default=[],
        metavar="VALUE",
        help="values that stand for nothing, beside NaN and a GeoTIFF's own",
    )
    group.add_argument(
        "--stretch", type=command.between(0, 100, float), nargs=2, default=list(PERCENTILES),
        metavar=("LOW", "HIGH"),
        help="percentiles of each photo of more than 8 bits that become black and white "
        f"(default: {PERCENTILES[0]:g} {PERCENTILES[1]:g})",
    )  # fmt: skip
    group.add_argument(
        "--range", type=float, nargs=2, dest="limits", metavar=("LOW", "HIGH"),
        help="in place of --stretch: values that become black and white in all of them, so that "
        "photos stay comparable",
    )  # fmt: skip


def photo_rule(args: argparse.Namespace) -> PhotoRule:
    """Return what the options say.

    Raises:
        UserError: a number is out of place.
    """
    if len(args.bands) > 3:
        raise UserError(f"--bands: at most three can be shown, got {len(args.bands)}")
    for option, ends in (("--stretch", args.stretch), ("--range", args.limits)):
        if ends is not None and not (ends[0] < ends[1] and all(map(math.isfinite, ends))):
            raise UserError(f"{option}: the first number must be below the second, got {ends}")
    return PhotoRule(
        bands=tuple(args.bands),
        nodata=tuple(value for value in args.nodata if not math.isnan(value)),
        percentiles=(args.stretch[0], args.stretch[1]),
        windows=() if args.limits is None else ((args.limits[0], args.limits[1]),),
    )
