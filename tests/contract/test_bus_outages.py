"""Both buses lose their server and get it back; the real one holds to its settings."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from random import Random

import pytest
from tests.contract.test_bus import take
from tests.servers import RunningServer, nats_in

from penstock.adapters.nats import BusLimits, NatsBus
from penstock.kit.ports import BusDown
from penstock.sim.bus import BusFaults, MemoryBus

AnyBus = MemoryBus | NatsBus
DEADLINE_S = 60
ACK_WAIT_MS = 1_000


@pytest.fixture(params=["memory", "nats"])
async def bus(request: pytest.FixtureRequest) -> AsyncIterator[AnyBus]:
    if request.param == "memory":
        yield MemoryBus(ack_wait_ms=ACK_WAIT_MS)
    else:
        limits = BusLimits(ack_wait_ms=ACK_WAIT_MS)
        async with NatsBus(request.getfixturevalue("nats_url"), limits=limits) as real:
            yield real


class Outage:
    """How to take each bus away and bring it back."""

    def __init__(self, bus: AnyBus, server: RunningServer | None) -> None:
        self.bus = bus
        self._server = server

    async def begin(self) -> None:
        if isinstance(self.bus, MemoryBus):
            self.bus.down = True
        else:
            assert self._server is not None
            await self._server.kill()

    async def end(self) -> None:
        if isinstance(self.bus, MemoryBus):
            self.bus.down = False
        else:
            assert self._server is not None
            await self._server.start()


@asynccontextmanager
async def breakable(kind: str, home: Path) -> AsyncIterator[Outage]:
    if kind == "memory":
        yield Outage(MemoryBus(ack_wait_ms=ACK_WAIT_MS), None)
        return
    server = RunningServer(nats_in(home))
    await server.start()
    limits = BusLimits(publish_deadline_ms=1_000, ack_wait_ms=ACK_WAIT_MS)
    try:
        async with NatsBus(server.url, limits=limits) as real:
            yield Outage(real, server)
    finally:
        await server.stop()


@pytest.mark.parametrize("kind", ["memory", "nats"])
class TestOutage:
    """kill -9 of the real server, and the same as the fake plays it."""

    async def test_calls_raise_bus_down_while_it_is_away_and_work_when_it_is_back(
        self, kind: str, tmp_path: Path
    ) -> None:
        async with breakable(kind, tmp_path) as outage:
            bus = outage.bus
            await bus.publish("a", b"1", event_id="1")
            await outage.begin()
            with pytest.raises(BusDown):
                await bus.publish("a", b"2", event_id="2")
            with pytest.raises(BusDown):
                await bus.put("k", b"2")
            with pytest.raises(BusDown):
                await bus.ask("q", b"2", deadline_ms=500)
            await outage.end()
            await publish_until_stored(bus, "a", b"2", event_id="2")
            await publish_until_stored(bus, "a", b"2", event_id="2")
            await publish_until_stored(bus, "a", b"3", event_id="3")
            assert [event.data for event in await take(bus, "a", 3)] == [b"1", b"2", b"3"]

    async def test_a_consumer_goes_on_and_nothing_is_lost(self, kind: str, tmp_path: Path) -> None:
        seen: list[bytes] = []
        async with breakable(kind, tmp_path) as outage:
            bus = outage.bus
            arrived = asyncio.Condition()

            async def work() -> None:
                async with aclosing(bus.consume("a.>", group="ledger")) as events:
                    async for event in events:
                        async with arrived:
                            seen.append(event.data)
                            arrived.notify_all()
                        await event.ack()

            async def until(count: int) -> None:
                async with asyncio.timeout(DEADLINE_S), arrived:
                    await arrived.wait_for(lambda: len(set(seen)) >= count)

            async with asyncio.TaskGroup() as group:
                worker = group.create_task(work())
                for round_number in range(3):
                    for number in range(round_number * 10, round_number * 10 + 10):
                        await publish_until_stored(bus, "a.b", b"%d" % number, event_id=str(number))
                    await until(round_number * 10 + 5)
                    await outage.begin()
                    await outage.end()
                await until(30)
                worker.cancel()
        assert {int(data) for data in seen} == set(range(30))

    async def test_a_watcher_goes_on_and_hears_what_it_missed(
        self, kind: str, tmp_path: Path
    ) -> None:
        async with breakable(kind, tmp_path) as outage:
            bus = outage.bus
            await bus.put("o.a", b"1")
            await bus.put("o.b", b"1")
            async with asyncio.timeout(DEADLINE_S), aclosing(bus.watch("o")) as changes:
                state = dict([await anext(changes), await anext(changes)])
                await outage.begin()
                await outage.end()
                await put_until_stored(bus, "o.a", b"2")
                await put_until_stored(bus, "o.b", b"")
                await put_until_stored(bus, "o.c", b"3")
                while state != {"o.a": b"2", "o.b": b"", "o.c": b"3"}:
                    key, value = await anext(changes)
                    state[key] = value

    async def test_a_server_of_questions_goes_on(self, kind: str, tmp_path: Path) -> None:
        async def echo(question: bytes) -> bytes:
            return question

        async with breakable(kind, tmp_path) as outage, outage.bus.answer("echo", echo):
            assert await outage.bus.ask("echo", b"1", deadline_ms=30_000) == b"1"
            await outage.begin()
            await outage.end()
            # The first question may meet the moment of reconnecting, like any network call.
            for _ in range(10):
                try:
                    answer = await outage.bus.ask("echo", b"2", deadline_ms=5_000)
                except BusDown:
                    continue
                break
            assert answer == b"2"


async def publish_until_stored(bus: AnyBus, subject: str, data: bytes, *, event_id: str) -> None:
    """What every caller does: keep the event and try again."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            try:
                await bus.publish(subject, data, event_id=event_id)
            except BusDown:
                continue
            return


