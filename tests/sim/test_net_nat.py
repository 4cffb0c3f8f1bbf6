"""The network in memory behind NAT: hosts that nobody dials, and routers that forget."""

import asyncio

import pytest
from tests.sim.test_net import End, pair, play

from penstock.sim.net import MemoryNetwork


def test_a_hidden_host_dials_and_is_dialled_by_nobody_but_itself() -> None:
    async def scenario(network: MemoryNetwork) -> None:
        await network.at("b").listen("0.0.0.0", 80, End)
        await network.at("open").listen("0.0.0.0", 80, End)
        network.hide("b")
        with pytest.raises(ConnectionRefusedError):
            await network.at("a").connect("b", 80, End)
        for host in ("127.0.0.1", "open"):
            transport, _ = await network.at("b").connect(host, 80, End)
            transport.abort()

    play(scenario)


def test_a_forgotten_connection_carries_nothing_and_tells_nobody() -> None:
    async def scenario(network: MemoryNetwork) -> None:
        client, server = await pair(network)
        client.transport.write(b"before")
        await asyncio.sleep(1)
        network.forget("b")
        client.transport.write(b"after")
        server.transport.write(b"after")
        await asyncio.sleep(3_000)
        assert (bytes(server.received), bytes(client.received)) == (b"before", b"")
        assert (server.story, client.story) == (["made"], ["made"])
        client.transport.close()
        await client.lost.wait()
        await asyncio.sleep(1)
        assert server.story == ["made"], "not even the end of it arrives"
        server.transport.abort()
        await server.lost.wait()
        again, other = await pair(network)
        again.transport.write(b"new")
        await asyncio.sleep(1)
        assert other.received == b"new"
        again.transport.abort()

    play(scenario)


def test_what_a_host_says_to_itself_is_not_forgotten() -> None:
    async def scenario(network: MemoryNetwork) -> None:
        ends: list[End] = []

        def made() -> End:
            ends.append(End())
            return ends[-1]

        await network.at("b").listen("0.0.0.0", 80, made)
        transport, _ = await network.at("b").connect("127.0.0.1", 80, End)
        network.forget("b")
        transport.write(b"inside")
        await asyncio.sleep(1)
        assert ends[0].received == b"inside"
        transport.abort()

    play(scenario)
