"""How torch computes in this process: float32 products and threads."""

from __future__ import annotations

import torch

from sam_train.train.config import TrainerConfig


def set_arithmetic(cfg: TrainerConfig) -> None:
    """Take `trainer.matmul_precision` and `trainer.threads` into force.

    torch leaves cuDNN's convolutions (patch embedding, neck) in TF32 whatever matrix products are
    in; `highest` means float32 for both.
    """
    torch.set_float32_matmul_precision(cfg.matmul_precision)
    torch.backends.cudnn.allow_tf32 = cfg.matmul_precision != "highest"
    if cfg.threads:
        torch.set_num_threads(cfg.threads)
