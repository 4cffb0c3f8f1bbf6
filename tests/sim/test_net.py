"""The network in memory: TCP's promises, and its failures, in virtual time."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.properties import in_full

from penstock.kit.errors import ConnectFailed, DeadlinePassed, PeerClosed, PortTaken
from penstock.kit.ports import Network
from penstock.kit.wire.client import HttpClient
from penstock.kit.wire.http import Request, Response, Stream
from penstock.kit.wire.server import Server
from penstock.sim.loop import VirtualLoop, run
from penstock.sim.net import MemoryNetwork


def play(
    scenario: Callable[[MemoryNetwork], Awaitable[None]], *, seed: int = 1, loss_ppm: int = 0
) -> None:
    loop = VirtualLoop(horizon_ms=3_600_000)

    async def main() -> None:
        await scenario(MemoryNetwork(random.Random(seed), loop, loss_ppm=loss_ppm))

    run(main(), loop)


class End(asyncio.Protocol):
    """Writes down what happens to it."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport
        self.received = bytearray()
        self.story: list[str] = []
        self.error: Exception | None = None
        self.lost = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.story.append("made")

    def data_received(self, data: bytes) -> None:
        self.received += data

    def eof_received(self) -> bool:
        self.story.append("eof")
        return False

    def pause_writing(self) -> None:
        self.story.append("pause")

    def resume_writing(self) -> None:
        self.story.append("resume")

    def connection_lost(self, exc: Exception | None) -> None:
        self.story.append("lost")
        self.error = exc
        self.lost.set()


async def pair(network: MemoryNetwork) -> tuple[End, End]:
    """(client on host a, server on host b)."""
    ends: list[End] = []

    def factory() -> End:
        ends.append(End())
        return ends[-1]

    listener = await network.at("b").listen("0.0.0.0", 0, factory)
    _, client = await network.at("a").connect("b", listener.port, End)
    await listener.close()
    assert isinstance(client, End)
    return client, ends[0]


@settings(max_examples=in_full(30))
@given(st.integers(0, 1_000), st.lists(st.binary(min_size=1, max_size=50), max_size=50))
def test_bytes_arrive_complete_and_in_order(seed: int, parts: list[bytes]) -> None:
    async def scenario(network: MemoryNetwork) -> None:
        client, server = await pair(network)
        for part in parts:
            client.transport.write(part)
            await asyncio.sleep(0.003)
        client.transport.close()
        await server.lost.wait()
        await client.lost.wait()
        assert server.received == b"".join(parts)
        assert (server.story, server.error) == (["made", "eof", "lost"], None)
        assert (client.story, client.error) == (["made", "lost"], None)

    play(scenario, seed=seed)


def test_addresses_name_the_hosts() -> None:
    async def scenario(network: MemoryNetwork) -> None:
        client, server = await pair(network)
        assert client.transport.get_extra_info("peername")[0] == "b"
        assert server.transport.get_extra_info("peername")[0] == "a"
        assert client.transport.get_extra_info("sockname") == server.transport.get_extra_info(
            "peername"
        )
        assert client.transport.get_extra_info("sslcontext") is None
        client.transport.abort()
        await server.lost.wait()

    play(scenario)


def test_an_abort_is_a_reset_on_the_other_end_after_what_was_sent() -> None:
    async def scenario(network: MemoryNetwork) -> None:
        client, server = await pair(network)
        client.transport.write(b"last words")
        client.transport.abort()
        await server.lost.wait()
        assert server.received == b"last words"
        assert isinstance(server.error, ConnectionResetError)
        assert client.lost.is_set()
        assert client.error is None

    play(scenario)


def test_writing_to_an_end_that_closed_is_a_reset() -> None:
    async def scenario(network: MemoryNetwork) -> None:
        client, server = await pair(network)
        server.transport.close()
        client.transport.write(b"into the void")
        await client.lost.wait()
        assert server.received == b""

    play(scenario)


