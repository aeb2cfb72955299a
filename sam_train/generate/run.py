"""The verb `generate`: masks for folders and shards of photos, by any number of processes."""

from __future__ import annotations

import logging
import re
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from sam_train.data.shards.writer import shard_path
from sam_train.errors import UserError
from sam_train.generate import writers
from sam_train.generate.annotated import Annotated
from sam_train.generate.config import GenerateConfig, MaskConfig, check, listed
from sam_train.generate.generator import AutomaticMaskGenerator
from sam_train.generate.inputs import BadPhoto, Photo, PhotoPlace, list_photos
from sam_train.generate.journal import Journal, PhotoRecord, one_at_a_time, open_journal
from sam_train.generate.plan import Unit, agree, make_plan, units_of
from sam_train.model.checkpoints.digest import weights_digest
from sam_train.model.checkpoints.trained import load_checkpoint, settings_for_checkpoint
from sam_train.runtime.inference import (
    autocast,
    check_inference,
    find_device,
    start_inference,
)
from sam_train.runtime.parts import Part
from sam_train.settings.run import RunConfig

log = logging.getLogger("sam_train")

_SECONDS_BETWEEN_LINES = 20.0
_NUMBERED = re.compile(r"sa_(0|[1-9][0-9]{0,9})")
# What only decides about speed; everything else the output depends on.
_FREE = {"points_per_batch", "crops_per_batch", "input", "output", "part", "parts"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What all processes did so far."""

    photos: int
    """In the input."""
    done: int
    masks: int
    skipped: dict[str, int]
    """Photos that could not be used, by reason."""
    complete: bool
    """Whether nothing is left to do."""


def generate(overrides: Sequence[str]) -> Summary:
    """Find the masks of `generate.input` with `ckpt` and write them to `generate.output`.

    Several processes (torchrun, srun, a SLURM array, or `generate.part` of `generate.parts`) share
    the photos; the same command again does what is left. Whoever finishes last joins the lists.

    Raises:
        UserError: no checkpoint or photos, a setting that does not fit, an output folder of other
            masks, or not a single photo that can be used.
    """
    cfg = settings_for_checkpoint(["name=generate", *overrides])
    check(cfg.generate)
    check_inference(cfg.trainer)
    part = _part(cfg.generate)
    output = Path(cfg.generate.output or f"{cfg.run_dir}/masks")
    start_inference(cfg, part)
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
    )
    units = units_of(plan)
    with autocast(cfg.trainer, device):
        for unit in part.of(units):
            work.do(unit)
    return work.finish(units)


class _Work:
    """The photos and what is done with them."""

    def __init__(
        self,
        *,
        cfg: GenerateConfig,
        output: Path,
        generator: AutomaticMaskGenerator,
        photos: Sequence[PhotoPlace],
        ids: Sequence[int],
        annotated: Annotated | None,
    ) -> None:
        self._cfg = cfg
        self._generator = generator
        self._photos = photos
        self._ids = ids
        self._annotated = annotated
        self._formats = listed(cfg.formats)
        self._output = output
        self._began = self._said = time.monotonic()
        self._count = 0
        self._remarks = Counter[str]()

    def do(self, unit: Unit) -> None:
        """All photos of a unit that are not done yet, then its files."""
        with_masks = self._output / "unfinished" / f"{unit.name}.jsonl"
        if self._done(unit).is_file():
            return
        journal = open_journal(with_masks)
        if journal is None:
            log.info("unit %s: another process works on it", unit.name)
            return
        with journal:
            if not self._done(unit).is_file():
                self._find(unit, journal)
                self._write(unit, journal)
            journal.remove()

    def _done(self, unit: Unit) -> Path:
        return self._output / "done" / f"{unit.name}.json"

    def _find(self, unit: Unit, journal: Journal) -> None:
        todo = [k for k in range(unit.begin, unit.stop) if self._ids[k] not in journal.records]
        for k, reading in self._read_ahead(todo):
            place, image_id = self._photos[k], self._ids[k]
            try:
                photo = reading.result()
            except BadPhoto as error:
                log.warning("%s is left out: %s", place.name, error)
                journal.append(
                    PhotoRecord(image_id=image_id, source=place.name, skipped=error.kind)
                )
                continue
            self._remarks.update(photo.remarks)
            size = (photo.pixels.shape[0], photo.pixels.shape[1])
            existing = self._annotated.of(place.key, size) if self._annotated else None
            found = self._generator.propose(photo.pixels, existing)
            annotations = writers.annotations_of(found, image_id=image_id)
            if "overlays" in self._formats:
                path = self._output / "overlays" / f"{image_id}_{place.key}.png"
                writers.draw_overlay(photo, annotations, path, side=self._cfg.overlay_side)
            journal.append(
                PhotoRecord(
                    image_id=image_id,
                    source=place.name,
                    width=size[1],
                    height=size[0],
                    annotations=annotations,
                )
            )
            self._step()

    def _read_ahead(self, todo: Sequence[int]) -> Iterator[tuple[int, Future[Photo]]]:
        """Each photo, the next one being read meanwhile."""
        with ThreadPoolExecutor(1) as pool:
            waiting: list[tuple[int, Future[Photo]]] = []
            try:
                for k in todo:
                    waiting.append((k, pool.submit(self._photos[k].read)))
                    if len(waiting) > 1:
                        yield waiting.pop(0)
                while waiting:
                    yield waiting.pop(0)
            finally:
                pool.shutdown(cancel_futures=True)

    def _write(self, unit: Unit, journal: Journal) -> None:
        places = {self._ids[k]: self._photos[k] for k in range(unit.begin, unit.stop)}
        records = [journal.records[image_id] for image_id in places]
        if "shards" in self._formats:
            path = shard_path(self._output, unit.number)
            try:
                writers.write_unit_shard(records, lambda k: places[k].read(), path)
            except BadPhoto as error:
                raise UserError(f"a photo went away while it was used: {error}") from error
        if "coco" in self._formats:
            writers.write_unit_coco(records, self._output / "coco" / f"{unit.name}.json")
        writers.write_done(records, self._done(unit))

    def _step(self) -> None:
        """A line now and then."""
        self._count += 1
        now = time.monotonic()
        if now - self._said > _SECONDS_BETWEEN_LINES:
            self._said = now
            log.info("%d photos, %.2f a second", self._count, self._count / (now - self._began))

    def finish(self, units: Sequence[Unit]) -> Summary:
        """Say how far all processes are; join the lists if nothing is left.

        Raises:
            UserError: everything is done, and no photo could be used.
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
        with one_at_a_time(self._output / "done"):
            writers.write_photo_list(rows, self._output / "photos.csv")
            if "coco" in self._formats:
                parts = [self._output / "coco" / f"{unit.name}.json" for unit in units]
                writers.join_coco(parts, self._output / "coco.json")


def _reasons(skipped: Counter[str]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in skipped.most_common())


def _image_ids(photos: Sequence[PhotoPlace]) -> list[int]:
    """SA-1B's own numbers where every photo has one of its own; else its place in the list."""
    named = [_NUMBERED.fullmatch(photo.key) for photo in photos]
    numbers = [int(match[1]) for match in named if match is not None]
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
    """By their full names."""
    of_generate = {f"generate.{k}": v for k, v in asdict(cfg.generate).items() if k not in _FREE}
    return {**of_generate, "trainer.precision": cfg.trainer.precision}


def _part(cfg: GenerateConfig) -> Part:
    if cfg.part is not None and cfg.parts is not None:
        return Part(index=cfg.part, count=cfg.parts)
    return Part.from_environment()
