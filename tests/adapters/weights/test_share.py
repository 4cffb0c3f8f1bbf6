"""One miner's cache for another: who is served, what, how much; and a real fetch from miner to miner."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.adapters.weights.hub_server import (
    REPO,
    Hub,
    gguf,
    running,
    safetensors,
    serving,
    sha,
)
from tests.adapters.weights.makers import folder_digest, hub_file, make_weights, weights_of

from penstock.adapters.weights.errors import NoSourceLeft, SourceDenied
from penstock.adapters.weights.fetch import Places, Weights
from penstock.adapters.weights.peers import ListedMiners, signed_ask
from penstock.adapters.weights.share import (
    ASK_HEADER,
    ROUTE,
    Share,
    ShareLimits,
    read_range,
)
from penstock.kit.clock import OffsetClock, SystemClock
from penstock.kit.keys import Ed25519Key, verify
from penstock.kit.wire.client import HttpClient, Reply
from penstock.kit.wire.http import Request, Response, Stream, json_response
from penstock.kit.wire.routes import Routes
from penstock.kit.wire.sockets import Sockets

MODEL = gguf(2 << 20)
FOLDER = {"m.safetensors": safetensors(9_000), "sub/config.json": b'{"a":1}'}
US, STRANGER = Ed25519Key(b"u" * 32), Ed25519Key(b"s" * 32)
CLOCK = SystemClock()
DEADLINE_MS = 30_000

IsMember = Callable[[str], Awaitable[bool]]


async def known(identity: str) -> bool:
    return identity == US.identity


@asynccontextmanager
async def sharing(
    weights: Weights, *, limits: ShareLimits | None = None, is_member: IsMember = known
) -> AsyncIterator[str]:
    """A miner that shares its cache; its URL."""
    share = Share(weights.store, is_member=is_member, verify=verify, clock=CLOCK, limits=limits)
    routes = Routes()
    routes.add("GET", ROUTE, share.serve)
    async with serving(routes) as url:
        yield url


@pytest.fixture
async def full(tmp_path: Path) -> AsyncIterator[Weights]:
    """A cache with a file and a folder from a public hub."""
    async with running(Hub({"a.gguf": MODEL})) as hub:
        weights = weights_of(tmp_path / "first", hub)
        await weights.fetch(hub_file("a.gguf"), sha(MODEL))
        hub.files = FOLDER
        await weights.fetch(f"hf:{REPO}", folder_digest(FOLDER))
        for digest in (sha(MODEL), folder_digest(FOLDER)):
            record = weights.store.record(digest)
            assert record is not None
            # The hub of a test is the operator's own; a stranger's would be public.
            assert not record.is_public
            weights.store.write_record(record.model, is_whole=True, is_public=True)
        yield weights


def peer(root: Path, url: str, *, key: Ed25519Key = US, clock: Any = CLOCK) -> Weights:
    return make_weights(root, Places(ask=signed_ask(key, clock)), trusted=(url,))


async def ask(url: str, digest: str, **headers: str) -> Reply:
    authority = url.removeprefix("http://")
    asked = headers.pop("ask", None) or dict(signed_ask(US, CLOCK)(authority, digest))[ASK_HEADER]
    client = HttpClient(Sockets())
    try:
        return await client.call(
            "GET",
            f"{url}/v1/weights/sha256/{digest}",
            headers=[(ASK_HEADER, asked), *((k.replace("_", "-"), v) for k, v in headers.items())],
            deadline_ms=DEADLINE_MS,
        )
    finally:
        await client.close()


async def test_a_file_goes_from_miner_to_miner(full: Weights, tmp_path: Path) -> None:
    async with sharing(full) as url:
        path = await peer(tmp_path / "second", url).fetch(f"penstock:{url}", sha(MODEL))
        assert path.read_bytes() == MODEL


async def test_a_folder_goes_by_its_listing(full: Weights, tmp_path: Path) -> None:
    async with sharing(full) as url:
        weights = peer(tmp_path / "second", url)
        folder = await weights.fetch(f"penstock:{url}", folder_digest(FOLDER))
        assert (folder / "sub/config.json").read_bytes() == FOLDER["sub/config.json"]
        assert (folder / "m.safetensors").read_bytes() == FOLDER["m.safetensors"]


async def test_a_broken_transfer_between_miners_goes_on_by_range(
    full: Weights, tmp_path: Path
) -> None:
    async with sharing(full) as url:
        weights = peer(tmp_path / "second", url)
        weights.store.partial(sha(MODEL)).write_bytes(MODEL[:700_000])
        path = await weights.fetch(f"penstock:{url}", sha(MODEL))
        assert path.read_bytes() == MODEL


async def test_a_peer_with_a_corrupt_disk_is_found_out_and_the_next_one_asked(
    full: Weights, tmp_path: Path
) -> None:
    async with running(Hub({"a.gguf": MODEL})) as mirror, sharing(full) as url:
        blob = full.store.blob(sha(MODEL))
        blob.chmod(0o600)
        blob.write_bytes(MODEL[:-1] + b"!")
        places = Places(mirrors=(f"{mirror.url}/mirror",), ask=signed_ask(US, CLOCK))
        weights = make_weights(tmp_path / "second", places, trusted=(url, mirror.url))
        path = await weights.fetch(f"penstock:{url}", sha(MODEL))
        assert path.read_bytes() == MODEL


async def test_other_miners_are_asked_when_the_hub_is_gone(full: Weights, tmp_path: Path) -> None:
    async with sharing(full) as url:
        gone = "http://127.0.0.1:9"
        places = Places(hub=gone, peers=(url,), ask=signed_ask(US, CLOCK))
        weights = make_weights(tmp_path / "second", places, trusted=(gone, url))
        path = await weights.fetch(hub_file("a.gguf"), sha(MODEL))
        assert path.read_bytes() == MODEL


async def test_a_stranger_is_refused(full: Weights, tmp_path: Path) -> None:
    async with sharing(full) as url:
        weights = peer(tmp_path / "second", url, key=STRANGER)
        with pytest.raises(NoSourceLeft) as caught:
            await weights.fetch(f"penstock:{url}", sha(MODEL))
        assert isinstance(caught.value.failures[-1][1], SourceDenied)


async def test_a_question_is_good_for_one_file_of_one_miner_for_a_minute(full: Weights) -> None:
    async with sharing(full) as url:
        authority = url.removeprefix("http://")
        late = OffsetClock(CLOCK, -120_000)

        def header(clock: Any, host: str, digest: str) -> str:
            return dict(signed_ask(US, clock)(host, digest))[ASK_HEADER]

        good = header(CLOCK, authority, sha(MODEL))
        for text in (
            header(late, authority, sha(MODEL)),
            header(CLOCK, "other:1", sha(MODEL)),
            header(CLOCK, authority, folder_digest(FOLDER)),
            good[:-8],
            good[:20] + "A" + good[21:],
            "!!!",
            "x" * 5_000,
        ):
            assert (await ask(url, sha(MODEL), ask=text)).status == 403
        assert (await ask(url, sha(MODEL), ask=good)).status == 200


async def test_only_public_whole_models_are_shown(full: Weights) -> None:
    record = full.store.record(sha(MODEL))
    assert record is not None
    async with sharing(full) as url:
        assert (await ask(url, sha(b"unknown"))).status == 404
        full.store.write_record(record.model, is_whole=True, is_public=False)
        assert (await ask(url, sha(MODEL))).status == 404
        full.store.write_record(record.model, is_whole=False, is_public=True)
        assert (await ask(url, sha(MODEL))).status == 404
        full.store.write_record(record.model, is_whole=True, is_public=True)
        assert (await ask(url, sha(MODEL))).body == MODEL


async def test_ranges_and_conditions_are_answered_as_http_says(full: Weights) -> None:
    async with sharing(full) as url:
        part = await ask(url, sha(MODEL), range="bytes=5-9")
        assert (part.status, part.body) == (206, MODEL[5:10])
        assert part.header("content-range") == f"bytes 5-9/{len(MODEL)}"
        changed = await ask(url, sha(MODEL), range="bytes=5-9", if_range='"another"')
        assert (changed.status, len(changed.body)) == (200, len(MODEL))
        same = await ask(url, sha(MODEL), range="bytes=5-9", if_range=f'"{sha(MODEL)}"')
        assert same.status == 206
        beyond = await ask(url, sha(MODEL), range=f"bytes={len(MODEL)}-")
        assert (beyond.status, beyond.header("content-range")) == (416, f"bytes */{len(MODEL)}")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("bytes=0-", (0, 9)),
        ("bytes=3-5", (3, 5)),
        ("bytes=3-99", (3, 9)),
        ("bytes=9-9", (9, 9)),
        ("", (0, 9)),
        ("bytes=-5", (0, 9)),
        ("bytes=1-2,4-5", (0, 9)),
        ("lines=1-2", (0, 9)),
        ("bytes=" + "9" * 30 + "-", (0, 9)),
        ("bytes=10-", None),
        ("bytes=5-3", None),
    ],
)
def test_a_range_is_read(text: str, wanted: tuple[int, int] | None) -> None:
    request = Request("GET", "/", headers={b"range": text.encode()})
    found = read_range(request, 10, etag='"e"')
    assert (None if found is None else (found.first, found.last)) == wanted


async def test_each_peer_has_so_much_an_hour_and_all_so_many_streams(full: Weights) -> None:
    small = ShareLimits(peer_bytes_per_hour_max=len(MODEL) + 10)
    async with sharing(full, limits=small) as url:
        assert (await ask(url, sha(MODEL))).status == 200
        again = await ask(url, sha(MODEL))
        assert again.status == 429
        assert b"weights_busy" in again.body
    slow = ShareLimits(streams_max=1, stream_bytes_per_s_max=1)
    async with sharing(full, limits=slow) as url:
        client = HttpClient(Sockets())
        authority = url.removeprefix("http://")
        opened = client.open_stream(
            "GET",
            f"{url}/v1/weights/sha256/{sha(MODEL)}",
            headers=signed_ask(US, CLOCK)(authority, sha(MODEL)),
            head_deadline_ms=DEADLINE_MS,
        )
        async with opened as reply:
            async for _ in reply.chunks(idle_deadline_ms=DEADLINE_MS):
                break
            assert (await ask(url, sha(MODEL))).status == 429
        async with asyncio.timeout(30):
            while (await ask(url, sha(MODEL), range="bytes=0-0")).status == 429:
                await asyncio.sleep(0.01)
        await client.close()


async def test_who_is_on_the_markets_board_is_a_member() -> None:
    pages: list[Response] = [
        json_response(200, {"miners": [{"miner": US.identity, "owner": "x", "instances": []}]}),
        Response(500, b"no"),
        json_response(200, {"miners": []}),
    ]
    asked = []

    async def market(request: Request) -> Response | Stream:
        asked.append(request.path)
        return pages.pop(0)

    clock = OffsetClock(CLOCK)
    client = HttpClient(Sockets())
    async with serving(market) as url:
        listed = ListedMiners(client, url, clock)
        assert await listed.is_member(US.identity)
        assert not await listed.is_member(STRANGER.identity)
        assert asked == ["/v1/miners"]
        clock.offset_ms += 60_000
        assert await listed.is_member(US.identity), "a market that is away changes nothing"
        clock.offset_ms += 60_000
        assert not await listed.is_member(US.identity)
        clock.offset_ms += 60_000
    assert not await listed.is_member(US.identity)
    await client.close()
