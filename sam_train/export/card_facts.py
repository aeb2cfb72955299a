"""Facts for a model card, as far as the folder of a run knows them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

import yaml

from sam_train.errors import UserError
from sam_train.eval.clicks.scores import ClickScores
from sam_train.export.config import CardConfig

# The paper's weights by the names of their files, and what the hub calls them.
_BASES = {
    "sam_vit_h_4b8939": "facebook/sam-vit-huge",
    "sam_vit_l_0b3195": "facebook/sam-vit-large",
    "sam_vit_b_01ec64": "facebook/sam-vit-base",
}
LAST = "last.ckpt"
_SHOWN = (
    *("model.name", "model.image_size", "optim.tune", "optim.name", "optim.lr"),
    *("optim.weight_decay", "optim.layer_decay", "optim.ema", "trainer.max_steps"),
    *("trainer.precision", "data.batch_size", "data.masks_per_image", "data.scale_jitter"),
    *("prompts.first", "prompts.points", "prompts.mask_only", "seed"),
)
"""The settings that a reader of a card asks for first."""
_PATTERN = re.compile(r"[*?\[\]{}]|\.tar$|\.json$")
_PREFIX = re.compile(r"^[a-z0-9_]+:(?!//)")
_UNUSUAL = re.compile(r"[^\w.-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class CardFacts:
    """The content of a model card. Whatever is empty is left out, or said to be unknown."""

    name: str
    license: str = ""
    data_license: str = ""
    datasets: Sequence[str] = ()
    """Names on the hub."""
    base_model: str = ""
    """Weights that training began with, as the hub calls them."""
    began_with: str = ""
    """The same for people: also a file's name."""
    trained_on: str = ""
    measured_on: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Training settings by name."""
    before: ClickScores | None = None
    after: ClickScores | None = None
    """Scores of this model on `measured_on`; `before` those at the start of training."""
    pictures: Sequence[Path] = ()


def run_facts(checkpoint: str | Path, cfg: CardConfig, *, default_name: str) -> CardFacts:
    """Collect the facts of the run that wrote `checkpoint`: its settings, scores and pictures.

    Only names reach the card, never the machine's paths.

    Args:
        checkpoint: of any kind; one that lies in no run's folder gives a card without figures.
        cfg: what the person says about it.
        default_name: where neither `cfg` nor the run has one.

    Raises:
        UserError: the folder holds a damaged file.
    """
    path = Path(checkpoint).expanduser().absolute()
    run = path.parent.parent if path.parent.name == "checkpoints" else path.parent
    settings = _settings(run / "config.yaml")
    began = str(_value(settings, "init_from") or "")
    base = _PREFIX.sub("", began)
    own_name = str(settings.get("name") or "")
    # The figures and the newest pictures are of the model at the end, not of earlier checkpoints.
    ended = bool(settings) and path.name == LAST
    pictures = [
        picture
        for pattern in ("clicks*.png", "worst*.png", "curves.png")
        for picture in sorted((run / "pictures").glob(pattern))[-1:]
    ]
    shown = {name: value for name in _SHOWN if (value := _value(settings, name)) not in (None, [])}
    return CardFacts(
        # `fit` is the name of every run that has none.
        name=cfg.name or ("" if own_name == "fit" else own_name) or default_name,
        license=cfg.license,
        data_license=cfg.data_license,
        datasets=tuple(cfg.datasets),
        base_model=_BASES.get(PurePath(base).stem, ""),
        began_with=PurePath(base).name,
        trained_on=_data_name(_value(settings, "data.train")),
        measured_on=_data_name(_value(settings, "data.val")),
        settings=shown,
        before=_scores(run / "scores_before.json") if ended else None,
        after=_scores(run / "scores_after.json") if ended else None,
        pictures=pictures if ended else (),
    )


def slug(name: str) -> str:
    """Return a name without the letters that the hub refuses in identifiers."""
    return _UNUSUAL.sub("-", name).strip("-.") or "unknown"


def _settings(file: Path) -> Mapping[str, Any]:
    """Read a run's settings; {} where the folder is no run's."""
    if not file.is_file():
        return {}
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(
            f"{file}: is not readable as settings ({str(error).splitlines()[0]}); take it away"
        ) from error
    # Another program's config.yaml may stand there.
    return content if isinstance(content, Mapping) and "run_dir" in content else {}


def _scores(file: Path) -> ClickScores | None:
    if not file.is_file():
        return None
    try:
        return ClickScores.from_json(file.read_text(encoding="utf-8"))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{file}: holds no scores ({error}); take it away") from error


def _value(settings: Mapping[str, Any], name: str) -> Any:
    section, _, key = name.rpartition(".")
    found = settings.get(section) if section else settings
    return found.get(key) if isinstance(found, Mapping) else None


def _data_name(given: Any) -> str:
    """Name data by its folders alone: `mine, other` for two."""
    names = []
    for one in [given] if isinstance(given, str) else given or []:
        path = PurePath(_PREFIX.sub("", str(one)).rstrip("/"))
        while _PATTERN.search(path.name) and path.parent.name:
            path = path.parent
        names.append(path.name)
    return ", ".join(dict.fromkeys(name for name in names if name))
