"""What `export` writes, run by the programs that it is for: segment-anything's own predictor,
Hugging Face's SamModel and SamProcessor, onnxruntime."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import segment_anything_reference
import torch
from PIL import Image
from torch import Tensor

import sam_train
from data_tools.scenes import close_up
from sam_train.cli import main
from sam_train.errors import UserError
from sam_train.export.check import check_export
from sam_train.export.safetensors_file import save_weights
from sam_train.export.segment_anything import save_segment_anything
from sam_train.masks.frame import InputFrame
from sam_train.model import ModelConfig, Sam, build_from_config
from sam_train.model.load import load_sam
from sam_train.types import FOREGROUND, PAD, Prompts

NANO = Path(sam_train.__file__).parent / "assets" / "nano.safetensors"
PHOTO = Path(__file__).resolve().parents[2] / "../shared/data/photos/dog.jpg"
# Windows, GELU in the decoder, one of its layers: what the shipped model has not.
OTHER = ModelConfig(
    name="vit_t",
    image_size=64,
    embed_dim=32,
    heads=2,
    depth=2,
    global_blocks=[1],
    window_size=3,
    prompt_dim=32,
    decoder_depth=1,
    decoder_heads=2,
    decoder_mlp_dim=64,
    decoder_activation="gelu",
)
ROUNDING = 2e-5
"""Largest difference of logits, relative to the largest: kernels add in another order."""


@dataclass(frozen=True)
class Exported:
    """One model in every format, and what it answers here."""

    source: Path
    folder: Path
    sam: Sam

    def __getattr__(self, name: str) -> Path:
        """`.pth`, `.onnx`, `.safetensors`, `.hf`."""
        return self.folder / ("hf" if name == "hf" else f"sam.{name}")


@pytest.fixture(scope="session")
def segment_anything() -> Any:
    return segment_anything_reference.load()


@pytest.fixture(scope="module", params=["nano", "other"])
def exported(
    request: pytest.FixtureRequest, segment_anything: Any, tmp_path_factory: Any
) -> Exported:
    folder: Path = tmp_path_factory.mktemp(request.param)
    source = NANO
    if request.param == "other":
        source = folder / "random.safetensors"
        save_weights(_random(OTHER), source, model=OTHER, dtype=torch.float32)
    for name in ("sam.pth", "sam.onnx", "sam.safetensors", "hf"):
        dtype = ["dtype=float32"] if name.endswith("safetensors") else []
        main(["export", f"ckpt={source}", f"out={folder / name}", *dtype])
    return Exported(source=source, folder=folder, sam=load_sam(source))


def _random(cfg: ModelConfig) -> Sam:
    """Nothing at its initial value: fresh relative positions are zeros, fresh norms ones."""
    torch.manual_seed(1)
    sam = build_from_config(cfg)
    with torch.no_grad():
        for parameter in sam.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return sam


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    if PHOTO.is_file():
        return Image.open(PHOTO).convert("RGB")
    return Image.fromarray(close_up(77, 0, height=360, width=541, zoom=3.0).image)


def clicks(photo: Image.Image) -> npt.NDArray[np.float64]:
    """Two pixels (x, y) of the photo."""
    return np.array([[0.5, 0.45], [0.62, 0.7]]) * photo.size


@torch.no_grad()
def answer(sam: Sam, photo: Image.Image) -> Any:
    """Ours, to both clicks, which are placed as segment-anything does it."""
    S = sam.image_size
    frame = InputFrame(original=photo.size[::-1], side=S)
    h, w = frame.size
    images = torch.zeros(1, 3, S, S, dtype=torch.uint8)
    images[0, :, :h, :w] = torch.from_numpy(frame.resize(photo).copy()).permute(2, 0, 1)
    coords = torch.tensor(clicks(photo) * [w / photo.width, h / photo.height])
    prompts = Prompts(
        coords=torch.cat([coords, torch.zeros(1, 2)])[None].float(),
        labels=torch.tensor([[FOREGROUND, FOREGROUND, PAD]]),
    )
    embeddings = sam.encode(images, torch.tensor([[h, w]]))
    found = sam.decode(embeddings, torch.tensor([0]), prompts, multimask=True)
    masks = sam.postprocess(
        found.mask_logits, image_size=(h, w), original_size=(photo.height, photo.width)
    )
    return SimpleNamespace(
        images=images,
        size=torch.tensor([[h, w]]),
        embeddings=embeddings,
        prompts=prompts,
        logits=found.mask_logits,
        iou=found.iou,
        masks=masks,
    )


def assert_close(theirs: Any, ours: Tensor, *, limit: float = ROUNDING) -> None:
    theirs = torch.as_tensor(theirs)
    assert theirs.shape == ours.shape
    assert float((theirs - ours).abs().max()) <= limit * float(ours.abs().max())


def reader_code(exported: Exported) -> list[str]:
    lines: list[str] = json.loads((exported.folder / "sam.json").read_text())["code"]
    return lines


def reference_model(exported: Exported, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What a person has after typing the lines that stand in the .json."""
    names: dict[str, Any] = {}
    monkeypatch.chdir(exported.folder)
    exec("\n".join(reader_code(exported)), names)
    return names["sam"]


