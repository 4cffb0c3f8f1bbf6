"""Dead ends: connections that are gone though nobody was told, hosts that hang, nodes dialled both ways."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import pytest
from tests.kit.tunnels import (
    HOST_OF_NODE,
    KEY,
    NODE,
    SKEW_MS,
    OpenDoor,
    until,
)
from tests.kit.world import echo
from tests.makers import GATEWAY, MINER, toy_verify

from penstock.kit.errors import ConnectFailed, DeadlinePassed, PeerClosed
from penstock.kit.tasks import Scope
from penstock.kit.wire.client import HttpClient
from penstock.kit.wire.http import Handler, Request, Response
from penstock.kit.wire.limits import IntakeLimits
from penstock.kit.wire.link import LinkKey
from penstock.kit.wire.server import Server
from penstock.kit.wire.tunnel_greeting import Doorman, Party
from penstock.kit.wire.tunnel_keeper import HOT, Keeper, KeeperLimits, turned_limits
from penstock.kit.wire.tunnel_pool import TunnelClient, endpoint_url, node_host
from penstock.kit.wire.tunnel_road import Road, stay_alert
from penstock.sim.loop import VirtualClock, VirtualLoop, run
from penstock.sim.net import MemoryNetwork
from penstock.sim.tunnels import TUNNEL_PORT, channel_at, shown_channel
from penstock.spec.tunnels import PING_MS, SILENCE_MS

DEADLINE_MS = 60_000
PING_DEADLINE_MS = 3_000
NOTICED_S = (PING_MS + PING_DEADLINE_MS) / 1000 + 2
"""Until a gateway knows of a dead node: a ping's turn, its deadline, and a look or two."""


@dataclass
class Apart:
    """A gateway and a miner on hosts of their own, and the network between them."""

    network: MemoryNetwork
    client: TunnelClient
    keeper: Keeper
    server: Server
    changes: list[bool]
    scope: Scope

    async def ask(self, url: str = f"http://{HOST_OF_NODE}") -> int:
        return (await self.client.call("POST", url, deadline_ms=DEADLINE_MS)).status


def play(story: Callable[[Apart], Awaitable[None]], *, handler: Handler = echo) -> None:
    loop = VirtualLoop(horizon_ms=3_600_000)

    async def main() -> None:
        network = MemoryNetwork(random.Random(3), loop)
        network.hide("miner")
        clock, chance = VirtualClock(loop), random.Random(4)
        client = TunnelClient(network.at("gateway"))
        door = OpenDoor(client, clock, channel_at("gateway", TUNNEL_PORT))
        listener = await network.at("gateway").listen("gateway", TUNNEL_PORT, lambda: Doorman(door))
        own = network.at("miner")
        limits = turned_limits(IntakeLimits(), 100)
        server = Server(own, handler, entropy=chance.randbytes, limits=limits, hot=HOT)
        party = Party(
            key=MINER,
            verify=toy_verify,
            clock=clock,
            is_gateway=lambda identity: identity == GATEWAY.identity,
            node=NODE,
            skew_max_ms=SKEW_MS,
            channel_of=shown_channel,
        )
        keeper = Keeper(
            Road(own, shown_channel),
            ("gateway", TUNNEL_PORT),
            party=party,
            server=server,
            limits=KeeperLimits(),
            entropy=chance.randbytes,
        )
        async with Scope() as scope:
            apart = Apart(network, client, keeper, server, [], scope)
            client.on_change = lambda _, is_here: apart.changes.append(is_here)
            scope.start("watch", client.watch())
            scope.start("keeper", keeper.run())
            await until(lambda: keeper.links == 4)
            await story(apart)
            scope.cancel()
        await listener.close()
        await client.close()

    run(main(), loop)


