"""The cache on disk: what is linked where, who holds what, what a crash leaves, what leaves."""

import os
import tempfile
from pathlib import Path

import pytest
from tests.adapters.weights.hub_server import gguf, safetensors, sha
from tests.adapters.weights.makers import SetClock

from penstock.adapters.weights import store as store_module
from penstock.adapters.weights.errors import NotFetched
from penstock.adapters.weights.model import Model, model_of_file, model_of_folder
from penstock.adapters.weights.part import Part
from penstock.adapters.weights.store import WeightStore, blob_lock, link, model_lock, size_of
from penstock.spec.weights import WeightFile

ONE = gguf(5_000)
SHARED = Path("/dev/shm")


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture
def store(tmp_path: Path, clock: SetClock) -> WeightStore:
    return WeightStore(tmp_path, clock)


def put(store: WeightStore, data: bytes) -> str:
    part = Part(store.partial(sha(data)))
    part.append([data])
    part.move(store.blob(sha(data)))
    part.close()
    return sha(data)


def keep(store: WeightStore, files: dict[str, bytes]) -> Model:
    listed = tuple(
        WeightFile(name, put(store, data), len(data)) for name, data in sorted(files.items())
    )
    first = listed[0]
    is_folder = len(listed) > 1
    model = (
        model_of_folder(listed)
        if is_folder
        else model_of_file(first.path, first.sha256, first.size_bytes)
    )
    store.publish(model, is_public=True)
    return model


FOLDER = {"a.safetensors": safetensors(100), "sub/config.json": b"{}"}


def test_a_model_of_one_file_is_opened_by_its_name(store: WeightStore) -> None:
    model = keep(store, {"tiny.gguf": ONE})
    path = store.path(model.digest)
    assert path == store.root / "models" / sha(ONE) / "tiny.gguf"
    assert path.read_bytes() == ONE


