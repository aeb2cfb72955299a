"""Reads an export back, with the program that it is for where that is installed, and compares.

Every reader here is the foreign program, fed as its users feed it. Where that is missing, this
project reads the file back: it is whole then, but the other program may still not understand it.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sam_train.errors import UserError
from sam_train.export.config import OnnxConfig
from sam_train.export.onnx_file import decoder_inputs, encoder_path
from sam_train.export.onnx_graphs import DecoderGraph
from sam_train.export.probe import Answer, Question, answer, random_probe, relative
from sam_train.model.encoded_photos import encode_photos
from sam_train.model.load import load_sam
from sam_train.model.sam import PIXEL_MEAN, PIXEL_STD, Sam

LARGEST = 5e-3
"""Largest difference that rounding explains, relative to the largest value. Kernels that add in
another order give 1e-6 to 1e-5, float16 for Hugging Face about 1e-3 (`relu_scale.py`); one norm's
weights in another order give 1e-2."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """The outcome of reading an export back."""

    reader: str
    """The program that read it."""
    difference: float
    """Largest difference of embeddings, logits and predicted IoU, relative to the largest."""


def check_export(sam: Sam, path: Path, *, format: str, onnx: OnnxConfig | None = None) -> Check:
    """Read `path` back and ask it one random question that `sam` is asked, too.

    Args:
        sam: the exported model, with its weights rounded as they were stored.
        path: the file or folder that was written.
        format: its format.
        onnx: the settings of that format.

    Raises:
        UserError: the answers differ by more than rounding.
    """
    probe = random_probe(sam.image_size, channels=sam.image_encoder.in_channels)
    if format == "onnx":
        result = _check_onnx(sam, path, probe, cfg=onnx or OnnxConfig())
    else:
        result = _check_model(sam, path, probe, format=format)
    if not result.difference <= LARGEST:
        raise UserError(
            f"{path}: read back by {result.reader} it answers otherwise, by "
            f"{result.difference:.1e} of the largest value: do not use it, and please report this"
        )
    return result


def _check_model(sam: Sam, path: Path, probe: Question, *, format: str) -> Check:
    readers = {"segment_anything": _ask_segment_anything, "huggingface": _ask_huggingface}
    ask, package = readers.get(format), _PACKAGES.get(format, "")
    reader = "sam_train"
    found: Answer | None = None
    if ask is not None:
        try:
            found, reader = ask(path, probe), f"{package} {version(package)}"
        except ImportError as error:
            reader = f"sam_train only ({package}: {error.name} is not installed)"
    if found is None:
        found = answer(load_sam(path), probe)
    return Check(reader=reader, difference=found.difference(answer(sam, probe)))


_PACKAGES = {"segment_anything": "segment-anything", "huggingface": "transformers"}


@torch.no_grad()
def _ask_segment_anything(path: Path, probe: Question) -> Answer:
    model = read_segment_anything(path)
    embeddings = model.image_encoder(model.preprocess(probe.photo[None]))
    prompts = model.prompt_encoder(
        points=(probe.point[None], torch.ones(1, 1)), boxes=None, masks=None
    )
    logits, iou = model.mask_decoder(
        image_embeddings=embeddings,
        image_pe=model.prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=prompts[0],
        dense_prompt_embeddings=prompts[1],
        multimask_output=True,
    )
    return Answer(embeddings=embeddings, logits=logits, iou=iou)


def _segment_anything() -> Any:
    try:
        return import_module("segment_anything")
    except ImportError:
        # The parts that it got to would pass for the whole package at the next try.
        for name in [name for name in sys.modules if name.split(".")[0] == "segment_anything"]:
            del sys.modules[name]
        raise


def read_segment_anything(path: Path) -> Any:
    """Load an exported `.pth` into segment-anything's own `Sam`.

    Its registry constructs the model where it has the sizes, else the `.json` beside it does.

    Raises:
        ImportError: segment-anything or its torchvision is not installed.
    """
    package = _segment_anything()
    sizes = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    if sizes["registry"]:
        return package.sam_model_registry[sizes["registry"]](checkpoint=str(path))
    activation = getattr(nn, sizes["activation"])
    norm = partial(nn.LayerNorm, eps=1e-6)
    model = package.modeling.Sam(
        package.modeling.ImageEncoderViT(norm_layer=norm, **sizes["image_encoder"]),
        package.modeling.PromptEncoder(activation=activation, **sizes["prompt_encoder"]),
        package.modeling.MaskDecoder(
            transformer=package.modeling.TwoWayTransformer(**sizes["transformer"]),
            activation=activation,
            **sizes["mask_decoder"],
        ),
    )
    model.load_state_dict(torch.load(path, weights_only=True))
    return model.eval()


@torch.no_grad()
def _ask_huggingface(folder: Path, probe: Question) -> Answer:
    package: Any = import_module("transformers")
    logging = package.utils.logging
    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        model = package.SamModel.from_pretrained(folder, dtype=torch.float32).eval()
    finally:
        if bars:
            logging.enable_progress_bar()
    # Its processor's resizing is not under test: normalised and padded as it would.
    vision = torch.zeros(1, 3, *probe.images.shape[2:])
    h, w = probe.photo.shape[1:]
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (PIXEL_MEAN, PIXEL_STD))
    vision[0, :, :h, :w] = (probe.photo - mean) / std
    embeddings = model.get_image_embeddings(vision)
    found = model(
        image_embeddings=embeddings,
        input_points=probe.point[None, None],
        input_labels=torch.ones(1, 1, 1, dtype=torch.int64),
        multimask_output=True,
    )
    return Answer(embeddings=embeddings, logits=found.pred_masks[0], iou=found.iou_scores[0])


@torch.no_grad()
def _check_onnx(sam: Sam, path: Path, probe: Question, *, cfg: OnnxConfig) -> Check:
    try:
        onnxruntime: Any = import_module("onnxruntime")
    except ImportError as error:
        raise UserError("format=onnx needs onnxruntime: pip install 'sam_train[onnx]'") from error
    run = partial(_run_onnx, onnxruntime)
    photo = {"images": probe.images, "image_sizes": probe.image_sizes}
    (embeddings,) = run(encoder_path(path), photo)
    h, w = probe.image_sizes[0].tolist()
    inputs = decoder_inputs(sam, points=2) | {
        "image_embeddings": encode_photos(sam, [probe.pixels]).embeddings,
        "point_coords": probe.prompts.coords,
        "point_labels": probe.prompts.labels.float(),
        "orig_im_size": torch.tensor([h + 7.0, w + 9.0]),
    }
    graph = DecoderGraph(sam, single_mask=cfg.single_mask, stability_score=cfg.stability_score)
    expected = [inputs["image_embeddings"], *graph(**inputs)]
    found = [embeddings, *run(path, inputs)]
    difference = max(relative(a, b) for a, b in zip(found, expected, strict=True))
    return Check(reader=f"onnxruntime {onnxruntime.__version__}", difference=difference)


def _run_onnx(onnxruntime: Any, path: Path, inputs: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    arrays = session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})
    return [torch.from_numpy(array) for array in arrays]