def test_nobody_can_dial_a_host_behind_nat() -> None:
    async def story(apart: Apart) -> None:
        port = await apart.server.start("miner", 80)
        outside = HttpClient(apart.network.at("gateway"))
        with pytest.raises(ConnectFailed):
            await outside.call("GET", f"http://miner:{port}/", deadline_ms=DEADLINE_MS)
        inside = HttpClient(apart.network.at("miner"))
        assert (await inside.call("GET", f"http://miner:{port}/", deadline_ms=DEADLINE_MS)).status
        assert await apart.ask() == 200

    play(story)


def test_half_open_connections_are_noticed_by_both_ends_and_replaced() -> None:
    async def story(apart: Apart) -> None:
        apart.network.forget("miner")
        await asyncio.sleep(NOTICED_S)
        assert apart.changes == [True, False], "nobody is sent there any more"
        await asyncio.sleep(SILENCE_MS / 1000 + 5)
        assert apart.changes[-1] is True
        assert apart.keeper.links == 4
        await until(lambda: apart.client.links == 4)
        assert await apart.ask() == 200

    play(story)


def test_a_request_on_a_half_open_connection_ends() -> None:
    async def story(apart: Apart) -> None:
        apart.network.forget("miner")
        with pytest.raises((PeerClosed, DeadlinePassed, ConnectFailed)):
            await apart.client.call("POST", f"http://{HOST_OF_NODE}", deadline_ms=15_000)
        await asyncio.sleep(SILENCE_MS / 1000 + NOTICED_S)
        assert await apart.ask() == 200

    play(story)


def test_a_flap_of_the_link_heals_by_itself() -> None:
    async def story(apart: Apart) -> None:
        for lasts_s in (1, 5, 30, 90):
            apart.network.partition("gateway", "miner")
            await asyncio.sleep(lasts_s)
            apart.network.heal()
            await asyncio.sleep(10)
            assert apart.client.is_here(HOST_OF_NODE), f"after {lasts_s} s"
            assert await apart.ask() == 200
        assert apart.client.links <= 8

    play(story)


def test_a_long_loss_of_sight_puts_the_node_away_and_back() -> None:
    async def story(apart: Apart) -> None:
        apart.network.partition("gateway", "miner")
        await asyncio.sleep(NOTICED_S)
        assert not apart.client.is_here(HOST_OF_NODE)
        with pytest.raises(ConnectFailed):
            await apart.client.dial(KEY, deadline_ms=DEADLINE_MS)
        apart.network.heal()
        await until(lambda: apart.client.is_here(HOST_OF_NODE))
        assert apart.changes == [True, False, True]

    play(story)


def test_a_gateway_that_dies_and_returns_is_found_again() -> None:
    async def story(apart: Apart) -> None:
        apart.network.kill("gateway")
        await until(lambda: apart.keeper.links == 0)
        await asyncio.sleep(20)
        assert "cannot be dialled" in apart.keeper.why

    play(story)


def test_a_node_that_hangs_is_put_away_until_it_answers_again() -> None:
    """A stopped process: the kernel acknowledges for it, so that only a ping finds out."""

    async def story(apart: Apart) -> None:
        resting = list(apart.keeper._resting)
        for one in resting:
            one.transport.pause_reading()
        await asyncio.sleep(NOTICED_S)
        assert apart.changes[:2] == [True, False]
        await until(lambda: apart.client.is_here(HOST_OF_NODE))
        assert await apart.ask() == 200

    play(story)


def test_who_waits_for_an_answer_of_a_node_that_hangs_is_told() -> None:
    async def never(_: Request) -> Response:
        await asyncio.sleep(3_600)
        raise AssertionError("nobody waits that long")

    async def story(apart: Apart) -> None:
        asked = apart.scope.start("ask", _outcome(apart))
        await until(lambda: apart.keeper.busy)
        await asyncio.sleep(60)
        assert not asked.done(), "slow is not dead: its pings are answered"
        apart.network.partition("gateway", "miner")
        hung_s = apart.client.tunnels.hung_ms / 1000
        await asyncio.sleep(hung_s + NOTICED_S)
        assert asked.result() is PeerClosed
        apart.network.heal()
        await until(lambda: apart.client.is_here(HOST_OF_NODE))

    async def _outcome(apart: Apart) -> type[Exception] | None:
        try:
            await apart.client.call("POST", f"http://{HOST_OF_NODE}", deadline_ms=600_000)
        except PeerClosed as error:
            return type(error)
        return None

    play(story, handler=never)


