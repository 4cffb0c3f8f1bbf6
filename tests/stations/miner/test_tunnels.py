"""A miner behind NAT: it finds its gateways, keeps connections to them, and answers over those."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest
from tests.kit.tunnels import OpenDoor
from tests.makers import GATEWAY, MINER
from tests.stations.miner.world import CONFIG, World, chat_body, header_of, playing

from penstock.kit.tasks import Scope
from penstock.kit.wire.http import Request, Response, json_response
from penstock.kit.wire.routes import Routes
from penstock.kit.wire.server import Server
from penstock.kit.wire.tunnel_greeting import Doorman
from penstock.kit.wire.tunnel_pool import TunnelClient, node_host
from penstock.miner.config import TunnelConfig, TunnelMode, parse_config
from penstock.miner.errors import ConfigInvalid
from penstock.miner.tunnels import offered_endpoint
from penstock.sim.tunnels import TUNNEL_PORT, channel_at
from penstock.spec.keys import sign

GATEWAY_URL = "http://gateway:70"
HOST = node_host(MINER.identity, CONFIG.name)

DEADLINE_MS = 30_000


@dataclass
class Entrance:
    """A gateway's side: its page, its door, and who came."""

    client: TunnelClient
    door: OpenDoor
    page: Response
    asked: int = 0
    listening: Any = None

    async def tell(self, _: Request) -> Response:
        self.asked += 1
        return self.page


def page(*ports: object, host: object = "") -> Response:
    return json_response(200, {"addresses": [{"host": host, "port": port} for port in ports]})


@asynccontextmanager
async def entrance(world: World, told: Response | None = None) -> AsyncIterator[Entrance]:
    """A gateway on a host of its own."""
    network = world.network.at("gateway")
    client = TunnelClient(network)
    door = OpenDoor(client, world.clock, channel_at("gateway", TUNNEL_PORT))
    made = Entrance(client, door, told or page(TUNNEL_PORT))
    made.listening = await network.listen("gateway", TUNNEL_PORT, lambda: Doorman(door))
    routes = Routes()
    routes.add("GET", "/tunnels", made.tell)
    server = Server(network, routes, entropy=bytes)
    await server.start("gateway", 70)
    async with Scope() as scope:
        scope.start("watch", client.watch())
        yield made
        scope.cancel()
    await server.close(0)
    await made.listening.close()
    await client.close()


def hidden(*urls: Any, **tunnel: Any) -> Callable[[World], None]:
    """Prepares a world whose miner is behind NAT; the market names these gateways."""

    def prepare(world: World) -> None:
        fields = {"mode": TunnelMode.ONLY, "look_ms": 2_000, **tunnel}
        world.config = msgspec.structs.replace(CONFIG, tunnel=TunnelConfig(**fields))
        world.market.gateway_urls = list(urls)
        world.network.hide("miner")

    return prepare


async def came(world: World, made: Entrance, links: int = 4) -> None:
    await world.until(lambda: made.client.links == links)


def test_it_offers_its_node_and_serves_orders_over_its_own_connections() -> None:
    async def scenario(world: World) -> None:
        async with entrance(world) as made:
            offer = await world.ready()
            assert offer.endpoint == "tunnel:m"
            await came(world, made)
            body = chat_body()
            signed = sign("order", world.order(body), GATEWAY)
            reply = await made.client.call(
                "POST",
                f"http://{HOST}/v1/chat/completions",
                headers=(("x-penstock-order", header_of(signed)),),
                body=body,
                deadline_ms=DEADLINE_MS,
            )
            assert reply.status == 200
            assert reply.header("x-penstock-receipt")
            health = await made.client.call("GET", f"http://{HOST}/health", deadline_ms=DEADLINE_MS)
            told = msgspec.json.decode(health.body)
            assert told["problems"] == []
            assert told["tunnels"][0].pop("links") in {4, 5}, "the spare ones, and this one"
            assert told["tunnels"] == [
                {
                    "address": f"gateway:{TUNNEL_PORT}",
                    "gateway": GATEWAY.identity,
                    "busy": 1,
                    "why": "",
                }
            ]

    playing(scenario, prepare=hidden(GATEWAY_URL))


def test_a_gateway_that_is_not_of_the_charter_gets_no_connection() -> None:
    async def scenario(world: World) -> None:
        async with entrance(world) as made:
            made.door.key = MINER
            await asyncio.sleep(10)
            assert made.client.links == 0
            (keeper,) = world.miner.tunnels.keepers.values()  # type: ignore[union-attr]  # it has some
            assert keeper.why.startswith("gateway_unknown")

    playing(scenario, prepare=hidden(GATEWAY_URL))


def test_the_configuration_names_other_gateways_than_the_market() -> None:
    async def scenario(world: World) -> None:
        async with entrance(world) as made:
            await came(world, made)

    playing(scenario, prepare=hidden("http://nowhere:1", gateways=(GATEWAY_URL,)))


