"""`evaluate task=probe`: every mask as a vector, and its nearest neighbours."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pycocotools import mask as coco_mask

from sam_train.errors import UserError
from sam_train.eval.datasets import EvalImage, open_datasets, read_specs
from sam_train.eval.datasets.images import EvalSample
from sam_train.eval.frame.groups import read_groups
from sam_train.eval.frame.records import Record
from sam_train.eval.frame.result import Picture, Row, TaskResult, Value
from sam_train.eval.frame.tasks import Run, Task, register
from sam_train.eval.tasks.probe.embed import Crop, cut_out, embed_masks
from sam_train.eval.tasks.probe.nearest import (
    Floats,
    Ints,
    Nearest,
    agreement,
    nearest,
    usual_similarity,
)
from sam_train.eval.tasks.probe.picture import Cell, draw_neighbours
from sam_train.model.config import photo_rule
from sam_train.settings.sections import check_section

if TYPE_CHECKING:
    from sam_train.settings.run import RunConfig

_VERSION = 1
"""Version of the vectors; raise it when they change, as it voids older records."""
_DIGITS = 5
_OPTION = "probe.groups"


@dataclass(slots=True, kw_only=True)
class ProbePhoto:
    """The masks of a photo that are embedded."""

    crops: list[Crop]
    masks: list[int]
    """Positions of the masks among the sample's."""
    names: list[str]
    left_out: dict[str, int]


@dataclass(slots=True, kw_only=True)
class Space:
    """The masks of all photos, and their vectors."""

    vectors: Floats
    """[n, C]."""
    photos: Ints
    """[n] numbers of the records."""
    masks: list[int]
    """n positions among the samples' masks."""
    names: list[str]
    keys: list[str]
    """n keys of items."""


@register
class Probe(Task[EvalImage]):
    """Nearest neighbours of mask embeddings (paper D.6)."""

    name = "probe"
    summary = "probe: masks that the image encoder finds alike"

    def check(self, cfg: RunConfig) -> None:
        """Refuse settings that this evaluation cannot run with."""
        check_section(cfg.probe)
        read_specs(cfg.eval.datasets)
        if cfg.probe.groups:
            read_groups(cfg.probe.groups, columns=cfg.probe.columns, option=_OPTION)

    def settings(self, cfg: RunConfig) -> Mapping[str, Any]:
        """Return the settings that a photo's record depends on, without the choice of photos."""
        return {
            "version": _VERSION,
            "masks": cfg.probe.masks_per_image,
            "margin": cfg.probe.margin,
            "min_area": cfg.eval.min_area,
            "precision": cfg.trainer.precision,
        }

    def items(self, run: Run) -> Sequence[EvalImage]:
        """List the photos to measure."""
        found = open_datasets(
            run.cfg.eval, photos=photo_rule(run.cfg.model), cache=run.run_dir / "datasets"
        )
        images = [image for dataset in found for image in dataset.images]
        self._images = {image.key: image for image in images}
        return images

    def load(self, run: Run, item: EvalImage) -> ProbePhoto:
        """Cut out the photo's largest masks."""
        sample = item.load(min_area=run.cfg.eval.min_area)
        order = sorted(range(len(sample.masks)), key=lambda k: -sample.areas[k])
        # In the sample's order again, as its names and groups are.
        taken = sorted(order[: run.cfg.probe.masks_per_image])
        return ProbePhoto(
            crops=[_crop(sample, k, run.cfg.probe.margin) for k in taken],
            masks=taken,
            names=[sample.names[k] for k in taken],
            left_out=sample.left_out,
        )

    def measure(self, run: Run, item: EvalImage, loaded: ProbePhoto) -> Record:
        """Encode each crop and its mirror image."""
        vectors = embed_masks(run.sam, loaded.crops, batch=run.cfg.probe.batch)
        return {
            "dataset": item.dataset,
            "masks": loaded.masks,
            "names": loaded.names,
            "left_out": loaded.left_out,
            # Rounded: C numbers of each mask are most of the journal's bytes.
            "vectors": vectors.numpy().astype(np.float64).round(_DIGITS).tolist(),
        }

    def summarise(self, run: Run, records: Sequence[Record]) -> TaskResult:
        """Find the neighbours; write the vectors to embeddings.npz and draw the neighbours."""
        cfg, folder = run.cfg.probe, run.folder(self)
        space = _space(records)
        everyone = np.arange(len(space.keys))
        found = nearest(space.vectors, space.photos, everyone, count=cfg.neighbours)
        if (found.index[:, 0] < 0).all():
            raise UserError("probe: all masks are of one photo, and neighbours are of others")
        groups = self._groups(run, space)
        result = _result(space, found, groups)
        np.savez_compressed(
            folder / "embeddings.npz",
            vectors=space.vectors,
            images=np.array(space.keys),
            masks=np.array(space.names),
        )
        self._draw(run, space, found, groups, folder / "neighbours.png")
        result.pictures = [
            Picture(
                path=f"{self.name}/neighbours.png",
                title="masks and their nearest neighbours",
                kind="photo",
            )
        ]
        left_out: Counter[str] = Counter()
        for record in records:
            left_out.update({f"mask: {why}": n for why, n in record["left_out"].items()})
        result.skipped = dict(left_out.most_common())
        result.details["settings"] = {"probe": asdict(cfg), "eval": asdict(run.cfg.eval)}
        return result

    def _groups(self, run: Run, space: Space) -> dict[str, list[str | None]]:
        """Read each mask's group by attribute."""
        cfg = run.cfg.probe
        if not cfg.groups:
            return {}
        table = read_groups(cfg.groups, columns=cfg.columns, option=_OPTION)
        known = []
        for key, name in zip(space.keys, space.names, strict=True):
            image = self._images[key]
            known.append(table.of_masks(image.dataset, image.name, [name]).get(0, {}))
        return {column: [each.get(column) for each in known] for column in table.columns}

    def _draw(
        self,
        run: Run,
        space: Space,
        found: Nearest,
        groups: dict[str, list[str | None]],
        out: Path,
    ) -> None:
        # A mask may have no neighbour where all others are of its photo.
        asked = np.flatnonzero(found.index[:, 0] >= 0)
        places = np.linspace(0, len(asked) - 1, min(run.cfg.probe.queries, len(asked)))
        labels = next(iter(groups.values()), [None] * len(space.keys))
        rows = []
        for query in asked[places.round().astype(np.int64)]:
            cells = [Cell(crop=self._crop(run, space, query), text=labels[query] or "query")]
            for index, similarity in zip(found.index[query], found.similarity[query], strict=True):
                if index >= 0:
                    text = f"{similarity:.3f} {labels[index] or ''}".strip()
                    cells.append(Cell(crop=self._crop(run, space, index), text=text))
            rows.append(cells)
        title = "a mask, and the masks of other photos whose embeddings are nearest (cosine)"
        draw_neighbours(rows, out, title=title)

    def _crop(self, run: Run, space: Space, mask: int) -> Crop:
        sample = self._images[space.keys[mask]].load(min_area=run.cfg.eval.min_area)
        return _crop(sample, space.masks[mask], run.cfg.probe.margin)


