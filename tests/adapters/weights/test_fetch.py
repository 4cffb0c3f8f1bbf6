"""Fetching as it should go: from a hub, from a mirror, resumed, shared between tasks, over TLS."""

import asyncio
import ssl
from pathlib import Path

import pytest
from tests.adapters.weights.hub_server import (
    REPO,
    Hub,
    broken,
    gguf,
    ranged,
    running,
    safetensors,
    sha,
)
from tests.adapters.weights.makers import (
    PLENTY_BYTES,
    QUICK,
    SHORT,
    folder_digest,
    hub_file,
    make_weights,
    weights_of,
)
from tests.kit.test_tls import write_certificate

from penstock.adapters.weights.courier import Courier
from penstock.adapters.weights.errors import DigestMissing
from penstock.adapters.weights.fetch import Places, Weights
from penstock.adapters.weights.network import authority_of
from penstock.adapters.weights.progress import Progress
from penstock.adapters.weights.room import Bounds, Room
from penstock.adapters.weights.store import WeightStore
from penstock.kit.clock import SystemClock
from penstock.kit.wire.http import Request, Response, Stream
from penstock.spec.weights import WeightFile, spell_listing

MODEL = gguf(3 << 20)
FOLDER = {
    "config.json": b'{"model_type":"llama"}',
    "model-00001-of-00002.safetensors": safetensors(300_000, seed=1),
    "model-00002-of-00002.safetensors": safetensors(200_000, seed=2),
    "sub/tokenizer.json": b'{"version":"1.0"}',
}
BESIDE = {"README.md": b"# read", ".gitattributes": b"x", "pytorch_model.bin": b"\x80\x02."}


async def test_a_file_of_a_hub_comes_with_its_name_and_its_bytes(tmp_path: Path) -> None:
    async with running(Hub({"tiny-q8.gguf": MODEL})) as hub:
        weights = weights_of(tmp_path, hub)
        path = await weights.fetch(hub_file("tiny-q8.gguf"), sha(MODEL))
        assert path.name == "tiny-q8.gguf"
        assert path.read_bytes() == MODEL
        assert path.stat().st_mode & 0o222 == 0
        assert path.stat().st_ino == weights.store.blob(sha(MODEL)).stat().st_ino
        await weights.close()


async def test_what_is_here_is_not_fetched_again(tmp_path: Path) -> None:
    async with running(Hub({"a.gguf": MODEL})) as hub:
        weights = weights_of(tmp_path, hub)
        first = await weights.fetch(hub_file("a.gguf"), sha(MODEL))
        asked = len(hub.asked)
        assert await weights.fetch(hub_file("a.gguf"), sha(MODEL)) == first
        assert len(hub.asked) == asked


async def test_a_folder_holds_the_safe_files_only_and_is_named_by_its_listing(
    tmp_path: Path,
) -> None:
    async with running(Hub({**FOLDER, **BESIDE}, page_max=2)) as hub:
        weights = weights_of(tmp_path, hub)
        digest = await weights.digest(f"hf:{REPO}@main")
        assert digest == folder_digest(FOLDER)
        assert not hub.gets("/cdn/"), "a digest is known without the large files"
        folder = await weights.fetch(f"hf:{REPO}@main", digest)
        found = {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in folder.rglob("*")
            if path.is_file()
        }
        assert found == FOLDER


async def test_a_download_that_breaks_goes_on_where_it_stopped(tmp_path: Path) -> None:
    hub = Hub({"a.gguf": MODEL})
    cuts = [1_500_000, 2_500_000]

    async def cut(request: Request, data: bytes) -> Response | Stream | None:
        if not cuts:
            return None
        first = int(request.header("range")[6:-1] or 0) if request.header("range") else 0
        after = cuts.pop(0) - first
        status = 206 if first else 200
        where = (("content-range", f"bytes {first}-{len(data) - 1}/{len(data)}"),) if first else ()
        headers = (("etag", '"same"'), *where)
        return Stream(status, headers, broken(data[first:], after=after), length=len(data) - first)

    hub.fault = cut
    async with running(hub):
        path = await weights_of(tmp_path, hub).fetch(hub_file("a.gguf"), sha(MODEL))
        assert path.read_bytes() == MODEL
    first, second, third = hub.gets("/cdn/")
    assert first == ""
    starts = [int(ranged_[6:-1]) for ranged_ in (second, third)]
    assert 0 < starts[0] <= 1_500_000 < starts[1] <= 2_500_000


async def test_a_server_without_ranges_is_read_from_the_start(tmp_path: Path) -> None:
    hub = Hub({"a.gguf": MODEL})
    cuts = [2_000_000]

    async def whole(_request: Request, data: bytes) -> Response | Stream | None:
        if cuts:
            return Stream(200, (), broken(data, after=cuts.pop()), length=len(data))
        return Response(200, data)

    hub.fault = whole
    async with running(hub):
        seen: list[Progress] = []
        weights = weights_of(tmp_path, hub)
        path = await weights.fetch(hub_file("a.gguf"), sha(MODEL), on_progress=seen.append)
        assert path.read_bytes() == MODEL
    assert seen[-1].done_bytes == seen[-1].total_bytes == len(MODEL)


