"""Sources that lie, flood, stall, send elsewhere: nothing wrong is kept, and the next source is asked."""

import asyncio
import gzip
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.adapters.weights.hub_server import (
    Hub,
    broken,
    gguf,
    ranged,
    running,
    serving,
    sha,
)
from tests.adapters.weights.makers import (
    hub_file,
    make_weights,
    weights_of,
)

from penstock.adapters.weights.courier import Deadlines
from penstock.adapters.weights.errors import (
    AddressRefused,
    DigestWrong,
    NoSourceLeft,
    RedirectRefused,
    SourceDenied,
    SourceMissing,
    SourceRefused,
    Stalled,
    WeightsError,
)
from penstock.adapters.weights.fetch import Places
from penstock.kit.wire.http import Request, Response, Stream

MODEL = gguf(1 << 20)
NAME = hub_file("a.gguf")


async def refused(hub: Hub, tmp_path: Path, want: str = "", reference: str = NAME) -> WeightsError:
    """Why the hub's file was not taken; nothing may be left of it."""
    weights = weights_of(tmp_path, hub)
    digest = want or sha(MODEL)
    with pytest.raises(NoSourceLeft) as caught:
        await weights.fetch(reference, digest)
    assert not weights.store.blob(digest).exists()
    assert not (tmp_path / "models" / digest).exists()
    assert caught.value.failures[-1][1].args is not None
    return caught.value.failures[-1][1]


def always(answer: Response | Stream) -> Hub:
    hub = Hub({"a.gguf": MODEL})

    async def fault(_request: Request, _data: bytes) -> Response | Stream | None:
        return answer

    hub.fault = fault
    return hub


async def endless() -> AsyncIterator[bytes]:
    while True:
        yield b"x" * 65_536
        await asyncio.sleep(0)


async def test_wrong_bytes_are_removed_and_the_next_source_is_asked(tmp_path: Path) -> None:
    liar = Hub({"a.gguf": MODEL})

    async def lie(request: Request, data: bytes) -> Response | Stream | None:
        return ranged(request, data[:-1] + b"!")

    liar.fault = lie
    async with running(liar), running(Hub({"a.gguf": MODEL})) as mirror:
        places = Places(hub=liar.url, mirrors=(f"{mirror.url}/mirror",))
        weights = make_weights(tmp_path, places, trusted=(liar.url, mirror.url))
        path = await weights.fetch(NAME, sha(MODEL))
        assert path.read_bytes() == MODEL
        assert len(liar.gets("/cdn/")) == 1
        assert mirror.gets("/mirror/") == [""], "nothing of the liar's was gone on with"


async def test_a_part_that_another_source_spoiled_is_fetched_anew(tmp_path: Path) -> None:
    liar = Hub({"a.gguf": MODEL})
    bad = b"GGUF" + b"!" * (len(MODEL) - 4)

    async def lie(_request: Request, data: bytes) -> Response | Stream | None:
        return Stream(200, (), broken(bad, after=600_000), length=len(data))

    liar.fault = lie
    async with running(liar), running(Hub({"a.gguf": MODEL})) as mirror:
        places = Places(hub=liar.url, mirrors=(f"{mirror.url}/mirror",))
        weights = make_weights(tmp_path, places, trusted=(liar.url, mirror.url))
        path = await weights.fetch(NAME, sha(MODEL))
        assert path.read_bytes() == MODEL
        gone_on, anew = mirror.gets("/mirror/")
        assert gone_on.startswith("bytes=")
        assert anew == ""


async def test_if_all_lie_the_error_names_each_and_nothing_is_kept(tmp_path: Path) -> None:
    hub = Hub({"a.gguf": MODEL})

    async def lie(request: Request, data: bytes) -> Response | Stream | None:
        return ranged(request, data[:-1] + b"!")

    hub.fault = lie
    async with running(hub):
        error = await refused(hub, tmp_path)
        assert isinstance(error, DigestWrong)
        assert "removed" in str(error)
        assert list((tmp_path / "partial").iterdir()) == []