def test_segment_anythings_predictor(
    exported: Exported, photo: Image.Image, segment_anything: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = segment_anything.SamPredictor(reference_model(exported, monkeypatch))
    predictor.set_image(np.asarray(photo))
    masks, iou, logits = predictor.predict(
        point_coords=clicks(photo), point_labels=np.ones(2), return_logits=True
    )
    ours = answer(exported.sam, photo)
    assert_close(predictor.get_image_embedding(), ours.embeddings)
    assert_close(masks, ours.masks[0])
    assert_close(logits, ours.logits[0])
    assert_close(iou, ours.iou[0])


@torch.no_grad()
def test_hugging_faces_model_and_processor(exported: Exported, photo: Image.Image) -> None:
    transformers = pytest.importorskip("transformers")
    model = transformers.SamModel.from_pretrained(exported.hf).eval()
    processor = transformers.SamProcessor.from_pretrained(exported.hf)
    inputs = processor(photo, input_points=[[clicks(photo).tolist()]], return_tensors="pt")
    found = model(**{name: t.float() if t.is_floating_point() else t for name, t in inputs.items()})
    masks = processor.image_processor.post_process_masks(
        found.pred_masks, inputs["original_sizes"], inputs["reshaped_input_sizes"], binarize=False
    )
    ours = answer(exported.sam, photo)
    assert_close(found.pred_masks[0], ours.logits, limit=1e-4)
    assert_close(found.iou_scores[0], ours.iou, limit=1e-4)
    assert_close(masks[0], ours.masks, limit=1e-4)


def session(path: Path) -> Any:
    onnxruntime = pytest.importorskip("onnxruntime")
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


@torch.no_grad()
@pytest.mark.parametrize("points", [1, 6])
def test_onnxruntime(
    exported: Exported,
    photo: Image.Image,
    points: int,
    segment_anything: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Against segment-anything's own graph, with and without an earlier answer as a prompt."""
    from segment_anything.utils.onnx import SamOnnxModel  # noqa: PLC0415 (after its stand-ins)

    reference = SamOnnxModel(reference_model(exported, monkeypatch), return_single_mask=False)
    ours = answer(exported.sam, photo)
    encoder = session(exported.folder / "sam.encoder.onnx")
    (embeddings,) = encoder.run(
        None, {"images": ours.images.numpy(), "image_sizes": ours.size.numpy()}
    )
    assert_close(embeddings, ours.embeddings)
    decoder = session(exported.onnx)
    draws = torch.Generator().manual_seed(points)
    inputs = {
        "image_embeddings": ours.embeddings,
        "point_coords": torch.rand(1, points, 2, generator=draws) * ours.size.min(),
        "point_labels": torch.tensor([[1.0, 0.0, 1.0, 2.0, 3.0, -1.0][-points:]]),
        "mask_input": ours.logits[:, :1] * (points > 1),
        "has_mask_input": torch.tensor([float(points > 1)]),
        "orig_im_size": torch.tensor([float(photo.height), float(photo.width)]),
    }
    assert [i.name for i in decoder.get_inputs()] == list(inputs)
    assert [o.name for o in decoder.get_outputs()] == ["masks", "iou_predictions", "low_res_masks"]
    found = decoder.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})
    for theirs, expected in zip(found, reference(*inputs.values()), strict=True):
        assert_close(theirs, expected)


def test_float32_comes_back_bit_for_bit(exported: Exported) -> None:
    expected = exported.sam.state_dict()
    for path in (exported.pth, exported.hf, exported.safetensors):
        found = load_sam(path).state_dict()
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in expected), path


def test_the_registry_takes_vit_b(segment_anything: Any, tmp_path: Path) -> None:
    """Loaded only: its encoder takes half a minute."""
    cfg, out = ModelConfig(name="vit_b"), tmp_path / "sam.pth"
    sam = build_from_config(cfg)
    save_segment_anything(sam, out, model=cfg)
    model = segment_anything.sam_model_registry["vit_b"](checkpoint=str(out))
    out.unlink()
    found, expected = model.state_dict(), sam.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_half_precision_is_read_by_both(segment_anything: Any, tmp_path: Path) -> None:
    expected = load_sam(NANO).state_dict()
    for out in (tmp_path / "half.pth", tmp_path / "half"):
        main(["export", f"ckpt={NANO}", f"out={out}", "dtype=float16"])
        for name, tensor in load_sam(out).state_dict().items():
            assert_close(tensor, expected[name], limit=1e-3)


def test_a_file_that_answers_otherwise_is_refused(segment_anything: Any, tmp_path: Path) -> None:
    out = tmp_path / "sam.pth"
    main(["export", f"ckpt={NANO}", f"out={out}"])
    state = torch.load(out, weights_only=True)
    name = "mask_decoder.transformer.layers.0.norm2.weight"
    torch.save(state | {name: state[name].flip(0)}, out)
    with pytest.raises(UserError, match="answers otherwise"):
        check_export(load_sam(NANO), out, format="segment_anything")


def test_a_reader_that_is_not_whole_is_missing_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """segment-anything stops in the middle of its import where torchvision is not installed."""
    sam, out = build_from_config(OTHER), tmp_path / "sam.pth"
    save_segment_anything(sam, out, model=OTHER)
    for name in [name for name in sys.modules if name.startswith("segment_anything.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, "segment_anything", raising=False)
    monkeypatch.setitem(sys.modules, "torchvision", None)
    for _ in range(2):
        check = check_export(sam, out, format="segment_anything")
        assert check.reader.startswith("sam_train only (segment-anything: torchvision")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["out={tmp}/sam.bin"], "the ending .bin means none"),
        (["out={tmp}/sam.pth", "format=onnx"], "name it *.onnx"),
        (["out={tmp}/sam.onnx", "dtype=float16"], "leave dtype out"),
        (["out={tmp}/sam.pth", "dtype=bfloat16"], "not one of float16, float32"),
        (["out={tmp}/sam", "format=torchscript"], "not one of safetensors"),
        (["out={tmp}/file", "format=huggingface"], "is a file"),
        (["out={tmp}/file/sam.pth"], "cannot be written"),
    ],
)
def test_what_cannot_be_is_said_in_a_line(
    settings: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit):
        main(["export", f"ckpt={NANO}", *(text.format(tmp=tmp_path) for text in settings)])
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
