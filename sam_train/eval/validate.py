"""The verb `validate`: k-click and box scores of any checkpoint on any shards."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sam_train.data.datamodule import SamDataModule
from sam_train.data.feed.loader import SizedLoader
from sam_train.errors import UserError
from sam_train.eval.clicks.box_prompt import BoxObserver
from sam_train.eval.clicks.calibration import draw_calibration
from sam_train.eval.clicks.config import check_validation
from sam_train.eval.clicks.interactive import Observer, evaluate_clicks
from sam_train.eval.clicks.scores import ClickScores
from sam_train.eval.pictures.filmstrip import filmstrip
from sam_train.eval.pictures.rows import ClickFilm
from sam_train.model import Sam
from sam_train.model.checkpoints.trained import load_checkpoint, settings_for_checkpoint
from sam_train.model.config import photo_rule
from sam_train.runtime.devices import autocast, check_inference, find_device
from sam_train.runtime.inference import start_inference
from sam_train.settings.run import RunConfig
from sam_train.types import Batch

log = logging.getLogger("sam_train")

_SECONDS_BETWEEN_LINES = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """The files that `validate` leaves in run_dir, beside log.txt."""

    scores: Path
    calibration: Path
    film: Path

    @classmethod
    def under(cls, run_dir: Path) -> Written:
        """Return the names under `run_dir`."""
        return cls(
            scores=run_dir / "scores.json",
            calibration=run_dir / "calibration.png",
            film=run_dir / "clicks.png",
        )


def validate(overrides: Sequence[str]) -> ClickScores:
    """Measure `ckpt` (any kind that `init_from` takes) on data.val; print, write and draw it.

    The model's sizes come from the checkpoint where it records them (ours do), else from `model`.
    Without `ckpt`, `init_from` is measured: a run's model before its first step, with a warning
    that counts the weights that are random then. With both, `init_from` gives what `ckpt` lacks.

    Raises:
        UserError: no checkpoint, no data.val, a file or size that does not fit, or part of a model.
    """
    # A run_dir of its own unless one is named: a training run's log is not added to by accident.
    cfg = settings_for_checkpoint(["name=validate", *overrides])
    if not cfg.data.val:
        raise UserError("data.val is not set: name the shards to measure on, data.val=[val/*.tar]")
    check_inference(cfg.trainer)
    check_validation(cfg.callbacks.validation)
    run_dir = start_inference(cfg.run_dir, cfg.trainer)
    loaded = load_checkpoint(cfg, untrained=True)
    film = ClickFilm(rows=cfg.callbacks.validation.film_rows, shown=cfg.callbacks.validation.clicks)
    filmed = film if cfg.callbacks.validation.film_rows else None
    scores = measure(
        loaded.sam, cfg, observer=filmed, box_observer=filmed.see_box if filmed else None
    )
    log.info("%s on %s\n%s", loaded.source, cfg.data.val, scores.table())
    _write(scores, film, Written.under(run_dir), caption=Path(loaded.source).name)
    return scores


def measure(
    sam: Sam,
    cfg: RunConfig,
    *,
    observer: Observer | None = None,
    box_observer: BoxObserver | None = None,
    groups: Mapping[int, str] | None = None,
) -> ClickScores:
    """Measure a model on data.val by clicks and by boxes.

    Args:
        sam: moved to the device of `trainer`.
        cfg: `data`, `trainer`, `prompts` and `callbacks.validation` of it.
        observer, box_observer: as `evaluate_clicks` takes them.
        groups: the same; None: those that the data name.

    Raises:
        UserError: data that cannot be read, or none to measure on.
    """
    device = find_device(cfg.trainer)
    sam = sam.to(device)
    data = SamDataModule(
        cfg.data,
        image_size=sam.image_size,
        grid_size=sam.grid_size,
        seed=cfg.seed,
        photos=photo_rule(cfg.model),
    )
    loader = data.val_dataloader()
    assert isinstance(loader, SizedLoader)
    measuring = cfg.callbacks.validation
    with autocast(cfg.trainer, device):
        try:
            return evaluate_clicks(
                sam,
                _with_lines(loader),
                clicks=measuring.clicks,
                first=measuring.first,
                max_masks=measuring.max_masks,
                boxes=True,
                multimask=cfg.prompts.multimask_first_round,
                groups=data.val_groups() if groups is None else groups,
                device=device,
                observer=observer,
                box_observer=box_observer,
            )
        except ValueError as error:
            raise UserError(f"callbacks.validation: {error}") from error


def _with_lines(loader: SizedLoader) -> Iterator[Batch]:
    """Yield the batches, and log a line now and then where it takes long."""
    said = time.monotonic()
    for number, batch in enumerate(loader):
        if time.monotonic() - said > _SECONDS_BETWEEN_LINES:
            said = time.monotonic()
            log.info("measured %d of %d batches", number, len(loader))
        yield batch


def _write(scores: ClickScores, film: ClickFilm, paths: Written, *, caption: str) -> None:
    paths.scores.write_text(scores.to_json())
    draw_calibration(scores.calibration, paths.calibration, title=f"IoU head of {caption}")
    if rows := film.film():
        text = f"{caption}: the exact box; clicks in the middle of what is wrong"
        filmstrip(rows, titles=film.titles(), caption=text).save(paths.film)
    for path in (paths.scores, paths.calibration, paths.film):
        if path.is_file():
            log.info("%s", path)
