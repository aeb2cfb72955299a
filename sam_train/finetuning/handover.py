"""The best weights, for this program and for others, with a card that says what they can do."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sam_train.errors import UserError
from sam_train.eval.clicks.scores import ClickScores
from sam_train.export.card_facts import run_facts
from sam_train.export.config import CardConfig
from sam_train.export.write import Exported, export_model
from sam_train.model.checkpoints.trained import load_checkpoint, settings_for_checkpoint
from sam_train.settings.run import RunConfig
from sam_train.train.checkpoints import retention
from sam_train.train.fit import checkpoints_of

log = logging.getLogger("sam_train")

SAFETENSORS = "model.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class Handed:
    """Facts for the card that the folder of the run does not hold."""

    before: ClickScores
    after: ClickScores
    pictures: Sequence[Path]


def best_checkpoint(cfg: RunConfig, run_dir: Path) -> Path:
    """Return the checkpoint with the best held-out score; the last one where none was measured."""
    best = retention.best_checkpoint(run_dir, checkpoints_of(cfg))
    return best or run_dir / "checkpoints" / retention.LAST


def write_weights(
    checkpoint: Path, run_dir: Path, *, handed: Handed, card: CardConfig
) -> list[str]:
    """Write the weights of a checkpoint in every format that knows such a model.

    Adapters are merged into the weights that they bend.

    Returns:
        The paths written.
    """
    cfg = settings_for_checkpoint([f"ckpt={checkpoint}"])
    facts = replace(
        run_facts(checkpoint, card, default_name=run_dir.resolve().name),
        before=handed.before,
        after=handed.after,
        pictures=handed.pictures,
    )
    sam = load_checkpoint(cfg).sam

    def written_as(format: str, out: Path) -> list[Exported]:
        # float32: what was measured is what is handed on.
        return export_model(sam, out, model=cfg.model, format=format, dtype="float32", facts=facts)

    try:
        written = written_as("all", run_dir)
    except UserError as error:
        # Hours of training are not lost to a format of others.
        log.warning("%s alone is written: %s", SAFETENSORS, error)
        written = written_as("safetensors", run_dir / SAFETENSORS)
    else:
        if len(written) == 1:
            bands = len(cfg.model.bands)
            what = f"{bands} bands" if bands > 3 else f"the encoder {cfg.model.name}"
            log.info("%s alone is written: other programs have no SAM of %s", SAFETENSORS, what)
    for note in (note for one in written for note in one.notes):
        log.info("%s", note)
    if handed.pictures and len(written) > 1:
        log.info("the card in huggingface shows photos of yours: look at it before you publish")
    return [str(one.path) for one in written]
