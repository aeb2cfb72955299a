"""Hugging Face `datasets` on disk, written with pyarrow as `save_to_disk` and `to_parquet` do."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from format_contents import contents
from format_example import block, photo, polygon, require_equal, three_ways, trained
from PIL import Image

from sam_train.data.formats.look import look_at
from sam_train.errors import UserError

pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

LABELS = [block(5, 20, 5, 30), block(30, 50, 40, 70)]
OUTLINE = [8.0, 6.0, 70.5, 12.0, 40.0, 51.0]


def picture(pixels: np.ndarray[Any, Any] | None) -> dict[str, Any] | None:
    """Return the cell of a picture: its bytes and no path."""
    if pixels is None:
        return None
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def image(height: int = 60) -> dict[str, Any] | None:
    rng = np.random.default_rng(height)
    return picture(rng.integers(0, 255, (height, 80, 3), dtype=np.uint8))


def label_map() -> np.ndarray[Any, Any]:
    return np.asarray(LABELS[0] * 1 + LABELS[1] * 2, dtype=np.uint8)


PICTURE = pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()})


def table(columns: dict[str, Any], types: dict[str, Any]) -> Any:
    features = {name: {"_type": "Image"} for name, kind in types.items() if kind == PICTURE}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    schema = pyarrow.schema(list(types.items()), metadata=metadata)
    return pyarrow.table(columns, schema=schema)


def save(found: Any, folder: Path, *, rows: int = 1000) -> None:
    """Write a table as `save_to_disk` does: one Arrow stream and two JSONs."""
    folder.mkdir(parents=True)
    name = "data-00000-of-00001.arrow"
    file = str(folder / name)
    with pyarrow.OSFile(file, "wb") as sink, pyarrow.ipc.new_stream(sink, found.schema) as writer:
        writer.write_table(found, max_chunksize=rows)
    state = {"_data_files": [{"filename": name}], "_fingerprint": "abc", "_split": None}
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text('{"features": {}}')


def labelled(rows: int) -> Any:
    columns = {"image": [image()] * rows, "label": [picture(label_map())] * rows}
    return table(columns, {"image": PICTURE, "label": PICTURE})


def test_a_dict_of_splits(tmp_path: Path) -> None:
    root = tmp_path / "saved"
    save(labelled(5), root / "train", rows=2)
    save(labelled(2), root / "validation")
    (root / "dataset_dict.json").write_text('{"splits": ["train", "validation"]}')
    found = look_at(root)
    assert found is not None
    assert found.parts == {"train": f"hf:{root}/train", "val": f"hf:{root}/validation"}
    train = root / "train"
    masks = three_ways(train, tmp_path / "out", "hf", "--images", str(train))
    require_equal(masks, {f"row {k}": LABELS for k in range(5)})
    assert len(trained(str(root))) == 5
    assert len(trained(found.parts["val"])) == 2


def test_parquet_of_the_hub(tmp_path: Path) -> None:
    root = tmp_path / "hub"
    (root / "data").mkdir(parents=True)
    for name, rows in (("train-00000-of-00002", 3), ("train-00001-of-00002", 2), ("test-00000", 1)):
        parquet.write_table(labelled(rows), root / f"data/{name}.parquet", row_group_size=2)
    found = look_at(root)
    assert found is not None
    assert (found.format, list(found.parts)) == ("hf", ["test", "train"])
    require_equal(trained(found.parts["train"]), {f"row {k}": LABELS for k in range(5)})
    arguments = ["hf", "--images", str(root), "--tables", str(root / "data/test-*.parquet")]
    file = root / "data/test-00000.parquet"
    require_equal(three_ways(file, tmp_path / "out", *arguments), {"row 0": LABELS})


def test_lists_of_masks_and_objects(tmp_path: Path) -> None:
    one = np.where(LABELS[0], 255, 0).astype(np.uint8)
    two = np.where(LABELS[1], 255, 0).astype(np.uint8)
    pictures = {"photo": [image()] * 2, "masks": [[picture(one), picture(two)], [picture(two)]]}
    save(table(pictures, {"photo": PICTURE, "masks": pyarrow.list_(PICTURE)}), tmp_path / "lists")
    expected = {"row 0": LABELS, "row 1": LABELS[1:]}
    arguments = ["hf", "--images", str(tmp_path / "lists")]
    require_equal(three_ways(tmp_path / "lists", tmp_path / "out", *arguments), expected)

    polygons = pyarrow.list_(pyarrow.list_(pyarrow.float32()))
    lists = {"id": pyarrow.list_(pyarrow.int64()), "segmentation": pyarrow.list_(polygons)}
    cells = {"id": [7, 8], "segmentation": [[OUTLINE], [[10, 5, 50, 5, 50, 40, 10, 40]]]}
    types = {"image": PICTURE, "objects": pyarrow.struct(lists)}
    bad = {"id": [1, 2, 3], "segmentation": [[[1, 2, 3, 4]], [], [OUTLINE]]}
    objects = {"image": [image(), image(), None, image()], "objects": [cells, bad, cells, None]}
    save(table(objects, types), tmp_path / "objects")
    require_equal(
        trained(str(tmp_path / "objects")),
        {"row 0": [polygon(OUTLINE), block(5, 40, 10, 50)], "row 1": [polygon(OUTLINE)]},
    )
    seen = contents(str(tmp_path / "objects"))
    assert sorted((s.kind, s.reason, s.count) for s in seen.skips) == [
        ("image", "unusable", 2),
        ("mask", "bad segmentation", 1),
        ("mask", "no segmentation", 1),
    ]


def test_bad_rows_columns_and_files(tmp_path: Path) -> None:
    photo(tmp_path / "x.jpg")
    beside = {"bytes": None, "path": "../x.jpg"}
    gone = {"bytes": None, "path": "../gone.jpg"}
    photos = [beside, gone, image(30), {"bytes": b"no photo", "path": "a.png"}, image()]
    masks = [picture(label_map())] * 4 + [None]
    save(
        table({"image": photos, "mask": masks}, {"image": PICTURE, "mask": PICTURE}), tmp_path / "s"
    )
    require_equal(trained(str(tmp_path / "s")), {"000000 x.jpg": LABELS})
    assert contents(str(tmp_path / "s")).skips[0].count == 4
    for types, said in (
        ({"image": PICTURE}, "no column of masks"),
        ({"text": pyarrow.string(), "mask": PICTURE}, "no column of photos"),
    ):
        folder = tmp_path / "-".join(types)
        save(table({name: [] for name in types}, types), folder)
        with pytest.raises(UserError, match=said):
            trained(f"hf:{folder}")
    with pytest.raises(UserError, match="has no column depth; it has image, mask"):
        trained({"reader": "hf", "path": str(tmp_path / "s"), "mask": "depth"})
    file = tmp_path / "s/data-00000-of-00001.arrow"
    content = file.read_bytes()
    # A new file of the name: cutting one short that is mapped would end the process.
    file.unlink()
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="is damaged or no table"):
        trained(f"hf:{tmp_path}/s")
