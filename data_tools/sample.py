"""Write a sample dataset: procedural scenes as SA-1B shards.

    python -m data_tools.sample --out data/sample/train --scenes 1000 --size 256

Photo k of a seed is the same however many photos, shards or workers there are, so a dataset can be
extended or remade piece by piece. Run again with the same arguments, the command keeps complete
shards and writes only what is missing.

With `--zoom`, several photos are taken of each scene. `groups.tsv` says which photo is of which
scene, because photos of one scene are alike. Validation wants scenes rather than photos:

    python -m data_tools.sample --out data/sample/val --photos 64 --zoom 3 --per-scene 1 --seed 1
"""

from __future__ import annotations

import argparse
import io
import json
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from pathlib import Path

from PIL import Image

from data_tools import command
from data_tools.scenes import REVISION, close_up, photos_of_a_scene, render_scene
from sam_train.data.shards import groups_file
from sam_train.data.shards.writer import ShardSample, annotate_masks, shard_path, write_shard
from sam_train.errors import UserError
from sam_train.runtime.files import write_json

MANIFEST = "sample.json"
MASKS_PER_SCENE = 1000
"""Annotation ids of image N are N * MASKS_PER_SCENE and up: unique in the dataset."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleConfig:
    """Settings that decide every byte of a sample dataset."""

    scenes: int = 1000
    """Number of photos."""
    height: int = 256
    """Pixels."""
    width: int = 256
    """Pixels."""
    zoom: float = 1.0
    """Closeness of the camera: 2 shows a quarter of a scene, with everything twice as large."""
    per_scene: int = 0
    """Photos taken of each scene; 0: as many as `zoom` leaves room for, its square."""
    seed: int = 0
    """Seed of the collection; use another one for validation."""
    shard_size: int = 500
    """Photos per tar."""
    revision: int = REVISION
    """Revision of the drawing code: shards drawn by another one are not mixed in."""

    def check(self) -> None:
        """Refuse values that make no dataset, with a UserError."""
        if self.scenes < 1 or self.shard_size < 1:
            raise UserError("--scenes and --shard-size must be at least 1")
        if min(self.height, self.width) < 16:
            raise UserError(f"--size {self.height}x{self.width} is too small: at least 16 a side")
        if not 1 <= self.zoom <= 8:
            raise UserError(f"--zoom {self.zoom} must lie between 1 (the whole scene) and 8")
        if not 0 <= self.per_scene <= photos_of_a_scene(self.zoom):
            raise UserError(
                f"--per-scene {self.per_scene} must be from 1 to {photos_of_a_scene(self.zoom)} "
                f"with --zoom {self.zoom:g}"
            )
        if self.seed < 0:
            raise UserError(f"--seed {self.seed} must not be negative")

    def manifest(self) -> dict[str, int | float]:
        """Return the content of `sample.json`. Folders from before `per_scene` stay as they are."""
        fields: dict[str, int | float] = asdict(self)
        if self._taken == photos_of_a_scene(self.zoom):
            del fields["per_scene"]
        return fields

    @property
    def _taken(self) -> int:
        return self.per_scene or photos_of_a_scene(self.zoom)

    @property
    def distinct_scenes(self) -> int:
        """Number of scenes that the photos show."""
        return -(-self.scenes // self._taken)

    def scene(self, index: int) -> int:
        """Return the number of the scene that photo `index` of the dataset shows."""
        return index // self._taken

    def photo(self, index: int) -> int:
        """Return the place of photo `index` in the endless collection; with `per_scene`, the rest
        of each scene's photos is passed over."""
        return self.scene(index) * photos_of_a_scene(self.zoom) + index % self._taken

    def groups(self) -> dict[str, str]:
        """Return sample name -> scene; empty where each photo shows a scene of its own anyway."""
        if self.zoom == 1:
            return {}
        return {
            f"sa_{self.photo(k) + 1}": f"seed {self.seed} scene {self.scene(k)}"
            for k in range(self.scenes)
        }

    @property
    def shards(self) -> int:
        """Number of tars."""
        return -(-self.scenes // self.shard_size)

    def indices(self, shard: int) -> range:
        """List the numbers of the photos in one tar."""
        first = shard * self.shard_size
        return range(first, min(first + self.shard_size, self.scenes))


def draw_sample(index: int, *, cfg: SampleConfig) -> ShardSample:
    """Return photo `index` as it is stored: encoded, with annotations. A photo keeps its image id,
    from 1, whatever `per_scene` leaves out around it."""
    place = cfg.photo(index)
    scene = close_up(cfg.seed, place, height=cfg.height, width=cfg.width, zoom=cfg.zoom)
    jpeg = io.BytesIO()
    Image.fromarray(scene.image).save(jpeg, "JPEG", quality=scene.jpeg_quality, subsampling=0)
    image_id = place + 1
    return ShardSample(
        image_id=image_id,
        jpeg=jpeg.getvalue(),
        width=cfg.width,
        height=cfg.height,
        annotations=annotate_masks(scene.masks, first_id=image_id * MASKS_PER_SCENE),
    )


def missing_shards(cfg: SampleConfig, out: Path) -> list[int]:
    """List the numbers of the tars that `out` still lacks.

    Raises:
        UserError: `out` holds something else, which is not overwritten.
    """
    manifest = out / MANIFEST
    if manifest.is_file():
        try:
            found = json.loads(manifest.read_text())
        except ValueError as error:
            raise UserError(f"{manifest} is not valid JSON: remove {out} or use another") from error
        if found != cfg.manifest():
            changed = [k for k, v in cfg.manifest().items() if found.get(k) != v]
            changed += [k for k in found if k not in cfg.manifest()]
            raise UserError(
                f"{out} holds sample data made with another {', '.join(changed) or 'setting'}: "
                "remove the folder, choose another --out, or add --overwrite"
            )
    elif out.is_dir() and any(out.glob("*.tar")):
        raise UserError(f"{out} holds shards this command did not write: choose another --out")
    return [shard for shard in range(cfg.shards) if not shard_path(out, shard).is_file()]


def write_sample(
    cfg: SampleConfig, out: Path, *, workers: int = 1, quiet: bool = True
) -> list[Path]:
    """Write what is missing of a dataset and return the tars that were written.

    Args:
        cfg: what to draw.
        out: folder for `sa_000000.tar`, …, and the manifest `sample.json`; made if absent.
        workers: processes; the files do not depend on it.
        quiet: show no progress bar.

    Raises:
        UserError: bad settings, `out` holds something else or cannot be written.
    """
    cfg.check()
    missing = missing_shards(cfg, out)
    if not missing:
        # Shards drawn before there was such a file.
        write_scenes(cfg, out)
        return []
    try:
        # Before the first tar, so that an interrupted run is known again and continued.
        write_json(out / MANIFEST, cfg.manifest())
        write_scenes(cfg, out)
    except OSError as error:
        raise UserError(f"cannot write to {out}: {error.strerror}; choose another --out") from error
    indices = [index for shard in missing for index in cfg.indices(shard)]
    if workers > 1:
        # Compile once here: otherwise every worker would compile the drawing code at the same time.
        render_scene(0, 0, height=32, width=32)
    draw = partial(draw_sample, cfg=cfg)
    processes = min(workers, len(indices)) if workers > 1 else 0
    samples = command.parallel(draw, indices, workers=processes)
    total = len(indices)
    with command.progress("drawing", total=total, unit="scenes", quiet=quiet) as bar:

        def counted() -> Iterator[ShardSample]:
            for sample in samples:
                bar.advance()
                yield sample

        stream = counted()
        for shard in missing:
            write_shard(islice(stream, len(cfg.indices(shard))), shard_path(out, shard))
    return [shard_path(out, shard) for shard in missing]


def write_scenes(cfg: SampleConfig, out: Path) -> None:
    """Write which scene each photo shows, unless it is written or each shows its own."""
    if (groups := cfg.groups()) and not (out / groups_file.NAME).is_file():
        groups_file.write_groups(out, groups)


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)(?:x(\d+))?", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r}: give one side (256) or HEIGHTxWIDTH (480x640)")
    return int(match[1]), int(match[2] or match[1])