async def test_a_hub_whose_file_changed_is_refused_before_a_byte_of_it_comes(
    tmp_path: Path,
) -> None:
    async with running(Hub({"a.gguf": gguf(1 << 20, seed=9)})) as hub:
        assert isinstance(await refused(hub, tmp_path), DigestWrong)
        assert not hub.gets("/cdn/")


LENGTH = str(len(MODEL))
LIES: dict[str, tuple[Response | Stream, type[WeightsError]]] = {
    "too short": (Response(200, MODEL[:-1]), SourceRefused),
    "too long": (Response(200, MODEL + b"!"), SourceRefused),
    "endless": (Stream(200, (), endless()), SourceRefused),
    "ends early without a length": (Stream(200, (), broken(MODEL, after=9)), SourceRefused),
    "a range nobody asked for": (
        Response(206, MODEL[9:], (("content-range", f"bytes 9-{len(MODEL) - 1}/{LENGTH}"),)),
        SourceRefused,
    ),
    "gzip": (
        Response(200, gzip.compress(bytes(1 << 22)), (("content-encoding", "gzip"),)),
        SourceRefused,
    ),
    "gone": (Response(404), SourceMissing),
    "gated": (Response(403), SourceDenied),
    "unauthorised": (Response(401), SourceDenied),
    "broken server": (Response(500), SourceRefused),
    "busy": (Response(429), SourceRefused),
    "beyond": (Response(416), SourceRefused),
}


@pytest.mark.parametrize("name", LIES)
async def test_a_lie_about_the_file_is_refused(name: str, tmp_path: Path) -> None:
    answer, kind = LIES[name]
    async with running(always(answer)) as hub:
        assert type(await refused(hub, tmp_path)) is kind


async def test_passing_trouble_is_tried_again_and_lasting_is_not(tmp_path: Path) -> None:
    async with running(always(Response(503))) as hub:
        await refused(hub, tmp_path / "a")
        assert len(hub.gets("/cdn/")) == 3
    async with running(always(Response(404))) as hub:
        await refused(hub, tmp_path / "b")
        assert len(hub.gets("/cdn/")) == 1


async def test_a_source_that_falls_silent_is_given_up_and_what_came_is_kept(
    tmp_path: Path,
) -> None:
    hub = Hub({"a.gguf": MODEL})
    forever = asyncio.Event()

    async def silence(_request: Request, data: bytes) -> Response | Stream | None:
        async def body() -> AsyncIterator[bytes]:
            yield data[:500_000]
            await forever.wait()

        return Stream(200, (), body(), length=len(data))

    hub.fault = silence
    async with running(hub):
        weights = weights_of(tmp_path, hub, deadlines=Deadlines(idle_ms=50))
        with pytest.raises(NoSourceLeft) as caught:
            await weights.fetch(NAME, sha(MODEL))
        assert isinstance(caught.value.failures[-1][1], Stalled)
        assert weights.store.partial(sha(MODEL)).stat().st_size == 500_000


async def test_a_drop_now_and_then_is_as_good_as_silence(tmp_path: Path) -> None:
    hub = Hub({"a.gguf": MODEL})

    async def dripping(_request: Request, data: bytes) -> Response | Stream | None:
        async def body() -> AsyncIterator[bytes]:
            for place in range(len(data)):
                yield data[place : place + 1]
                await asyncio.sleep(0.01)

        return Stream(200, (), body(), length=len(data))

    hub.fault = dripping
    async with running(hub):
        deadlines = Deadlines(stall_ms=40, stall_bytes_min=10_000)
        weights = weights_of(tmp_path, hub, deadlines=deadlines)
        with pytest.raises(NoSourceLeft) as caught:
            await weights.fetch(NAME, sha(MODEL))
        assert isinstance(caught.value.failures[-1][1], Stalled)


REDIRECTS = {
    "to a file": "file:///etc/passwd",
    "to another scheme": "ftp://example.com/a.gguf",
    "to plain http elsewhere": "http://example.com/a.gguf",
    "to nowhere": "",
    "with a user": "https://user@example.com/a.gguf",
    "to a broken URL": "https://[::1/a.gguf",
}


