"""Ways of fine-tuning: a file of this folder registers each under the name of `optim.tune`."""

from sam_train.model.adapters.base import TUNINGS, Tuning, tune, ways_of
from sam_train.model.adapters.frozen import frozen_prefix
from sam_train.runtime.registry import import_all

import_all(__name__, __path__)

__all__ = ["TUNINGS", "Tuning", "frozen_prefix", "tune", "ways_of"]
