"""Links: replies by callbacks, for whoever has no task to wait in."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from tests.kit.scripted import DEADLINE_MS, OK, scripted
from tests.kit.world import HOST, MemoryWorld, World, echo, server_of

from penstock.kit.errors import BadReply, ConnectFailed, DeadlinePassed, PeerClosed, WireError
from penstock.kit.ports import Network
from penstock.kit.wire.client import HttpClient, link_key
from penstock.kit.wire.http import Request, Response, Stream
from penstock.kit.wire.link import Link

ASK = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"
STREAM_HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


class Notes:
    """A receiver that writes down what it is told."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self.bodies: list[bytes] = []
        self.calls: list[str] = []
        self.error: WireError | None = None
        self.done = asyncio.Event()
        self.news = asyncio.Event()

    def on_head(self, status: int, headers: dict[bytes, bytes]) -> None:
        self.status, self.headers = status, headers
        self._note("head")

    def on_body(self, data: bytes) -> None:
        self.bodies.append(data)
        self._note("body")

    def on_end(self) -> None:
        self._note("end")
        self.done.set()

    def on_lost(self, error: WireError) -> None:
        self.error = error
        self._note("lost")
        self.done.set()

    def _note(self, call: str) -> None:
        self.calls.append(call)
        self.news.set()


async def asked(client: HttpClient, url: str, method: str = "GET") -> tuple[Link, Notes]:
    """A new link and what it says of one exchange, when that is over."""
    link = await client.dial(link_key(url), deadline_ms=DEADLINE_MS)
    notes = Notes()
    link.begin(method, ASK, notes)
    await notes.done.wait()
    return link, notes


def test_a_reply_is_told_in_order_and_the_link_goes_back_for_the_next(world: World) -> None:
    async def scenario(network: Network) -> None:
        server = server_of(network, echo)
        url = f"http://{HOST}:{await server.start(HOST, 0)}/"
        client = HttpClient(network)
        key = link_key(url)
        assert client.idle_link(key) is None
        link, notes = await asked(client, url)
        assert notes.calls == ["head", "end"]
        assert (notes.status, notes.headers[b"x-path"]) == (200, b"/")
        assert client.idle_links == 0
        link.release()
        assert client.idle_links == 1
        again = Notes()
        taken = client.idle_link(key)
        assert taken is link
        taken.begin("POST", b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nhi", again)
        await again.done.wait()
        assert (again.calls, again.bodies) == (["head", "body", "end"], [b"hi"])
        taken.release()
        assert server.connections == 1
        await client.close()
        await server.close(0)

    world.run(scenario)


def test_all_chunks_of_one_read_come_as_one(virtual: MemoryWorld) -> None:
    async def scenario(network: Network) -> None:
        script = STREAM_HEAD + b"9\r\ndata: 1\n\n\r\n" * 50 + b"0\r\n\r\n"
        async with scripted(network, lambda n: [script]) as (base, _):
            client = HttpClient(network)
            link, notes = await asked(client, base)
            assert notes.bodies == [b"data: 1\n\n" * 50]
            link.release()
            assert client.idle_links == 1
            await client.close()

    virtual.run(scenario)


def test_an_exchange_may_begin_inside_the_end_of_the_one_before(world: World) -> None:
    async def scenario(network: Network) -> None:
        async with scripted(network, lambda n: [OK] * 5) as (base, made):
            client = HttpClient(network)
            link = await client.dial(link_key(base), deadline_ms=DEADLINE_MS)
            done = asyncio.Event()
            ended = 0

            class Chain(Notes):
                def on_end(self) -> None:
                    nonlocal ended
                    ended += 1
                    link.release()
                    if ended == 5:
                        done.set()
                        return
                    taken = client.idle_link(link.key)
                    assert taken is link
                    taken.begin("GET", ASK, Chain())

            link.begin("GET", ASK, Chain())
            await done.wait()
            assert (ended, len(made)) == (5, 1)
            await client.close()

    world.run(scenario)


def test_a_paused_link_holds_its_server_back_and_a_resumed_one_goes_on(world: World) -> None:
    async def scenario(network: Network) -> None:
        produced = 0

        async def handler(request: Request) -> Response | Stream:
            async def chunks() -> AsyncIterator[bytes]:
                nonlocal produced
                for _ in range(400):
                    produced += 1
                    yield b"x" * 65_536

            return Stream(200, (), chunks())

        server = server_of(network, handler)
        url = f"http://{HOST}:{await server.start(HOST, 0)}/"
        client = HttpClient(network)
        link = await client.dial(link_key(url), deadline_ms=DEADLINE_MS)
        notes = Notes()
        link.begin("GET", ASK, notes)
        await notes.news.wait()
        link.pause()
        link.pause()
        before = -1
        while produced != before:
            before = produced
            await asyncio.sleep(0.2)  # until it stands still: there is no event for "nothing"
        assert produced < 200
        link.resume()
        await notes.done.wait()
        assert sum(map(len, notes.bodies)) == 400 * 65_536
        link.release()
        await client.close()
        await server.close(0)

    world.run(scenario)


def test_an_aborted_link_tells_nothing_more_and_cancels_the_other_side(world: World) -> None:
    async def scenario(network: Network) -> None:
        cancelled = asyncio.Event()

        async def handler(request: Request) -> Response | Stream:
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()
            return Response(200)

        server = server_of(network, handler)
        url = f"http://{HOST}:{await server.start(HOST, 0)}/"
        client = HttpClient(network)
        link = await client.dial(link_key(url), deadline_ms=DEADLINE_MS)
        notes = Notes()
        link.begin("GET", ASK, notes)
        while not server.connections:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.1)
        link.release()  # before the end: the same as abort
        await cancelled.wait()
        assert notes.calls == []
        assert client.idle_links == 0
        await client.close()
        await server.close(0)

    world.run(scenario)