def parser() -> argparse.ArgumentParser:
    """Make the command line."""
    default = SampleConfig()
    p = command.parser(
        "sample",
        description="Draw procedural scenes with nested masks and write them as SA-1B shards.",
        examples="example: python -m data_tools.sample --out data/sample/val --photos 200 --seed 1",
    )
    p.add_argument("--out", type=Path, required=True, help="folder for the tars")
    p.add_argument(
        "--photos", "--scenes", dest="scenes", type=int, default=default.scenes, metavar="N",
        help="photos (%(default)s); with --zoom, several may show one scene: see --per-scene",
    )  # fmt: skip
    p.add_argument("--size", type=_size, default="256", help="side, or HEIGHTxWIDTH (%(default)s)")
    p.add_argument(
        "--zoom", type=float, default=default.zoom, help="1 the whole scene, 2 closer (%(default)s)"
    )
    p.add_argument(
        "--per-scene", type=command.between(1, sys.maxsize, int), default=0, metavar="N",
        help="photos of each scene, at most the square of --zoom, which is the default",
    )  # fmt: skip
    p.add_argument("--seed", type=int, default=default.seed, help="of the collection (%(default)s)")
    p.add_argument(
        "--shard-size", type=int, default=default.shard_size, help="photos per tar (%(default)s)"
    )
    command.add_workers(p)
    p.add_argument("--overwrite", action="store_true", help="replace other sample data in --out")
    p.add_argument("--dry-run", action="store_true", help="say what would be written, and stop")
    return p


