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
    network = Sockets(reuse_port=True)
    first, second = server_of(network, echo), server_of(network, echo)
    port = await first.start(HOST, 0)
    assert await second.start(HOST, port) == port
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
