"""The gateway's tunnel port: who is let in, which instances can be asked, and failover around them."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest
from tests.makers import GATEWAY, MANIFEST, ToyKey, toy_verify
from tests.stations.gateway.scripted_miner import ScriptedMiner
from tests.stations.gateway.world import World, as_json, chat, error_of, settle
from tests.stations.gateway.world import play as play_world

from penstock.gateway.config import TunnelConfig
from penstock.gateway.instances import Instance
from penstock.gateway.reach import Reachable
from penstock.gateway.routes import build_routes
from penstock.gateway.tunnels import TUNNELS_PATH, Tunnels
from penstock.kit.tasks import Scope
from penstock.kit.wire.http import Request
from penstock.kit.wire.limits import IntakeLimits
from penstock.kit.wire.server import Server
from penstock.kit.wire.tunnel_greeting import Party, TunnelRefused
from penstock.kit.wire.tunnel_keeper import HOT, Keeper, KeeperLimits, turned_limits
from penstock.kit.wire.tunnel_pool import TunnelClient, node_host
from penstock.kit.wire.tunnel_road import Road
from penstock.sim.loop import VirtualLoop, run
from penstock.sim.tunnels import TUNNEL_PORT, channel_at, shown_channel
from penstock.spec.messages import chute_id
from penstock.spec.params import LOCAL
from penstock.spec.receipts import Outcome
from penstock.spec.stream import RECEIPT_COMMENT
from penstock.spec.tunnels import HELLO_MS_MAX

NODE = "gpu-1"
LIMITS = KeeperLimits(spare_min=2, retry_ms_min=50, retry_ms_max=500)


@dataclass
class Hidden:
    """A gateway with a tunnel port, and how a scripted miner gets behind NAT."""

    world: World
    client: TunnelClient
    tunnels: Tunnels
    scope: Scope

    async def add(self, host: str, *, direct: str = "", **config: Any) -> Keeper:
        """A miner that must dial, with its offer on the board."""
        world = self.world
        miner = ScriptedMiner(
            host,
            network=world.network.at(host),
            clock=world.clock,
            key=ToyKey(host),
            verify=toy_verify,
            manifest=MANIFEST,
        )
        miner.has_sessions = world.has_sessions
        world.miners[host] = miner
        world.network.hide(host)
        await world.put_manifest(MANIFEST)
        await world.put_offer(miner, endpoint=f"tunnel:{NODE}" + (f"@{direct}" if direct else ""))
        keeper = self.keeper(miner, **config)
        self.scope.start(host, keeper.run())
        return keeper

    def keeper(self, miner: ScriptedMiner, **config: Any) -> Keeper:
        world = self.world
        network = world.network.at(miner.host)
        server = Server(
            network,
            miner._routes,
            entropy=world.rng.randbytes,
            limits=turned_limits(IntakeLimits(), 100),
            hot=HOT,
        )
        party = Party(
            key=miner.key,
            verify=toy_verify,
            clock=world.clock,
            is_gateway=lambda identity: identity == GATEWAY.identity,
            node=config.pop("node", NODE),
            skew_max_ms=LOCAL.clock_skew_max_ms,
            channel_of=shown_channel,
        )
        return Keeper(
            Road(network, shown_channel),
            ("gateway", TUNNEL_PORT),
            party=party,
            server=server,
            limits=config.pop("limits", LIMITS),
            entropy=world.rng.randbytes,
        )

    async def here(self, host: str) -> None:
        async with asyncio.timeout(60):
            while not self.client.is_here(node_host(ToyKey(host).identity, NODE)):
                await asyncio.sleep(0.05)

    def instance(self, host: str) -> Instance:
        found = self.world.gateway.directory.instances(chute_id(MANIFEST))
        return next(one for one in found if one.name == f"{host}-1")


Story = Callable[[Hidden], Awaitable[None]]


def play(story: Story, *, config: TunnelConfig | None = None) -> None:
    """A world whose gateway has a tunnel port."""

    async def scenario(world: World) -> None:
        gateway = world.gateway
        network = world.network.at("gateway")
        client = TunnelClient(network)
        for part in (gateway, gateway.sessions, gateway.line, gateway.sealer):
            part.http = client  # as if the world were built with it
        gateway.tunnels = tunnels = Tunnels(
            http=client,
            reachable=gateway.directory.reachable,
            clock=world.clock,
            sign=world.gateway_key,
            verify=toy_verify,
            entropy=world.rng.randbytes,
            metrics=gateway.metrics,
            channel=channel_at("gateway", TUNNEL_PORT),
            config=config or TunnelConfig(port=TUNNEL_PORT),
        )
        await tunnels.start(network, ("gateway", TUNNEL_PORT), None)
        async with Scope() as scope:
            tunnels.watch(scope)
            await story(Hidden(world, client, tunnels, scope))
            await tunnels.stop()
            scope.cancel()
        await client.close()

    play_world(scenario)


def test_a_miner_behind_nat_serves_whole_answers_and_streams() -> None:
    async def story(hidden: Hidden) -> None:
        await hidden.add("dark")
        await hidden.here("dark")
        reply = await hidden.world.post(chat())
        assert reply.status == 200
        heard = await hidden.world.hear(chat(stream=True))
        assert heard.text == "Water turns the wheel."
        assert heard.word(RECEIPT_COMMENT)["outcome"] == "complete"
        await hidden.world.at_rest()
        assert hidden.world.outcomes() == [Outcome.COMPLETE] * 2

    play(story)


def test_until_it_has_dialled_there_is_no_room_at_it() -> None:
    async def story(hidden: Hidden) -> None:
        world = hidden.world
        await hidden.add("dark", limits=KeeperLimits(retry_ms_min=1_000))
        instance = hidden.instance("dark")
        assert (instance.is_away, instance.room) == (True, 0)
        assert world.gateway.directory.reachable.missing == 1
        refused = await world.post(chat())
        assert (refused.status, error_of(refused)["code"]) == (429, "no_capacity")
        assert world.outcomes() == [], "nothing was placed there"
        await hidden.here("dark")
        assert (instance.is_away, instance.room) == (False, 4)
        assert world.gateway.directory.reachable.missing == 0
        assert (await world.post(chat())).status == 200

    play(story)


def test_a_renewal_of_the_offer_does_not_bring_it_back() -> None:
    async def story(hidden: Hidden) -> None:
        world = hidden.world
        await hidden.add("dark")
        await hidden.here("dark")
        world.network.partition("gateway", "dark")
        await asyncio.sleep(15)
        miner = world.miners["dark"]
        await world.put_offer(miner, endpoint=f"tunnel:{NODE}")
        assert hidden.instance("dark").room == 0
        world.network.heal()
        await hidden.here("dark")
        assert hidden.instance("dark").room == 4

    play(story)


def test_another_miner_serves_while_it_is_away() -> None:
    async def story(hidden: Hidden) -> None:
        world = hidden.world
        await hidden.add("dark")
        await hidden.here("dark")
        await world.add_miner("light")
        world.network.partition("gateway", "dark")
        await asyncio.sleep(15)
        for _ in range(12):
            assert (await world.post(chat())).status == 200
        assert not world.miners["dark"].served
        world.network.heal()
        await hidden.here("dark")

    play(story)


def test_an_order_at_one_that_vanishes_goes_to_another() -> None:
    """The connection is half-open: the order goes nowhere, and is placed again."""

    async def story(hidden: Hidden) -> None:
        world = hidden.world
        await hidden.add("dark")
        await hidden.here("dark")
        world.network.forget("dark")
        await world.add_miner("light")
        replies = await asyncio.gather(*(world.post(chat()) for _ in range(6)))
        assert {one.status for one in replies} == {200}
        await world.at_rest()
        assert len(world.miners["light"].served) == 6

    play(story)


def test_what_both_ways_lead_to_is_never_away() -> None:
    async def story(hidden: Hidden) -> None:
        await hidden.add("dark", direct="http://dark:9000")
        assert not hidden.instance("dark").is_away
        await hidden.here("dark")
        assert (await hidden.world.post(chat())).status == 200
        world = hidden.world
        await world.put_offer(world.miners["dark"], endpoint="http://dark:9000")
        assert not hidden.instance("dark").is_away
        await world.put_offer(world.miners["dark"], endpoint="tunnel:other-node")
        assert hidden.instance("dark").is_away, "that node has dialled nobody"

    play(story)


def test_a_node_without_an_offer_is_not_let_in() -> None:
    async def story(hidden: Hidden) -> None:
        world = hidden.world
        await hidden.add("dark")
        await hidden.here("dark")
        stranger = hidden.keeper(world.miners["dark"], node="elsewhere")
        hidden.scope.start("stranger", stranger.run())
        await asyncio.sleep(3)
        assert stranger.links == 0
        assert stranger.why.startswith("miner_unknown")
        exported = world.gateway.metrics.render().decode()
        assert 'gateway_tunnels_refused_total{code="miner_unknown"}' in exported
        assert "gateway_tunnel_nodes 1" in exported

    play(story)


def test_a_node_has_a_bound() -> None:
    async def story(hidden: Hidden) -> None:
        object.__setattr__(hidden.client.tunnels, "node_links_max", 3)
        keeper = await hidden.add("dark", limits=KeeperLimits(spare_min=6, retry_ms_min=50))
        await hidden.here("dark")
        await asyncio.sleep(5)
        assert hidden.client.links == 3
        assert keeper.why.startswith("too_many")
        assert (await hidden.world.post(chat())).status == 200

    play(story)


def test_a_door_that_is_full_says_so() -> None:
    async def story(hidden: Hidden) -> None:
        keeper = await hidden.add("dark")
        await asyncio.sleep(2)
        assert keeper.why.startswith("busy")

    play(story, config=TunnelConfig(port=TUNNEL_PORT, greeting_max=0))


@pytest.mark.parametrize("plain", [{}, {"miner": 7, "node": None}, {"miner": "x" * 9_999}])
def test_whatever_a_greeting_says_is_only_looked_up(plain: dict[str, Any]) -> None:
    async def story(hidden: Hidden) -> None:
        with pytest.raises(TunnelRefused):
            hidden.tunnels.check(plain)

    play(story)


def test_the_hello_is_signed_once_and_again_before_it_ends() -> None:
    async def story(hidden: Hidden) -> None:
        first, second = hidden.tunnels.open(), hidden.tunnels.open()
        assert first.signed is second.signed
        assert first.challenge != second.challenge
        await asyncio.sleep(HELLO_MS_MAX / 2000 + 1)
        third = hidden.tunnels.open()
        assert third.hello.issued_ms > first.hello.issued_ms
        for _ in range(3):
            hidden.tunnels.left()

    play_long(story)


def play_long(story: Story) -> None:
    """Half a day, which is longer than a world with requests lasts."""
    loop = VirtualLoop()

    async def main() -> None:
        world = World(loop)
        client = TunnelClient(world.network.at("gateway"))
        tunnels = Tunnels(
            http=client,
            reachable=Reachable(),
            clock=world.clock,
            sign=world.gateway_key,
            verify=toy_verify,
            entropy=world.rng.randbytes,
            metrics=world.gateway.metrics,
            channel="ab" * 32,
            config=TunnelConfig(),
        )
        async with Scope() as scope:
            await story(Hidden(world, client, tunnels, scope))

    run(main(), loop)


def test_the_page_tells_where_to_dial() -> None:
    async def story(hidden: Hidden) -> None:
        hidden.tunnels.count = 3
        hidden.tunnels.config = TunnelConfig(port=700, public_host="gw.example")
        answer = await build_routes(hidden.world.gateway)(Request("GET", TUNNELS_PATH, "", {}, b""))
        told = json.loads(answer.body or b"{}")  # type: ignore[union-attr]  # no stream
        assert told == {
            "gateway": GATEWAY.identity,
            "addresses": [{"host": "gw.example", "port": port} for port in (700, 701, 702)],
        }

    play(story)


def test_a_gateway_without_a_tunnel_port_has_neither_page_nor_candidates() -> None:
    async def scenario(world: World) -> None:
        assert (await world.get(TUNNELS_PATH)).status == 404
        miner = await world.add_miner("dark")
        await world.put_offer(miner, endpoint="tunnel:gpu-1")
        refused = await world.post(chat())
        assert error_of(refused)["code"] == "no_capacity"

    play_world(scenario)


def test_an_offer_with_a_malformed_tunnel_is_on_no_list() -> None:
    async def scenario(world: World) -> None:
        miner = await world.add_miner("light")
        await world.bus.put(
            "offers.light-1", as_json(miner.offer(instance="light-1", endpoint="tunnel:A@x"))
        )
        await settle()
        assert "gateway_board_bad_total" in world.gateway.metrics.render().decode()
        assert (await world.post(chat())).status == 200, "the one before stands"

    play_world(scenario)
