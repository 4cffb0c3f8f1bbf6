"""A miner that shares its cache, put together by app.py: another miner of the board fetches from it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.adapters.weights.hub_server import gguf, serving, sha

from penstock.adapters.weights.errors import NoSourceLeft
from penstock.adapters.weights.model import model_of_file
from penstock.kit.tasks import Scope
from penstock.kit.wire.client import HttpClient, Reply
from penstock.kit.wire.http import Request, Response, json_response
from penstock.kit.wire.routes import Routes
from penstock.kit.wire.sockets import Sockets
from penstock.miner.app import build, this_machine, weights_of
from penstock.miner.config import MinerConfig, WeightsConfig
from penstock.miner.service import Miner
from penstock.miner.station import run_miner

MODEL = gguf(300_000)
DEADLINE_S = 60


def config_at(home: Path, market_url: str, weights: WeightsConfig) -> MinerConfig:
    home.mkdir(exist_ok=True)
    return MinerConfig(
        name=home.name,
        network="local",
        market_url=market_url,
        home=str(home),
        key_file=str(home / "key"),
        auto=True,
        weights=weights,
    )


@asynccontextmanager
async def board() -> AsyncIterator[tuple[str, list[str]]]:
    """A market that lists these miners, and knows nothing else."""
    listed: list[str] = []

    async def miners(_: Request) -> Response:
        return json_response(200, {"miners": [{"miner": one, "owner": one} for one in listed]})

    routes = Routes()
    routes.add("GET", "/v1/miners", miners)
    async with serving(routes) as url:
        yield url, listed


@asynccontextmanager
async def running(config: MinerConfig) -> AsyncIterator[Miner]:
    """The miner on its port, with one model in its cache that came from a public source."""
    ports = build(config)
    cache = weights_of(config, ports.key)
    model = model_of_file("a.gguf", sha(MODEL), len(MODEL))
    blob = cache.store.blob(sha(MODEL))
    blob.parent.mkdir(parents=True)
    blob.write_bytes(MODEL)
    cache.store.publish(model, is_public=True)
    stop = asyncio.Event()
    started: asyncio.Future[Miner] = asyncio.get_running_loop().create_future()
    async with Scope() as scope:
        scope.start(
            "miner",
            run_miner(
                ports,
                config,
                params=config.params,
                hardware=this_machine(),
                stop=stop,
                started=started,
            ),
        )
        async with asyncio.timeout(DEADLINE_S):
            yield await started
            stop.set()
    await ports.client.close()


async def status_of(url: str) -> Reply:
    client = HttpClient(Sockets())
    try:
        return await client.call("GET", f"{url}/v1/weights/sha256/{sha(MODEL)}", deadline_ms=10_000)
    finally:
        await client.close()


async def test_a_miner_of_the_board_fetches_what_another_shares(tmp_path: Path) -> None:
    async with board() as (market_url, listed):
        first = config_at(tmp_path / "first", market_url, WeightsConfig(share=True))
        async with running(first) as miner:
            second = config_at(tmp_path / "second", "", WeightsConfig(peers=(miner.endpoint,)))
            ports = build(second)
            weights = weights_of(second, ports.key)
            listed.append(ports.key.identity)
            path = await weights.fetch(f"penstock:{miner.endpoint}", sha(MODEL))
            assert path.read_bytes() == MODEL
            await weights.close()
            await ports.client.close()


async def test_who_is_on_no_board_gets_nothing(tmp_path: Path) -> None:
    async with board() as (market_url, _):
        first = config_at(tmp_path / "first", market_url, WeightsConfig(share=True))
        async with running(first) as miner:
            second = config_at(tmp_path / "second", "", WeightsConfig(peers=(miner.endpoint,)))
            ports = build(second)
            weights = weights_of(second, ports.key)
            with pytest.raises(NoSourceLeft, match="403"):
                await weights.fetch(f"penstock:{miner.endpoint}", sha(MODEL))
            assert (await status_of(miner.endpoint)).status == 403, "and who does not sign"
            await weights.close()
            await ports.client.close()


async def test_a_miner_that_does_not_share_has_no_such_path(tmp_path: Path) -> None:
    async with (
        board() as (market_url, _),
        running(config_at(tmp_path / "first", market_url, WeightsConfig())) as miner,
    ):
        reply = await status_of(miner.endpoint)
        assert reply.status == 404
        assert b"route_unknown" in reply.body
