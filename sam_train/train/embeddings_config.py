"""Settings of the embedding cache."""

from __future__ import annotations

from dataclasses import dataclass

from sam_train.settings.sections import section, setting


@section("embeddings", order=155, resume="harmless")
@dataclass
class EmbeddingsConfig:
    """A cache on the disk of what the frozen part of the encoder computes, for fine-tuning."""

    cache: str = setting("off", path="one", resume="applies")
    """off: encode each photo whenever it comes. A folder: keep there, as float16, the output of the
    frozen part of the encoder (`optim.frozen_blocks`, or all of it); runs may share it. auto: the
    folder `embeddings` beside run_dir. Where nothing is frozen, or augmentation shows no photo
    twice, nothing is kept, and the log says why."""
    gb: float = setting(20.0, above=0)
    """Gigabytes that the folder may take."""
