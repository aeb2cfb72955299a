"""Files of annotation programs, damaged: refused in one line, or every mask is used or counted."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from fuzzing import Edit, damaged, edits, fuzz
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco_mask

from sam_train.data.formats.base import Format
from sam_train.data.formats.cvat import Cvat
from sam_train.data.formats.labelme import Labelme
from sam_train.data.formats.sa1b import Sa1b
from sam_train.data.formats.yolo import Yolo
from sam_train.data.left_out import SkipImageError
from sam_train.errors import UserError

pytestmark = pytest.mark.fuzz

HEIGHT, WIDTH = 12, 17
_SHAPE = {"label": "x", "points": [[1, 2], [9, 2.5], [9, 8]], "shape_type": "polygon"}
_BUFFER = io.BytesIO()
Image.new("L", (1, 1), 255).save(_BUFFER, "PNG")
_PNG = base64.b64encode(_BUFFER.getvalue()).decode()
_LABELME = {
    "shapes": [
        _SHAPE | {"group_id": 1},
        _SHAPE | {"group_id": 1, "shape_type": "circle", "points": [[5, 5], [5, 8]]},
        _SHAPE | {"shape_type": "rectangle", "points": [[1, 2], [9, 8]]},
        _SHAPE | {"shape_type": "mask", "points": [[1, 2], [1, 2]], "mask": _PNG},
    ],
    "imagePath": "a.png",
    "imageData": None,
    "imageHeight": HEIGHT,
    "imageWidth": WIDTH,
}
_ANNOTATIONS = [
    {"id": 1, "segmentation": [[1, 2, 9, 2.5, 9, 8, 1, 8]]},
    {"id": 2, "segmentation": {"size": [HEIGHT, WIDTH], "counts": [20, 30, 154]}},
]
_SA1B = {"image": {"height": HEIGHT, "width": WIDTH}, "annotations": _ANNOTATIONS}
_CVAT = b"""<?xml version="1.0"?><annotations><version>1.1</version>
<image id="0" name="a.png" width="17" height="12">
<polygon label="x" points="1,2;9,2.5;9,8" group_id="1"/>
<mask label="x" rle="1, 2, 3" left="4" top="5" width="3" height="2" group_id="1"/>
<box label="x" xtl="1" ytl="2" xbr="9" ybr="8" rotation="30"/>
<ellipse label="x" cx="8" cy="6" rx="4" ry="3"/></image></annotations>"""
_YOLO = b"0 0.1 0.2 0.5 0.2 0.5 0.8\n1 0.5 0.5 0.2 0.2\n2 .1 .2 .5 .2 .5 .8 .1 .8\n"

TRUE: dict[str, tuple[Format, str, bytes]] = {
    "labelme": (Labelme(), "a.json", json.dumps(_LABELME).encode()),
    "sa1b": (Sa1b(), "a.json", json.dumps(_SA1B).encode()),
    "cvat": (Cvat(), "annotations.xml", _CVAT),
    "yolo": (Yolo(), "a.txt", _YOLO),
}
FRAGMENTS = [
    *(b"null", b"-1", b"0", b"1e400", b"-1e308", b"0.5", b"9" * 400, b"NaN", b'""', b"nan", b"inf"),
    *(b"[]", b"{}", b"[[]]", b"[" * 3000, b"<", b'"', b";", b",", b'"../a.png"', b"\xff", b"\x00"),
    *(b'width="99999999"', b'"imageHeight": 99999999', b"&lt;", b"<image/>", b"\n", b" "),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("formats")
    Image.new("RGB", (WIDTH, HEIGHT)).save(path / "a.png")
    yield path


@fuzz(short=300, each=1)
@given(
    st.sampled_from(sorted(TRUE)),
    edits(payload=st.one_of(st.sampled_from(FRAGMENTS), st.binary(max_size=6))),
)
def test_damaged_files(folder: Path, kind: str, changes: list[Edit]) -> None:
    format, name, content = TRUE[kind]
    file = folder / name
    file.write_bytes(damaged(content, changes))
    try:
        annotations = file if kind == "cvat" else folder
        assert format.fits(folder, annotations) or changes
        listing = format.list(folder, annotations)
        for record in listing.records:
            used = record.masks()
            for mask in used.masks:
                # Counts all runs: they fill the photo, whatever the file says.
                assert 0 <= coco_mask.area(mask.segmentation) <= WIDTH * HEIGHT or changes
            known = len(record.known())
            assert len(used.masks) + len(used.skips) <= known or not known
    except UserError as error:
        assert changes
        assert "\n" not in str(error)
    except SkipImageError:
        assert changes
    finally:
        file.unlink()
