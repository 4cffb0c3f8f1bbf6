"""Batches and gateways that come and go: one runs a batch, another goes on, no line counts twice."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.makers import ToyKey, toy_verify
from tests.stations.gateway.back_room import (
    FILES,
    delete,
    jsonl,
    look,
    make,
    play_shop,
    question,
    results,
    served_ids,
    until_ended,
)
from tests.stations.gateway.script import Script
from tests.stations.gateway.world import Scenario, World, settle

from penstock.gateway.batches import Batch, Usage
from penstock.gateway.batches_journal import ENTRY_BYTES_MAX, Journal
from penstock.gateway.batches_lines import Line, Outcome, failure, read_outcomes
from penstock.gateway.batches_record import Records
from penstock.gateway.config import BatchBounds
from penstock.gateway.service import Gateway
from penstock.kit.clock import SystemClock
from penstock.kit.tasks import Scope
from penstock.kit.wire.client import HttpClient
from penstock.sim.stores_blobs import MemoryStore

IDLE = BatchBounds(settle_ms=100_000_000)
"""The world's own gateway only takes batches in."""
FAST = BatchBounds(settle_ms=100, scan_ms=500, beat_ms=500, hold_ms=5_000)
LINES = 16


@asynccontextmanager
async def another(world: World, name: str) -> AsyncIterator[Gateway]:
    """One more gateway of this market. At the end it is gone as a killed process is."""
    gateway = Gateway(
        name=name,
        clock=world.clock,
        bus=world.bus,
        http=HttpClient(world.network.at(name)),
        sign=ToyKey(name),
        verify=toy_verify,
        entropy=world.rng.randbytes,
        params=world.params,
        tag_secret=b"secret",
        store=world.store,
        batch_bounds=FAST,
    )
    async with Scope() as scope:
        gateway.start(scope)
        yield gateway
        scope.cancel()
    assert gateway.batches is not None
    await gateway.batches._errands.close(deadline_ms=1_000)
    # What its next life says first, so that at the end no money is held.
    world.gateway.recorder.all_leases_closed(
        gateway.sign.identity, event_id=f"gone/{name}", at_ms=world.clock.now_ms()
    )


async def prepared(world: World, word_ms: int = 300) -> str:
    """A batch of LINES lines that nobody runs yet."""
    miner = await world.add_miner("m1")
    miner.default = Script(word_ms=word_ms)
    batch = await make(world, jsonl(*(question(number) for number in range(LINES))))
    return str(batch["id"])


async def until_done(world: World, batch_id: str, count: int) -> None:
    while (await look(world, batch_id))["request_counts"]["completed"] < count:
        await asyncio.sleep(0.2)


def play_two(scenario: Scenario) -> None:
    play_shop(scenario, batch_bounds=IDLE)


def test_of_several_gateways_one_runs_a_batch() -> None:
    async def scenario(world: World) -> None:
        batch_id = await prepared(world)
        async with another(world, "a") as one, another(world, "b") as two, another(world, "c"):
            ended = await until_ended(world, batch_id)
            assert ended["request_counts"]["completed"] == LINES
            assert Counter(served_ids(world)) == Counter(f"Question {n}" for n in range(LINES))
            await settle()
            await one.stop()
            await two.stop()

    play_two(scenario)


def test_another_gateway_goes_on_after_a_crash_and_asks_nothing_again_that_was_answered() -> None:
    async def scenario(world: World) -> None:
        batch_id = await prepared(world)
        async with another(world, "a"):
            await until_done(world, batch_id, 4)
        stored = {outcome.line for outcome in await journal(world, batch_id)}
        asked_before = Counter(served_ids(world))
        assert 4 <= len(stored) < LINES
        async with another(world, "b") as second:
            ended = await until_ended(world, batch_id)
            assert ended["request_counts"] == {"completed": LINES, "failed": 0, "total": LINES}
            again = Counter(served_ids(world)) - asked_before
            assert set(again) == {f"Question {n}" for n in range(LINES) if n + 1 not in stored}
            assert len(await results(world, ended["output_file_id"])) == LINES
            await second.stop()

    play_two(scenario)


async def journal(world: World, batch_id: str) -> list[Outcome]:
    entries = [entry async for entry in world.store.replay(f"batch/{batch_id}")]
    return [outcome for entry in entries for outcome in read_outcomes(entry)]


def test_a_gateway_that_stops_finishes_its_lines_and_lets_go_at_once() -> None:
    async def scenario(world: World) -> None:
        batch_id = await prepared(world)
        async with another(world, "a") as first:
            await until_done(world, batch_id, 4)
            first.halt()
            await first.stop()
            cell = (await world.store.under("batches"))[0]
            assert b'"holder"' not in cell.value
        async with another(world, "b") as second:
            ended = await until_ended(world, batch_id)
            assert ended["request_counts"]["completed"] == LINES
            assert Counter(served_ids(world)) == Counter(f"Question {n}" for n in range(LINES))
            await second.stop()

    play_two(scenario)