def test_a_gateway_that_moves_is_followed() -> None:
    async def scenario(world: World) -> None:
        async with entrance(world) as made:
            await came(world, made)
            made.page = page(TUNNEL_PORT + 1, host="gateway")
            door = OpenDoor(made.client, world.clock, channel_at("gateway", TUNNEL_PORT + 1))
            listener = await world.network.at("gateway").listen(
                "gateway", TUNNEL_PORT + 1, lambda: Doorman(door)
            )
            await world.until(lambda: len(door.seen) == 4)
            await came(world, made)
            tunnels = world.miner.tunnels
            assert tunnels is not None
            assert list(tunnels.keepers) == [("gateway", TUNNEL_PORT + 1)]
            await listener.close()

    playing(scenario, prepare=hidden(GATEWAY_URL))


def test_a_gateway_that_the_market_drops_is_left() -> None:
    async def scenario(world: World) -> None:
        async with entrance(world) as made:
            await came(world, made)
            tunnels = world.miner.tunnels
            assert tunnels is not None
            world.miner.parts.deployment.gateway_urls = ()
            await came(world, made, links=0)
            assert tunnels.keepers == {}
            assert "no gateway" in (await _own_health(world))["problems"][0]

    playing(scenario, prepare=hidden(GATEWAY_URL))


async def _own_health(world: World) -> Any:
    """As only the host itself can ask."""
    return world.miner.health()


def test_a_gateway_that_does_not_answer_keeps_what_it_told_before() -> None:
    async def scenario(world: World) -> None:
        async with entrance(world) as made:
            await came(world, made)
            made.page = json_response(503, {"error": {"code": "x"}})
            await asyncio.sleep(30)
            assert made.client.links == 4
            assert "answers 503" in world.miner.health()["problems"][0]

    playing(scenario, prepare=hidden(GATEWAY_URL))


@pytest.mark.parametrize(
    "told",
    [
        Response(404, b"{}"),
        Response(200, b"nonsense"),
        Response(200, b"[]"),
        Response(200, b"[" * 5_000),
        Response(200, b"\xff"),
        json_response(200, {"addresses": 7}),
        json_response(200, {"addresses": [7, None, {"port": "x"}, {"host": 5, "port": 1}]}),
        page(0, -1, 70_000, True, 1.5),
    ],
)
def test_whatever_a_gateway_answers_the_miner_goes_on(told: Response) -> None:
    async def scenario(world: World) -> None:
        async with entrance(world, told) as made:
            await world.until(lambda: made.asked > 3)
            tunnels = world.miner.tunnels
            assert tunnels is not None
            assert tunnels.keepers == {}
            made.page = page(TUNNEL_PORT)
            await came(world, made)

    playing(scenario, prepare=hidden(GATEWAY_URL))


def test_a_flood_of_addresses_is_bounded() -> None:
    async def scenario(world: World) -> None:
        async with entrance(world, page(*range(1, 5_000))) as made:
            await came(world, made)
            tunnels = world.miner.tunnels
            assert tunnels is not None
            assert len(tunnels.keepers) == 256

    playing(scenario, prepare=hidden(GATEWAY_URL))


@pytest.mark.parametrize("urls", [(), ("not a url",), (7, None), ("http://nowhere:1",)])
def test_without_a_gateway_to_ask_it_says_so_and_its_offers_stand(urls: tuple[Any, ...]) -> None:
    async def scenario(world: World) -> None:
        await world.ready()
        await asyncio.sleep(5)
        assert world.miner.health()["problems"]

    playing(scenario, prepare=hidden(*urls))


def test_a_drain_answers_what_runs_and_then_lets_the_gateway_go() -> None:
    async def scenario(world: World) -> None:
        async with entrance(world) as made:
            await world.ready()
            await came(world, made)
            body = chat_body("a b c d e f g h i j")
            signed = sign("order", world.order(body), GATEWAY)
            async with asyncio.TaskGroup() as group:
                call = group.create_task(
                    made.client.call(
                        "POST",
                        f"http://{HOST}/v1/chat/completions",
                        headers=(("x-penstock-order", header_of(signed)),),
                        body=body,
                        deadline_ms=DEADLINE_MS,
                    )
                )
                await world.until(lambda: world.miner.parts.front.jobs)
                world.stop.set()
            assert call.result().status == 200
            await came(world, made, links=0)

    def prepare(world: World) -> None:
        hidden(GATEWAY_URL)(world)
        world.echo(token_ms=100)

    playing(scenario, prepare=prepare)


class TestOffered:
    @pytest.mark.parametrize(
        ("mode", "endpoint"),
        [
            (TunnelMode.OFF, "http://1.2.3.4:5"),
            (TunnelMode.ONLY, "tunnel:m"),
            (TunnelMode.BOTH, "tunnel:m@http://1.2.3.4:5"),
        ],
    )
    def test_what_offers_say(self, mode: TunnelMode, endpoint: str) -> None:
        config = msgspec.structs.replace(CONFIG, tunnel=TunnelConfig(mode=mode))
        assert offered_endpoint(config, "http://1.2.3.4:5") == endpoint

    @pytest.mark.parametrize("tunnel", [{"spare_min": 0}, {"spare_min": 5, "links_max": 4}])
    def test_settings_that_make_no_sense(self, tunnel: dict[str, int]) -> None:
        fields = {"name": "m", "network": "local", "market_url": "http://m", "home": "h"}
        text = {**fields, "key_file": "k", "chutes": ["x"], "tunnel": tunnel}
        with pytest.raises(ConfigInvalid, match="spare_min"):
            parse_config(msgspec.json.encode(text), place="x.json")
