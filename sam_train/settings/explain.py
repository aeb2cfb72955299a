"""Messages about settings that do not fit, with the nearest thing that does."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from hydra.errors import MissingConfigException
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, InterpolationResolutionError

from sam_train.settings.words import meaning_of

SEE = "See `python -m sam_train fit --cfg job` for all settings"


def explain(error: Exception, keys: Sequence[str]) -> str:
    """Return one line for a person: the setting that does not fit, and the nearest that does.

    Args:
        error: raised by Hydra or OmegaConf.
        keys: every valid setting, as `flat_keys` lists them.
    """
    if isinstance(error, MissingConfigException):
        return _missing_option(error)
    if match := re.match(r"In '([^']+)': \w+ raised while composing", str(error)):
        inner = error.__context__
        if isinstance(inner, Exception):
            return f"conf/{match.group(1)}.yaml: {explain(inner, keys)}"
    root: BaseException = error
    while root.__cause__ is not None:
        root = root.__cause__
    key = str(getattr(root, "full_key", None) or "")
    typed = re.search(r"Could not override '([^']+)'", str(error))
    if isinstance(root, ConfigAttributeError | ConfigKeyError):
        if typed and typed.group(1).startswith(key):
            key = typed.group(1)
        fields = getattr(getattr(root, "object_type", None), "__dataclass_fields__", {})
        # An item of a list does not know its own path, only its dataclass.
        return unknown_setting(key, keys if "." in key or "run_dir" in fields else list(fields))
    if typed and "No match in the defaults list" in str(error):
        return unknown_setting(typed.group(1), keys)
    text = str(root).strip().splitlines()[0].rstrip(".")
    if "is not a subclass of" in text and (meaning := meaning_of(key)):
        return f"{key} is a group of settings and takes no value: {meaning}"
    if isinstance(root, InterpolationResolutionError):
        text += ": ${NAME} in a value stands for the setting NAME"
    return f"{key}: {text}. {SEE}" if key else f"{text}. {SEE}"


def unknown_setting(key: str, keys: Sequence[str]) -> str:
    """Return `no setting is called trainer.max_step: did you mean trainer.max_steps?`."""
    what = f"no setting is called {key}"
    section, _, last = key.rpartition(".")
    same = [k for k in keys if k.rpartition(".")[2] == last]
    # A setting of that very name comes first, unless several sections have one.
    if len(same) != 1 and (meaning := meaning_of(key)):
        return f"{what}: {meaning}"
    if section and section in keys:
        siblings = [k.rpartition(".")[2] for k in keys if k.rpartition(".")[0] == section]
        if near := difflib.get_close_matches(last, siblings, n=1, cutoff=0.5):
            return f"{what}: did you mean {section}.{near[0]}?"
        return f"{what}: {section} has {', '.join(siblings)}"
    if near := difflib.get_close_matches(key, ("experiment", "debug"), n=1, cutoff=0.7):
        return f"{what}: recipes are added with a plus, +{near[0]}=NAME"
    near = same or difflib.get_close_matches(key, keys, n=1, cutoff=0.6)
    return f"{what}: did you mean {near[0]}?" if near else f"{what}. {SEE}"


def flat_keys(tree: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Return every key of nested mappings, dotted, a section before its settings."""
    keys = []
    for name, value in tree.items():
        keys.append(f"{prefix}{name}")
        if isinstance(value, Mapping):
            keys += flat_keys(value, f"{prefix}{name}.")
    return keys


def unreadable(override: str) -> str:
    """Return the message about an override that Hydra's grammar refuses."""
    key, equals, value = override.partition("=")
    if not equals:
        return f"{override} is not understood: settings are KEY=VALUE, see --help"
    return f"{key}: the value {value} cannot be read; quote it for us too: {key}='\"...\"'"


def _missing_option(error: MissingConfigException) -> str:
    group, _, name = str(error.missing_cfg_file).rpartition("/")
    options = sorted(error.options or [])
    near = difflib.get_close_matches(name, options, n=1, cutoff=0.4)
    hint = f": did you mean {near[0]}?" if near else "."
    return f"{group} has no {name}{hint} There are: {', '.join(options)}"
