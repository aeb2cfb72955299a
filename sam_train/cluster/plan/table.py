"""A plan as tables in the terminal."""

from __future__ import annotations

from collections.abc import Mapping

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from sam_train.cluster.plan.advice import Way
from sam_train.cluster.plan.estimate import Plan
from sam_train.cluster.plan.memory import GIB
from sam_train.settings.run import RunConfig

PAPER_HOURS, PAPER_GPUS = 68, 256
"""The paper's training of ViT-H on A100 (model card, F)."""


def show(plan: Plan, cfg: RunConfig, way: Way | None) -> None:
    """Print everything."""
    console = Console(highlight=False, soft_wrap=True)
    gpus = plan.nodes * plan.devices
    setting = plan.setting
    machine = f"{plan.nodes} x {plan.devices} {plan.gpu.title}" if gpus > 1 else plan.gpu.title
    console.print(
        f"[bold]{cfg.name}[/]: {cfg.model.name} on {machine}, {setting.strategy}, "
        f"{setting.precision}\n{cfg.data.batch_size} images a step: {setting.images} at a time on "
        f"a GPU, {setting.turns} turn(s), at most {setting.masks} masks each, {plan.rounds} rounds"
    )
    if cfg.trainer.devices in ("auto", "-1"):
        console.print(f"trainer.devices=auto: {plan.devices} GPUs a node are assumed", style="dim")
    console.print(_model(plan))
    console.print(_memory(plan))
    _verdict(console, plan, cfg, way)
    console.print(_run(plan, cfg))
    _notes(console, plan, cfg)


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, title_style="bold")
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left")
    return table


def _model(plan: Plan) -> Table:
    table = _table("Model", "part", "parameters", "TFLOP per image", "share")
    total = sum(plan.flops.values())
    for name in dict.fromkeys([*plan.parameters, *plan.flops]):
        number, flops = plan.parameters.get(name), plan.flops.get(name)
        table.add_row(
            name,
            "" if number is None else f"{number:,}",
            "" if flops is None else f"{flops / 1e12:.3g}",
            "" if flops is None else f"{flops / total:.1%}",
        )
    table.add_section()
    table.add_row("all", f"{sum(plan.parameters.values()):,}", f"{total / 1e12:.3g}", "")
    return table


def _memory(plan: Plan) -> Table:
    modes = list(plan.memory)
    heads = [f"{mode}{' *' if mode == plan.setting.recompute else ''}" for mode in modes]
    table = _table("Memory of a GPU in GiB, by model.checkpoint_blocks", "part", *heads)
    parts = dict.fromkeys(part for memory in plan.memory.values() for part in memory.parts)
    for part in parts:
        sizes = [plan.memory[mode].parts.get(part, 0) for mode in modes]
        if any(sizes):
            table.add_row(part, *(_gib(size) for size in sizes))
    rest = [plan.needed[mode] - plan.memory[mode].tensors for mode in modes]
    table.add_row("context, libraries, gaps", *(_gib(size) for size in rest))
    table.add_section()
    table.add_row("all", *(_fitting(plan, mode) for mode in modes))
    if any(memory.host for memory in plan.memory.values()):
        table.add_row("CPU memory", *(_gib(plan.memory[mode].host) for mode in modes))
    return table


def _fitting(plan: Plan, mode: str) -> str:
    need = plan.needed[mode]
    return f"{'[green]' if need <= plan.room else '[red]'}{_gib(need)}[/]"


def _verdict(console: Console, plan: Plan, cfg: RunConfig, way: Way | None) -> None:
    mode = plan.setting.recompute
    moment = plan.memory[mode].moment
    need, room = _gib(plan.needed[mode]), _gib(plan.room)
    if plan.fits:
        console.print(f"  [green]fits[/]: {need} of {room} GiB, most {moment}")
        return
    console.print(f"  [red]does not fit[/]: {need} of {room} GiB, most {moment}")
    if way is None:
        console.print("  no setting would make it fit: more memory, or a smaller model")
        return
    words = " ".join(way.setting.words(plan.setting))
    other = "" if way.same_training else ", which trains otherwise"
    console.print(f"  the cheapest that would: [bold]{words}[/] ({_gib(way.needed)} GiB){other}")


def _run(plan: Plan, cfg: RunConfig) -> Table:
    speed, feed, saved = plan.speed, plan.feed, plan.checkpoints
    gpus = plan.nodes * plan.devices
    limit = cfg.plan.mfu * speed.at_most / speed.at_mfu
    rows: dict[str, str] = {
        f"images a second at {cfg.plan.mfu:.0%} MFU": _each(speed.at_mfu, gpus),
        "at most, by the card's data sheet": f"{_each(speed.at_most, gpus)}, {limit:.0%} MFU",
        f"hours for {cfg.trainer.max_steps:,} steps": f"{speed.hours:,.1f}",
        "GPU-hours": f"{speed.gpu_hours:,.0f}{_beside_paper(cfg)}",
        "sent per GPU and update": f"{speed.sent_mb:,.0f} MB",
        "read by a node": f"{feed.read_mbs:,.0f} MB/s",
        "CPU cores of a node for samples": f"{feed.cores:.1f} (data.workers={feed.workers})",
        "checkpoint": f"{saved.size / 1e9:.2f} GB, {saved.seconds:.0f} s to write; "
        f"{saved.files} kept",
    }
    table = _table("Run", "", "")
    table.show_header = False
    for name, value in rows.items():
        table.add_row(name, value)
    return table


def _each(images: float, gpus: int) -> str:
    return f"{images:,.2f}" if gpus == 1 else f"{images:,.1f} ({images / gpus:.2f} a GPU)"


def _beside_paper(cfg: RunConfig) -> str:
    if cfg.model.name != "vit_h":
        return ""
    return f" (paper: {PAPER_HOURS * PAPER_GPUS:,}, {PAPER_HOURS} h on {PAPER_GPUS} A100)"


def _notes(console: Console, plan: Plan, cfg: RunConfig) -> None:
    speed = plan.speed
    if speed.at_most < speed.at_mfu:
        console.print(
            f"plan.mfu={cfg.plan.mfu} is more than this card can do here: hours are those of its "
            "data sheet, expect more",
            style="yellow",
        )
    assumed: Mapping[str, object] = {
        "plan.mfu": cfg.plan.mfu,
        "plan.reserve_gib": cfg.plan.reserve_gib,
        "plan.gaps": cfg.plan.gaps,
        "plan.sample_mb": cfg.plan.sample_mb,
        "plan.disk_mbs": cfg.plan.disk_mbs,
        "samples a second per core": plan.feed.samples_per_core,
    }
    listed = ", ".join(f"{name}={value:g}" for name, value in assumed.items())
    console.print(f"counted on fake tensors; assumed: {listed}", style="dim")


def _gib(size: float) -> str:
    return f"{size / GIB:.2f}"
