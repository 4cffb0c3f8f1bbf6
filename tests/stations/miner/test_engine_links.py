"""Connections to engines: kept where that does no harm, fresh for llama.cpp."""

from collections.abc import Callable

import msgspec
import pytest
from tests.stations.miner.world import World, chat_body, playing

from penstock.kit.wire.http import JSON_HEADERS, Request, Response
from penstock.miner.engine_links import EngineLinks

ANSWER = msgspec.json.encode(
    {
        "id": "e-1",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "a"}}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1},
    }
)


def with_server(name: str) -> Callable[[World], None]:
    async def handler(_request: Request) -> Response:
        return Response(200, ANSWER, (*JSON_HEADERS, *((("server", name),) if name else ())))

    def prepare(world: World) -> None:
        world.scripted(handler)

    return prepare


def links_of(world: World) -> EngineLinks:
    return world.miner.parts.front.engines


@pytest.mark.parametrize("name", ["", "uvicorn"])
def test_an_engine_is_asked_again_over_the_same_connection(name: str) -> None:
    async def scenario(world: World) -> None:
        await world.ready()
        for _ in range(3):
            assert (await world.call(chat_body())).status == 200
        [instance] = world.miner.parts.fleet.instances.values()
        kept = links_of(world).of(instance)
        assert kept is not links_of(world).fresh
        assert kept.idle_links == 1

    playing(scenario, prepare=with_server(name))


def test_llama_cpp_gets_a_fresh_connection_each_time_once_it_has_said_its_name() -> None:
    async def scenario(world: World) -> None:
        await world.ready()
        [instance] = world.miner.parts.fleet.instances.values()
        assert links_of(world).of(instance) is not links_of(world).fresh
        for _ in range(3):
            assert (await world.call(chat_body())).status == 200
            assert links_of(world).of(instance) is links_of(world).fresh
            assert links_of(world).fresh.idle_links == 0

    playing(scenario, prepare=with_server("llama.cpp"))
