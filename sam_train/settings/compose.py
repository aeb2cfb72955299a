"""The command line becomes typed settings.

Hydra checks every key and type against the schema, so a misspelt key is refused with the nearest
one that exists.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sam_train.errors import UserError
from sam_train.settings.explain import explain, flat_keys, unknown_setting, unreadable
from sam_train.settings.recipes import config_dir
from sam_train.settings.run import RunConfig, schema
from sam_train.settings.sections import settings_of


def _if_same(value: Any, wanted: Any) -> Any:
    """Return `wanted` where `value` is the same, else None."""
    return wanted if value == wanted else None


# For recipes, whose bounds hold for what the paper says and not for what a person types beside it.
OmegaConf.register_new_resolver("if_same", _if_same, replace=True)


def compose_config(overrides: Sequence[str]) -> DictConfig:
    """Compose conf/fit.yaml with `overrides` (Hydra's grammar) and check it against the schema.

    Raises:
        UserError: a key, group or value that does not fit, with the nearest valid one.
    """
    run = schema()
    valid, paths = _register(run)
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        try:
            config = compose("fit", overrides=[readable(text, paths) for text in overrides])
            # Hydra lets `+key=` and `++key=` past the schema; nothing here would ever read it.
            plain = OmegaConf.to_container(config, resolve=False)
            for key in flat_keys(cast(dict[str, Any], plain)):
                if key not in valid:
                    raise UserError(unknown_setting(key, valid))
            return config
        except (HydraException, OmegaConfBaseException) as error:
            raise UserError(explain(error, valid)) from error


def typed(config: DictConfig) -> RunConfig:
    """Return the composed config as dataclasses, with its interpolations resolved.

    Raises:
        UserError: an interpolation that leads nowhere.
    """
    try:
        return cast(RunConfig, OmegaConf.to_object(config))
    except OmegaConfBaseException as error:
        raise UserError(explain(error, keys_of(schema()))) from error


def load_config(overrides: Sequence[str]) -> RunConfig:
    """Compose the settings and return them as dataclasses."""
    return typed(compose_config(overrides))


def readable(override: str, paths: Mapping[str, str]) -> str:
    """Return `override` for Hydra's grammar, with quotes around paths that it would trip over.

    Braces, `=` and brackets mean something in that grammar, paths have them, and the shell takes
    quotes away: data.train=[/sa1b/sa_{000000..000999}.tar], resume=checkpoints/step=500.ckpt.

    Args:
        override: as typed.
        paths: from `paths_of`.

    Raises:
        UserError: it cannot be read even so.
    """
    key, equals, value = override.partition("=")
    kind = paths.get(key)
    candidates = [override]
    if kind and equals:
        listed = value.startswith("[") and value.endswith("]")
        # Not at the commas inside braces: `{a,b}.tar` is one pattern.
        parts = re.split(r",(?![^{]*\})", value[1:-1]) if listed else [value]
        quoted = ",".join(f"'{part.strip()}'" for part in parts)
        candidates.append(f"{key}=[{quoted}]" if listed else f"{key}={quoted}")
    for candidate in candidates:
        try:
            sweeps = OverridesParser.create().parse_override(candidate).is_sweep_override()
        except HydraException:
            continue
        if not sweeps or not kind:
            return candidate
        # a,b: to Hydra two runs, to people a name with a comma or a list without its brackets.
        if kind == "many" and not _exists(value):
            raise UserError(f"{key}: several paths stand in brackets: '{key}=[{value}]'")
    raise UserError(unreadable(override))


def _exists(value: str) -> bool:
    """Return whether `value` is a path that exists, by itself or behind `READER:`."""
    ends = [value, *(value[found.end() :] for found in re.finditer(":", value))]
    return any(Path(end).exists() for end in ends)


_registered: dict[type, tuple[list[str], dict[str, str]]] = {}


def _register(run: type) -> tuple[list[str], dict[str, str]]:
    """Tell Hydra the schema, and return its `keys_of` and `paths_of`.

    All of that takes as long as a composition, so it is done once for each schema in a row.
    """
    if run not in _registered:
        ConfigStore.instance().store(name="schema", node=run)
        _registered.clear()
        _registered[run] = keys_of(run), paths_of(run)
    return _registered[run]


def keys_of(run: type) -> list[str]:
    """Return the name of every setting and section of a schema, dotted."""
    plain = OmegaConf.to_container(OmegaConf.structured(run), resolve=False)
    return flat_keys(cast(dict[str, Any], plain))


def paths_of(run: type) -> dict[str, str]:
    """Return the settings that are paths, with `one` or `many`."""
    return {name: said.path for name, said in settings_of(run) if said.path}
