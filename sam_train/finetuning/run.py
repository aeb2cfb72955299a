"""Fine-tuning by one command: look, split, choose, measure, train, measure, hand on.

Everything is settings of `fit`, which are printed; `fit` with them does the same.
"""

from __future__ import annotations

import json
import logging
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from sam_train.data.shards.reader import Shards, open_shards
from sam_train.errors import UserError
from sam_train.eval.clicks.scores import ClickScores
from sam_train.finetuning.cases import cases_in, only_case, read_cases, write_cases
from sam_train.finetuning.choices import OWN_NAME, Choice, Choices, key_of
from sam_train.finetuning.handover import Handed, best_checkpoint, write_weights
from sam_train.finetuning.look import Look, look
from sam_train.finetuning.machine import this_machine
from sam_train.finetuning.measure import SCENES, check_kept, measure_held_out, measure_kept
from sam_train.finetuning.objects import read_objects
from sam_train.finetuning.photos import (
    held_out_photos,
    show_by_model,
    training_photos,
    window_of,
)
from sam_train.finetuning.pictures import draw_look, draw_objects, pick
from sam_train.finetuning.recipe import check_weights, choose, choose_model
from sam_train.finetuning.record import NAME, Record, read_record
from sam_train.finetuning.split import split, write_lists
from sam_train.finetuning.stopping import continue_later
from sam_train.finetuning.tables import forgetting_warning, forgotten, result_table
from sam_train.model.build import resolve
from sam_train.model.load import recorded_model
from sam_train.runtime.devices import check_accelerator
from sam_train.runtime.log import lines_once, quiet, rank_zero, start_log
from sam_train.runtime.text import count
from sam_train.settings.compose import load_config
from sam_train.settings.run import RunConfig, check_config
from sam_train.train.fit import fit, prepare_run_dir

log = logging.getLogger("sam_train")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finetuned:
    """The result of `finetune`."""

    run_dir: Path
    settings: list[str]
    """Settings of the equivalent `fit`."""
    before: ClickScores | None = None
    """The held-out scores of the model as it was given, at its own input size."""
    after: ClickScores | None = None
    """The scores of the best weights; None after a dry run."""
    weights: Path | None = None
    """The best weights as safetensors."""


def finetune(
    train: str | Path,
    *,
    init_from: str | Path,
    settings: Sequence[str] = (),
    dry_run: bool = False,
) -> Finetuned:
    """Train a model further on `train`, as `python -m sam_train finetune` does.

    Args:
        train: photos with masks, as `data.train` takes them.
        init_from: weights to start from.
        settings: further ones as on the command line, such as `run_dir=runs/mine`.
        dry_run: end before anything is measured or trained.

    Raises:
        UserError: settings, files or devices that the user can mend.
        SystemExit: with status 75, the run was stopped on request and continues when called again.
    """
    words = [f"data.train={train}", f"init_from={init_from}", *settings]
    return run(words, dry_run=dry_run)


def run(words: Sequence[str], *, dry_run: bool) -> Finetuned:
    """Run the verb; see `finetune`.

    Args:
        words: settings as typed.
        dry_run: end before anything is measured or trained.
    """
    typed = list(words) if _sets(words, "name") else [OWN_NAME, *words]
    cfg = load_config(typed)
    if not cfg.data.train:
        raise UserError("data.train is not set: name photos with masks, data.train=PATH")
    if not cfg.init_from:
        raise UserError("init_from is not set: name the weights to start from, init_from=sam.pth")
    if cfg.trainer.num_nodes > 1:
        raise UserError("finetune is for one machine: --dry-run prints the `fit` for several")
    # With a stand-in: `data.val` and its measurements are chosen later.
    later = replace(cfg.callbacks, validation=replace(cfg.callbacks.validation, every=1))
    data = replace(cfg.data, val=cfg.data.val or cfg.data.train)
    check_config(replace(cfg, data=data, callbacks=later))
    check_accelerator(cfg.trainer)
    _check_files(cfg)
    run_dir = prepare_run_dir(Path(cfg.run_dir))
    if not rank_zero():
        # A process that Lightning started for the training: the first one has chosen everything.
        record = read_record(run_dir)
        assert record is not None
        fit(record.fit)
        return Finetuned(run_dir=run_dir, settings=record.fit)
    start_log(run_dir / "log.txt")
    with continue_later(), lines_once():
        record = _prepared(typed, cfg, run_dir)
        print(f"\nthe same by hand:\n{by_hand(record.fit)}\n")
        if dry_run:
            return Finetuned(run_dir=run_dir, settings=record.fit)
        return _trained(record, run_dir)


