"""A port that outlives the processes that serve it."""

import asyncio
import os
import socket

import pytest
from tests.kit.world import HOST, echo, server_of

from penstock.kit.errors import PortTaken
from penstock.kit.wire.client import HttpClient
from penstock.kit.wire.given import GivenSocket, bind_port
from penstock.kit.wire.sockets import Sockets

DEADLINE_MS = 30_000


def fresh(one: socket.socket) -> GivenSocket:
    """What a process that inherits the socket listens on."""
    return GivenSocket(os.dup(one.fileno()))


def test_sockets_of_one_port_share_it_and_nobody_else_can_have_it() -> None:
    sockets = bind_port(HOST, 0, count=3)
    ports = {one.getsockname()[1] for one in sockets}
    assert len(ports) == 1
    for one in sockets:
        one.listen()
    with pytest.raises(PortTaken):
        bind_port(HOST, ports.pop(), count=2)
    for one in sockets:
        one.close()


def test_before_somebody_listens_nobody_can_connect() -> None:
    (bound,) = bind_port(HOST, 0, count=1)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(bound.getsockname(), timeout=5)
    bound.close()


def test_an_address_that_is_not_ours_is_told() -> None:
    with pytest.raises(OSError, match="assign"):
        bind_port("203.0.113.1", 0, count=1)


async def test_who_connects_between_two_processes_is_served_by_the_second() -> None:
    (bound,) = bind_port(HOST, 0, count=1)
    port = bound.getsockname()[1]
    first = server_of(fresh(bound), echo)
    assert await first.start(HOST, 0) == port
    assert first.port == port
    client = HttpClient(Sockets())
    reply = await client.call("GET", f"http://{HOST}:{port}/", deadline_ms=DEADLINE_MS)
    assert reply.status == 200
    await client.close()
    await first.close(0)
    # Nobody accepts now, and the kernel takes the connection all the same.
    waiting = HttpClient(Sockets())
    asking = asyncio.create_task(
        waiting.call("GET", f"http://{HOST}:{port}/", deadline_ms=DEADLINE_MS)
    )
    await asyncio.sleep(0)
    second = server_of(fresh(bound), echo)
    await second.start(HOST, 0)
    assert (await asking).status == 200
    await waiting.close()
    await second.close(0)
    bound.close()
