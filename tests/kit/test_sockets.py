"""The Network port on sockets: what memory cannot show."""

import asyncio
import socket
import ssl
from collections.abc import Callable
from typing import cast

import pytest
import uvloop
from tests.kit.world import HOST, Raw, echo, server_of

from penstock.kit.errors import ConnectFailed, PortTaken
from penstock.kit.wire.client import HttpClient
from penstock.kit.wire.sockets import Sockets

LOOPS: list[Callable[[], asyncio.AbstractEventLoop]] = [
    asyncio.new_event_loop,
    cast("Callable[[], asyncio.AbstractEventLoop]", uvloop.new_event_loop),
]


@pytest.mark.parametrize("loop_factory", LOOPS)
def test_small_writes_are_sent_at_once_on_both_ends(
    loop_factory: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    async def main() -> None:
        accepted: list[Raw] = []

        def factory() -> Raw:
            accepted.append(Raw())
            return accepted[-1]

        network = Sockets()
        listener = await network.listen(HOST, 0, factory)
        transport, raw = await network.connect(HOST, listener.port, Raw)
        assert isinstance(raw, Raw)
        transport.write(b"x")
        while not accepted or not accepted[0].received:
            await asyncio.sleep(0)
        for end in (transport, accepted[0].transport):
            sock = end.get_extra_info("socket")
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0
        transport.close()
        await listener.close()
        await accepted[0].lost.wait()
        await raw.lost.wait()

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(main())


@pytest.mark.parametrize("loop_factory", LOOPS)
def test_a_port_in_use_is_named(loop_factory: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def main() -> None:
        network = Sockets()
        server = server_of(network, echo)
        port = await server.start(HOST, 0)
        with pytest.raises(PortTaken) as caught:
            await server_of(network, echo).start(HOST, port)
        assert (caught.value.host, caught.value.port) == (HOST, port)
        assert str(port) in str(caught.value)
        await server.close(0)

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(main())


async def test_two_processes_may_share_a_port_when_asked() -> None:
    network = Sockets()
    first, second = server_of(network, echo), server_of(network, echo)
    port = await first.start(HOST, 0, reuse_port=True)
    assert await second.start(HOST, port, reuse_port=True) == port
    await first.close(0)
    await second.close(0)


async def test_tls_is_verified() -> None:
    server = server_of(Sockets(), echo)
    port = await server.start(HOST, 0)
    client = HttpClient(Sockets(tls_context=ssl.create_default_context()))
    with pytest.raises(ConnectFailed):
        await client.call("GET", f"https://{HOST}:{port}/", deadline_ms=30_000)
    await client.close()
    await server.close(0)


async def test_a_process_that_shares_its_port_drains_without_losing_a_request() -> None:
    """Clients dial anew for every request while one of two servers goes away."""
    network = Sockets()
    first, second = server_of(network, echo), server_of(network, echo)
    port = await first.start(HOST, 0, reuse_port=True)
    await second.start(HOST, port, reuse_port=True)
    stop = asyncio.Event()
    answered = 0

    async def ask_again_and_again() -> None:
        nonlocal answered
        while not stop.is_set():
            client = HttpClient(network)
            reply = await client.call("GET", f"http://{HOST}:{port}/", deadline_ms=30_000)
            assert reply.status == 200
            answered += 1
            await client.close()

    async with asyncio.TaskGroup() as group:
        for _ in range(8):
            group.create_task(ask_again_and_again())
        while answered < 100:
            await asyncio.sleep(0)
        async with asyncio.timeout(30):
            await first.drain()
        before = answered
        while answered < before + 100:
            await asyncio.sleep(0)
        stop.set()
    assert first.connections == 0
    await first.close(0)
    await second.close(0)