def _check_files(cfg: RunConfig) -> None:
    """Look for the files that are needed late: photos are read for minutes before.

    Raises:
        UserError: one is missing or unreadable.
    """
    if cfg.init_from and ":" not in cfg.init_from:
        recorded_model(Path(cfg.init_from).expanduser())
    if cfg.eval.keep:
        with quiet():
            open_shards(cfg.eval.keep, option="eval.keep", formats=True)


def by_hand(words: Sequence[str]) -> str:
    """Return the command of the equivalent `fit`."""
    return " ".join(["python -m sam_train fit", *(shlex.quote(word) for word in words)])


def _sets(words: Sequence[str], key: str) -> bool:
    return key in map(key_of, words)


def _prepared(typed: list[str], cfg: RunConfig, run_dir: Path) -> Record:
    """Look, split and choose, or take what an earlier call of the same settings chose."""
    record = read_record(run_dir)
    if record is not None and record.typed == typed:
        log.info("%s: continuing; another run_dir= begins anew", run_dir / NAME)
        print("\n".join([*record.found, "", *_lines(record)]))
        return record
    if record is not None and (record.scores or record.best):
        raise UserError(
            f"run_dir={run_dir} was begun with other settings ({run_dir / NAME} has them): the "
            "same command continues it, another run_dir= begins anew"
        )
    machine = this_machine(cfg)
    choices = Choices(typed=typed)
    choose_model(choices)
    cfg = choices.config()
    check_weights(cfg)
    shards = training_photos(cfg)
    if window := window_of(cfg, shards):
        why = "shown black and white, of photos of more than 8 bits: percentiles of these"
        choices.add(f"model.window={json.dumps(window)}", why)
        cfg = choices.config()
        show_by_model(cfg, shards)
    source = str(cfg.data.train)
    found = look(shards, source=source, max_area_fraction=cfg.data.max_area_fraction)
    draw_look(shards, found, run_dir / "look.jpg")
    lines = [*found.lines(), f"some of them with their masks: {run_dir / 'look.jpg'}"]
    print("\n".join(lines))
    held_out, line = _split(shards, found, choices, cfg, run_dir)
    print(f"{line}\n{machine.line()}\n")
    choose(choices, look=found, held_out=held_out, machine=machine)
    check_kept(load_config(choices.words()))
    record = Record(
        typed=typed,
        found=[*lines, line, machine.line()],
        choices=[asdict(one) for one in choices.made],
        fit=choices.words(),
    )
    record.save(run_dir)
    print("\n".join(_lines(record)))
    return record


def _lines(record: Record) -> list[str]:
    made = [Choice(**one) for one in record.choices]
    return [
        "chosen, each to be overruled by a setting of the same name:",
        *Choices(typed=record.typed, made=made).lines(),
    ]


def _split(
    shards: Shards, found: Look, choices: Choices, cfg: RunConfig, run_dir: Path
) -> tuple[int, str]:
    """Hold photos out, unless `data.val` names some; return how many, and a line about it."""
    if cfg.data.val:
        val = held_out_photos(cfg)
        write_cases(cases_in(val, digests={}), run_dir / "split")
        return len(val), f"{count(len(val), 'photo')} to measure on, by data.val"
    same = _as_typed(choices.typed, cfg)
    if not cfg.data.include:
        with quiet():
            own = held_out_photos(cfg)
        # A data set that is divided gives each setting its own part.
        if own.fingerprint != shards.fingerprint:
            choices.add(f"data.val={same}", "its own part for measuring")
            write_cases(cases_in(own, digests={}), run_dir / "split")
            return len(own), f"{count(len(own), 'photo')} to measure on, the data set's own part"
    if cfg.data.mix:
        raise UserError(
            "data.mix: a list of the photos to train on would leave none of its other sets; name "
            "photos to measure on with data.val="
        )
    names = [shards.key(sample) for sample in range(len(shards))]
    digests = {one.name: one.digest for one in found.seen}
    cases = cases_in(shards, digests=digests, without=found.unusable)
    sides = split(list(cases), cases=cases)
    if case := only_case(cases):
        log.warning(
            "all photos look like parts of one case, %s: they are held out one by one, and the "
            "scores may flatter the model; data.val= names photos of another case",
            case,
        )
    write_cases({name: cases[name] for name in sides.val}, run_dir / "split")
    # Photos that cannot be used stay where training counts them.
    held_out = set(sides.val)
    kept = [name for name in names if name not in held_out]
    train, val_list = write_lists(replace(sides, train=kept), run_dir / "split")
    choices.add(f"data.val={same}", "the same photos, other names")
    # The user's own list is part of the new one.
    choices.typed = [word for word in choices.typed if key_of(word) != "data.include"]
    choices.add(f"data.include={train}", "photos to train on")
    choices.add(f"data.val_include={val_list}", "photos held out")
    return len(sides.val), sides.line()


