"""k-click scores on the same held-out images before, during and after training, with pictures."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from sam_train.eval.clicks.calibration import draw_calibration
from sam_train.eval.clicks.config import ClickValidationConfig
from sam_train.eval.clicks.interactive import evaluate_clicks
from sam_train.eval.clicks.scores import ClickScores, comparison_table
from sam_train.eval.pictures.filmstrip import filmstrip
from sam_train.eval.pictures.rows import ClickFilm
from sam_train.model import Sam
from sam_train.model.embedding_cache import encode_batch
from sam_train.train.averaging import averaged
from sam_train.train.report.curves import draw_curves
from sam_train.train.report.meter import StepMeter
from sam_train.train.report.training_film import training_film
from sam_train.train.watch.pulse import beating
from sam_train.types import Batch

log = logging.getLogger("sam_train")


class ClickValidation(Callback):
    """Scores to metrics.csv and the loggers, filmstrips and curves to run_dir/pictures.

    The scores before training survive a resume in run_dir/scores_before.json.
    """

    def __init__(self, cfg: ClickValidationConfig, *, run_dir: Path, meter: StepMeter) -> None:
        self.cfg = cfg
        self.meter = meter
        self.recorder = meter.recorder
        self.pictures = run_dir / "pictures"
        self.run_dir = run_dir
        self._batches: list[Batch] | None = None
        self._groups: dict[int, str] = {}
        self._measured_at = -1
        self._latest: ClickScores | None = None
        self._after: ClickScores | None = None
        self._trained = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure the model as it is before the first step."""
        self._trained = True
        self._batches = self._take(trainer)
        if trainer.is_global_zero:
            self.pictures.mkdir(parents=True, exist_ok=True)
            # Left by a shorter run; there are no scores until this one has ended.
            self._after_file.unlink(missing_ok=True)
        if self._batches is not None and trainer.global_step == 0:
            scores = self._measure(trainer, pl_module)
            if trainer.is_global_zero:
                self._before_file.write_text(scores.to_json())

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """Measure at every `every`-th update; the last one is left to the end."""
        step = trainer.global_step
        # `step != measured_at`: with accumulation several batches end at one step.
        due = self.cfg.every and step % self.cfg.every == 0 and step != self._measured_at
        if self._batches is not None and due and 0 < step < trainer.max_steps:
            with self.meter.pause():
                scores = self._latest = self._measure(trainer, pl_module)
                self._draw_curves(trainer)
            log.info("step %d  held-out mIoU by clicks  %s", step, scores.line())

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure the trained model."""
        if self._batches is not None and trainer.global_step > 0:
            # A run that ends early does so at a step that was measured just now.
            known = self._latest if self._measured_at == trainer.global_step else None
            self._after = known or self._measure(trainer, pl_module)
            if trainer.is_global_zero:
                self._after_file.write_text(self._after.to_json())
        self._draw_curves(trainer)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the scores before and after training, and the paths of the pictures."""
        self._catch_up(trainer, pl_module)
        if not trainer.is_global_zero:
            return
        rows = {}
        if self._before_file.is_file():
            # Fine-tuning starts from a model that was trained before.
            fresh = getattr(getattr(pl_module, "cfg", None), "init_from", None) is None
            before = ClickScores.from_json(self._before_file.read_text())
            rows["untrained" if fresh else "at the start"] = before
        if self._after is None and self._after_file.is_file():
            # A finished run that was started again: nothing was trained, the figures stand.
            self._after = ClickScores.from_json(self._after_file.read_text())
        if self._after is not None:
            rows["trained"] = after = self._after
            where = f"over {after.masks} masks of {after.images} held-out images"
            table = comparison_table(rows)
            log.info("mIoU by clicks and box %s\n%s\n%s", where, table, after.basis())
        # Only the newest films: there may be dozens.
        films = [
            film
            for kind in ("clicks", "rounds")
            for film in sorted(self.pictures.glob(f"{kind}_*.png"))[-1:]
        ]
        for picture in [*films, self._curves_file, self._calibration_file]:
            if picture.is_file():
                log.info("%s", picture)

    def _catch_up(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure a run whose process was killed between its last step and its last measurement."""
        if self._trained or self._after_file.is_file() or trainer.global_step == 0:
            return
        self._batches = self._take(trainer)
        if self._batches is None:
            return
        if trainer.is_global_zero:
            self.recorder.file.resume_at(trainer.global_step)
        # Lightning has moved the model off the device by now.
        pl_module.to(trainer.strategy.root_device)
        self.on_train_end(trainer, pl_module)

    @property
    def _before_file(self) -> Path:
        return self.run_dir / "scores_before.json"

    @property
    def _after_file(self) -> Path:
        return self.run_dir / "scores_after.json"

    @property
    def _curves_file(self) -> Path:
        return self.pictures / "curves.png"

    @property
    def _calibration_file(self) -> Path:
        return self.pictures / "calibration.png"

    def _take(self, trainer: Trainer) -> list[Batch] | None:
        """Load this rank's share of the fixed subset into memory; return None without data.val."""
        datamodule: Any = getattr(trainer, "datamodule", None)
        if datamodule is None or not datamodule.cfg.val:
            log.info("data.val is not set: nothing will be validated")
            return None
        self._groups = datamodule.val_groups()
        # Rounded up: the first ranks take one image more where the number does not divide.
        own = -(-(self.cfg.images - trainer.global_rank) // trainer.world_size)
        return take_images(datamodule.val_dataloader(), own)

    def _measure(self, trainer: Trainer, pl_module: LightningModule) -> ClickScores:
        with averaged(trainer, pl_module):
            return self._measure_weights(trainer, pl_module)

    def _measure_weights(self, trainer: Trainer, pl_module: LightningModule) -> ClickScores:
        film = ClickFilm(rows=self.cfg.film_rows, shown=self.cfg.clicks)
        # Before the loop: under fsdp2 it is a collective, and ranks loop different numbers of
        # times.
        sam = whole_sam(pl_module)
        cfg: Any = getattr(pl_module, "cfg", None)
        objective: Any = getattr(pl_module, "objective", None)
        # One rank's images make the film; others would only spend memory on frames.
        filmed = trainer.is_global_zero and self.cfg.film_rows > 0
        with trainer.precision_plugin.forward_context():
            scores = evaluate_clicks(
                sam,
                beating(self._batches or [], stage="measuring"),
                clicks=self.cfg.clicks,
                first=self.cfg.first,
                max_masks=self.cfg.max_masks,
                boxes=True,
                # As in training: a model that never gave three masks at first has not learnt to
                # rank them.
                multimask=cfg is None or cfg.prompts.multimask_first_round,
                groups=self._groups,
                device=pl_module.device,
                observer=film if filmed else None,
                box_observer=film.see_box if filmed else None,
                embed=encode_batch if objective is None else objective.embed,
            )
            self._measured_at = trainer.global_step
            if trainer.is_global_zero:
                figures = {f"val/{name}": value for name, value in scores.figures().items()}
                self.recorder.record(trainer, figures)
                self._draw_scores(trainer.global_step, scores, film)
                self._draw_training(trainer, pl_module, sam)
        return scores

    def _draw_scores(self, step: int, scores: ClickScores, film: ClickFilm) -> None:
        title = f"IoU head at step {step}"
        draw_calibration(scores.calibration, self._calibration_file, title=title)
        if rows := film.film():
            caption = f"step {step}: the exact box; clicks in the middle of what is wrong"
            picture = filmstrip(rows, titles=film.titles(), caption=caption)
            picture.save(self.pictures / f"clicks_{step:07d}.png")

    def _draw_training(self, trainer: Trainer, pl_module: LightningModule, sam: Sam) -> None:
        objective: Any = getattr(pl_module, "objective", None)
        if objective is None or not self.cfg.film_rows:
            return
        rows = training_film(sam, self._batches or [], objective=objective, rows=self.cfg.film_rows)
        if rows:
            step = trainer.global_step
            picture = filmstrip(rows, caption=f"step {step}: prompts as in training")
            picture.save(self.pictures / f"rounds_{step:07d}.png")

    def _draw_curves(self, trainer: Trainer) -> None:
        if trainer.is_global_zero and self.recorder.file.path.is_file():
            draw_curves(self.recorder.file.path, self._curves_file)


def whole_sam(pl_module: LightningModule) -> Sam:
    """Return a model that one rank may use alone; ranks have different numbers of images."""
    whole: Any = getattr(pl_module, "whole_sam", None)
    return cast(Sam, pl_module.sam if whole is None else whole())


def take_images(batches: Iterable[Batch], images: int) -> list[Batch]:
    """Take the first batches until they hold `images` images; the last may go beyond."""
    taken: list[Batch] = []
    if images <= 0:
        return taken
    for batch in batches:
        taken.append(batch)
        images -= len(batch.keys)
        if images <= 0:
            break
    return taken
