"""`evaluate task=edges`: the BSDS benchmark of finished maps, or of those that a model makes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sam_train.errors import UserError
from sam_train.eval.frame.records import Record
from sam_train.eval.frame.result import Picture, Row, TaskResult
from sam_train.eval.frame.tasks import Run, Task, register
from sam_train.eval.tasks.edges.config import check
from sam_train.eval.tasks.edges.counts import ImageCounts, check_same_thresholds, count_image
from sam_train.eval.tasks.edges.plot import draw_precision_recall
from sam_train.eval.tasks.edges.readers import Pair, pair_files
from sam_train.eval.tasks.edges.result import PUBLISHED, EdgeResult, Published
from sam_train.runtime.files import write_text
from sam_train.runtime.jobs import SkipItem

if TYPE_CHECKING:
    from sam_train.settings.run import RunConfig

_VERSION = 1
"""Version of thinning and matching; raise it when they change, as it voids older counts."""
_COLUMNS = ("ODS", "OIS", "AP", "R50")


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgeItem:
    """An image of the benchmark."""

    key: str
    """The image's name and a fingerprint of its files, so that a new map is another item."""
    pair: Pair
    """The truth with a photo instead of a map, if the model is to make the map."""


@register
class Edges(Task[EdgeItem]):
    """ODS, OIS, AP and R50 on BSDS500 (paper §7.3, D.2)."""

    name = "edges"
    summary = "edges of BSDS500: precision and recall of boundaries"
    headline = ("", ("ODS", "OIS", "AP", "R50"))

    def check(self, cfg: RunConfig) -> None:
        """Refuse settings that this evaluation cannot run with."""
        check(cfg.edges)

    def needs_model(self, cfg: RunConfig) -> bool:
        """Return False for finished maps."""
        return not cfg.edges.maps

    def settings(self, cfg: RunConfig) -> Mapping[str, Any]:
        """Return the settings that an item's record depends on."""
        edges = cfg.edges
        made = [edges.points_per_side, edges.nms, cfg.trainer.precision]
        return {
            "version": _VERSION,
            "thresholds": edges.thresholds,
            "max_distance": edges.max_distance,
            "made": None if edges.maps else made,
        }

    def items(self, run: Run) -> Sequence[EdgeItem]:
        """List the photos to measure."""
        edges = run.cfg.edges
        if edges.maps:
            pairs = pair_files(Path(edges.maps), Path(edges.ground_truth))
        else:
            from sam_train.eval.tasks.edges.from_sam import pair_photos  # noqa: PLC0415

            pairs = pair_photos(Path(edges.images), Path(edges.ground_truth))
        return [EdgeItem(key=f"{pair.name}@{_fingerprint(pair)}", pair=pair) for pair in pairs]

    def load(self, run: Run, item: EdgeItem) -> Any:
        """Count a finished map, or read the photo."""
        # Counting belongs into `measure`, but its kernels release the GIL: in this thread several
        # maps are counted at once.
        if run.cfg.edges.maps:
            return _count(run, item.pair)
        from sam_train.eval.tasks.edges.from_sam import read_photo  # noqa: PLC0415

        return read_photo(item.pair.edges)

    def measure(self, run: Run, item: EdgeItem, loaded: Any) -> Record:
        """Count the map of a photo, which is kept as `edges/maps/NAME.png`."""
        if run.cfg.edges.maps:
            return asdict(loaded)
        from sam_train.eval.tasks.edges.from_sam import edge_map_of, write_edge_map  # noqa: PLC0415

        edges = run.cfg.edges
        found = edge_map_of(
            run.sam, loaded, points_per_side=edges.points_per_side, nms_iou=edges.nms
        )
        path = self._maps(run) / f"{item.pair.name}.png"
        write_edge_map(found, path)
        return asdict(_count(run, Pair(name=item.pair.name, edges=path, truth=item.pair.truth)))

    def summarise(self, run: Run, records: Sequence[Record]) -> TaskResult:
        """Add up the counts; also write `edges.json`, `edges.png` and the official files."""
        counts = [
            ImageCounts(**{k: v for k, v in record.items() if k != "key"}) for record in records
        ]
        check_same_thresholds(counts)
        found = EdgeResult.of(counts, max_distance=run.cfg.edges.max_distance)
        name = Path(run.cfg.edges.maps or run.source).name
        found.write_official_files(run.folder(self))
        draw_precision_recall({name: found}, run.run_dir / "edges.png")
        write_text(run.run_dir / "edges.json", found.to_json())
        ours = Published(name=name, **found.summary())
        best = found.figures.ods
        return TaskResult(
            task=self.name,
            title="Edges",
            checkpoint=run.cfg.edges.maps,
            figures=dict(found.summary()),
            columns=list(_COLUMNS),
            rows=[_row(ours), *(_row(row, source="paper §7.3") for row in PUBLISHED)],
            pictures=[Picture(path="edges.png", title="precision over recall of boundaries")],
            notes=[
                f"{name}: {len(counts)} images; best threshold {best.threshold:.3f} with precision "
                f"{best.precision:.3f}, recall {best.recall:.3f}",
                "published: the 200 test images of BSDS500",
            ],
            details={"curve": [asdict(point) for point in found.figures.curve.points()]},
        )

    def _maps(self, run: Run) -> Path:
        folder = run.folder(self) / "maps"
        folder.mkdir(parents=True, exist_ok=True)
        return folder


def _count(run: Run, pair: Pair) -> ImageCounts:
    edges = run.cfg.edges
    try:
        return count_image(pair, thresholds=edges.thresholds, max_distance=edges.max_distance)
    except UserError as error:
        raise SkipItem("file damaged, or of another size than its truth", str(error)) from None


def _fingerprint(pair: Pair) -> str:
    found = hashlib.blake2b(digest_size=6)
    for path in (pair.edges, pair.truth):
        try:
            found.update(hashlib.blake2b(path.read_bytes()).digest())
        except OSError as error:  # not an error here: the item is skipped with the reason
            found.update(str(error.strerror).encode())
    return found.hexdigest()


def _row(row: Published, *, source: str = "measured") -> Row:
    values = dict(zip(_COLUMNS, (row.ods, row.ois, row.ap, row.r50), strict=True))
    return Row(name=row.name, values=dict(values), source=source)
