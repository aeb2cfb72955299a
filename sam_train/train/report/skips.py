"""A report of skipped samples at the end of a run, over all ranks."""

from __future__ import annotations

import logging

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from sam_train.data.datamodule import SamDataModule
from sam_train.data.skips import Tally, add_up
from sam_train.runtime.dist import gather

log = logging.getLogger(__name__)


class SkipReport(Callback):
    """A line for the training shards and one for the validation shards, if there is any."""

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count over all ranks; every rank calls this once per set of shards."""
        self._report(trainer, together=True)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Report this rank's own counts: the others may be gone."""
        self._report(trainer, together=False)

    @staticmethod
    def _report(trainer: Trainer, *, together: bool) -> None:
        data = getattr(trainer, "datamodule", None)
        # Other data modules are trained with, too, and count no skips.
        if not isinstance(data, SamDataModule):
            return
        lines = data.skip_report(_over_ranks if together else lambda tally: tally)
        if trainer.is_global_zero:
            for line in lines:
                log.warning("%s", line)


def _over_ranks(tally: Tally) -> Tally:
    return add_up(gather(tally))
