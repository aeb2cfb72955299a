"""Photos of anybody: refused in one way, or RGB of the size that the header states."""

from __future__ import annotations

import io
from functools import cache

import numpy as np
import pytest
from fuzzing import Edit, damaged, edits, fuzz
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sam_train.data.sample.decode import MAX_PIXELS, BadSample, open_photo, to_rgb

pytestmark = pytest.mark.fuzz

FORMS = ["RGB", "L", "CMYK", "progressive", "exif", "comment"]


@cache
def true_jpeg(form: str) -> bytes:
    """A small JPEG of a kind that photos come in."""
    noise = np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8)
    photo = Image.fromarray(noise)
    out = io.BytesIO()
    if form == "exif":
        exif = Image.Exif()
        exif[0x0112], exif[0x010F] = 6, "camera"
        photo.save(out, "JPEG", exif=exif)
    elif form == "comment":
        photo.save(out, "JPEG", comment=b"x" * 50, dpi=(72, 72), icc_profile=b"y" * 200)
    elif form == "progressive":
        photo.save(out, "JPEG", progressive=True)
    else:
        photo.convert(form).save(out, "JPEG")
    return out.getvalue()


@given(st.sampled_from(FORMS), st.just([]) | edits(most=3), st.integers(0, 8), st.booleans())
@fuzz(short=150)
def test_photos_are_refused_or_decoded(
    form: str, changes: list[Edit], skipped: int, scaled: bool
) -> None:
    whole = true_jpeg(form)
    # Most of a photo is pixels; its headers are where it gets interesting.
    head = whole[: 60 * (1 + skipped)]
    data = damaged(head, changes) + whole[len(head) :]
    try:
        photo = open_photo(data)
        size = photo.size
        assert size[0] * size[1] <= MAX_PIXELS
        if size[0] * size[1] > 1 << 22:
            return  # only slow: Pillow makes all pixels before it sees that they are missing
        rgb = to_rgb(photo, at_least=(7, 7) if scaled else None)
    except BadSample as bad:
        assert bad.kind == "bad_jpeg"
        assert "\n" not in str(bad)
        return
    assert rgb.mode == "RGB"
    if not scaled:
        assert rgb.size == size
    if data == whole:
        assert size == (40, 24)
