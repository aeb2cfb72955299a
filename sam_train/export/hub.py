"""Uploads a Hugging Face folder to the hub, through huggingface_hub."""

from __future__ import annotations

import glob
import re
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from sam_train.errors import UserError

_NAME = re.compile(r"[\w-][\w.-]{0,95}/[\w-][\w.-]{0,95}")


def check_push(name: str) -> None:
    """Refuse what can be known to fail before anything is written.

    Raises:
        UserError: no name of a repository, no huggingface_hub, offline, or no token.
    """
    if not _NAME.fullmatch(name):
        raise UserError(f"push={name} is no repository of the hub; write push=USER/NAME")
    hub = _hub()
    if hub.constants.HF_HUB_OFFLINE:
        raise UserError(
            f"push={name}: HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE forbids the network; unset it or "
            "leave push out"
        )
    if hub.get_token() is None:
        raise UserError(
            f"push={name}: no token of the hub; run `hf auth login` or set HF_TOKEN, or leave push "
            "out"
        )


def push_folder(folder: Path, name: str, *, files: Sequence[Path]) -> str:
    """Upload files of `folder` to the model repository `name` and return its address.

    A repository that does not exist is created, private.

    Args:
        folder: the repository's root.
        name: USER/NAME.
        files: inside `folder`. Others that lie there are nobody's business.

    Raises:
        UserError: the hub refuses it or is out of reach.
    """
    check_push(name)
    hub = _hub()
    # Made here: the package's own functions know the address as it was at the first import.
    api = hub.HfApi()
    try:
        # Weights and pictures may show private data; one that exists keeps its own visibility.
        api.create_repo(name, repo_type="model", private=True, exist_ok=True)
        api.upload_folder(
            repo_id=name,
            folder_path=folder,
            repo_type="model",
            allow_patterns=[glob.escape(file.relative_to(folder).as_posix()) for file in files],
            commit_message="Upload by sam_train export",
        )
    # A ValueError is the hub's opinion of the card's header.
    except (hub.errors.HfHubHTTPError, ValueError) as error:
        raise UserError(f"push={name}: {_reason(error)}; {folder} is written") from error
    except (hub.errors.HTTPError, OSError) as error:
        raise UserError(
            f"push={name}: {hub.constants.ENDPOINT} is out of reach ({_first_line(error)}); "
            f"{folder} is written, push again later"
        ) from error
    return f"{hub.constants.ENDPOINT}/{name}"


def _reason(error: Any) -> str:
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status == 401:
        return "the hub does not know the token (401); run `hf auth login` again"
    if status in (403, 404):
        return f"the token may not write there ({status}); use one with write access to that user"
    return f"the hub refuses it ({getattr(error, 'server_message', None) or _first_line(error)})"


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__


def _hub() -> Any:
    try:
        hub: Any = import_module("huggingface_hub")
    except ImportError as error:
        raise UserError("push= needs huggingface_hub: pip install 'sam_train[hub]'") from error
    # Parts that the package loads only when they are named.
    import_module("huggingface_hub.constants")
    import_module("huggingface_hub.errors")
    return hub