def _as_typed(typed: Sequence[str], cfg: RunConfig) -> str:
    """Return `data.train` in Hydra's grammar, which a mapping's text in python is not."""
    given = [word.partition("=")[2] for word in typed if key_of(word) == "data.train"]
    return given[-1] if given else str(cfg.data.train)


def _trained(record: Record, run_dir: Path) -> Finetuned:
    """Measure, train, measure and hand on; what is done already is not done again."""
    cfg = load_config(record.fit)
    kept = str(cfg.eval.keep) or SCENES
    own = _own_size(cfg)
    before = {f"before, {side} px": _measured(record, run_dir, side) for side in own}
    kept_before = _kept(record, run_dir, "kept before", _at(record.fit, own[0]))
    if not record.best:
        fit(record.fit)
        record.best = str(best_checkpoint(cfg, run_dir))
        record.save(run_dir)
    after = _measured(record, run_dir, None)
    kept_after = _kept(record, run_dir, "kept after", [*record.fit, f"ckpt={record.best}"])
    picture = _draw(cfg, run_dir, side=own[0])
    first = next(iter(before.values()))
    if not record.written:
        handed = Handed(before=first, after=after, pictures=[picture] if picture else [])
        record.written = write_weights(Path(record.best), run_dir, handed=handed, card=cfg.card)
        record.save(run_dir)
    print("\n" + result_table({**before, f"after, {own[-1]} px": after}, what="held-out photos"))
    print("\n" + result_table({"before": kept_before, "after": kept_after}, what=kept))
    if falls := forgotten(kept_before, kept_after):
        log.warning("%s", forgetting_warning(falls, where=kept))
    print("\n".join(["", *record.written, str(run_dir / "objects.jpg"), str(run_dir / NAME)]))
    weights = run_dir / "model.safetensors"
    return Finetuned(
        run_dir=run_dir, settings=record.fit, before=first, after=after, weights=weights
    )


def _own_size(cfg: RunConfig) -> list[int]:
    """Return the input side of the checkpoint as it is given, and that of the run if it differs."""
    side = resolve(cfg.model).image_size
    source = cfg.init_from or ""
    given = None if ":" in source else recorded_model(Path(source).expanduser())
    return list(dict.fromkeys([resolve(given).image_size if given else side, side]))


def _at(words: Sequence[str], side: int) -> list[str]:
    others = [word for word in words if key_of(word) != "model.image_size"]
    return [*others, f"model.image_size={side}"]


def _measured(record: Record, run_dir: Path, side: int | None) -> ClickScores:
    """Measure on held-out photos, once: before at an input side, or after."""
    name = "after" if side is None else f"before_{side}"
    if name not in record.scores:
        log.info("measuring %s", name.replace("_", " at ") + (" px" if side else ""))
        words = [*record.fit, f"ckpt={record.best}"] if side is None else _at(record.fit, side)
        measured = measure_held_out(words, cases=read_cases(run_dir / "split"))
        measured.objects.save(run_dir / f"objects_{name}.json")
        record.scores[name] = measured.scores.to_json()
        record.save(run_dir)
    return ClickScores.from_json(record.scores[name])


def _kept(record: Record, run_dir: Path, name: str, words: Sequence[str]) -> ClickScores:
    """Measure on what the model shall keep, once."""
    if name not in record.scores:
        record.scores[name] = measure_kept(words).to_json()
        record.save(run_dir)
    return ClickScores.from_json(record.scores[name])


def _draw(cfg: RunConfig, run_dir: Path, *, side: int) -> Path | None:
    """Draw objects before and after; return the picture, None where there is no object."""
    before = read_objects(run_dir / f"objects_before_{side}.json")
    after = read_objects(run_dir / "objects_after.json")
    with quiet():
        shards = held_out_photos(cfg)
    path = run_dir / "objects.jpg"
    draw_objects(shards, pick(after, before), before=before, after=after, path=path)
    return path if path.is_file() else None


__all__ = ["Finetuned", "finetune", "run"]
