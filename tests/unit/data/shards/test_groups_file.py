"""`groups.tsv`: what people write, and what is wrong with it in one line."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sam_train.data.config import DataConfig
from sam_train.data.datamodule import SamDataModule
from sam_train.data.shards.groups_file import read_groups, write_groups
from sam_train.data.shards.writer import ShardSample, annotation, write_shards
from sam_train.errors import UserError


def test_what_is_written_is_read(tmp_path: Path) -> None:
    groups = {"sa_2": "Patient 7, left", "sa_000000.tar/sa_1": 'slide "B" größer'}
    path = write_groups(tmp_path, groups)
    assert path.read_text(encoding="utf-8").splitlines()[:2] == [
        "name\tgroup",
        "sa_2\tPatient 7, left",
    ]
    assert read_groups(tmp_path) == groups
    assert [each.name for each in tmp_path.iterdir()] == ["groups.tsv"]


@pytest.mark.parametrize(
    "content",
    [
        "name\tgroup\nsa_1\ta\nsa_2\tb\n",
        "name\tgroup\r\nsa_1\ta\r\nsa_2\tb\r\n\r\n",
        "\ufeffName\tGroup\nsa_1.jpg\ta\nsa_2.json\tb",
        'group\tcomment\tname\na\t"\tsa_1\nb\t\tsa_2\n\t\tsa_3\n',
        "name\tgroup\nsa_1\ta\n\nsa_2\t b \nsa_1\ta\n",
    ],
)
def test_ways_of_writing_the_same(content: str, tmp_path: Path) -> None:
    (tmp_path / "groups.tsv").write_bytes(content.encode())
    assert read_groups(tmp_path) == {"sa_1": "a", "sa_2": "b"}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "must name the columns"),
        (b"sa_1\ta\n", "must name the columns"),
        (b"name,group\nsa_1,a\n", "'name,group'"),
        (b"name\tgroup\nsa_1\n", "line 2"),
        (b"name\tgroup\nsa_1\ta\nsa_1\tb\n", "line 3: sa_1 is in group 'a' already"),
        (b"name\tgroup\nsa_1\t\xff\n", "cannot be read"),
    ],
)
def test_what_is_wrong_is_one_line_with_the_path(content: bytes, says: str, tmp_path: Path) -> None:
    (tmp_path / "groups.tsv").write_bytes(content)
    with pytest.raises(UserError) as raised:
        read_groups(tmp_path)
    assert str(tmp_path / "groups.tsv") in str(raised.value)
    assert says in str(raised.value)
    assert "\n" not in str(raised.value)


def test_no_file_is_no_groups_and_cells_stay_cells(tmp_path: Path) -> None:
    assert read_groups(tmp_path) == {}
    for bad in ({"sa_1": ""}, {"": "a"}, {"sa\t1": "a"}, {"sa_1": "a\nb"}):
        with pytest.raises(ValueError, match="cannot stand"):
            write_groups(tmp_path, bad)


def shards_of(folder: Path, names: Sequence[int]) -> Path:
    jpeg = io.BytesIO()
    Image.new("RGB", (8, 8)).save(jpeg, "jpeg")
    mask = np.eye(8, dtype=bool)
    samples = [
        ShardSample(
            image_id=name,
            jpeg=jpeg.getvalue(),
            width=8,
            height=8,
            annotations=[annotation(mask, id=name)],
        )
        for name in names
    ]
    write_shards(samples, folder, samples_per_shard=2)
    return folder


def test_groups_of_held_out_images_by_their_folder(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    a, b, c = (shards_of(tmp_path / name, range(1, 4)) for name in "abc")
    write_groups(a, {"sa_1": "x", "sa_000001.tar/sa_3": "x", "sa_9": "elsewhere"})
    write_groups(b, {"sa_1": "x", "sa_2": "y", "sa_3": "y"})
    cfg = DataConfig(val=[str(a), str(b), str(c)], workers=0)
    data = SamDataModule(cfg, image_size=32, grid_size=8, seed=0)
    with caplog.at_level("INFO"):
        found = data.val_groups()
    # Nine images: three of each folder in order; nothing lies beside those of c.
    assert found == {0: "x", 2: "x", 3: "x", 4: "y", 5: "y"}
    assert "names 5 of 9 held-out images" in caplog.text
    positions = [p for batch in data.val_dataloader() for p in batch.positions]
    assert positions == list(range(9))
    data.cfg.val_images = 3
    assert data.val_groups() == {0: "x", 2: "x"}