@pytest.mark.parametrize("name", REDIRECTS)
async def test_a_redirect_that_leaves_https_is_not_followed(name: str, tmp_path: Path) -> None:
    location = (("location", REDIRECTS[name]),) if REDIRECTS[name] else ()
    async with running(always(Response(302, b"", location))) as hub:
        assert isinstance(await refused(hub, tmp_path), RedirectRefused)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "10.0.0.1", "169.254.169.254"])
async def test_a_redirect_into_a_private_network_is_not_dialled(host: str, tmp_path: Path) -> None:
    target = (("location", f"https://{host}:9/latest/meta-data"),)
    async with running(always(Response(302, b"", target))) as hub:
        error = await refused(hub, tmp_path)
        assert isinstance(error, AddressRefused)
        assert "hub_endpoint" in str(error)


async def test_redirects_in_a_circle_end(tmp_path: Path) -> None:
    hub = Hub({"a.gguf": MODEL})

    async def round_again(request: Request, _data: bytes) -> Response | Stream | None:
        return Response(302, b"", (("location", request.path),))

    hub.fault = round_again
    async with running(hub):
        error = await refused(hub, tmp_path)
        assert isinstance(error, RedirectRefused)
        assert len(hub.gets("/cdn/")) == 5


async def test_a_stranger_does_not_send_us_to_our_own_mirror(tmp_path: Path) -> None:
    async with running(Hub({"b.gguf": MODEL})) as mirror:
        target = (("location", f"{mirror.url}/mirror/sha256/{sha(MODEL)}"),)
        async with running(always(Response(302, b"", target))) as hub:
            weights = make_weights(tmp_path, Places(hub=hub.url), trusted=(hub.url, mirror.url))
            with pytest.raises(NoSourceLeft) as caught:
                await weights.fetch(NAME, sha(MODEL))
            assert isinstance(caught.value.failures[-1][1], RedirectRefused)
            assert not mirror.asked


async def test_a_manifest_may_not_point_into_the_operators_network(tmp_path: Path) -> None:
    async with running(Hub({"a.gguf": MODEL})) as hub:
        weights = make_weights(tmp_path)
        port = hub.url.rpartition(":")[2]
        for reference in (f"https://127.0.0.1:{port}/a.gguf", f"penstock:{hub.url}"):
            with pytest.raises(NoSourceLeft) as caught:
                await weights.fetch(reference, sha(MODEL))
            assert isinstance(caught.value.failures[-1][1], AddressRefused)
        with pytest.raises(NoSourceLeft, match="https"):
            await weights.fetch(f"{hub.url}/a.gguf", sha(MODEL))
        assert not hub.asked


async def test_the_token_goes_to_the_hub_and_nowhere_else(tmp_path: Path) -> None:
    async with running(Hub({"a.gguf": MODEL, "config.json": b"{}"})) as store:
        hub = Hub(store.files)

        async def away(request: Request) -> Response | Stream:
            if request.path.startswith("/acme/tiny/resolve") and request.path.endswith("gguf"):
                hub.requests.append(request)
                return Response(307, b"", (("location", f"{store.url}/cdn/{sha(MODEL)}"),))
            return await hub.serve(request)

        async with serving(away) as url:
            places = Places(hub=url, hub_token="hf_secret")
            weights = make_weights(tmp_path, places, trusted=(url,))
            with pytest.raises(NoSourceLeft) as caught:
                await weights.fetch(NAME, sha(MODEL))
            sent = {request.header("authorization") for request in hub.requests}
            assert sent == {"Bearer hf_secret"}
            assert not store.requests
            assert "hf_secret" not in str(caught.value)
            assert "key=secret" not in str(caught.value)


async def test_what_came_with_a_token_is_not_shared_on(tmp_path: Path) -> None:
    async with running(Hub({"a.gguf": MODEL})) as hub:
        places = Places(hub=hub.url, hub_token="hf_secret")
        weights = make_weights(tmp_path, places, trusted=(hub.url,))
        await weights.fetch(NAME, sha(MODEL))
        record = weights.store.record(sha(MODEL))
        assert record is not None
        assert not record.is_public
