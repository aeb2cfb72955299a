"""s3:// against a real S3 server (moto's): listing, ranges, a whole dataset, forked workers."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sam_train.data.shards.patterns import resolve
from sam_train.data.shards.reader import open_shards
from sam_train.data.storage.open import open_source
from sam_train.errors import UserError

pytest.importorskip("s3fs", reason="needs the extra s3")
moto_server = pytest.importorskip("moto.server", reason="needs moto[server]")
BUCKET = "s3://photos"


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def store(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The bucket as fsspec sees it, empty."""
    import s3fs  # noqa: PLC0415

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "user")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    s3fs.S3FileSystem.clear_instance_cache()
    store = s3fs.S3FileSystem()
    if store.exists("photos"):
        store.rm("photos", recursive=True)
    store.mkdir("photos")
    return store


def test_a_bucket_is_read_like_a_folder(
    store: Any, shard: Callable[..., Path], tmp_path: Path
) -> None:
    for k in range(2):
        path = shard(3, name=f"sa_{k}.tar", first=3 * k)
        store.put(str(path), f"photos/sub/{path.name}")
    store.pipe("photos/sub/readme.txt", b"")
    urls = [f"{BUCKET}/sub/sa_{k}.tar" for k in range(2)]
    for pattern in ("sub/", "sub/*.tar", "sub/sa_[01].tar", "sub/sa_{0,1}.tar"):
        assert resolve(f"{BUCKET}/{pattern}", option="data.train") == urls
    local = open_shards(str(tmp_path), option="data.train")
    remote = open_shards(f"{BUCKET}/sub/", option="data.train")
    assert [remote.read(k) for k in range(6)] == [local.read(k) for k in range(6)]
    assert [remote.key(k) for k in range(6)] == [local.key(k) for k in range(6)]


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("none/", "matches nothing"),
        ("no_*.tar", "matches nothing"),
        ("gone.tar", "does not exist"),
    ],
)
def test_what_is_not_there_is_named(store: Any, pattern: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        open_shards(f"{BUCKET}/{pattern}", option="data.train")
    assert "\n" not in str(caught.value)


def test_what_is_replaced_or_shortened_is_noticed(
    store: Any, shard: Callable[..., Path], make: Any, tmp_path: Path
) -> None:
    path = shard(2)
    url = f"{BUCKET}/{path.name}"
    store.put(str(path), url)
    source, before = open_source(url), open_source(url).facts()
    shards = open_shards(url, option="data.train")
    other = make.pack(tmp_path / "other", make.sample_files(7) + make.sample_files(8))
    store.pipe(url, other.read_bytes())
    assert source.facts() != before
    with pytest.raises(OSError, match="changed since it was indexed"):
        shards.read(1)
    store.pipe(url, path.read_bytes()[:3000])
    with pytest.raises(OSError, match=r"sa_000000\.tar"):
        shards.read(1)
    store.rm(url)
    with pytest.raises(FileNotFoundError, match=r"sa_000000\.tar does not exist"):
        shards.read(1)


def _child(queue: Any, shards: Any) -> None:
    queue.put(shards.read(1))


def test_a_forked_worker_reads_on(store: Any, shard: Callable[..., Path]) -> None:
    path = shard(2)
    store.put(str(path), f"{BUCKET}/{path.name}")
    shards = open_shards(f"{BUCKET}/{path.name}", option="data.train")
    entry = shards.read(1)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_child, args=(queue, shards))
    child.start()
    assert queue.get(timeout=60) == entry
    child.join()
    assert shards.read(1) == entry


def test_a_store_that_does_not_answer_is_one_line(
    store: Any, shard: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    type(store).clear_instance_cache()
    with pytest.raises(UserError, match="cannot be read") as caught:
        open_shards(f"{BUCKET}/sa_000000.tar", option="data.train")
    assert "\n" not in str(caught.value)
