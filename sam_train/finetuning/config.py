"""Settings of `finetune`, beside those of `fit`."""

from __future__ import annotations

from dataclasses import dataclass

from sam_train.settings.sections import section, setting


@section("finetune", order=200, resume="harmless")
@dataclass
class FinetuneConfig:
    """The time that the chosen recipe may take."""

    minutes: float | None = setting(None, above=0)
    """Time for the training steps, from which their number is chosen; null: 5 minutes on a CPU, 30
    on a GPU. `trainer.max_steps` says the number itself."""
