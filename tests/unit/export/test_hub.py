"""`push=` with huggingface_hub's own client, against a server on this machine in the hub's place.

It answers the requests that the client makes: create, validate-yaml, preupload, LFS, commit.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from tiny_sam import TINY, tiny

from sam_train.cli import main
from sam_train.errors import UserError
from sam_train.export.hub import check_push, push_folder
from sam_train.export.safetensors_file import save_weights
from sam_train.model import ModelConfig

constants = pytest.importorskip("huggingface_hub.constants")
TOKEN = "hf_local"


@dataclass
class Hub:
    """What the server holds, and how it answers."""

    url: str = ""
    refuse: int = 0
    """Status of every answer; 0 for good ones."""
    created: list[dict[str, Any]] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    tokens: set[str | None] = field(default_factory=set)

    def answer(self, path: str, body: bytes) -> Any:
        if path.endswith("/repos/create"):
            self.created.append(json.loads(body))
            return {"url": f"{self.url}/me/cells"}
        if "/preupload/" in path:
            return {
                "files": [
                    {
                        "path": each["path"],
                        "uploadMode": "lfs" if each["path"].endswith(".safetensors") else "regular",
                        "shouldIgnore": False,
                    }
                    for each in json.loads(body)["files"]
                ]
            }
        if path.endswith("/objects/batch"):
            return {
                "transfer": "basic",
                "objects": [
                    each | {"actions": {"upload": {"href": f"{self.url}/put/{each['oid']}"}}}
                    for each in json.loads(body)["objects"]
                ],
            }
        if path.startswith("/put/"):
            self.objects[path.removeprefix("/put/")] = body
        if "/commit/" in path:
            for line in map(json.loads, body.splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    self.files[value["path"]] = base64.b64decode(value["content"])
                if line["key"] == "lfsFile":
                    self.files[value["path"]] = self.objects[value["oid"]]
            commit = f"{self.url}/me/cells/commit/abc"
            return {"success": True, "commitUrl": commit, "commitOid": "abc", "hookOutput": ""}
        return {}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    state = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            if self.path.startswith("/api/models/") or self.path.startswith("/api/repos/"):
                state.tokens.add(self.headers.get("authorization"))
            refused = state.refuse and not self.path.startswith("/put/")
            content = {"error": "not today"} if refused else state.answer(self.path, body)
            text = json.dumps(content).encode()
            self.send_response(state.refuse if refused else 200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_POST = do_PUT = do_HEAD = answer  # noqa: N815 (the library's names)

        def log_message(self, *_: Any) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{http.server_port}"
    threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True).start()
    monkeypatch.setattr(constants, "ENDPOINT", state.url)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no_token"))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    yield state
    http.shutdown()
    http.server_close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "cells"
    (made / "pictures").mkdir(parents=True)
    (made / "README.md").write_text("---\nlicense: mit\n---\n# cells\n")
    (made / "model.safetensors").write_bytes(bytes(range(256)) * 40)
    (made / "pictures" / "a [1].png").write_bytes(b"png")
    (made / "notes.txt").write_text("private")
    return made


def written(folder: Path) -> list[Path]:
    return [f for f in folder.rglob("*") if f.is_file() and f.name != "notes.txt"]


def test_the_files_arrive_and_no_others(server: Hub, folder: Path) -> None:
    """In a process of its own, led there by HF_ENDPOINT as a person would do it."""
    code = (
        "import sys; from pathlib import Path; from sam_train.export.hub import push_folder\n"
        "folder = Path(sys.argv[1])\n"
        "print(push_folder(folder, 'me/cells', files=[folder / f for f in sys.argv[2:]]))"
    )
    names = [file.relative_to(folder).as_posix() for file in written(folder)]
    # LFS in place of the hub's newer protocol, which no simple server speaks.
    own = {"HF_ENDPOINT": server.url, "HF_HOME": str(folder.parent), "HF_HUB_DISABLE_XET": "1"}
    own |= {"HF_HUB_OFFLINE": "0", "TRANSFORMERS_OFFLINE": "0"}
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder), *names],
        env=os.environ | own,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == f"{server.url}/me/cells"
    assert server.files == {name: (folder / name).read_bytes() for name in names}
    assert set(server.files) == {"README.md", "model.safetensors", "pictures/a [1].png"}
    digest = hashlib.sha256(server.files["model.safetensors"]).hexdigest()
    assert set(server.objects) == {digest}
    (created,) = server.created
    assert (created["organization"], created["name"]) == ("me", "cells")
    assert created["visibility"] == "private"
    assert server.tokens == {f"Bearer {TOKEN}"}


def test_the_verb_pushes_what_it_wrote(
    server: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    model = ModelConfig(name="vit_b", image_size=64, **TINY)
    ckpt = folder.parent / "tiny.safetensors"
    save_weights(tiny(), ckpt, model=model)
    # A card that a person wrote stays, and goes along.
    words = [f"ckpt={ckpt}", f"out={folder}", "format=huggingface", "push=me/cells"]
    main(["export", *words])
    out = capsys.readouterr().out
    assert f"pushed to {server.url}/me/cells; a new repository is private" in out
    assert f"{folder / 'README.md'} was edited by hand" in out
    assert set(server.files) == {
        "README.md",
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
    }
    assert server.files["README.md"].startswith(b"---\nlicense: mit")
    with pytest.raises(SystemExit):
        main(["export", *words, "format=onnx", f"out={folder.parent / 'sam.onnx'}"])
    assert "push=me/cells sends a Hugging Face folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("status", "said"),
    [(401, "does not know the token"), (403, "may not write there"), (400, "not today")],
)
def test_refusals_are_one_line(server: Hub, folder: Path, status: int, said: str) -> None:
    server.refuse = status
    with pytest.raises(UserError, match=said) as caught:
        push_folder(folder, "me/cells", files=written(folder))
    assert "\n" not in str(caught.value)
    assert f"{folder} is written" in str(caught.value)


def test_no_network_is_one_line(server: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Nothing listens at this port: binding it and closing keeps it free for the moment.
    closed = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    closed.server_close()
    address = f"http://127.0.0.1:{closed.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    with pytest.raises(UserError, match=f"{address} is out of reach") as caught:
        push_folder(folder, "me/cells", files=written(folder))
    assert "\n" not in str(caught.value)


def test_what_cannot_be_is_said_before_anything_is_written(
    server: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_push("me/cells")
    with pytest.raises(UserError, match="write push=USER/NAME"):
        check_push("cells")
    with monkeypatch.context() as patch:
        patch.setattr(constants, "HF_HUB_OFFLINE", True)
        with pytest.raises(UserError, match="forbids the network"):
            check_push("me/cells")
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)
    with pytest.raises(UserError, match="no token of the hub"):
        check_push("me/cells")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match="needs huggingface_hub"):
        check_push("me/cells")
