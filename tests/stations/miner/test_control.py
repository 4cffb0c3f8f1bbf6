"""The agent's socket: what it shows, what it takes, and what it refuses; and what a frame holds."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import pytest
from tests.stations.miner.world import HARDWARE, World, chat_body, playing

from penstock.kit.hardware import Gpu, GpuReading, HostReading, Reading
from penstock.kit.wire.client import HttpClient
from penstock.miner.control import SOCKET_FILE, Control
from penstock.miner.earnings import Costs, Earnings
from penstock.miner.frames import Watch
from penstock.miner.maintenance import Maintenance
from penstock.miner.payouts import Payouts
from penstock.sim.disk import MemoryFiles
from penstock.spec.params import LOCAL

CARD = Gpu(model="NVIDIA H100", uuid="GPU-1", memory_bytes=80 << 30, driver="570")
SEEN = Reading(
    host=HostReading(busy_ticks=50, total_ticks=100, memory_used_bytes=1 << 29),
    gpus=(
        GpuReading(
            uuid="GPU-1",
            memory_used_bytes=10 << 30,
            busy_ppm=250_000,
            power_mw=300_000,
            power_max_mw=700_000,
            temperature_mc=61_000,
        ),
    ),
)


@dataclass
class Agent:
    """A control surface in the world, and a client of it."""

    world: World
    control: Control
    files: MemoryFiles
    client: HttpClient

    async def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        reply = await self.client.call(
            method,
            f"http://{SOCKET_FILE}:{self.control.server.port}{path}",
            body=b"" if body is None else msgspec.json.encode(body),
            deadline_ms=5_000,
        )
        return reply.status, msgspec.json.decode(reply.body)

    async def frame(self) -> dict[str, Any]:
        status, found = await self.ask("GET", "/v1/frame")
        assert status == 200
        assert isinstance(found, dict)
        return found


@asynccontextmanager
async def agent(world: World, *, bytes_max: int = 1 << 20) -> Any:
    files = MemoryFiles(bytes_max=bytes_max)
    costs = Costs(power_nano_per_kwh=300_000_000, rent_nano_per_hour=100_000_000)
    earnings = Earnings(files, LOCAL.fees, costs)
    parts = world.miner.parts
    maintenance: Maintenance = parts.deployment.maintenance
    maintenance.files = files

    async def read() -> Reading:
        return SEEN

    control = Control(
        watch=Watch(world.miner, read, earnings, maintenance, pid=77),
        maintenance=maintenance,
        payouts=Payouts(
            client=HttpClient(world.network.at("miner")),
            ledger_url=lambda: "",
            identity=world.miner.ports.key.identity,
            earnings=earnings,
            time=parts.time,
            deadline_ms=1_000,
        ),
        stop=world.stop,
        network=world.network.at(SOCKET_FILE),
        entropy=random.Random(5).randbytes,
    )
    running = asyncio.ensure_future(control.run())
    await asyncio.sleep(0.1)
    try:
        yield Agent(world, control, files, HttpClient(world.network.at("person")))
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


def played(
    scenario: Callable[[Agent], Awaitable[None]],
    *,
    prepare: Callable[[World], None] = lambda world: None,
    bytes_max: int = 1 << 20,
) -> None:
    async def whole(world: World) -> None:
        await world.ready()
        async with agent(world, bytes_max=bytes_max) as one:
            await scenario(one)

    playing(whole, prepare=prepare)


def with_card(world: World) -> None:
    world.hardware = replace(HARDWARE, gpus=(CARD,))


def test_a_frame_shows_cards_instances_rates_and_earnings() -> None:
    async def scenario(one: Agent) -> None:
        await asyncio.sleep(3)
        for _ in range(5):
            answer = await one.world.call(chat_body())
            assert answer.status == 200
        await asyncio.sleep(5)
        frame = await one.frame()
        assert frame["pid"] == 77
        assert frame["status"] == "ok"
        assert frame["miner"] == frame["owner"] == one.world.miner.ports.key.identity
        (card,) = frame["gpus"]
        assert (card["busy_ppm"], card["power_mw"], card["temperature_mc"]) == (
            250_000,
            300_000,
            61_000,
        )
        (instance,) = frame["instances"]
        assert (instance["state"], instance["name"], instance["offered"]) == (
            "serving",
            "tiny-chat",
            True,
        )
        assert frame["rates"]["completion_tokens_per_s_milli"] > 0
        assert frame["rates"]["requests_per_min"] > 0
        earned = frame["earnings"]
        assert earned["day"]["orders"] == 5
        assert earned["day"]["gross_nano"] > earned["day"]["own_nano"] > 0
        assert earned["now_nano_per_hour"] > 0
        assert earned["day"]["power_nano"] > 0, "the card's own measure is used"
        assert frame["costs"]["power_is_measured"] is True
        assert frame["maintenance"] is None

    played(scenario, prepare=with_card)


def test_what_nobody_knows_is_null() -> None:
    async def scenario(one: Agent) -> None:
        frame = await one.frame()
        assert frame["gpus"] == []
        assert frame["rates"]["cached_ppm"] is None

    played(scenario)


def test_earnings_are_kept_for_the_next_life() -> None:
    kept: list[bytes] = []

    async def scenario(one: Agent) -> None:
        await one.world.call(chat_body())
        await asyncio.sleep(70)
        kept.append(one.files.read("earnings.json"))

    played(scenario)
    assert b"tiny-chat" in kept[0]


def test_earnings_can_be_asked_by_hours() -> None:
    async def scenario(one: Agent) -> None:
        await one.world.call(chat_body())
        await asyncio.sleep(3)
        status, found = await one.ask("GET", "/v1/earnings?hours=24")
        assert status == 200
        assert found["sum"]["orders"] == 1
        (chute,) = found["chutes"]
        assert chute["name"] == "tiny-chat"
        assert chute["gross_nano"] == found["sum"]["gross_nano"]
        for hours in ("0", "-1", "x", "999999999999", "1.5", "%C2%B2"):
            status, said = await one.ask("GET", f"/v1/earnings?hours={hours}")
            assert (status, said["error"]["code"]) == (400, "bad_hours")

    played(scenario)


def test_drain_ends_the_agent_after_what_runs() -> None:
    async def scenario(one: Agent) -> None:
        assert not one.world.stop.is_set()
        status, said = await one.ask("POST", "/v1/drain")
        assert (status, said["draining"]) == (202, True)
        assert one.world.stop.is_set()
        await one.world.until(lambda: one.world.market.withdrawn)

    played(scenario)


def test_maintenance_is_planned_shown_and_cancelled() -> None:
    async def scenario(one: Agent) -> None:
        body = {"length_ms": 60_000, "after_ms": 30_000}
        status, said = await one.ask("POST", "/v1/maintenance", body)
        assert status == 200
        window = said["maintenance"]
        assert window["until_ms"] - window["from_ms"] == 60_000
        assert window["is_on"] is False
        assert (await one.frame())["maintenance"] == window
        assert b"from_ms" in one.files.read("maintenance.json")
        await asyncio.sleep(35)
        assert (await one.frame())["maintenance"]["is_on"] is True
        status, said = await one.ask("DELETE", "/v1/maintenance")
        assert (status, said) == (200, {"maintenance": None})
        await one.world.until(lambda: one.world.miner.parts.fleet.instances)

    played(scenario)


def test_what_is_over_is_not_shown() -> None:
    async def scenario(one: Agent) -> None:
        await one.ask("POST", "/v1/maintenance", {"length_ms": 2_000})
        await asyncio.sleep(5)
        assert await one.ask("GET", "/v1/maintenance") == (200, {"maintenance": None})

    played(scenario)


@pytest.mark.parametrize(
    "body",
    [
        None,
        {},
        [],
        {"length_ms": 0},
        {"length_ms": -5},
        {"length_ms": 10**15},
        {"length_ms": "60"},
        {"length_ms": 60_000, "at_ms": 5},
        {"length_ms": 60_000, "more": 1},
        {"length_ms": 60_000, "after_ms": 10**15},
        {"length_ms": 10**30},
    ],
)
def test_a_plan_that_makes_no_sense_is_refused(body: Any) -> None:
    async def scenario(one: Agent) -> None:
        status, said = await one.ask("POST", "/v1/maintenance", body)
        assert (status, said["error"]["code"]) == (400, "bad_plan")
        assert one.control.maintenance.window is None

    played(scenario)


def test_a_full_disk_is_told_and_nothing_is_planned() -> None:
    async def scenario(one: Agent) -> None:
        status, said = await one.ask("POST", "/v1/maintenance", {"length_ms": 60_000})
        assert (status, said["error"]["code"]) == (507, "disk_full")
        assert one.control.maintenance.window is None
        await asyncio.sleep(70)
        assert (await one.frame())["status"] == "ok", "earnings that cannot be kept stop nothing"

    played(scenario, bytes_max=0)


def test_status_says_how_it_is() -> None:
    async def scenario(one: Agent) -> None:
        status, said = await one.ask("GET", "/v1/status")
        assert status == 200
        assert said["status"] == "ok"
        assert said["pid"] == 77
        assert {"instances", "owner", "endpoint", "maintenance"} <= set(said)

    played(scenario)


def test_gateways_cannot_reach_the_agents_questions() -> None:
    async def scenario(one: Agent) -> None:
        for path in ("/v1/frame", "/v1/drain", "/v1/maintenance"):
            assert (await one.world.get(path)).status == 404

    played(scenario)
