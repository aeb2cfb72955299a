"""`python -m sam_train.cluster.doctor.settings KEY [SETTING ...]`: a setting, for scripts."""

from __future__ import annotations

import sys

from omegaconf import OmegaConf

from sam_train.errors import UserError
from sam_train.settings.compose import compose_config


def main(arguments: list[str]) -> None:
    """Print the setting, a list with a line for each entry."""
    key, *overrides = arguments
    try:
        value = OmegaConf.select(compose_config(overrides), key)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    print(*value if OmegaConf.is_list(value) else [value], sep="\n")


if __name__ == "__main__":
    main(sys.argv[1:])
