"""Records on their way: in order, until stored, counted, bounded, and at hand for a while."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.makers import make_order, make_record

from penstock.gateway.config import Bounds
from penstock.gateway.demand import Demand
from penstock.gateway.errors import BooksBehind
from penstock.gateway.records import BATCH_BYTES_MAX, BATCH_MAX, Recorder
from penstock.kit.metrics import Metrics
from penstock.kit.ports import BusDown, Delivery, Progress
from penstock.kit.tasks import Scope
from penstock.sim.bus import MemoryBus
from penstock.sim.loop import VirtualLoop, run
from penstock.spec.canon import to_plain


class Stubborn:
    """Implements Events: refuses as often as told, then takes."""

    def __init__(self, refusals: int = 0) -> None:
        self.refusals = refusals
        self.taken: list[tuple[str, dict[str, Any], str]] = []
        self.tried: list[str] = []

    async def publish(self, subject: str, data: bytes, *, event_id: str) -> None:
        await asyncio.sleep(0.001)
        self.tried.append(event_id)
        if self.refusals:
            self.refusals -= 1
            raise BusDown("as told")
        self.taken.append((subject, json.loads(data), event_id))

    def consume(self, subject: str, *, group: str) -> AsyncIterator[Delivery]:
        raise NotImplementedError

    async def progress(self, subject: str, *, group: str) -> Progress:
        raise NotImplementedError


def recorder(bus: Stubborn, **bounds: Any) -> Recorder:
    return Recorder(bus=bus, name="gw", bounds=Bounds(**bounds), metrics=Metrics())


def add(to: Recorder, number: int, account: str = "alice") -> None:
    record = make_record(make_order(order_id=f"o-{number}"))
    data = json.dumps(to_plain(record)).encode()
    to.add(f"o-{number}", data, account=account, lease_id="l-1")


async def delivered(to: Recorder, *, deadline_ms: int = 60_000) -> bool:
    async with Scope() as scope:
        scope.start("publish", to.publish())
        done = await to.flush(deadline_ms=deadline_ms)
        scope.cancel()
    return done


@pytest.mark.parametrize("refusals", [0, 1, 7])
def test_records_and_closings_are_delivered_in_order_whatever_the_bus_does(refusals: int) -> None:
    async def scenario() -> None:
        bus = Stubborn(refusals)
        to = recorder(bus)
        to.all_leases_closed("g", event_id="start/1", at_ms=5)
        for number in range(3):
            add(to, number)
        to.lease_closed("l-1")
        assert to.waiting == 5
        assert await delivered(to)
        assert to.waiting == 0
        assert [event_id for _, _, event_id in bus.taken] == ["start/1", "o-0/3", "l-1/close"]
        subject, batch, _ = bus.taken[1]
        assert subject == "events.record.gw"
        event = batch["records"][0]
        assert (event["account"], event["lease_id"]) == ("alice", "l-1")
        assert event["record"] == to_plain(make_record(make_order(order_id="o-0")))
        assert bus.taken[2][:2] == ("events.lease.gw", {"lease_id": "l-1", "close": True})

    run(scenario(), VirtualLoop())


def test_a_batch_that_is_sent_again_is_the_same_event_whatever_came_meanwhile() -> None:
    async def scenario() -> None:
        bus = Stubborn(2)
        to = recorder(bus)
        add(to, 0)
        add(to, 1)
        async with Scope() as scope:
            scope.start("publish", to.publish())
            await asyncio.sleep(0.01)
            add(to, 2)
            assert await to.flush(deadline_ms=60_000)
            scope.cancel()
        assert bus.tried == ["o-0/2", "o-0/2", "o-0/2", "o-2"]
        assert "record" in bus.taken[1][1], "one record goes as it is"

    run(scenario(), VirtualLoop())


def test_a_batch_is_bounded_in_count_and_bytes() -> None:
    async def scenario() -> None:
        bus = Stubborn()
        to = recorder(bus)
        for number in range(BATCH_MAX + 2):
            add(to, number)
        assert await delivered(to)
        assert [len(batch.get("records", [1])) for _, batch, _ in bus.taken] == [BATCH_MAX, 2]
        for number in range(3):
            add(to, number, "a" * (BATCH_BYTES_MAX // 2))
        assert await delivered(to)
        assert len(bus.taken) == 2 + 3

    run(scenario(), VirtualLoop())


def test_a_flush_that_does_not_end_in_time_says_so_and_keeps_what_waits() -> None:
    async def scenario() -> None:
        to = recorder(Stubborn(10**6))
        add(to, 1)
        assert not await delivered(to, deadline_ms=5_000)
        assert to.waiting == 1

    run(scenario(), VirtualLoop())


def test_what_is_added_while_it_publishes_is_published_too() -> None:
    async def scenario() -> None:
        bus = Stubborn()
        to = recorder(bus)
        async with Scope() as scope:
            scope.start("publish", to.publish())
            for number in range(5):
                add(to, number)
                await asyncio.sleep(0.01)
                assert to.waiting == 0
            scope.cancel()
        assert len(bus.taken) == 5

    run(scenario(), VirtualLoop())


def test_room_counts_what_the_running_requests_may_still_leave() -> None:
    to = recorder(Stubborn(), records_max=10, tries_max=3)
    to.check_room(3)
    add(to, 1)
    with pytest.raises(BooksBehind) as caught:
        to.check_room(3)
    assert (caught.value.status, caught.value.code) == (503, "bus_down")
    to.check_room(2)
    to.check_room(1, unsealed=5)
    with pytest.raises(BooksBehind):
        to.check_room(1, unsealed=6)


def test_the_newest_records_are_at_hand_and_the_oldest_are_forgotten() -> None:
    to = recorder(Stubborn(), recent_max=2)
    for number in range(3):
        add(to, number)
    assert to.recent("o-0") is None
    found = to.recent("o-2")
    assert found is not None
    assert found["order"]["body"]["order_id"] == "o-2"


def test_demand_that_the_bus_did_not_take_goes_with_the_next_round() -> None:
    async def scenario() -> None:
        bus = MemoryBus()
        demand = Demand(board=bus, name="gw")
        demand.requested("sha256:aa")
        bus.down = True
        await demand.put_changes()
        bus.down = False
        demand.busy("sha256:aa", 5)
        demand.refused("sha256:bb")
        await demand.put_changes()
        seen: dict[str, Any] = {}
        async for key, value in bus.watch("demand"):
            seen[key] = json.loads(value)
            if len(seen) == 2:
                break
        assert seen["demand.gw.aa"] == {
            "chute": "sha256:aa",
            "requests": 1,
            "refused": 0,
            "busy_us": 5,
        }
        assert seen["demand.gw.bb"]["refused"] == 1

    run(scenario(), VirtualLoop())


def test_demand_is_shown_once_a_beat() -> None:
    async def scenario() -> None:
        bus = MemoryBus()
        demand = Demand(board=bus, name="gw")
        watch = bus.watch("demand")
        async with Scope() as scope:
            scope.start("show", demand.show(beat_ms=1_000))
            counts = []
            for _ in range(3):
                demand.requested("sha256:aa")
                demand.requested("sha256:aa")
                _, value = await anext(watch)
                counts.append(json.loads(value)["requests"])
            scope.cancel()
        assert counts == [2, 4, 6]
        await watch.aclose()

    run(scenario(), VirtualLoop())
