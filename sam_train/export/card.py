"""The README.md of a Hugging Face folder: a header for the hub, and text for people."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml

from sam_train.errors import UserError
from sam_train.eval.clicks.scores import ClickScores, short_interval
from sam_train.export.card_facts import CardFacts, slug
from sam_train.export.files import whole
from sam_train.export.segment_anything import registry_name
from sam_train.model.build import resolve
from sam_train.model.config import ModelConfig

CARD = "README.md"
_MARK = "<!-- written by sam_train; take this line out to keep your own text -->"
_TASK = "mask-generation"
_NAMES = {"miou_1": "1 click", "oracle": "best of 3 after 1 click", "box": "box"}


def write_card(folder: Path, facts: CardFacts, *, model: ModelConfig) -> list[Path]:
    """Write README.md and copy the pictures beside it, to `pictures/`.

    A README.md that was edited by hand, which lacks the mark of this function, stays.

    Returns:
        The files that were written.

    Raises:
        UserError: a folder that cannot be written.
    """
    path = folder / CARD
    if path.is_file() and _MARK not in path.read_text(encoding="utf-8", errors="replace"):
        return []
    copies = [folder / "pictures" / picture.name for picture in facts.pictures]
    for picture, copy in zip(facts.pictures, copies, strict=True):
        with whole(copy) as unfinished:
            shutil.copyfile(picture, unfinished)
    with whole(path) as unfinished:
        unfinished.write_text(card_text(facts, model=model), encoding="utf-8")
    return [path, *copies]


def check_card_file(folder: Path) -> None:
    """Read the card with the hub's own parser, where that is installed.

    Raises:
        UserError: the parser refuses it.
    """
    path = folder / CARD
    try:
        hub: Any = import_module("huggingface_hub")
    except ImportError:
        return
    try:
        # The content, not the path: a path that is no file would be looked for on the hub.
        hub.ModelCard(path.read_text(encoding="utf-8"))
    except (ValueError, TypeError, KeyError, AttributeError, yaml.YAMLError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(
            f"{path}: huggingface_hub cannot read its header ({reason}); mend or delete it"
        ) from error


def card_text(facts: CardFacts, *, model: ModelConfig) -> str:
    """Return the whole card: the YAML header and the text."""
    header = yaml.safe_dump(_header(facts), sort_keys=False, allow_unicode=True)
    parts = [
        _MARK,
        f"# {facts.name}",
        *_introduction(facts, model),
        *_results(facts),
        *_training(facts),
        *_loading(facts, model),
        *_pictures(facts),
        *_licences(facts),
    ]
    return f"---\n{header}---\n\n" + "\n\n".join(parts) + "\n"


def _header(facts: CardFacts) -> dict[str, Any]:
    given = {
        "license": facts.license,
        "library_name": "transformers",
        "pipeline_tag": _TASK,
        "tags": ["segment-anything", "sam", "image-segmentation", "sam_train"],
        "datasets": list(facts.datasets),
        "base_model": facts.base_model,
    }
    header: dict[str, Any] = {name: value for name, value in given.items() if value}
    if facts.after is not None:
        header["metrics"] = ["mean_iou"]
        header["model-index"] = [{"name": facts.name, "results": [_result(facts, facts.after)]}]
    return header


def _result(facts: CardFacts, scores: ClickScores) -> dict[str, Any]:
    where = facts.measured_on or "held-out images"
    metrics = []
    for name, value in scores.means().items():
        ends = scores.intervals.get(name)
        interval = f" (95 % {ends.low:.3f} to {ends.high:.3f})" if ends else ""
        metrics.append(
            {
                "type": "mean_iou",
                "value": round(value, 4),
                "name": f"mIoU, {_prompt(name)}{interval}",
            }
        )
    return {
        "task": {"type": _TASK},
        "dataset": {"type": slug(where), "name": where},
        "metrics": metrics,
    }


def _prompt(name: str) -> str:
    return _NAMES.get(name) or f"{name.removeprefix('miou_')} clicks"


def _introduction(facts: CardFacts, model: ModelConfig) -> Iterator[str]:
    arch = resolve(model)
    size = f"{arch.image_size} x {arch.image_size}"
    yield (
        "A Segment Anything Model: it answers points, boxes and earlier masks on a photo with "
        f"masks. Encoder {model.name}, input {size} pixels."
    )
    if facts.began_with:
        yield f"Training began with the weights {facts.began_with}."


def _results(facts: CardFacts) -> Iterator[str]:
    after = facts.after
    if after is None:
        return
    yield "## Results"
    names = list(after.means())
    rows = {"before training": facts.before, "this model": after}
    lines = [
        "| mean IoU | " + " | ".join(map(_prompt, names)) + " |",
        "|---" * (len(names) + 1) + "|",
    ]
    for label, scores in rows.items():
        if scores is None:
            continue
        means = scores.means()
        cells = []
        for name in names:
            ends = scores.intervals.get(name)
            interval = f" ({short_interval(ends)})" if ends else ""
            cells.append(f"{means[name]:.3f}{interval}" if name in means else "-")
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    yield "\n".join(lines)
    where = f" of {facts.measured_on}" if facts.measured_on else ""
    yield (
        f"Over {after.masks} masks of {after.images} held-out images{where}; {after.basis()}. "
        "Each further click falls in the middle of the largest error."
    )


def _training(facts: CardFacts) -> Iterator[str]:
    if not (facts.trained_on or facts.settings):
        return
    yield "## Training"
    if facts.trained_on:
        yield f"Trained on {facts.trained_on}."
    if facts.settings:
        lines = ["| setting | value |", "|---|---|"]
        lines += [f"| {name} | {_cell(value)} |" for name, value in facts.settings.items()]
        yield "\n".join(lines)


def _cell(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    # A bar would begin the next column.
    return text.replace("|", "\\|")


def _loading(facts: CardFacts, model: ModelConfig) -> Iterator[str]:
    yield "## Use"
    yield "`FOLDER` is this folder, or for transformers its name on the hub."
    yield """```python
from transformers import SamModel, SamProcessor

model = SamModel.from_pretrained(FOLDER)
processor = SamProcessor.from_pretrained(FOLDER)
inputs = processor(photo, input_points=[[[x, y]]], return_tensors="pt")
answer = model(**inputs)
masks = processor.image_processor.post_process_masks(
    answer.pred_masks, inputs["original_sizes"], inputs["reshaped_input_sizes"]
)
```"""
    yield """```python
from sam_train.model.predictor import Predictor

predictor = Predictor.from_checkpoint(FOLDER)
predictor.set_image(photo)
answer = predictor.predict(points=[[x, y]], labels=[1])
```"""
    yield (
        "For segment-anything: `python -m sam_train export ckpt=FOLDER out=sam.pth`, then "
        + _registry(model)
    )


def _registry(model: ModelConfig) -> str:
    name = registry_name(resolve(model))
    if name is not None:
        return f'`sam_model_registry["{name}"](checkpoint="sam.pth")`.'
    return "the lines of code that `sam.json` beside it holds: its registry lacks these sizes."


def _pictures(facts: CardFacts) -> Iterator[str]:
    if facts.pictures:
        yield "## Pictures"
        yield "\n\n".join(f"![{p.stem}](pictures/{p.name})" for p in facts.pictures)


def _licences(facts: CardFacts) -> Iterator[str]:
    yield "## Licence"
    weights = facts.license or "not stated by the person who exported them"
    data = facts.data_license or "not stated"
    yield f"Weights: {weights}. Data that they were trained on: {data}."