@pytest.mark.parametrize("stop_at", ["head", "body"])
def test_a_receiver_may_abort_from_any_callback(virtual: MemoryWorld, stop_at: str) -> None:
    async def scenario(network: Network) -> None:
        script = STREAM_HEAD + b"1\r\na\r\n0\r\n\r\n"
        async with scripted(network, lambda n: [script]) as (base, made):
            client = HttpClient(network)
            link = await client.dial(link_key(base), deadline_ms=DEADLINE_MS)

            class Stopper(Notes):
                def _note(self, call: str) -> None:
                    super()._note(call)
                    if call == stop_at:
                        link.abort()

            notes = Stopper()
            link.begin("GET", ASK, notes)
            await made[0].lost.wait()
            assert notes.calls[-1] == stop_at
            await client.close()

    virtual.run(scenario)


@pytest.mark.parametrize(
    ("script", "calls", "error"),
    [
        (b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 5\r\n\r\nab", 3, PeerClosed),
        (b"HTTP/1.1 200 OK\r\nconnection: close\r\n", 1, PeerClosed),
        (STREAM_HEAD + b"1\r\na\r\nzz\r\n", 2, BadReply),
        (STREAM_HEAD + b"1\r\nab\r\n", 2, BadReply),
        (b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\n", 1, BadReply),
        (b"HTTP/1.1 200 OK\r\nx: a\r\n folded\r\n\r\n", 1, BadReply),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 1\r\n\r\na", 1, BadReply),
        (b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\na", 1, BadReply),
        (b"HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", 1, BadReply),
        (b"HTTP/2 200 OK\r\n\r\n", 1, BadReply),
        (b"HTTP/1.1 99 Low\r\n\r\n", 1, BadReply),
        (b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 300 + b"\r\n", 1, BadReply),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 5_000, 1, BadReply),
    ],
)
def test_a_reply_that_cannot_be_trusted_or_is_cut_is_lost_once(
    virtual: MemoryWorld, script: bytes, calls: int, error: type[WireError]
) -> None:
    async def scenario(network: Network) -> None:
        async with scripted(network, lambda n: [script]) as (base, made):
            client = HttpClient(network)
            link, notes = await asked(client, base)
            assert isinstance(notes.error, error)
            assert notes.calls.count("lost") == 1
            assert len(notes.calls) <= calls
            assert not link.alive
            await made[0].lost.wait()
            link.release()
            assert client.idle_links == 0
            await client.close()

    virtual.run(scenario)


@pytest.mark.parametrize(
    ("script", "method", "rests"),
    [
        (OK, "GET", True),
        (b"HTTP/1.1 204 No Content\r\n\r\n", "GET", True),
        (b"HTTP/1.1 304 Not Modified\r\ncontent-length: 9\r\n\r\n", "GET", True),
        (b"HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 1\r\n\r\na", "GET", True),
        (b"HTTP/1.0 200 OK\r\ncontent-length: 1\r\n\r\na", "GET", False),
        (OK.replace(b"content", b"connection: Close\r\ncontent"), "GET", False),
        (OK + b"x", "GET", False),
        (OK, "HEAD", False),
        (b"HTTP/1.1 204 No Content\r\n\r\nx", "GET", False),
    ],
)
def test_only_a_link_at_a_clean_end_goes_back_to_the_pool(
    virtual: MemoryWorld, script: bytes, method: str, rests: bool
) -> None:
    async def scenario(network: Network) -> None:
        async with scripted(network, lambda n: [script]) as (base, _):
            client = HttpClient(network)
            link, notes = await asked(client, base, method)
            assert notes.calls[-1] == "end"
            link.release()
            assert client.idle_links == int(rests)
            await client.close()

    virtual.run(scenario)


def test_bytes_that_nobody_asked_for_close_a_resting_link(virtual: MemoryWorld) -> None:
    async def scenario(network: Network) -> None:
        async with scripted(network, lambda n: [OK]) as (base, made):
            client = HttpClient(network)
            link, _ = await asked(client, base)
            link.release()
            made[0].transport.write(OK)
            await made[0].lost.wait()
            assert client.idle_links == 0
            assert client.idle_link(link.key) is None
            await client.close()

    virtual.run(scenario)


def test_a_link_that_is_lost_before_it_is_used_says_so_from_the_loop(virtual: MemoryWorld) -> None:
    async def scenario(network: Network) -> None:
        async with scripted(network, lambda n: [OK]) as (base, made):
            client = HttpClient(network)
            link = await client.dial(link_key(base), deadline_ms=DEADLINE_MS)
            while not made:
                await asyncio.sleep(0.01)
            made[0].transport.abort()
            while link.alive:
                await asyncio.sleep(0.01)
            await asyncio.sleep(1)
            notes = Notes()
            link.begin("GET", ASK, notes)
            assert notes.calls == []
            await notes.done.wait()
            assert isinstance(notes.error, PeerClosed)
            await client.close()

    virtual.run(scenario)


def test_dialling_has_a_deadline_and_a_name_for_what_failed(virtual: MemoryWorld) -> None:
    async def scenario(network: Network) -> None:
        client = HttpClient(network)
        listener = await network.listen(HOST, 0, asyncio.Protocol)
        key = (HOST, listener.port, False)
        with pytest.raises(DeadlinePassed) as late:
            await client.dial(key, deadline_ms=0)
        assert late.value.stage == "dial"
        await listener.close()
        with pytest.raises(ConnectFailed):
            await client.dial(key, deadline_ms=DEADLINE_MS)
        await client.close()

    virtual.run(scenario)


@pytest.mark.parametrize(
    ("url", "key"),
    [
        ("http://a/", ("a", 80, False)),
        ("https://B:8/x?y", ("b", 8, True)),
        ("http://127.0.0.1:9/v1", ("127.0.0.1", 9, False)),
    ],
)
def test_a_url_leads_to_one_key(url: str, key: tuple[str, int, bool]) -> None:
    assert link_key(url) == key
