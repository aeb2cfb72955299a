"""The verb `generate`: masks for folders and shards of photos, by any number of processes."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from sam_train.data.photos.rule import PhotoRule
from sam_train.data.shards.writer import shard_path
from sam_train.errors import UserError
from sam_train.generate import writers
from sam_train.generate.annotated import Annotated
from sam_train.generate.config import GenerateConfig, MaskConfig, check, listed
from sam_train.generate.generator import AutomaticMaskGenerator
from sam_train.generate.inputs import Photo, PhotoPlace, list_photos
from sam_train.generate.journal import Journal, PhotoRecord, open_journal
from sam_train.generate.plan import Unit, agree, make_plan, units_of
from sam_train.model.checkpoints.digest import weights_digest
from sam_train.model.checkpoints.trained import load_checkpoint, settings_for_checkpoint
from sam_train.model.config import photo_rule
from sam_train.runtime.devices import autocast, check_inference, find_device
from sam_train.runtime.inference import start_inference
from sam_train.runtime.jobs import Progress, SkipItem, work_through
from sam_train.runtime.lock import locked
from sam_train.runtime.parts import Share
from sam_train.settings.run import RunConfig

log = logging.getLogger("sam_train")

_NUMBERED = re.compile(r"sa_(0|[1-9][0-9]{0,9})")
# Settings that decide speed and places only. The output depends on all others.
_FREE = {"points_per_batch", "crops_per_batch", "input", "output", "part", "parts"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """The work of all processes so far."""

    photos: int
    """Photos in the input."""
    done: int
    masks: int
    skipped: dict[str, int]
    """Photos that could not be used, by reason."""
    complete: bool
    """True where no unit is left."""


def generate(overrides: Sequence[str]) -> Summary:
    """Find the masks of `generate.input` with `ckpt` and write them to `generate.output`.

    Several processes (torchrun, srun, a SLURM array, or `generate.part` of `generate.parts`) share
    the photos. The same command resumes after a stop. The last process joins the lists.

    Raises:
        UserError: no checkpoint or photos, a setting that does not fit, an output folder of other
            masks, or no photo that can be used.
    """
    cfg = settings_for_checkpoint(["name=generate", *overrides])
    check(cfg.generate)
    if len(cfg.model.bands) > 3:
        raise UserError(
            f"{cfg.ckpt} takes photos of {len(cfg.model.bands)} bands (model.bands), and generate "
            "writes JPEGs of three: ask `Predictor` with points of a grid instead"
        )
    check_inference(cfg.trainer)
    part = _part(cfg.generate)
    output = Path(cfg.generate.output or f"{cfg.run_dir}/masks")
    start_inference(cfg.run_dir, cfg.trainer, part)
    _make(output)
    photos = list_photos(listed(cfg.generate.input))
    existing = listed(cfg.generate.existing)
    annotated = Annotated(existing) if existing else None
    if annotated is not None:
        annotated.check(photos)
    loaded = load_checkpoint(cfg)
    device = find_device(cfg.trainer)
    masks = MaskConfig(**{f.name: getattr(cfg.generate, f.name) for f in fields(MaskConfig)})
    mine = make_plan(
        photos,
        samples_per_shard=cfg.generate.samples_per_shard,
        parts=part.count,
        weights=weights_digest(loaded.sam),
        settings=_settings(cfg),
    )
    plan = agree(output, mine)
    work = _Work(
        cfg=cfg.generate,
        output=output,
        generator=AutomaticMaskGenerator(loaded.sam.to(device), masks),
        photos=photos,
        ids=_image_ids(photos),
        annotated=annotated,
        rule=photo_rule(cfg.model),
    )
    units = units_of(plan)
    with autocast(cfg.trainer, device):
        for unit in part.of(units):
            work.do(unit)
    return work.finish(units)


class _Work:
    """The photos and the steps from each to its files."""

    def __init__(
        self,
        *,
        cfg: GenerateConfig,
        output: Path,
        generator: AutomaticMaskGenerator,
        photos: Sequence[PhotoPlace],
        ids: Sequence[int],
        annotated: Annotated | None,
        rule: PhotoRule,
    ) -> None:
        self._cfg = cfg
        self._generator = generator
        self._photos = photos
        self._ids = ids
        self._annotated = annotated
        self._rule = rule
        self._formats = listed(cfg.formats)
        self._output = output
        self._progress = Progress("photos")
        self._remarks = Counter[str]()

    def do(self, unit: Unit) -> None:
        """Find the masks of a unit's remaining photos, then write its files."""
        with_masks = self._output / "unfinished" / f"{unit.name}.jsonl"
        if self._done(unit).is_file():
            return
        with open_journal(with_masks) as journal:
            if journal is None:
                log.info("unit %s: another process works on it", unit.name)
                return
            # Asked again under the lock: another process may have finished the unit meanwhile.
            if not self._done(unit).is_file():
                self._find(unit, journal)
                self._write(unit, journal)
            journal.remove()

    def _done(self, unit: Unit) -> Path:
        return self._output / "done" / f"{unit.name}.json"

    def _find(self, unit: Unit, journal: Journal) -> None:
        todo = [k for k in range(unit.begin, unit.stop) if self._ids[k] not in journal.records]
        work_through(
            todo,
            load=lambda k: self._photos[k].read(self._rule),
            do=self._propose,
            skip=self._skip,
            keep=journal.append,
            ahead=1,
            progress=self._progress,
        )

    def _propose(self, k: int, photo: Photo) -> PhotoRecord:
        place, image_id = self._photos[k], self._ids[k]
        self._remarks.update(photo.remarks)
        size = (photo.pixels.shape[0], photo.pixels.shape[1])
        existing = self._annotated.of(place.key, size) if self._annotated else None
        found = self._generator.propose(photo.pixels, existing)
        annotations = writers.annotations_of(found, image_id=image_id)
        if "overlays" in self._formats:
            path = self._output / "overlays" / f"{image_id}_{place.key}.png"
            writers.draw_overlay(photo, annotations, path, side=self._cfg.overlay_side)
        return PhotoRecord(
            image_id=image_id,
            source=place.name,
            width=size[1],
            height=size[0],
            annotations=annotations,
        )

    def _skip(self, k: int, reason: SkipItem) -> PhotoRecord:
        name = self._photos[k].name
        log.warning("%s is left out: %s", name, reason)
        return PhotoRecord(image_id=self._ids[k], source=name, skipped=reason.reason)

    def _write(self, unit: Unit, journal: Journal) -> None:
        places = {self._ids[k]: self._photos[k] for k in range(unit.begin, unit.stop)}
        records = [journal.records[image_id] for image_id in places]
        if "shards" in self._formats:
            path = shard_path(self._output, unit.number)
            try:
                writers.write_unit_shard(records, lambda k: places[k].read(), path)
            except SkipItem as error:
                raise UserError(f"a photo went away while it was used: {error}") from error
        if "coco" in self._formats:
            writers.write_unit_coco(records, self._output / "coco" / f"{unit.name}.json")
        # Last: where this file exists, the unit's other files are complete.
        writers.write_done(records, self._done(unit))

    def finish(self, units: Sequence[Unit]) -> Summary:
        """Report the progress of all processes; join the lists if no unit is left.

        Raises:
            UserError: all units are done, and no photo could be used.
        """
        for remark, count in self._remarks.most_common():
            log.info("%d photos: %s", count, remark)
        done = [self._done(unit) for unit in units if self._done(unit).is_file()]
        rows = writers.read_done(done)
        skipped = Counter(row["skipped"] for row in rows if row["skipped"])
        summary = Summary(
            photos=len(self._photos),
            done=len(rows),
            masks=sum(row["masks"] for row in rows),
            skipped=dict(skipped),
            complete=len(done) == len(units),
        )
        if summary.complete and sum(skipped.values()) == len(rows):
            raise UserError(f"none of {len(rows)} photos could be used ({_reasons(skipped)})")
        if summary.complete:
            self._join(units, rows)
        left = "" if summary.complete else f", {summary.photos - summary.done} are not done yet"
        log.info(
            "%d masks on %d photos%s%s: %s",
            summary.masks, summary.done, left,
            f", left out {_reasons(skipped)}" if skipped else "", self._output,
        )  # fmt: skip
        return summary

    def _join(self, units: Sequence[Unit], rows: list[dict[str, Any]]) -> None:
        # Two processes may both see the last unit done, and would write the same files.
        with locked(self._output / "done" / "lock"):
            writers.write_photo_list(rows, self._output / "photos.csv")
            if "coco" in self._formats:
                parts = [self._output / "coco" / f"{unit.name}.json" for unit in units]
                writers.join_coco(parts, self._output / "coco.json")