class TestBothWays:
    """A node that may be dialled as well: its own address first, its connections when that is away."""

    def test_the_address_is_preferred(self) -> None:
        async def story(apart: Apart) -> None:
            front = await _front(apart, "open")
            url = endpoint_url(f"tunnel:{NODE}@http://open:{front.port}", MINER.identity)
            reply = await apart.client.call("POST", url, deadline_ms=DEADLINE_MS)
            assert (reply.status, front.connections) == (200, 1)
            await apart.client.call("POST", url, deadline_ms=DEADLINE_MS)
            assert front.connections == 1, "and kept"
            assert apart.client.links == 4

        play(story)

    def test_without_it_the_connections_serve(self) -> None:
        async def story(apart: Apart) -> None:
            loop = asyncio.get_running_loop()
            url = endpoint_url(f"tunnel:{NODE}@http://miner:80", MINER.identity)
            assert await apart.ask(url) == 200
            began = loop.time()
            for _ in range(20):
                assert await apart.ask(url) == 200
            assert loop.time() - began < 5, "the address that is away is not dialled each time"

        play(story)

    def test_an_address_that_comes_back_is_tried_again(self) -> None:
        async def story(apart: Apart) -> None:
            front = await _front(apart, "open")
            port = front.port
            url = endpoint_url(f"tunnel:{NODE}@http://open:{port}", MINER.identity)
            await front.close(0)
            assert await apart.ask(url) == 200
            again = await _front(apart, "open", port)
            assert await apart.ask(url) == 200
            assert again.connections == 0, "it rests for a while"
            await asyncio.sleep(apart.client.tunnels.direct_rest_ms / 1000)
            assert await apart.ask(url) == 200
            assert again.connections == 1

        play(story)

    def test_how_many_rest_is_bounded(self) -> None:
        async def story(apart: Apart) -> None:
            for number in range(apart.client.tunnels.resting_max + 5):
                key: LinkKey = (f"host-{number}", 80, False)
                apart.client._rest(key)
            assert len(apart.client._resting) == apart.client.tunnels.resting_max

        play(story)


async def _front(apart: Apart, host: str, port: int = 0) -> Server:
    """A server of the miner that can be dialled."""
    server = Server(apart.network.at(host), echo, entropy=random.Random(1).randbytes)
    await server.start(host, port)
    return server


class TestUrls:
    def test_a_plain_endpoint_stays_as_it_is(self) -> None:
        assert endpoint_url("http://1.2.3.4:80/x/", "m") == "http://1.2.3.4:80/x"

    def test_a_node_is_a_host_of_its_own(self) -> None:
        url = endpoint_url("tunnel:a", MINER.identity)
        assert url == f"http://{node_host(MINER.identity, 'a')}"
        assert node_host("toy:ab", "a") == "a.toy-ab.tunnel"

    @pytest.mark.parametrize(
        "endpoint",
        [
            f"http://{HOST_OF_NODE}",
            f"http://{HOST_OF_NODE.upper()}:80",
            "http://zz.a.toy-ab.tunnel",
            "tunnel:a@http://b.tunnel",
            "tunnel:",
            "tunnel:a/../b",
            "ftp://x",
        ],
    )
    def test_nobody_names_another_ones_node(self, endpoint: str) -> None:
        with pytest.raises(ValueError, match=r"tunnel|URL"):
            endpoint_url(endpoint, MINER.identity)


def test_memory_has_no_sockets_to_set() -> None:
    class Bare(asyncio.BaseTransport):
        pass

    stay_alert(Bare())
