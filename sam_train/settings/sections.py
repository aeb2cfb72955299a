"""Sections of the settings: an owner registers its dataclass, and each field says what it may be.

A field's metadata are the only place that knows its range, whether it is a path, and what becomes
of another value when a run resumes. Messages, quoting and the report on resume are made from them.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, cast, get_args, get_type_hints

from sam_train.errors import UserError

T = TypeVar("T")
Cls = TypeVar("Cls", bound=type)
Check = Callable[[Any], None]

Resume = Literal["refused", "restored", "harmless", "applies", "silent"]
"""The effect of another value than the checkpoint's when a run resumes.

refused: the optimizer's state would not fit. restored: the checkpoint's value is used. harmless:
no effect on what is learnt. applies: training differs from this step on. silent: not compared.
"""

_KEY = "sam_train"


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """A field's range, choices, quoting and effect on resume."""

    minimum: float | None = None
    above: float | None = None
    maximum: float | None = None
    below: float | None = None
    choices: tuple[str, ...] = ()
    path: Literal["", "one", "many"] = ""
    """one: a single path, so that a comma is a part of its name. many: one or a bracketed list."""
    resume: Resume | None = None
    """None: as the section."""

    def refuses(self, value: float | str) -> bool:
        """Return whether `value` is out of range or not among the choices; NaN is out of range."""
        if isinstance(value, str):
            return bool(self.choices) and value not in self.choices
        return not (
            (self.minimum is None or value >= self.minimum)
            and (self.above is None or value > self.above)
            and (self.maximum is None or value <= self.maximum)
            and (self.below is None or value < self.below)
        )

    def demand(self, value: float | str) -> str:
        """Return the end of the message about a value that is refused."""
        if self.choices:
            return f": use one of {', '.join(choice or repr('') for choice in self.choices)}"
        if value == math.inf:
            return " must be finite"
        low, high = self.minimum, self.maximum
        below = None if self.below == math.inf else self.below
        top = f"{high:g}" if high is not None else f"below {below:g}" if below is not None else ""
        if self.above is not None:
            bottom = f"above {self.above:g}"
            return (
                f" must be {bottom} and {'' if below else 'at most '}{top}"
                if top
                else (f" must be {bottom}")
            )
        if low is None:
            return f" must be {'' if below else 'at most '}{top}"
        if top:
            return f" must be from {low:g} to {top}"
        return f" must be at least {low:g}" if low else " must not be negative"


def setting(
    default: T,
    *,
    minimum: float | None = None,
    above: float | None = None,
    maximum: float | None = None,
    below: float | None = None,
    choices: Sequence[str] = (),
    path: Literal["", "one", "many"] = "",
    resume: Resume | None = None,
) -> T:
    """Return a dataclass field with its default and what it may be.

    Args:
        default: a list is copied for each instance.
        minimum, above, maximum, below: bounds, the second and the fourth exclusive. `below=inf`
            refuses infinity.
        choices: the only texts that are taken.
        path: `one` for a path, `many` for one or several.
        resume: the effect of another value when a run resumes; left out, the section's.
    """
    said = Setting(
        minimum=minimum,
        above=above,
        maximum=maximum,
        below=below,
        choices=tuple(choices),
        path=path,
        resume=resume,
    )
    made: Any = dataclasses.field(default=default, metadata={_KEY: said})
    if isinstance(default, list):
        made = dataclasses.field(default_factory=lambda: copy.copy(default), metadata={_KEY: said})
    return cast(T, made)


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A registered dataclass."""

    name: str
    cls: type
    order: int
    resume: Resume | None


SECTIONS: dict[str, Section] = {}
"""The registered sections, by name."""
_RUN_CHECKS: list[Check] = []


def section(name: str, *, order: int = 1000, resume: Resume | None = None) -> Callable[[Cls], Cls]:
    """Register the dataclass below as the section `name` of the settings.

    Args:
        name: the beginning of its settings' names on the command line.
        order: sections are listed by it, then by name.
        resume: the effect of its settings when a run resumes with another value; each field may
            say its own. Without it every field must.

    Raises:
        ValueError: another class has the name.
    """

    def register(cls: Cls) -> Cls:
        there = SECTIONS.get(name)
        if there is not None and (there.cls.__module__, there.cls.__qualname__) != (
            cls.__module__,
            cls.__qualname__,
        ):
            raise ValueError(f"two sections are called {name}: {there.cls} and {cls}")
        SECTIONS[name] = Section(name=name, cls=cls, order=order, resume=resume)
        return cls

    return register


def run_check(check: Check) -> Check:
    """Register a function that refuses settings of a training run; it is given the whole run's.

    Ranges and choices need none: the fields' metadata say them.
    """
    _RUN_CHECKS.append(check)
    return check


def sections() -> list[Section]:
    """Return the registered sections in their order."""
    return sorted(SECTIONS.values(), key=lambda one: (one.order, one.name))


def run_checks() -> list[Check]:
    """Return the checks of a training run, in an order that no import changes."""
    return sorted(_RUN_CHECKS, key=lambda check: (check.__module__, check.__qualname__))


def check_section(cfg: Any, name: str | None = None) -> None:
    """Refuse a value of `cfg` that is out of range or not among its choices.

    Args:
        cfg: an instance of a registered dataclass, or of any other with `name`.
        name: under which messages name it; left out, the registered one.

    Raises:
        UserError: names the setting and what it may be.
    """
    if name is None:
        name = next(one.name for one in SECTIONS.values() if one.cls is type(cfg))
    for field in dataclasses.fields(cfg):
        key, value = f"{name}.{field.name}", getattr(cfg, field.name)
        if dataclasses.is_dataclass(value):
            check_section(value, key)
        elif isinstance(value, list):
            for index, item in enumerate(value):
                if dataclasses.is_dataclass(item):
                    check_section(item, f"{key}[{index}]")
        elif isinstance(value, int | float | str):
            said = metadata_of(field)
            if said.refuses(value):
                optional = type(None) in get_args(get_type_hints(type(cfg))[field.name])
                null = ", or null" if optional else ""
                raise UserError(f"{key}={value}{said.demand(value)}{null}")


def metadata_of(field: dataclasses.Field[Any]) -> Setting:
    """Return what a field's metadata say; nothing, for a field without."""
    return field.metadata.get(_KEY) or Setting()


def settings_of(schema: type) -> Iterator[tuple[str, Setting]]:
    """Yield every setting below a dataclass of sections, dotted, with its effect on resume.

    Args:
        schema: `RunConfig`, or that with the sections of plug-ins.
    """
    for field in dataclasses.fields(schema):
        found, inner = SECTIONS.get(field.name), _inner(field)
        if found is not None and inner is found.cls:
            yield from _below(found.cls, f"{field.name}.", found.resume)
        else:
            yield field.name, metadata_of(field)


def _below(cls: type, prefix: str, resume: Resume | None) -> Iterator[tuple[str, Setting]]:
    for field in dataclasses.fields(cls):
        inner, said = _inner(field), metadata_of(field)
        effect = said.resume or resume
        if inner is not None:
            yield from _below(inner, f"{prefix}{field.name}.", effect)
        else:
            yield f"{prefix}{field.name}", dataclasses.replace(said, resume=effect)


def _inner(field: dataclasses.Field[Any]) -> type | None:
    """Return the dataclass that a field holds an instance of; None for a plain value."""
    made: Any = field.default_factory
    return made if isinstance(made, type) and dataclasses.is_dataclass(made) else None
