"""The folder of recipes, conf/."""

from __future__ import annotations

from pathlib import Path

from sam_train.errors import UserError


def config_dir() -> Path:
    """Return the folder of recipes: conf/ of a checkout, or the copy in an installed wheel.

    Raises:
        UserError: neither is there.
    """
    package = Path(__file__).resolve().parents[1]
    for folder in (package.parent / "conf", package / "conf"):
        if (folder / "fit.yaml").is_file():
            return folder
    raise UserError(f"no conf/fit.yaml beside {package}: reinstall sam_train")


def options(group: str) -> list[str]:
    """Return the names of the recipes in a folder of conf/, sorted."""
    return sorted(path.stem for path in (config_dir() / group).glob("*.yaml"))
