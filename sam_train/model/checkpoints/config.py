"""Settings of how weights are taken from a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass

from sam_train.settings.sections import section, setting


@section("init", order=20, resume="harmless")
@dataclass(kw_only=True)
class InitConfig:
    """The parts of a checkpoint that `init_from=` (in `fit`) and `ckpt=` (elsewhere) take."""

    modules: list[str] = setting([])
    """Modules to take from the file: image_encoder, prompt_encoder, mask_decoder. `fit` begins the
    others at random; elsewhere they come from `init_from=` under `ckpt=`. Empty: all that the
    checkpoint holds."""
