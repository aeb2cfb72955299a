"""`init_from=` and `ckpt=`: weights for a model from any checkpoint people have.

`kinds.py` decides what a file is. This one fits its tensors to the model. It takes all that fits,
or refuses the file before touching anything; `checks.py` has the refusals.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from sam_train.errors import UserError
from sam_train.model.checkpoints.adapter_folder import is_adapter, read_adapter
from sam_train.model.checkpoints.checks import (
    check_finite,
    check_numbers,
    check_sizes,
    check_start,
    refuse_missing,
)
from sam_train.model.checkpoints.config import InitConfig
from sam_train.model.checkpoints.fitting import fit_tensors
from sam_train.model.checkpoints.kinds import ENCODER_ONLY, KINDS, open_checkpoint
from sam_train.model.checkpoints.report import InitReport, TensorEntry
from sam_train.model.checkpoints.state_dicts import (
    MODULES,
    StateDict,
)


@dataclass(slots=True, kw_only=True)
class _Plan:
    """A file's tensors at the model's shapes, before the model is touched."""

    path: Path
    kind: str
    fitted: StateDict
    report: InitReport


def initialise(sam: nn.Module, init_from: str, cfg: InitConfig) -> InitReport:
    """Copy the weights that `init_from` names into `sam`, in place, to train it on.

    Part of a model is welcome: an image encoder alone, and what `cfg` names. The rest keeps its
    initial values, which the report says.

    Args:
        sam: a model with the three modules of `Sam`, on any device.
        init_from: a path to an official SAM `.pth`, a Hugging Face SAM folder or safetensors, or
            one of our checkpoints (told apart by their names); or `mae:PATH`, `dinov2:PATH`
            (image encoder only, class token dropped; paper A starts from MAE).
        cfg: which modules, and `rest`, a second file for those of which the first holds nothing.

    Returns:
        The fate of every tensor; `str()` of it is a short table.

    Raises:
        UserError: unreadable, foreign or diverged file, a file of another size than the model,
            an unknown module, or a file without an image encoder while `cfg` names no modules.
            The model is untouched then.
    """
    target: StateDict = sam.state_dict()
    plan = _plan(target, init_from, cfg)
    report = plan.report
    fitted = dict(plan.fitted)
    below = _rest(target, plan, cfg) if cfg.rest else None
    if below is not None:
        fitted |= below.fitted
    report.at_random = _entries(target, without=fitted)
    # A prefix asked for the encoder alone; only other files can lack it by mistake.
    if plan.kind not in ENCODER_ONLY:
        check_start(report, named=cfg.modules, path=plan.path)
    # After that check, which is about the first file.
    if below is not None:
        report.add(below.report)
    _copy(fitted, target)
    return report


def _rest(target: StateDict, top: _Plan, cfg: InitConfig) -> _Plan:
    """Read `init.rest` for the modules of which the first file gives nothing."""
    held = {name.split(".", 1)[0] for name in top.fitted}
    # By module, not by tensor: a foreign neck would not fit behind this encoder.
    lacking = [module for module in MODULES if module not in held]
    if not lacking:
        raise UserError(f"init.rest={cfg.rest} is not needed: {top.path} gives all modules")
    return _plan(target, str(cfg.rest), InitConfig(modules=lacking))


def load_whole(
    sam: nn.Module, source: str, cfg: InitConfig, *, beneath: str | None = None
) -> list[InitReport]:
    """Copy weights for every tensor of `sam` into it, in place; nothing may stay random.

    Args:
        sam: as for `initialise`.
        source: as `init_from` of `initialise`.
        cfg: which modules come from `source`.
        beneath: a second file for all that `source` does not give; only read if that is needed.

    Returns:
        A report for each file that was read.

    Raises:
        UserError: as `initialise`, or tensors that no file gives: counted and named.
    """
    target: StateDict = sam.state_dict()
    if is_adapter(source):
        return _load_adapter(sam, source, cfg, beneath=beneath)
    top = _plan(target, source, cfg)
    # By name, not by module: a file may hold a part of a module.
    missing = {name: t for name, t in target.items() if name not in top.fitted}
    reports = [top.report]
    fitted = dict(top.fitted)
    if missing and beneath:
        # `init.modules` chooses from the first file alone.
        below = _plan(target, beneath, InitConfig())
        given = {name: tensor for name, tensor in below.fitted.items() if name in missing}
        fitted |= given
        reports.append(_only(below.report, given, why=f"comes from {top.path.name}"))
        top.report.notes.append(f"{len(given)} other tensors come from {beneath}")
    elif beneath:
        top.report.notes.append(f"init_from={beneath} is not needed: the file holds all tensors")
    missing = {name: t for name, t in missing.items() if name not in fitted}
    if missing:
        refuse_missing(missing, fitted, path=top.path, beneath=beneath, named=cfg.modules)
    _copy(fitted, target)
    return reports


def _load_adapter(
    sam: nn.Module, source: str, cfg: InitConfig, *, beneath: str | None
) -> list[InitReport]:
    """Copy the base's weights into `sam`, then what an adapter's folder changes of them."""
    target: StateDict = sam.state_dict()
    # All that may be refused of the adapter comes before the model is touched.
    adapter = read_adapter(source, modules=_check_modules(cfg.modules))
    adapter.check(target)
    if not beneath:
        raise UserError(
            f"{source}: holds adapters, which mean nothing without the weights they were trained "
            f"on{adapter.hint}; name those, too: init_from=BASE beside ckpt={source}"
        )
    reports = load_whole(sam, beneath, InitConfig())
    return [adapter.put_into(target), *reports]


def _only(report: InitReport, given: StateDict, *, why: str) -> InitReport:
    """Return the report of a file of which only `given` is taken."""
    # Its tensors fit, too, but the first file has them already.
    unused = [e for e in (*report.loaded, *report.resized) if e.name not in given]
    return replace(
        report,
        loaded=[e for e in report.loaded if e.name in given],
        resized=[e for e in report.resized if e.name in given],
        skipped=[*report.skipped, *(replace(e, note=why) for e in unused)],
    )


def _entries(target: StateDict, *, without: StateDict) -> list[TensorEntry]:
    return [
        TensorEntry(name=name, parameters=t.numel(), note=_beginning(name, t))
        for name, t in target.items()
        if name not in without
    ]


def _beginning(name: str, tensor: Tensor) -> str:
    if ".lora_" in name:
        return "a new adapter"
    return "" if tensor.any() else "zeros"


def _copy(fitted: StateDict, target: StateDict) -> None:
    # In place: parameters keep their identity, which an optimizer may hold already.
    with torch.no_grad():
        for name, tensor in fitted.items():
            target[name].copy_(tensor)


def _plan(target: StateDict, init_from: str, cfg: InitConfig) -> _Plan:
    """Read a file and fit all that is asked of it; refuse what cannot be, and touch nothing."""
    modules = _check_modules(cfg.modules)
    opened = open_checkpoint(init_from, modules=modules)
    path, choice, conversion = opened.path, opened.choice, opened.conversion
    report = InitReport(
        source=init_from, kind=KINDS[opened.kind].title, notes=[*choice.notes, *conversion.notes]
    )
    report.skipped += [
        TensorEntry(name=name, parameters=opened.source[name].numel(), note=why)
        for name, why in conversion.skipped.items()
    ]
    report.skipped += [
        TensorEntry(name=name, parameters=tensor.numel(), note="outside the model")
        for name, tensor in choice.outside.items()
    ]
    chosen = {n: t for n, t in conversion.tensors.items() if n.split(".", 1)[0] in modules}
    for name in (name for name in chosen if name in target):
        # Before any shape: packed or empty weights have odd ones, and those would be blamed.
        check_numbers(name, chosen[name], path=path)
    # As a whole before tensor by tensor: "this is a ViT-L" helps more than one shape that differs.
    check_sizes(chosen, target, path=path)
    fitted = fit_tensors(chosen, target, report=report, path=path)
    for name, tensor in conversion.tensors.items():
        if name not in fitted:
            why = "not in this model" if name in chosen or not _is_ours(name) else "not asked for"
            report.skipped.append(TensorEntry(name=name, parameters=tensor.numel(), note=why))
    if unknown := [name for name in chosen if _is_ours(name) and name not in target]:
        report.notes.append(
            f"{len(unknown)} in the modules unknown here, such as {unknown[0]}: the file is of a "
            "changed model, which may answer otherwise"
        )
    for module in cfg.modules:
        if not any(name.startswith(f"{module}.") for name in fitted):
            raise UserError(f"{path}: holds nothing for {module}; check init.modules")
    if not fitted:
        raise UserError(f"{path}: holds nothing that this model has; is it of another program?")
    # Last, because it reads every number.
    check_finite(fitted, path=path)
    return _Plan(path=path, kind=opened.kind, fitted=fitted, report=report)


def _is_ours(name: str) -> bool:
    return name.split(".", 1)[0] in MODULES


def _check_modules(names: list[str]) -> list[str]:
    for name in names:
        if name not in MODULES:
            # Cutoff 0 always guesses: there are three names only.
            near = difflib.get_close_matches(name, MODULES, n=1, cutoff=0.0)[0]
            raise UserError(
                f"init.modules: {name!r} is not one of {', '.join(MODULES)}; meant {near}?"
            )
    return names or list(MODULES)