def test_a_model_of_several_is_a_folder_of_links(store: WeightStore) -> None:
    model = keep(store, FOLDER)
    folder = store.path(model.digest)
    assert (folder / "sub/config.json").read_bytes() == b"{}"
    assert (folder / "a.safetensors").stat().st_nlink == 2
    assert not (folder / "a.safetensors").is_symlink()


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs a second file system")
def test_where_hard_links_cannot_be_made_symbolic_ones_are(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(dir=SHARED) as other:
        blob = Path(other) / "blob"
        blob.write_bytes(b"x")
        if blob.stat().st_dev == tmp_path.stat().st_dev:
            pytest.skip("both folders are on one file system")
        link(blob, tmp_path / "f")
        assert (tmp_path / "f").is_symlink()
        assert (tmp_path / "f").read_bytes() == b"x"


def test_what_is_not_whole_cannot_be_opened(store: WeightStore) -> None:
    model = model_of_file("a.gguf", sha(ONE), len(ONE))
    with pytest.raises(NotFetched, match="penstock miner top"):
        store.path(model.digest)
    store.write_record(model, is_whole=False, is_public=True)
    with pytest.raises(NotFetched):
        store.path(model.digest)


@pytest.mark.parametrize("harm", ["shorter", "gone", "folder gone", "record torn"])
def test_what_was_damaged_on_disk_is_not_opened(store: WeightStore, harm: str) -> None:
    model = keep(store, {"tiny.gguf": ONE})
    path = store.path(model.digest)
    if harm == "shorter":
        path.chmod(0o644)
        path.write_bytes(ONE[:-1])
    elif harm == "gone":
        path.unlink()
    elif harm == "folder gone":
        path.unlink()
        path.parent.rmdir()
    else:
        (store.root / "index" / f"{model.digest}.json").write_bytes(b'{"digest":')
    with pytest.raises(NotFetched):
        store.path(model.digest)


def test_opening_counts_as_use(store: WeightStore, clock: SetClock) -> None:
    model = keep(store, {"tiny.gguf": ONE})
    clock.ms += 5_000
    store.path(model.digest)
    assert [one.used_ms for one in store.kept()] == [clock.ms]


def test_pins_count_by_holder_and_outlive_this_process(store: WeightStore, clock: SetClock) -> None:
    model = keep(store, {"tiny.gguf": ONE})
    store.pin(model.digest, "miner-1/i-1")
    store.pin(model.digest, "miner-1/i-2")
    store.unpin(model.digest, "miner-1/i-1")
    again = WeightStore(store.root, clock)
    assert again.holders(model.digest) == {"miner-1/i-2"}
    assert [one.is_pinned for one in again.kept()] == [True]
    again.unpin(model.digest, "miner-1/i-2")
    again.unpin(model.digest, "miner-1/i-2")
    again.unpin(model.digest, "")
    assert [one.is_pinned for one in again.kept()] == [False]


def test_after_a_crash_the_dead_let_go_and_others_do_not(store: WeightStore) -> None:
    model = keep(store, {"tiny.gguf": ONE})
    for holder in ("a/1", "a/2", "b/1", "../x/1"):
        store.pin(model.digest, holder)
    store.unpin_others({"a/2"}, prefix="a/")
    assert store.holders(model.digest) == {"a/2", "b/1", "../x/1"}


def test_dropping_a_model_leaves_what_others_hold(store: WeightStore) -> None:
    first = keep(store, FOLDER)
    second = keep(store, {**FOLDER, "more.json": b"[]"})
    store.drop(first.digest, besides=second.blobs)
    assert store.record(first.digest) is None
    assert store.path(second.digest).is_dir()
    store.drop(second.digest, besides=())
    assert store.kept() == []
    assert not [path for path in store.root.rglob("sha256/*/*") if path.is_file()]


def test_files_of_no_model_are_counted_too(store: WeightStore) -> None:
    put(store, ONE)
    (store.root / "partial" / sha(b"x")).write_bytes(b"123")
    (store.root / "partial" / "nonsense").write_bytes(b"123")
    found = {one.digest: one.blobs for one in store.kept()}
    assert found == {sha(ONE): {sha(ONE): len(ONE)}, sha(b"x"): {sha(b"x"): 3}}
    store.drop(sha(b"x"), besides=())
    assert [one.digest for one in store.kept()] == [sha(ONE)]


async def test_what_is_being_fetched_counts_in_full_and_is_left_alone(store: WeightStore) -> None:
    model = model_of_file("a.gguf", sha(ONE), len(ONE))
    store.write_record(model, is_whole=False, is_public=True)
    (store.root / "partial" / sha(ONE)).write_bytes(ONE[:7])
    (dead,) = store.kept()
    assert (dead.is_pinned, sum(dead.blobs.values())) == (False, 7)
    assert store.here_bytes(model) == 7
    async with store.locks.held(model_lock(model.digest), still=lambda: None):
        (living,) = store.kept()
    assert (living.is_pinned, sum(living.blobs.values())) == (True, len(ONE))


async def test_a_file_that_is_being_written_for_nobody_we_know_is_left_alone(
    store: WeightStore,
) -> None:
    put(store, ONE)
    async with store.locks.held(blob_lock(sha(ONE)), still=lambda: None):
        assert [one.is_pinned for one in store.kept()] == [True]


def test_a_crash_between_a_folder_and_its_record_is_made_good(store: WeightStore) -> None:
    model = keep(store, FOLDER)
    stale = store.root / "models" / f".{model.digest}.{os.getpid()}.tmp"
    stale.mkdir()
    (stale / "rest").write_bytes(b"")
    (store.root / "index" / f"{model.digest}.json").unlink()
    store.publish(model, is_public=True)
    assert not (store.path(model.digest) / "rest").exists()
    assert not stale.exists()


def test_sizes_of_what_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"12")
    assert size_of(tmp_path / "file") == 2
    assert size_of(tmp_path / "none") == size_of(tmp_path / "file" / "below") == -1
    assert store_module.HOLDER_CHARS_MAX >= 64
