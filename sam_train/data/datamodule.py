"""The loaders for a Lightning Trainer."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any

from lightning.pytorch import LightningDataModule

from sam_train.data.config import DataConfig, check, tile_grid
from sam_train.data.feed.loader import Loader, SizedLoader, make_train_loader, make_val_loader
from sam_train.data.feed.mix import MixedShards, open_mix
from sam_train.data.feed.stream import (
    Consumed,
    StreamLoader,
    StreamShards,
    make_stream_loader,
    open_stream,
)
from sam_train.data.feed.turns import Turns
from sam_train.data.photos.rule import PhotoRule, rule_of
from sam_train.data.sample.survey import Grid, Survey, report, report_scored, survey
from sam_train.data.shards.fingerprint import Fingerprint, require_same
from sam_train.data.shards.groups_file import NAME as GROUPS_FILE
from sam_train.data.shards.groups_file import groups_of
from sam_train.data.shards.reader import Shards, open_shards
from sam_train.data.skip_report import describe
from sam_train.data.skips import READ, Skips, Tally
from sam_train.errors import UserError
from sam_train.runtime.dist import gather

log = logging.getLogger(__name__)


class SamDataModule(LightningDataModule):
    """Training and validation batches for a Lightning Trainer.

    Ranks, accumulation and the step come from the Trainer where there is one. The order is ours:
    a Trainer needs no sampler of its own.
    """

    def __init__(
        self,
        cfg: DataConfig,
        *,
        image_size: int,
        grid_size: int,
        seed: int,
        start_position: int = 0,
        accumulate: int | None = None,
        photos: PhotoRule | None = None,
    ) -> None:
        """Args:
            image_size: S.
            grid_size: R.
            start_position: first position of the order that this run consumes.
            accumulate: micro-batches per optimizer step; None asks the Trainer.
            photos: the way that photos beyond 8-bit RGB are shown.

        Raises:
            UserError: a setting means nothing.
        """
        super().__init__()
        check(cfg)
        self.cfg = cfg
        self.image_size = image_size
        self.grid_size = grid_size
        self.seed = seed
        self.hash_images = False
        """True, set before the loaders are made: batches carry `image_hashes`."""
        self.start_position = start_position
        self._photos = photos or PhotoRule()
        self._start_step = 0
        self._accumulate = accumulate
        self._stream: StreamLoader | None = None
        self._consumed = Consumed()
        self._train: Shards | None = None
        self._opened: Shards | None = None
        self._val: Shards | None = None
        self._fingerprint: Fingerprint | None = None
        # Made here, before any worker is forked, since all of them count in the same memory.
        self._train_skips = Skips(workers=cfg.workers, max_fraction=cfg.max_skip_fraction)
        self._val_skips = Skips(workers=cfg.workers, max_fraction=cfg.max_skip_fraction)

    def setup(self, stage: str | None = None) -> None:
        """Index the shards that the stage needs; called by all ranks.

        Raises:
            UserError: a shard is missing, empty or unreadable, or other ranks see other samples.
        """
        if stage in {None, "fit"} and self._train is None:
            if self.cfg.mode == "stream" and not self.cfg.mix:
                if len(self._photos.bands) > 3:
                    raise UserError(
                        "data.mode=stream reads JPEGs, which have three bands: leave model.bands "
                        "out, or set data.mode=indexed and name a data set's format"
                    )
                self._train = open_stream(self.cfg, option="data.train")
            else:
                self._train = self._open_train()
            if isinstance(self._train, MixedShards):
                self._report_mix(self._train)
            self._fingerprint = self._train.fingerprint
            # Before the survey, which only the first rank reads.
            option = self._train_option
            require_same(self._fingerprint, option=option)
            if not isinstance(self._train, StreamShards):
                found = self._survey(self._train, limit=self.cfg.limit)
                fraction = self.cfg.max_skip_fraction
                report(found, option=option, max_skip_fraction=fraction)
        if stage in {None, "fit", "validate"} and self._val is None and self.cfg.val:
            self._val = self._open(self.cfg.val, option="data.val", include=self.cfg.val_include)
            require_same(self._val.fingerprint, option="data.val")
            # Jitter is for training: validation photos are whole.
            found = self._survey(self._val, limit=self.cfg.val_images, jitter=False)
            report_scored(found, option="data.val")

    @property
    def _train_option(self) -> str:
        return "data.mix" if self.cfg.mix else "data.train"

    def _open_mix(self) -> MixedShards:
        if self.cfg.train:
            log.info("data.train has no effect: data.mix names all that is trained on")
        return open_mix(self.cfg)

    def _report_mix(self, mixed: MixedShards) -> None:
        # Not where it is opened: `find_window` does that before there is a trainer.
        steps = self.trainer.max_steps if self.trainer is not None else 0
        for line in mixed.lines(samples=max(0, steps) * self.cfg.batch_size):
            log.info("%s", line)

    def find_window(self) -> list[float]:
        """Find the window of the training set and use it; [] where no photo needs one.

        Every process finds the same one, since it follows from the files and their order alone.

        Raises:
            UserError: as `setup`.
        """
        # The tars of `mode=stream` and all other shards hold JPEGs.
        if self.cfg.mode == "stream":
            return []
        self._opened = self._open_train()
        images = [path for part in self._opened.parts for path in part.images()]
        if not images:
            return []
        from sam_train.data.photos.window import find_window  # noqa: PLC0415

        window = find_window(images, rule=self._photos)
        self._photos = rule_of(window, bands=self._photos.bands)
        for part in self._opened.parts:
            part.show_by(self._photos)
        return window

    def _open_train(self) -> Shards:
        if self._opened is not None:
            return self._opened
        if self.cfg.mix:
            return self._shown(self._open_mix())
        return self._open(self.cfg.train, option="data.train", include=self.cfg.include)

    def _open(self, patterns: Any, *, option: str, include: Any = "") -> Shards:
        shards = open_shards(
            patterns,
            option=option,
            index=self.cfg.index,
            exclude=self.cfg.exclude,
            include=include,
            formats=True,
            tiles=tile_grid(self.cfg),
        )
        return self._shown(shards)

    def _shown(self, shards: Shards) -> Shards:
        for part in shards.parts:
            part.show_by(self._photos)
        return shards

    def _survey(self, shards: Shards, *, limit: int | None, jitter: bool = True) -> Survey | None:
        """Count on the first rank what has no cell of the loss grid, and tell the others."""
        # An object counts as seen where the largest factor would show it.
        zoom = max(self.cfg.scale_jitter) if jitter and self.cfg.scale_jitter else 1.0
        grid = Grid(
            image_size=self.image_size,
            cells=self.grid_size,
            mask_sampling=self.cfg.mask_sampling,
            zoom=zoom,
        )
        samples = len(shards) if limit is None else min(limit, len(shards))
        fraction = self.cfg.max_area_fraction
        found = (
            survey(shards, samples=samples, grid=grid, max_area_fraction=fraction)
            # One rank reads, all learn: the answer must be the same, and shards are read once.
            if self._ranks()["rank"] == 0
            else None
        )
        return gather(found)[0]

    @property
    def position(self) -> int:
        """First position that no finished optimizer step has consumed."""
        step = self.trainer.global_step if self.trainer is not None else self._start_step
        # From the step alone, so that a resume needs no counter of its own.
        return self.start_position + (step - self._start_step) * self.cfg.batch_size

    def train_dataloader(self) -> Loader:
        """Make the endless loader; a pass begins at `position`, or with the shards that are not
        consumed."""
        if self._train is None:
            self.setup("fit")
        assert self._train is not None
        common: dict[str, Any] = {
            "image_size": self.image_size,
            "grid_size": self.grid_size,
            "seed": self.seed,
            "skips": self._train_skips,
            "accumulate": self._micro_batches(),
            "hashed": self.hash_images,
            **self._ranks(),
        }
        cfg = self.cfg
        # The bound is a GPU's memory; a CPU has no such limit.
        if self.trainer is not None and self.trainer.strategy.root_device.type == "cpu":
            cfg = replace(cfg, masks_per_gpu=None)
        if isinstance(self._train, StreamShards):
            self._stream = make_stream_loader(self._train, cfg, consumed=self._consumed, **common)
            return Turns(self._stream, turns=self._micro_batches())
        loader = make_train_loader(self._train, cfg, start=lambda: self.position, **common)
        return Turns(loader, turns=self._micro_batches())

    def val_dataloader(self) -> SizedLoader | Sequence[Loader]:
        """Return the loader of validation images, or nothing where `data.val` is not set."""
        if self._val is None:
            self.setup("validate")
        if self._val is None:
            return []
        return make_val_loader(
            self._val,
            self.cfg,
            image_size=self.image_size,
            grid_size=self.grid_size,
            skips=self._val_skips,
            hashed=self.hash_images,
            **self._ranks(),
        )

    def count_photos(self) -> int | None:
        """Count the photos of an epoch and those held out; None where a stream does not know."""
        if self._train is None or isinstance(self._train, StreamShards):
            return None
        held_out = len(self._val) if self._val is not None else 0
        limits = ((len(self._train), self.cfg.limit), (held_out, self.cfg.val_images))
        return sum(count if limit is None else min(count, limit) for count, limit in limits)

    def val_groups(self) -> dict[int, str]:
        """Return which images of `data.val` show the same scene, patient or slide: position ->
        group, from `groups.tsv` beside the shards. Images that no such file names are left out.

        Raises:
            UserError: a file says something else.
        """
        if self._val is None:
            self.setup("validate")
        if self._val is None:
            return {}
        images = len(self._val)
        if self.cfg.val_images is not None:
            images = min(images, self.cfg.val_images)
        groups = groups_of(self._val, samples=images)
        if groups and len(groups) < images:
            log.info(
                "%s names %d of %d held-out images: in intervals each of the others counts alone",
                GROUPS_FILE,
                len(groups),
                images,
            )
        return groups

    def skipped(self) -> dict[str, int]:
        """Count the samples and masks left out so far, by kind, over this rank's workers."""
        totals = Counter(self._train_skips.totals()) + Counter(self._val_skips.totals())
        for shards in (self._train, self._val):
            for row in shards.rows if shards is not None else []:
                totals["without_json"] += row.without_json
                totals["without_jpeg"] += row.without_jpeg
                totals["damaged_shards"] += row.damage is not None
        return {kind: count for kind, count in totals.items() if count and kind not in READ}

    def skip_report(self, combine: Callable[[Tally], Tally]) -> list[str]:
        """Return a line about each set of shards of which something was left out.

        Args:
            combine: adds the tallies of other ranks; called as often on every rank.
        """
        sets = (
            (self._train_option, self._train, self._train_skips),
            ("data.val", self._val, self._val_skips),
        )
        lines = [
            describe(combine(skips.tally()), shards, option=option)
            for option, shards, skips in sets
            if shards is not None
        ]
        return [line for line in lines if line is not None]

    def state_dict(self) -> dict[str, Any]:
        """Return the whole state of the data: one counter, and the step it belongs to.

        A stream adds the shards that were read to their end; indexed shards add a fingerprint, to
        notice other samples.
        """
        step = self.trainer.global_step if self.trainer is not None else self._start_step
        state: dict[str, Any] = {"position": self.position, "step": step}
        if self._stream is not None and isinstance(self._train, StreamShards):
            consumed = self._stream.consumed((step - self._start_step) * self._micro_batches())
            state["stream"] = {"shards": len(self._train.urls), **consumed.as_state()}
        elif self._fingerprint is not None:
            state["samples"] = asdict(self._fingerprint)
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume behind the last position, or the last whole shards, that were consumed.

        Another `batch_size` resumes at the same position. A stream of another number of shards,
        or one whose run was indexed before, begins its order anew, and says so; so does a run of
        other samples, whose order is another.
        """
        self.start_position = state["position"]
        self._start_step = state["step"]
        if self.cfg.mode != "stream":
            # A stream's position says nothing about places in the order of indexed shards.
            if "stream" in state:
                log.warning("the run was read with data.mode=stream: samples may come again early")
            self._compare(state.get("samples"))
            return
        self.setup("fit")
        assert isinstance(self._train, StreamShards)
        saved = state.get("stream", {})
        if saved.get("shards") == len(self._train.urls):
            self._consumed = Consumed.from_state(saved)
        else:
            log.warning("data.mode=stream begins at its first shard: the run had other shards")

    def _compare(self, saved: dict[str, Any] | None) -> None:
        """Warn where the samples are not those of the run that is resumed.

        Args:
            saved: the run's fingerprint; older checkpoints have none.
        """
        if saved is None or self._fingerprint is None:
            return
        before = Fingerprint(**saved)
        if before != self._fingerprint:
            log.warning(
                "%s holds %s, but the run had %s so far: their order is another, so this "
                "epoch leaves some samples out and takes others twice",
                self._train_option,
                self._fingerprint,
                before,
            )

    def _micro_batches(self) -> int:
        if self._accumulate is not None:
            return self._accumulate
        return self.trainer.accumulate_grad_batches if self.trainer is not None else 1

    def _ranks(self) -> dict[str, int]:
        if self.trainer is None:
            return {"rank": 0, "world_size": 1}
        # Asked each time: a Trainer knows its rank only once its strategy is set up.
        return {"rank": self.trainer.global_rank, "world_size": self.trainer.world_size}
