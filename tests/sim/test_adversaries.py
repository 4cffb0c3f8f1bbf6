"""Each fault does what its name says, and is over when it is over."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace

import msgspec
import pytest
from tests.makers import MINER, make_order, make_receipt
from tests.sim.playing import new_world

from penstock.kit.sse import comment
from penstock.kit.wire.client import HttpClient
from penstock.kit.wire.http import SSE_HEADERS, Request, Response, Stream
from penstock.kit.wire.server import Server
from penstock.sim.cast import Fault, FaultPart
from penstock.sim.ground import FILES_BYTES_MAX
from penstock.sim.impostor import Impostor
from penstock.sim.loop import VirtualLoop, run
from penstock.sim.net import MemoryNetwork
from penstock.sim.seeds import Chance
from penstock.sim.world import World, listening
from penstock.spec.canon import to_plain
from penstock.spec.keys import Signed, sign
from penstock.spec.stream import RECEIPT_COMMENT, RECEIPT_HEADER

LASTS_MS = 2_000
HALF_WAY_S = 1


def while_it_lasts(
    fault: Fault, look: Callable[[World], object], *, aim: int = 0
) -> tuple[object, object, object]:
    """What `look` sees before, during and after a fault in a world that is open."""
    world = new_world(2)

    async def main() -> tuple[object, object, object]:
        with listening(world.ground):
            await world._open()
            part = FaultPart(
                fault=fault,
                at_ms=round(world.ground.loop.time() * 1000),
                lasts_ms=LASTS_MS,
                aim=aim,
            )
            before = look(world)
            playing = world.ground.errands.start("fault", world.adversary.play(part))
            await asyncio.sleep(HALF_WAY_S)
            during = look(world)
            await asyncio.wait([playing])
            after = look(world)
            await world._close()
        assert world.ground.witness.broken == []
        return before, during, after

    return run(main(), world.ground.loop)


def test_the_bus_goes_down_and_comes_back() -> None:
    assert while_it_lasts(Fault.BUS_DOWN, lambda w: w.ground.bus.down) == (False, True, False)


def test_the_database_goes_away_and_comes_back() -> None:
    seen = while_it_lasts(Fault.STORE_DOWN, lambda w: w.ground.database.is_down)
    assert seen == (False, True, False)


def test_the_disk_is_full_and_has_room_again() -> None:
    seen = while_it_lasts(Fault.DISK_FULL, lambda w: w.ground.files.bytes_max)
    assert seen == (FILES_BYTES_MAX, 0, FILES_BYTES_MAX)


def test_a_miner_slows_down_and_recovers() -> None:
    def pace(world: World) -> int:
        return next(iter(world.miners.values())).habits.token_us

    before, during, after = while_it_lasts(Fault.MINER_SLOWS, pace)
    assert before == after
    assert isinstance(before, int)
    assert during == 10 * before


@pytest.mark.parametrize(
    ("fault", "name"),
    [
        (Fault.MINER_DIES, "miner-1"),
        (Fault.LEDGER_DIES, "ledger"),
        (Fault.MARKET_DIES, "market"),
        (Fault.VALIDATOR_DIES, "validator-1"),
    ],
)
def test_a_host_dies_and_starts_again_as_another_life(fault: Fault, name: str) -> None:
    def look(world: World) -> tuple[bool, int]:
        host = world.hosts[name]
        return host.is_up, host.life.number

    assert while_it_lasts(fault, look) == ((True, 1), (False, 1), (True, 2))


def test_an_engine_dies_under_its_miner_and_is_started_again() -> None:
    def engines(world: World) -> int:
        return len(next(iter(world.miners.values())).engines)

    before, _, _ = while_it_lasts(Fault.ENGINE_DIES, engines)
    assert before == 1

    def up(world: World) -> bool:
        return world.hosts["miner-1"].is_up

    assert while_it_lasts(Fault.ENGINE_DIES, up) == (True, True, True)


# The impostor.

ORDER = make_order()


def a_receipt(number: int) -> Signed:
    return sign("receipt", replace(make_receipt(ORDER), events=number), MINER)


def asked_twice(serve: Callable[[Request], Awaitable[Response | Stream]]) -> list[Response]:
    """Two answers of a miner through the impostor before it."""
    loop = VirtualLoop()

    async def main() -> list[Response]:
        network = MemoryNetwork(Chance(1).stream("net"), loop)
        inside = Server(network.at("miner"), serve, entropy=Chance(1).entropy("a"))
        await inside.start("miner", 9_000)
        client = HttpClient(network.at("miner"))
        impostor = Impostor(client, "http://miner:9000")
        front = Server(network.at("miner"), impostor.serve, entropy=Chance(1).entropy("b"))
        await front.start("miner", 80)
        caller = HttpClient(network.at("gateway"))
        found = []
        for _ in range(2):
            reply = await caller.call("POST", "http://miner/v1/x", body=b"{}", deadline_ms=5_000)
            found.append(
                Response(
                    reply.status, reply.body, ((RECEIPT_HEADER, reply.header(RECEIPT_HEADER)),)
                )
            )
        for one in (caller, client):
            await one.close()
        for server in (front, inside):
            await server.close(0)
        return found

    return run(main(), loop)


def test_the_impostor_hands_out_its_first_whole_receipt_again() -> None:
    numbers = iter((1, 2))

    async def serve(_request: Request) -> Response:
        number = next(numbers)
        return Response(200, b"body %d" % number, ((RECEIPT_HEADER, f"receipt-{number}"),))

    first, second = asked_twice(serve)
    assert (first.body, first.headers) == (b"body 1", ((RECEIPT_HEADER, "receipt-1"),))
    assert (second.body, second.headers) == (b"body 2", ((RECEIPT_HEADER, "receipt-1"),))


def test_the_impostor_ends_its_streams_with_the_first_receipt() -> None:
    numbers = iter((1, 2))

    async def chunks(number: int) -> AsyncIterator[bytes]:
        yield b"data: %d\n\n" % number
        yield comment(RECEIPT_COMMENT, msgspec.json.encode(to_plain(a_receipt(number))))

    async def serve(_request: Request) -> Stream:
        return Stream(200, SSE_HEADERS, chunks(next(numbers)))

    first, second = asked_twice(serve)
    last = comment(RECEIPT_COMMENT, msgspec.json.encode(to_plain(a_receipt(1))))
    assert first.body == b"data: 1\n\n" + last
    assert second.body == b"data: 2\n\n" + last