def test_half_a_close_still_carries_the_answer() -> None:
    async def scenario(network: MemoryNetwork) -> None:
        client, server = await pair(network)
        client.transport.write_eof()
        with pytest.raises(RuntimeError):
            client.transport.write(b"more")
        server.transport.write(b"answer")
        await client.lost.wait()
        assert client.received == b"answer"

    play(scenario)


def test_a_reader_that_pauses_stops_the_writer() -> None:
    async def scenario(network: MemoryNetwork) -> None:
        client, server = await pair(network)
        client.transport.set_write_buffer_limits(high=1_000)
        server.transport.pause_reading()
        for _ in range(11):
            client.transport.write(b"x" * 100)
        await asyncio.sleep(10)
        assert client.story == ["made", "pause"]
        assert client.transport.get_write_buffer_size() == 1_100
        assert server.received == b""
        server.transport.resume_reading()
        await asyncio.sleep(10)
        assert client.story == ["made", "pause", "resume"]
        assert len(server.received) == 1_100
        client.transport.close()
        await server.lost.wait()

    play(scenario)


def test_close_delivers_what_the_reader_has_not_read_yet() -> None:
    async def scenario(network: MemoryNetwork) -> None:
        client, server = await pair(network)
        server.transport.pause_reading()
        client.transport.write(b"x" * 200_000)
        client.transport.close()
        await asyncio.sleep(10)
        assert not client.lost.is_set()
        server.transport.resume_reading()
        await server.lost.wait()
        assert (len(server.received), server.error) == (200_000, None)
        await client.lost.wait()

    play(scenario)


def test_a_killed_host_resets_its_peers_and_refuses_dials_until_it_listens_again() -> None:
    async def scenario(network: MemoryNetwork) -> None:
        b = network.at("b")
        await b.listen("0.0.0.0", 80, End)
        _, client = await network.at("a").connect("b", 80, End)
        assert isinstance(client, End)
        network.kill("b")
        await client.lost.wait()
        assert isinstance(client.error, ConnectionResetError)
        with pytest.raises(ConnectionRefusedError):
            await network.at("a").connect("b", 80, End)
        with pytest.raises(ConnectionAbortedError):
            await b.listen("0.0.0.0", 80, End)
        network.restart("b")
        with pytest.raises(ConnectionRefusedError):
            await network.at("a").connect("b", 80, End)
        await b.listen("0.0.0.0", 80, End)
        transport, _ = await network.at("a").connect("b", 80, End)
        transport.abort()

    play(scenario)


def test_a_partition_delays_bytes_and_dials_and_loses_nothing() -> None:
    async def scenario(network: MemoryNetwork) -> None:
        client, server = await pair(network)
        await network.at("b").listen("0.0.0.0", 80, End)
        network.partition("a", "b")
        for n in range(10):
            client.transport.write(b"%d" % n)
        async with asyncio.TaskGroup() as group:
            dial = group.create_task(network.at("a").connect("b", 80, End))
            await asyncio.sleep(100)
            assert server.received == b""
            assert not dial.done()
            network.heal()
            client.transport.write(b"!")
        await asyncio.sleep(1)
        assert server.received == b"0123456789!"
        for transport in (client.transport, dial.result()[0]):
            transport.abort()

    play(scenario)


def test_dials_are_lost_at_the_given_rate() -> None:
    async def scenario(network: MemoryNetwork) -> None:
        await network.at("b").listen("0.0.0.0", 80, End)
        failed = 0
        for _ in range(400):
            try:
                transport, _ = await network.connect("b", 80, End)
            except ConnectionRefusedError:
                failed += 1
            else:
                transport.abort()
        assert 60 < failed < 140

    play(scenario, loss_ppm=250_000)


def test_a_port_is_taken_once_per_host() -> None:
    async def scenario(network: MemoryNetwork) -> None:
        await network.at("b").listen("127.0.0.1", 80, End)
        await network.at("c").listen("127.0.0.1", 80, End)
        with pytest.raises(PortTaken):
            await network.listen("b", 80, End)

    play(scenario)


# The production HTTP server and client, unchanged, on this network.


def entropy(n: int) -> bytes:
    return bytes(n)