def run(arguments: Sequence[str] | None = None) -> str:
    """Draw the samples that the command line asks for; returns the closing line."""
    args = parser().parse_args(arguments)
    height, width = args.size
    cfg = SampleConfig(
        scenes=args.scenes,
        height=height,
        width=width,
        zoom=args.zoom,
        per_scene=args.per_scene,
        seed=args.seed,
        shard_size=args.shard_size,
    )
    cfg.check()
    out: Path = args.out
    stale = args.overwrite and _is_other_sample(cfg, out)
    todo = list(range(cfg.shards)) if stale else missing_shards(cfg, out)
    if args.dry_run:
        return f"would write {len(todo)} of {cfg.shards} shards to {out}"
    if not todo:
        write_scenes(cfg, out)
        return f"{out}: {_counted(cfg)} are there already, nothing to do"
    if stale:
        for path in (*out.glob("sa_*.tar"), out / MANIFEST, out / groups_file.NAME):
            path.unlink(missing_ok=True)
    write_sample(cfg, out, workers=args.workers, quiet=False)
    return f"{out}: {_counted(cfg)} of {height}x{width} in {cfg.shards} shards"


def _counted(cfg: SampleConfig) -> str:
    if cfg.distinct_scenes == cfg.scenes:
        return f"{cfg.scenes} scenes"
    return f"{cfg.scenes} photos of {cfg.distinct_scenes} scenes"


def _is_other_sample(cfg: SampleConfig, out: Path) -> bool:
    """Return whether `out` holds sample data, as its manifest shows, that differs from `cfg`."""
    manifest = out / MANIFEST
    return (
        manifest.is_file() and manifest.read_text() != json.dumps(cfg.manifest(), indent=1) + "\n"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns 2 after an error that the user can mend."""
    return command.run(lambda: run(argv), stopped="stopped; run it again to go on")


if __name__ == "__main__":
    sys.exit(main())
