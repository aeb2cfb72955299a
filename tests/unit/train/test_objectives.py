"""Objectives: the step and `plan` share their rounds; one objective learns from a single one."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest
import torch

from sam_train.cluster.plan.fake import StepModule
from sam_train.errors import UserError
from sam_train.prompts import Rounds
from sam_train.train.config import TrainerConfig
from sam_train.train.config import check as check_trainer
from sam_train.train.losses import mask_losses
from sam_train.train.module import SamModule
from sam_train.train.objectives import At
from sam_train.train.objectives.base import build_objective


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


steps = load(Path(__file__).with_name("steps.py"))


def test_plan_takes_the_step_of_training() -> None:
    module = steps.build(dtype=torch.float32, points=2)
    batch = steps.batch_of([0, 1])
    module.at = module.cfg.trainer.max_steps - 1
    planned = StepModule(module.cfg, sam=module.sam)
    assert torch.equal(
        planned.rounds_step(planned.encode(batch), batch), module.training_step(batch, 0)
    )


def one_round(step: int) -> SamModule:
    module: SamModule = steps.build(points=3)
    module.cfg.trainer.objective = "one_round"
    module.objective = build_objective(module.cfg)
    module.at = step
    return module


def test_one_round_has_the_gradient_of_a_plain_loop() -> None:
    """Rounds without gradient, then one with it, and torch's own backward."""
    batch = steps.batch_of([0, 1])
    learnt = set()
    for step in range(12):
        module = one_round(step)
        loss = module.training_step(batch, 0)
        loss.backward()
        found = steps.gradients(module)
        assert module.last_rounds is not None
        (r,) = module.last_rounds.numbers
        learnt.add(r)
        if step > 3:
            continue
        module.zero_grad()
        sam, cfg = module.sam, module.cfg
        rounds = Rounds(cfg.prompts, batch, seed=0, step=step, image_size=64, grid_size=16)
        embeddings = sam.encode(batch.images, batch.image_sizes)
        prompts = rounds.first()
        for k in range(r):
            with torch.no_grad():
                prediction = sam.decode(embeddings, batch.image_index, prompts, multimask=k == 0)
                prompts = rounds.next(k + 1, prompts, prediction)
        prediction = sam.decode(embeddings, batch.image_index, prompts, multimask=r == 0)
        terms = mask_losses(prediction, rounds.targets, rounds.valid, cfg=cfg.loss)
        expected = terms.total.mean()
        expected.backward()
        assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
        for name, gradient in steps.gradients(module).items():
            torch.testing.assert_close(found[name], gradient, rtol=1e-6, atol=1e-10)
    assert len(learnt) > 3


def test_one_round_gives_every_parameter_a_gradient() -> None:
    module = one_round(5)
    module.training_step(steps.batch_of([0, 1]), 0).backward()
    assert steps.gradients(module).keys() == {name for name, _ in module.named_parameters()}


PLUGIN = '''
"""Boxes and points, no clicks: the mean error of the mask's logits, and a term of its own name."""

from sam_train.prompts.rounds import Rounds
from sam_train.train.losses import mask_losses
from sam_train.train.objectives import OBJECTIVES, Objective, RoundOutcome


@OBJECTIVES.named("first_only")
class FirstOnly(Objective):
    def number(self, at):
        return 1

    def rounds(self, model, batch, at, embeddings):
        rounds = Rounds(
            self.cfg.prompts, batch, seed=at.seed, step=at.step,
            image_size=model.image_size, grid_size=model.grid_size,
        )
        prompts = rounds.first()
        answer = model.decode(embeddings, batch.image_index, prompts, multimask=True)
        terms = mask_losses(answer, rounds.targets, rounds.valid, cfg=self.cfg.loss)
        terms.named["spread"] = answer.iou.detach().std(1)
        yield RoundOutcome(r=0, prompts=prompts, prediction=answer, terms=terms)
'''


def test_an_objective_from_a_file_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "first_only.py").write_text(PLUGIN)
    load(tmp_path / "first_only.py")
    check_trainer(TrainerConfig(objective="first_only"))
    paper = steps.build(dtype=torch.float32)
    module = steps.build(dtype=torch.float32)
    module.cfg.trainer.objective = "first_only"
    module.objective = build_objective(module.cfg)
    batch = steps.batch_of([0, 1])
    module.training_step(batch, 0).backward()
    assert steps.gradients(module).keys() == {name for name, _ in module.named_parameters()}
    paper.training_step(batch, 0)
    figures = module.last_rounds.figures()
    assert figures.loss == paper.last_rounds.figures().loss[:1]
    assert list(figures.terms) == ["focal", "dice", "iou", "spread"]


def test_an_unknown_objective_is_refused_with_those_there_are() -> None:
    message = "trainer.objective=intractive is not one of interactive, one_round"
    with pytest.raises(UserError, match=re.escape(message)):
        check_trainer(TrainerConfig(objective="intractive"))


def test_rounds_can_be_played_without_gradient_or_trainer() -> None:
    module = steps.build(dtype=torch.float32, points=2)
    batch, at = steps.batch_of([0, 1]), At(seed=0, step=0, progress=1.0)
    with torch.no_grad():
        embeddings = module.objective.encode(module.sam, batch, at)
        outcomes = list(module.objective.rounds(module.sam, batch, at, embeddings))
    assert [outcome.r for outcome in outcomes] == [0, 1, 2, 3, 4]
    assert [outcome.prompts.labels.shape[1] for outcome in outcomes] == [2, 3, 4, 4, 4]
    assert [outcome.prediction.iou.shape[1] for outcome in outcomes] == [3, 1, 1, 1, 1]