def _crop(sample: EvalSample, mask: int, margin: float) -> Crop:
    bitmap = coco_mask.decode(sample.masks[mask]).astype(bool)
    return cut_out(sample.image, bitmap, margin=margin)


def _space(records: Sequence[Record]) -> Space:
    numbers = [n for n, record in enumerate(records) for _ in record["masks"]]
    return Space(
        vectors=np.array([v for r in records for v in r["vectors"]], dtype=np.float32),
        photos=np.array(numbers, dtype=np.int64),
        masks=[int(k) for record in records for k in record["masks"]],
        names=[str(name) for record in records for name in record["names"]],
        keys=[str(records[n]["key"]) for n in numbers],
    )


def _result(space: Space, found: Nearest, groups: Mapping[str, Sequence[str | None]]) -> TaskResult:
    first = found.similarity[:, 0]
    figures: dict[str, Value] = {
        "similarity_nearest": float(np.nanmean(first)),
        "similarity_any": usual_similarity(space.vectors, space.photos),
    }
    whole: dict[str, Value] = {
        "masks": len(space.keys),
        "nearest": figures["similarity_nearest"],
        "any other": figures["similarity_any"],
    }
    rows = [Row(name="similarity (cosine)", values=whole)]
    for column, names in groups.items():
        agreed = agreement(names, space.photos, found)
        if agreed is not None:
            figures |= {f"{column}/same": agreed.share, f"{column}/chance": agreed.chance}
            values: dict[str, Value] = {
                "masks": agreed.masks, "nearest": agreed.share, "any other": agreed.chance
            }  # fmt: skip
            rows.append(Row(name=f"of the same {column}", values=values))
    return TaskResult(
        task="probe",
        title="Latent probe: masks that the image encoder finds alike",
        figures=figures,
        columns=["masks", "nearest", "any other"],
        rows=rows,
        notes=[
            "similarity: of the nearest mask, and of any mask of another photo; of the same: share "
            "of the nearest masks, one of each photo, and of any. The paper shows pictures only "
            "(D.6)"
        ],
    )
