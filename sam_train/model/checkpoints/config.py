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
    rest: str | None = setting(None, path="one")
    """A second file for the modules of which `init_from` holds nothing; null begins them at random.
    `init_from=dinov2:PATH init.rest=sam.pth` puts a decoder that knows clicks behind another
    encoder. Only in `fit`."""