async def test_progress_rises_to_the_whole_and_says_from_where(tmp_path: Path) -> None:
    async with running(Hub(FOLDER)) as hub:
        seen: list[Progress] = []
        await weights_of(tmp_path, hub).fetch(
            f"hf:{REPO}@main", folder_digest(FOLDER), on_progress=seen.append
        )
    total = sum(len(data) for data in FOLDER.values())
    assert [one.done_bytes for one in seen] == sorted(one.done_bytes for one in seen)
    assert seen[-1].done_bytes == seen[-1].total_bytes == total
    assert {one.source for one in seen if one.file} <= {"", f"hf:{REPO}@main"}


async def test_a_mirror_serves_by_digest_a_file_as_well_as_a_folder(tmp_path: Path) -> None:
    listing = spell_listing([WeightFile(name, sha(d), len(d)) for name, d in FOLDER.items()])
    async with running(Hub({**FOLDER, "listing.gguf": listing, "one.gguf": MODEL})) as hub:
        weights = weights_of(tmp_path, hub)
        folder = await weights.fetch(f"{hub.url}/mirror/", sha(listing))
        assert (folder / "sub/tokenizer.json").read_bytes() == FOLDER["sub/tokenizer.json"]
        one = await weights.fetch(f"{hub.url}/mirror/", sha(MODEL))
        assert (one.name, one.read_bytes()) == ("model.gguf", MODEL)


async def test_two_models_share_the_files_they_have_in_common(tmp_path: Path) -> None:
    async with running(Hub(FOLDER)) as hub:
        weights = weights_of(tmp_path, hub)
        await weights.fetch(f"hf:{REPO}@main", folder_digest(FOLDER))
        hub.files = {**FOLDER, "config.json": b'{"model_type":"llama","new":1}'}
        hub.asked.clear()
        await weights.fetch(f"hf:{REPO}@main", folder_digest(hub.files))
        assert not hub.gets("/cdn/")


async def test_tasks_that_want_the_same_wait_for_one_download(tmp_path: Path) -> None:
    hub = Hub({"a.gguf": MODEL})
    gate = asyncio.Event()

    async def slow(request: Request, data: bytes) -> Response | Stream | None:
        await gate.wait()
        return ranged(request, data)

    hub.fault = slow
    async with running(hub):
        weights = weights_of(tmp_path, hub)
        waits = asyncio.Event()

        def look(progress: Progress) -> None:
            if progress.waits:
                waits.set()

        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(weights.fetch(hub_file("a.gguf"), sha(MODEL), on_progress=look))
                for _ in range(4)
            ]
            await waits.wait()
            gate.set()
        assert len({task.result() for task in tasks}) == 1
        assert len(hub.gets("/cdn/")) == 1


async def test_a_file_at_a_url_over_real_tls(tmp_path: Path) -> None:
    certificate = write_certificate(tmp_path)
    trust = ssl.create_default_context(cafile=str(certificate.certificate_path))
    async with running(Hub({"a.gguf": MODEL}), tls=certificate.context()) as hub:
        clock = SystemClock()
        store = WeightStore(tmp_path / "weights", clock)
        weights = Weights(
            store,
            Room(store, Bounds(1 << 30, 0), free_bytes=lambda _: PLENTY_BYTES),
            courier=Courier(frozenset({authority_of(hub.url)}), SHORT, tls_context=trust),
            clock=clock,
            places=Places(hub=hub.url),
            patience=QUICK,
        )
        path = await weights.fetch(f"{hub.url}/{REPO}/resolve/main/a.gguf", sha(MODEL))
        assert path.read_bytes() == MODEL
        await weights.close()


async def test_a_local_file_is_used_where_it_is_and_held_against_its_digest(tmp_path: Path) -> None:
    place = tmp_path / "mine.gguf"
    place.write_bytes(MODEL)
    weights = make_weights(tmp_path / "weights")
    assert await weights.digest(f"file:{place}") == sha(MODEL)
    assert await weights.fetch(f"file:{place}", sha(MODEL)) == place
    assert not list((tmp_path / "weights/sha256").iterdir())


async def test_without_a_digest_nothing_is_fetched(tmp_path: Path) -> None:
    async with running(Hub({"a.gguf": MODEL})) as hub:
        weights = weights_of(tmp_path, hub)
        for want in ("", "sha256:" + sha(MODEL), sha(MODEL).upper()):
            with pytest.raises(DigestMissing, match="model_digest"):
                await weights.fetch(hub_file("a.gguf"), want)
        with pytest.raises(DigestMissing):
            await weights.digest(f"{hub.url}/a.gguf")
        assert not hub.asked


async def test_a_holder_keeps_what_it_fetched_and_a_failed_fetch_holds_nothing(
    tmp_path: Path,
) -> None:
    async with running(Hub({"a.gguf": MODEL})) as hub:
        weights = weights_of(tmp_path, hub)
        await weights.fetch(hub_file("a.gguf"), sha(MODEL), holder="m/i-1")
        assert weights.store.holders(sha(MODEL)) == {"m/i-1"}
        other = sha(b"another")
        with pytest.raises(Exception, match="No source"):
            await weights.fetch(hub_file("a.gguf"), other, holder="m/i-2")
        assert not weights.store.holders(other)
