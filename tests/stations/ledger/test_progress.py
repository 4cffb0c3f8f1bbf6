"""Up to when the ledger has taken in all that gateways said: what claims and leases wait for."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

from tests.stations.ledger.makers_ledger import (
    CHARGE,
    USD,
    World,
    closing_event,
    record,
    record_event,
)

from penstock.kit.ports import Delivery
from penstock.ledger.consumer import GROUP, SUBJECT
from penstock.sim.bus import MemoryBus

DEADLINE_S = 20


async def world() -> World:
    """A ledger whose loops do not run: events are delivered to nobody unless a test takes them."""
    return await World(bus=MemoryBus(ack_wait_ms=60_000)).start()


async def publish(world: World, number: int) -> None:
    await world.bus.publish("events.record.gw", b"junk", event_id=f"event-{number}")


def deliveries(world: World) -> aclosing[AsyncGenerator[Delivery, None]]:
    return aclosing(world.bus.consume(SUBJECT, group=GROUP))


async def test_what_a_former_life_did_not_acknowledge_is_not_taken_in() -> None:
    here = await world()
    consumer = here.ledger.consumer
    await publish(here, 1)
    async with asyncio.timeout(DEADLINE_S), deliveries(here) as former:
        delivery = await anext(former)
        await consumer.measure()
        assert consumer.quiet_ms == -1, "nothing more is to be delivered, but one is outstanding"
        await consumer.take([delivery])
    here.clock.pass_ms(10)
    await consumer.measure()
    assert consumer.quiet_ms == here.clock.now_ms()


async def test_it_moves_on_under_a_load_that_never_pauses() -> None:
    here = await world()
    consumer = here.ledger.consumer
    async with asyncio.timeout(DEADLINE_S), deliveries(here) as events:
        await publish(here, 1)
        first_ms = here.clock.now_ms()
        await consumer.measure()
        await publish(here, 2)
        await consumer.take([await anext(events)])
        here.clock.pass_ms(10)
        second_ms = here.clock.now_ms()
        await consumer.measure()
        assert consumer.quiet_ms == first_ms, "all that was there then has been taken in"
        await publish(here, 3)
        await consumer.take([await anext(events)])
        here.clock.pass_ms(10)
        await consumer.measure()
        assert consumer.quiet_ms == second_ms


async def test_after_an_outage_of_the_bus_gateways_get_the_claims_grace() -> None:
    here = await world()
    consumer, grace_ms = here.ledger.consumer, here.ledger.params.claim_grace_ms
    await consumer.measure()
    before_ms = here.clock.now_ms()
    assert consumer.quiet_ms == before_ms
    here.bus.down = True
    here.clock.pass_ms(100_000)
    await consumer.measure()
    here.bus.down = False
    here.clock.pass_ms(grace_ms - 1)
    await consumer.measure()
    assert consumer.quiet_ms == before_ms, "what gateways kept back may still come"
    here.clock.pass_ms(1)
    await consumer.measure()
    assert consumer.quiet_ms == here.clock.now_ms()


async def test_a_bus_that_lost_its_disk_is_measured_from_its_new_beginning() -> None:
    here = await world()
    consumer = here.ledger.consumer
    async with asyncio.timeout(DEADLINE_S):
        for number in range(5):
            await publish(here, number)
        await consumer.measure()
        fresh = MemoryBus()
        here.ledger.consumer = consumer = replace(consumer, bus=fresh, _aim=consumer._aim)
        await fresh.publish("events.record.gw", b"junk", event_id="new")
        await consumer.measure()
        later_ms = here.clock.now_ms()
        async with aclosing(fresh.consume(SUBJECT, group=GROUP)) as events:
            await consumer.take([await anext(events)])
        await fresh.publish("events.record.gw", b"junk", event_id="newer")
        here.clock.pass_ms(10)
        await consumer.measure()
    assert consumer.quiet_ms == later_ms


async def test_a_closing_waits_for_records_that_are_delivered_again_after_a_crash() -> None:
    """A record that the ledger's former life had in hand comes again after newer events, among them
    the closing of its lease: its payer pays all the same.
    """
    here = await world()
    lease_id = await here.leased()
    said = (record_event(record(), lease_id=lease_id), closing_event(lease_id))
    for number, (subject, body) in enumerate(said):
        await here.bus.publish(subject, json.dumps(body).encode(), event_id=f"event-{number}")
    consumer = here.ledger.consumer
    async with asyncio.timeout(DEADLINE_S), deliveries(here) as events:
        late, closing = await anext(events), await anext(events)
        await consumer.take([closing])
        await consumer.measure()
        await consumer.close_put_off()
        assert (await here.balance("payer/ann")).held_nano > 0, "the lease is still open"
        await consumer.take([late])
    assert await here.posted("payer/ann") == USD - CHARGE
    here.clock.pass_ms(10)
    await consumer.measure()
    await consumer.close_put_off()
    assert (await here.balance("payer/ann")).held_nano == 0
