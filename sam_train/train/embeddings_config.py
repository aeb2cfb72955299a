"""Settings of the embedding cache."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sam_train.errors import UserError
from sam_train.settings.sections import run_check, section, setting

if TYPE_CHECKING:
    from sam_train.settings.run import RunConfig


@section("embeddings", order=155, resume="harmless")
@dataclass
class EmbeddingsConfig:
    """A cache on the disk of what the frozen part of the encoder computes, for fine-tuning."""

    cache: str = setting("off", path="one", resume="applies")
    """off: encode each photo whenever it comes. A folder: keep there, as float16, the output of the
    frozen part of the encoder (`optim.tune`, `optim.frozen_blocks`); runs may share it. auto: the
    folder `embeddings` beside run_dir. Where nothing is frozen, or augmentation shows no photo
    twice, nothing is kept, and the log says why."""
    gb: float = setting(20.0, above=0)
    """Gigabytes that the folder may take."""


@run_check
def _check_run(cfg: RunConfig) -> None:
    # YAML reads a bare `off` in a recipe as a boolean, and an empty path is the working directory.
    if cfg.embeddings.cache in {"", "False", "True"}:
        raise UserError(
            f"embeddings.cache={cfg.embeddings.cache}: write auto, a folder, or off, which a YAML "
            "file needs in quotes"
        )