async def serving(
    network: MemoryNetwork, handler: Callable[[Request], Awaitable[Response | Stream]]
) -> Server:
    server = Server(network.at("miner"), handler, entropy=entropy)
    await server.start("0.0.0.0", 80)
    return server


def test_a_stream_crosses_the_network_and_a_leaving_client_cancels_its_handler() -> None:
    async def scenario(network: MemoryNetwork) -> None:
        ended = asyncio.Event()

        async def tokens() -> AsyncIterator[bytes]:
            try:
                for n in range(1_000_000):
                    yield b"data: %d\n\n" % n
                    await asyncio.sleep(0.05)
            finally:
                ended.set()

        async def handler(request: Request) -> Response | Stream:
            return Stream(200, (), tokens())

        server = await serving(network, handler)
        client = HttpClient(network.at("gateway"))
        got: list[bytes] = []
        async with client.open_stream(
            "POST", "http://miner:80/", body=b"{}", head_deadline_ms=1_000
        ) as reply:
            async for chunk in reply.chunks(idle_deadline_ms=1_000):
                got.append(chunk)
                if len(got) == 100:
                    break
        await ended.wait()
        assert b"".join(got).startswith(b"data: 0\n\ndata: 1\n\n")
        assert asyncio.get_running_loop().time() < 10
        await client.close()
        await server.close(0)
        assert network.open_ends == 0

    play(scenario)


def test_a_miner_that_dies_in_mid_stream_is_peer_closed() -> None:
    async def scenario(network: MemoryNetwork) -> None:
        async def tokens() -> AsyncIterator[bytes]:
            yield b"data: 1\n\n"
            await asyncio.Event().wait()

        async def handler(request: Request) -> Response | Stream:
            return Stream(200, (), tokens())

        await serving(network, handler)
        client = HttpClient(network.at("gateway"))
        with pytest.raises(PeerClosed) as caught:  # noqa: PT012 - it dies in the middle
            async with client.open_stream("GET", "http://miner/", head_deadline_ms=1_000) as reply:
                async for _ in reply.chunks(idle_deadline_ms=60_000):
                    network.kill("miner")
        assert caught.value.after_bytes > 0
        with pytest.raises(ConnectFailed):
            await client.call("GET", "http://miner/", deadline_ms=1_000)
        await client.close()

    play(scenario)


def test_a_partitioned_miner_is_a_passed_deadline() -> None:
    async def scenario(network: MemoryNetwork) -> None:
        async def handler(request: Request) -> Response | Stream:
            return Response(200)

        server = await serving(network, handler)
        client = HttpClient(network.at("gateway"))
        await client.call("GET", "http://miner/", deadline_ms=1_000)
        network.partition("gateway", "miner")
        with pytest.raises(DeadlinePassed):
            await client.call("GET", "http://miner/", deadline_ms=1_000)
        network.heal()
        await client.call("GET", "http://miner/", deadline_ms=1_000)
        await client.close()
        await server.close(1_000)

    play(scenario)


def test_two_runs_with_the_same_seed_are_the_same() -> None:
    def trace(seed: int) -> list[tuple[str, float]]:
        events: list[tuple[str, float]] = []

        async def scenario(network: MemoryNetwork) -> None:
            loop = asyncio.get_running_loop()

            async def handler(request: Request) -> Response | Stream:
                events.append((request.path, loop.time()))
                return Response(200, b"x" * 1000)

            server = await serving(network, handler)

            async def caller(view: Network, name: int) -> None:
                client = HttpClient(view)
                for n in range(5):
                    try:
                        await client.call("GET", f"http://miner/{name}/{n}", deadline_ms=500)
                    except ConnectFailed:
                        events.append(("lost", loop.time()))
                await client.close()

            async with asyncio.TaskGroup() as group:
                for name in range(10):
                    group.create_task(caller(network.at(f"caller{name}"), name))
            await server.close(100)

        play(scenario, seed=seed, loss_ppm=200_000)
        return events

    assert trace(5) == trace(5)
    assert trace(5) != trace(6)