async def put_until_stored(bus: AnyBus, key: str, value: bytes) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while True:
            try:
                await bus.put(key, value)
            except BusDown:
                continue
            return


class TestRealServer:
    async def test_events_survive_a_kill_and_a_bus_that_starts_later_reads_them(
        self, tmp_path: Path
    ) -> None:
        server = RunningServer(nats_in(tmp_path))
        await server.start()
        try:
            async with NatsBus(server.url) as bus:
                for number in range(200):
                    await bus.publish("a", b"%d" % number, event_id=str(number))
            await server.kill()
            await server.start()
            async with NatsBus(server.url) as bus:
                taken = await take(bus, "a", 200)
            assert [int(event.data) for event in taken] == list(range(200))
        finally:
            await server.stop()

    async def test_a_bus_that_is_not_there_is_down_within_the_deadline(
        self, tmp_path: Path
    ) -> None:
        bus = NatsBus("nats://127.0.0.1:1", limits=BusLimits(open_deadline_ms=300))
        with pytest.raises(BusDown, match="no connection"):
            await bus.open()

    async def test_a_stranger_without_the_token_is_refused(self, nats_url: str) -> None:
        plain = nats_url.split("?", maxsplit=1)[0]
        # The server hangs up after its refusal; which of the two is seen first is the kernel's choice.
        with pytest.raises(BusDown, match=r"uthorization|reset|closed|EOF"):
            await NatsBus(plain, limits=BusLimits(open_deadline_ms=1_000)).open()


class TestFaults:
    """What only the fake can play."""

    async def test_duplicates_are_as_frequent_as_asked_and_the_same_for_the_same_seed(self) -> None:
        async def duplicates(seed: int) -> list[bytes]:
            bus = MemoryBus(faults=BusFaults(Random(seed), duplicate_ppm=500_000))
            for number in range(100):
                await bus.publish("a", b"%d" % number, event_id=str(number))
            again: list[bytes] = []
            seen: set[bytes] = set()
            async with aclosing(bus.consume("a", group="g")) as events:
                while len(seen) < 100 or bus.unacked_count > 50:
                    event = await anext(events)
                    if event.data in seen:
                        again.append(event.data)
                        await event.ack()
                    seen.add(event.data)
            return again

        assert await duplicates(7) == await duplicates(7)
        assert await duplicates(7) != await duplicates(8)

    async def test_calls_take_their_time(self) -> None:
        bus = MemoryBus(faults=BusFaults(Random(1), delay_ms_max=20))
        loop = asyncio.get_running_loop()
        begin = loop.time()
        for number in range(10):
            await bus.publish("a", b"", event_id=str(number))
        assert loop.time() > begin

    async def test_a_watcher_that_falls_far_behind_still_ends_with_the_truth(self) -> None:
        bus = MemoryBus()
        await bus.put("o.a", b"0")
        async with asyncio.timeout(DEADLINE_S), aclosing(bus.watch("o")) as changes:
            assert await anext(changes) == ("o.a", b"0")
            for number in range(1, 12_000):
                await bus.put("o.a", b"%d" % number)
            last = b""
            while last != b"11999":
                last = (await anext(changes))[1]
        assert bus.unacked_count == 0