def _reasons(skipped: Counter[str]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in skipped.most_common())


def _image_ids(photos: Sequence[PhotoPlace]) -> list[int]:
    """Number the photos as SA-1B's names do, or by place unless all names differ in number."""
    named = [_NUMBERED.fullmatch(photo.key) for photo in photos]
    numbers = [int(match[1]) for match in named if match is not None]
    # All or none: a mixture of names' numbers and places might give two photos one number.
    if len(set(numbers)) == len(photos):
        return numbers
    return list(range(len(photos)))


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{folder} cannot be written ({error.strerror}): choose another with generate.output="
        ) from error


def _settings(cfg: RunConfig) -> dict[str, Any]:
    """Return the settings that the output depends on, by their full names."""
    of_generate = {f"generate.{k}": v for k, v in asdict(cfg.generate).items() if k not in _FREE}
    # Named only where there is one, so that earlier outputs without it are still resumed.
    model = {f"model.{name}": list(getattr(cfg.model, name)) for name in ("window", "bands")}
    shown = {name: value for name, value in model.items() if value}
    return {**of_generate, **shown, "trainer.precision": cfg.trainer.precision}


def _part(cfg: GenerateConfig) -> Share:
    if cfg.part is not None and cfg.parts is not None:
        return Share(index=cfg.part, count=cfg.parts)
    return Share.from_environment()
