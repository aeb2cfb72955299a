"""Means per round over masks."""

from __future__ import annotations

import pytest
import torch

from sam_train.train.losses import LossTerms
from sam_train.train.objectives import RoundOutcome
from sam_train.train.records import RoundLog
from sam_train.types import Prediction, Prompts


def test_the_carried_mask_is_the_one_of_highest_predicted_iou() -> None:
    log = RoundLog()
    total = torch.tensor([1.0, 3.0], requires_grad=True)
    rounds = [
        ([[0.2, 0.9, 0.1], [0.4, 0.3, 0.5]], [[0.7, 0.6, 0.5], [0.1, 0.2, 0.3]]),
        ([[0.8], [0.6]], [[0.5], [0.9]]),
    ]
    for r, (predicted, real) in zip((4, 7), rounds, strict=True):
        none = torch.zeros(2)
        terms = LossTerms(
            total=total,
            named={"focal": torch.tensor([0.5, 0.1]), "iou": none},
            real_iou=torch.tensor(real),
            best=torch.zeros(2, dtype=torch.int64),
        )
        prediction = Prediction(mask_logits=torch.zeros(2, 1, 1, 1), iou=torch.tensor(predicted))
        prompts = Prompts(coords=torch.zeros(2, 2, 2), labels=torch.zeros(2, 2).long())
        log.add(RoundOutcome(r=r, prompts=prompts, prediction=prediction, terms=terms))
    figures = log.figures()
    assert figures.loss == pytest.approx([2.0, 2.0])
    assert figures.iou == pytest.approx([(0.6 + 0.3) / 2, 0.7])
    assert figures.predicted_iou == pytest.approx([(0.9 + 0.5) / 2, 0.7])
    assert figures.numbers == [4, 7]
    assert figures.terms == {"focal": pytest.approx([0.3, 0.3]), "iou": [0.0, 0.0]}
    # What is kept of a step must not keep its graph alive.
    assert not any(sums.requires_grad for sums in log.sums)
