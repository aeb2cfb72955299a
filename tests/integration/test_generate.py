"""`python -m sam_train generate` as people run it: parts, stops, bad photos, proposals, loop."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from safetensors.torch import load_file, save_file

import sam_train
from data_tools.scenes import close_up
from sam_train.cli import main
from sam_train.data.shards.writer import ShardSample, write_shard
from sam_train.errors import UserError
from sam_train.generate.generator import AutomaticMaskGenerator
from sam_train.generate.run import Summary, generate
from sam_train.train.fit import fit

NANO = Path(sam_train.__file__).parent / "assets" / "nano.safetensors"
LOOSE = [
    f"ckpt={NANO}",
    "generate.points_per_side=5",
    "generate.pred_iou_thresh=0.1",
    "generate.stability_score_thresh=0.2",
    "generate.samples_per_shard=2",
    "trainer.accelerator=cpu",
]
SIZES = [(96, 128), (128, 96), (100, 100), (64, 160), (120, 90)]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for k, (height, width) in enumerate(SIZES):
        scene = close_up(5, k, height=height, width=width, zoom=2.0)
        Image.fromarray(scene.image).save(folder / f"photo{k}.jpg", quality=90)
    return folder


Generate = Callable[..., Summary]


@pytest.fixture
def run(photos: Path, tmp_path: Path) -> Generate:
    def call(name: str, *more: str) -> Summary:
        into = [f"generate.input={photos}", f"run_dir={tmp_path / name}"]
        return generate([*LOOSE, *into, *more])

    return call


def records(shard: Path) -> dict[str, Any]:
    with tarfile.open(shard) as tar:
        files = {m.name: tar.extractfile(m) for m in tar.getmembers()}
        return {n: json.loads(f.read()) for n, f in files.items() if f and n.endswith(".json")}


def files(folder: Path) -> dict[str, bytes]:
    """What the user gets."""
    found = [*folder.glob("*.tar"), folder / "photos.csv", folder / "coco.json"]
    return {path.name: path.read_bytes() for path in found}


def test_shards_coco_and_overlays_say_the_same(run: Generate, photos: Path, tmp_path: Path) -> None:
    done = run("all", "generate.formats=[shards,coco,overlays]")
    out = tmp_path / "all" / "masks"
    assert done.complete
    assert (done.photos, done.done, done.skipped) == (5, 5, {})
    assert done.masks > 5
    in_shards = {k: v for tar in sorted(out.glob("*.tar")) for k, v in records(tar).items()}
    coco = COCO(str(out / "coco.json"))
    masks = 0
    for image in coco.loadImgs(coco.getImgIds()):
        expected = coco.loadAnns(coco.getAnnIds(image["id"]))
        record = in_shards.get(f"sa_{image['id']}.json", {"annotations": []})
        masks += len(expected)
        assert [a["id"] for a in record["annotations"]] == [a["id"] for a in expected]
        for a, b in zip(record["annotations"], expected, strict=True):
            mask = coco_mask.decode(a["segmentation"])
            assert mask.shape == (image["height"], image["width"])
            assert mask.sum() == a["area"] == b["area"]
            np.testing.assert_array_equal(coco.annToMask(b), mask)
            assert a["bbox"][2] == b["bbox"][2] - 1
        size = Image.open(
            out / "overlays" / f"{image['id']}_{Path(image['file_name']).stem}.png"
        ).size
        assert size == (image["width"], image["height"])
    assert masks == done.masks
    table = (out / "photos.csv").read_text().splitlines()
    assert table[0] == "image_id,source,masks,skipped"
    assert table[1].startswith(f"0,{photos / 'photo0.jpg'},")


def test_many_processes_make_the_files_of_one(run: Generate, tmp_path: Path) -> None:
    run("one", "generate.formats=[shards,coco]")
    whole = files(tmp_path / "one" / "masks")
    for part in (2, 0, 1):
        done = run(
            "many", "generate.formats=[shards,coco]", f"generate.part={part}", "generate.parts=3"
        )
    assert done.complete
    assert files(tmp_path / "many" / "masks") == whole


def test_a_job_array_takes_the_parts_by_itself(
    run: Generate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"MIN": 1, "MAX": 2, "COUNT": 2}.items():
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", str(value))
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "1")
    first = run("array")
    assert 0 < first.done < 5
    assert not first.complete
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "2")
    assert run("array").complete


def test_a_stopped_run_does_nothing_twice(
    run: Generate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("whole", "generate.formats=[shards,coco]")
    asked: list[tuple[int, ...]] = []
    propose = AutomaticMaskGenerator.propose

    def counted(self: Any, image: Any, existing: Any = None) -> Any:
        if len(asked) in (1, 3):
            asked.append(())
            raise KeyboardInterrupt
        asked.append(image.shape)
        return propose(self, image, existing)

    monkeypatch.setattr(AutomaticMaskGenerator, "propose", counted)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            run("stopped", "generate.formats=[shards,coco]")
    assert run("stopped", "generate.formats=[shards,coco]").complete
    assert sorted(shape[:2] for shape in asked if shape) == sorted(SIZES)
    before = len(asked)
    assert run("stopped", "generate.formats=[shards,coco]").complete
    assert len(asked) == before
    out = tmp_path / "stopped" / "masks"
    assert files(out) == files(tmp_path / "whole" / "masks")
    assert not list((out / "unfinished").iterdir())


def test_bad_photos_are_counted_and_odd_ones_used(tmp_path: Path) -> None:
    folder = tmp_path / "odd"
    folder.mkdir()
    image = Image.fromarray(close_up(5, 0, height=90, width=120, zoom=2.0).image)
    image.convert("L").save(folder / "grey.png")
    image.convert("RGBA").save(folder / "rgba.png")
    deep = np.asarray(image.convert("L")).astype(np.uint16) * 16
    Image.fromarray(deep).save(folder / "deep.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(folder / "turned.jpg", exif=exif)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG")
    (folder / "cut.jpg").write_bytes(buffer.getvalue()[:800])
    (folder / "text.jpg").write_text("no photo")
    Image.new("RGB", (1, 1)).save(folder / "tiny.png")
    typed = [*LOOSE, f"generate.input={folder}", f"run_dir={tmp_path / 'run'}"]
    done = generate([*typed, "generate.formats=coco", "generate.crop_n_layers=1"])
    assert done.skipped == {"unreadable image": 2}
    coco = json.loads((tmp_path / "run" / "masks" / "coco.json").read_text())
    sizes = {Path(i["file_name"]).stem: (i["width"], i["height"]) for i in coco["images"]}
    upright = dict.fromkeys(("grey", "rgba", "deep"), (120, 90))
    assert sizes == {**upright, "turned": (90, 120), "tiny": (1, 1)}
    listed = (tmp_path / "run" / "masks" / "photos.csv").read_text()
    assert f"{folder / 'cut.jpg'},0,unreadable image" in listed


def test_no_usable_photo_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_text("no photo")
    with pytest.raises(UserError, match=r"none of 1 photos could be used \(1 unreadable image\)"):
        generate([*LOOSE, f"generate.input={tmp_path / 'a.jpg'}", f"run_dir={tmp_path / 'run'}"])


def test_only_what_is_missing_is_proposed(run: Generate, tmp_path: Path) -> None:
    """Half of the masks are given back as what exists already: none of them comes again."""
    run("first")
    samples = []
    with tarfile.open(tmp_path / "first" / "masks" / "sa_000000.tar") as tar:
        for member in tar.getmembers():
            if member.name.endswith(".json"):
                continue
            number = int(member.name.removeprefix("sa_").removesuffix(".jpg"))
            record = json.loads(tar.extractfile(f"sa_{number}.json").read())  # type: ignore[union-attr]
            samples.append(
                ShardSample(
                    image_id=number,
                    jpeg=tar.extractfile(member).read(),  # type: ignore[union-attr]
                    width=record["image"]["width"],
                    height=record["image"]["height"],
                    annotations=record["annotations"][::2],
                )
            )
    known = tmp_path / "known.tar"
    write_shard(samples, known)
    into = [f"generate.input={known}", f"run_dir={tmp_path / 'second'}"]
    with pytest.raises(UserError, match=r"of none of the 5 photos \(photo0, \.\.\.\): names"):
        run("loose", f"generate.existing={known}")
    generate([*LOOSE, *into, f"generate.existing={known}", "generate.existing_iou_thresh=0.4"])
    proposed = records(tmp_path / "second" / "masks" / "sa_000000.tar")
    assert proposed
    for name, record in proposed.items():
        sample = next(s for s in samples if f"sa_{s.image_id}.json" == name)
        existing = [a["segmentation"] for a in sample.annotations]
        covered = coco_mask.decode(coco_mask.merge(existing))
        for mask in record["annotations"]:
            ((x, y),) = mask["point_coords"]
            assert not covered[int(y), int(x)]
            ious = coco_mask.iou([mask["segmentation"]], existing, [0] * len(existing))
            assert ious.max() < 0.4


def test_settings_that_do_not_fit(run: Generate, capsys: pytest.CaptureFixture[str]) -> None:
    run("mine")
    with pytest.raises(UserError, match=r"points_per_side=5, not 6: choose another generate\.outp"):
        run("mine", "generate.points_per_side=6")
    with pytest.raises(UserError, match=r"trainer\.precision=32-true, not bf16-mixed: choose anot"):
        run("mine", "trainer.precision=bf16-mixed")
    with pytest.raises(SystemExit):
        main(["generate", f"ckpt={NANO}"])
    assert "generate.input is not set" in capsys.readouterr().err


def test_the_loop_closes(run: Generate, tiny: Any, tmp_path: Path) -> None:
    """Train, let the model annotate photos that nobody has, and train on what it found."""
    settings = [*tiny.settings, "model.image_size=128", "optim.name=adamw"]
    labelled = tiny.pack(tmp_path / "sa_000000.tar", tiny.good(4))
    stage = [f"init_from={NANO}", f"data.train={labelled}", f"run_dir={tmp_path / 'stage1'}"]
    fit([*settings, *stage])
    checkpoint = tmp_path / "stage1" / "checkpoints" / "last.ckpt"
    done = run("stage2", f"ckpt={checkpoint}")
    assert done.masks > 0
    new = tmp_path / "stage2" / "masks"
    fit(
        [
            *settings,
            f"init_from={checkpoint}",
            f"data.train={new}",
            f"run_dir={tmp_path / 'stage3'}",
        ]
    )
    assert (tmp_path / "stage3" / "checkpoints" / "last.ckpt").is_file()


def test_part_of_a_model_finds_no_masks(run: Generate, tmp_path: Path) -> None:
    decoder = {n: t for n, t in load_file(NANO).items() if n.startswith("mask_decoder.")}
    save_file(decoder, tmp_path / "decoder.safetensors")
    sizes = ["model=vit_t", "model.image_size=128"]
    with pytest.raises(UserError, match="all 93 of image_encoder, all 17 of prompt_encoder"):
        run("part", f"ckpt={tmp_path / 'decoder.safetensors'}", *sizes)
    assert not list((tmp_path / "part").rglob("*.tar"))
    # The rest named: the same masks as of the whole.
    over = [f"ckpt={tmp_path / 'decoder.safetensors'}", f"init_from={NANO}"]
    assert run("both", *over).masks == run("whole").masks > 0
    assert "at random" in (tmp_path / "both/log.txt").read_text()