def test_while_the_store_is_away_results_are_kept_and_nothing_is_asked_twice() -> None:
    async def scenario(world: World) -> None:
        batch_id = await prepared(world)
        async with another(world, "a") as first:
            await until_done(world, batch_id, 4)
            world.store.down = True
            await asyncio.sleep(120)
            begun = len(served_ids(world))
            assert begun < LINES, "nothing new is begun without a hold on the batch"
            world.store.down = False
            ended = await until_ended(world, batch_id)
            assert ended["request_counts"]["completed"] == LINES
            assert Counter(served_ids(world)) == Counter(f"Question {n}" for n in range(LINES))
            await first.stop()

    play_two(scenario)


def test_a_gateway_that_was_away_too_long_finds_its_batch_taken_and_stops() -> None:
    async def scenario(world: World) -> None:
        batch_id = await prepared(world)
        async with another(world, "a") as first:
            await until_done(world, batch_id, 2)
            records = Records(world.store, world.clock)
            shelf = (await records.due())[0][1].shelf

            def stolen(batch: Batch) -> Batch:
                return type(batch)(
                    **{
                        **{name: getattr(batch, name) for name in batch.__struct_fields__},
                        "holder": "somebody",
                        "until_ms": world.clock.now_ms() + 20_000,
                    }
                )

            await records.change(shelf, batch_id, stolen)
            await asyncio.sleep(3)
            assert first.batches is not None
            assert not first.batches._runs
            known = await records.find(shelf, batch_id)
            assert known is not None
            assert known.batch.holder == "somebody"
            ended = await until_ended(world, batch_id)  # and takes it again when that hold ends
            assert ended["request_counts"]["completed"] == LINES
            assert len(await results(world, ended["output_file_id"])) == LINES
            await first.stop()

    play_two(scenario)


def test_a_batch_whose_input_is_deleted_fails_and_keeps_what_it_has() -> None:
    async def scenario(world: World) -> None:
        batch_id = await prepared(world)
        async with another(world, "a"):
            await until_done(world, batch_id, 2)
        batch = await look(world, batch_id)
        await delete(world, f"{FILES}/{batch['input_file_id']}")
        async with another(world, "b") as second:
            ended = await until_ended(world, batch_id)
            assert ended["status"] == "failed"
            assert ended["errors"]["data"][0]["code"] == "input_file_missing"
            good = await results(world, ended["output_file_id"])
            assert len(good) == ended["request_counts"]["completed"] >= 2
            await second.stop()

    play_two(scenario)


def test_a_batch_that_was_found_but_never_made_is_forgotten() -> None:
    async def scenario(world: World) -> None:
        await world.add_miner("m1")
        await world.store.swap(
            "open.batch_lost", b'{"shelf":"x","created_ms":0}', revision=0, keep_ms=10**9
        )
        async with another(world, "a") as first:
            await asyncio.sleep(5)
            assert await world.store.under("open") == []
            await first.stop()

    play_two(scenario)


BATCH = Batch(
    id="batch_" + "0" * 32,
    shelf="s",
    key_hash="k",
    endpoint="/v1/chat/completions",
    input_file_id="file-x",
    created_at=0,
    expires_at=1,
    output_life_s=3_600,
)


def line(number: int) -> Line:
    return Line(number=number, custom_id=f"c{number}", model="m", body=b"{}")


async def test_results_that_come_together_are_one_entry_and_each_is_on_disk_when_told() -> None:
    store = MemoryStore(SystemClock())
    kept = Journal(store, BATCH)
    await asyncio.gather(
        *(kept.add(failure(BATCH, line(n), code="x", message="y")) for n in range(50))
    )
    entries = [entry async for entry in store.replay(f"batch/{BATCH.id}")]
    assert len(entries) < 10
    assert sorted(one.line for entry in entries for one in read_outcomes(entry)) == list(range(50))
    again = Journal(store, BATCH)
    await again.load()
    assert again.lines == kept.lines
    assert again.counts == (0, 50)
    assert (again.usage, again.held_bytes) == (Usage(), kept.held_bytes)


async def test_large_results_are_entries_of_their_own() -> None:
    store = MemoryStore(SystemClock())
    kept = Journal(store, BATCH)
    text = "x" * (ENTRY_BYTES_MAX // 2)
    await asyncio.gather(
        *(kept.add(failure(BATCH, line(n), code="x", message=text)) for n in range(4))
    )
    entries = [entry async for entry in store.replay(f"batch/{BATCH.id}")]
    assert len(entries) >= 3
    assert all(len(entry) <= ENTRY_BYTES_MAX for entry in entries)


async def test_of_two_results_of_one_line_the_first_counts() -> None:
    store = MemoryStore(SystemClock())
    for text in ("first", "second"):
        await Journal(store, BATCH).add(failure(BATCH, line(1), code="x", message=text))
    kept = Journal(store, BATCH)
    found = [outcome async for outcome in kept.outcomes()]
    assert len(found) == 1
    assert b"first" in bytes(found[0].result)
