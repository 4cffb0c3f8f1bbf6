"""One contract for the bus, kept by the one in memory and by the real one (NATS JetStream)."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest

from penstock.adapters.nats import BusLimits, NatsBus
from penstock.kit.bus_names import MESSAGE_BYTES_MAX
from penstock.kit.ports import BusDown, Delivery
from penstock.sim.bus import MemoryBus

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


@pytest.fixture
def topic() -> str:
    """A first level of the test's own: the real bus is shared by all tests."""
    return f"t{uuid.uuid4().hex}"


async def take(bus: AnyBus, subject: str, count: int, *, group: str = "ledger") -> list[Delivery]:
    """Take and acknowledge `count` events."""
    taken: list[Delivery] = []
    async with asyncio.timeout(DEADLINE_S), aclosing(bus.consume(subject, group=group)) as events:
        while len(taken) < count:
            event = await anext(events)
            await event.ack()
            taken.append(event)
    return taken


async def see(bus: AnyBus, prefix: str, count: int) -> list[tuple[str, bytes]]:
    """The first `count` things that a new watcher hears."""
    async with asyncio.timeout(DEADLINE_S), aclosing(bus.watch(prefix)) as changes:
        return [await anext(changes) for _ in range(count)]


class TestEvents:
    async def test_events_reach_a_group_in_the_order_of_their_publishing(
        self, bus: AnyBus, topic: str
    ) -> None:
        for number in range(100):
            await bus.publish(f"{topic}.receipt", b"%d" % number, event_id=f"{topic}-{number}")
        taken = await take(bus, f"{topic}.receipt", 100)
        assert [int(event.data) for event in taken] == list(range(100))
        assert {event.subject for event in taken} == {f"{topic}.receipt"}
        assert {event.attempt for event in taken} == {1}

    async def test_an_event_published_twice_with_one_id_is_stored_once(
        self, bus: AnyBus, topic: str
    ) -> None:
        for data in (b"first", b"again", b"again"):
            await bus.publish(f"{topic}.a", data, event_id=f"{topic}-same")
        await bus.publish(f"{topic}.a", b"other", event_id=f"{topic}-other")
        assert [event.data for event in await take(bus, f"{topic}.a", 2)] == [b"first", b"other"]

    async def test_every_group_gets_every_event_and_goes_on_where_it_left_off(
        self, bus: AnyBus, topic: str
    ) -> None:
        for number in range(6):
            await bus.publish(f"{topic}.a", b"%d" % number, event_id=f"{topic}-{number}")
        first = await take(bus, f"{topic}.a", 3, group="ledger")
        other = await take(bus, f"{topic}.a", 6, group="validator")
        rest = await take(bus, f"{topic}.a", 3, group="ledger")
        assert {event.data for event in first + rest} == {b"%d" % number for number in range(6)}
        assert [event.data for event in other] == [b"%d" % number for number in range(6)]

    async def test_two_consumers_of_one_group_share_the_events(
        self, bus: AnyBus, topic: str
    ) -> None:
        for number in range(20):
            await bus.publish(f"{topic}.a", b"%d" % number, event_id=f"{topic}-{number}")
        seen: set[bytes] = set()
        done = asyncio.Event()

        async def work() -> None:
            async with aclosing(bus.consume(f"{topic}.a", group="ledger")) as events:
                async for event in events:
                    await event.ack()
                    seen.add(event.data)
                    if len(seen) == 20:
                        done.set()

        async with asyncio.timeout(DEADLINE_S), asyncio.TaskGroup() as group:
            workers = [group.create_task(work()) for _ in range(2)]
            await done.wait()
            for worker in workers:
                worker.cancel()
        assert sorted(map(int, seen)) == list(range(20))

    async def test_an_event_that_is_not_acknowledged_comes_again(
        self, bus: AnyBus, topic: str
    ) -> None:
        await bus.publish(f"{topic}.a", b"x", event_id=f"{topic}-1")
        async with asyncio.timeout(DEADLINE_S):
            async with aclosing(bus.consume(f"{topic}.a", group="ledger")) as events:
                first = await anext(events)
                second = await anext(events)
                await second.ack()
        assert (first.data, first.attempt) == (b"x", 1)
        assert (second.data, second.attempt) == (b"x", 2)

    async def test_an_acknowledged_event_never_comes_again(self, bus: AnyBus, topic: str) -> None:
        await bus.publish(f"{topic}.a", b"x", event_id=f"{topic}-1")
        await take(bus, f"{topic}.a", 1)
        await asyncio.sleep(2 * ACK_WAIT_MS / 1000)
        await bus.publish(f"{topic}.a", b"y", event_id=f"{topic}-2")
        assert [event.data for event in await take(bus, f"{topic}.a", 1)] == [b"y"]

    async def test_progress_counts_what_was_delivered_and_not_acknowledged(
        self, bus: AnyBus, topic: str
    ) -> None:
        async def left() -> int:
            progress = await bus.progress(f"{topic}.>", group="ledger")
            return progress.stored - progress.settled

        assert await left() == 0
        for number in range(4):
            await bus.publish(f"{topic}.x", b"event", event_id=f"{topic}-{number}")
        assert await left() >= 4
        async with (
            asyncio.timeout(DEADLINE_S),
            aclosing(bus.consume(f"{topic}.>", group="ledger")) as events,
        ):
            first, second = await anext(events), await anext(events)
            await second.ack()
            before = await bus.progress(f"{topic}.>", group="ledger")
            assert before.stored - before.settled >= 4, "the first one is not acknowledged"
            await first.ack()
            while await left() > 2:
                await asyncio.sleep(0.01)
            for _ in range(2):
                await (await anext(events)).ack()
            while await left():
                await asyncio.sleep(0.01)
        await bus.publish(f"{topic}-beside", b"event", event_id=f"{topic}-beside")
        after = await bus.progress(f"{topic}.>", group="ledger")
        assert after.settled == after.stored >= before.stored

    async def test_a_pattern_matches_all_levels_below_and_nothing_beside(
        self, bus: AnyBus, topic: str
    ) -> None:
        for subject in ("a", "a.b", "a.b.ed25519:0f", "ab.c", "a.d"):
            await bus.publish(f"{topic}.{subject}", subject.encode(), event_id=topic + subject)
        taken = await take(bus, f"{topic}.a.>", 3)
        assert [event.data for event in taken] == [b"a.b", b"a.b.ed25519:0f", b"a.d"]

    async def test_a_consumer_that_waits_hears_what_is_published_then(
        self, bus: AnyBus, topic: str
    ) -> None:
        async with asyncio.timeout(DEADLINE_S), asyncio.TaskGroup() as group:
            taking = group.create_task(take(bus, f"{topic}.a", 1))
            await asyncio.sleep(0)
            await bus.publish(f"{topic}.a", b"x", event_id=topic)
        assert taking.result()[0].data == b"x"

    @pytest.mark.parametrize("subject", ["", "a..b", "a b", "a.*", ".a", "a.", "a.>"])
    async def test_a_name_that_is_no_subject_is_refused(self, bus: AnyBus, subject: str) -> None:
        with pytest.raises(ValueError, match="is not a subject"):
            await bus.publish(subject, b"", event_id="x")

    async def test_a_message_that_never_fits_is_an_error_of_the_caller(
        self, bus: AnyBus, topic: str
    ) -> None:
        await bus.publish(f"{topic}.a", b"x" * MESSAGE_BYTES_MAX, event_id=topic)
        with pytest.raises(ValueError, match="too many"):
            await bus.publish(f"{topic}.a", b"x" * (MESSAGE_BYTES_MAX + 1), event_id=topic + "2")


class TestBoard:
    async def test_a_new_watcher_sees_what_is_there_and_then_each_change(
        self, bus: AnyBus, topic: str
    ) -> None:
        await bus.put(f"{topic}.offers.a", b"1")
        await bus.put(f"{topic}.offers.b", b"2")
        await bus.put(f"{topic}.offers.a", b"3")
        async with asyncio.timeout(DEADLINE_S), aclosing(bus.watch(f"{topic}.offers")) as changes:
            assert {await anext(changes), await anext(changes)} == {
                (f"{topic}.offers.a", b"3"),
                (f"{topic}.offers.b", b"2"),
            }
            await bus.put(f"{topic}.offers.c", b"4")
            assert await anext(changes) == (f"{topic}.offers.c", b"4")
            await bus.put(f"{topic}.offers.a", b"")
            assert await anext(changes) == (f"{topic}.offers.a", b"")

    async def test_a_watcher_of_nothing_hears_the_first_key(self, bus: AnyBus, topic: str) -> None:
        async with asyncio.timeout(DEADLINE_S), asyncio.TaskGroup() as group:
            seeing = group.create_task(see(bus, f"{topic}.", 1))
            await asyncio.sleep(0)
            await bus.put(f"{topic}.x", b"1")
        assert seeing.result() == [(f"{topic}.x", b"1")]

    async def test_a_removed_key_is_not_listed(self, bus: AnyBus, topic: str) -> None:
        await bus.put(f"{topic}.a", b"1")
        await bus.put(f"{topic}.a", b"")
        await bus.put(f"{topic}.b", b"2")
        assert await see(bus, topic, 1) == [(f"{topic}.b", b"2")]

    async def test_keys_may_hold_identities_and_model_names(self, bus: AnyBus, topic: str) -> None:
        keys = [f"{topic}.ed25519:ab", f"{topic}.org/model=1", f"{topic}.a+b@c~d=3A"]
        for key in keys:
            await bus.put(key, key.encode())
        assert sorted(await see(bus, topic, 3)) == sorted((key, key.encode()) for key in keys)

    async def test_a_neighbour_with_the_same_beginning_is_not_below(
        self, bus: AnyBus, topic: str
    ) -> None:
        await bus.put(f"{topic}.ab.x", b"no")
        await bus.put(f"{topic}.a.x", b"yes")
        assert await see(bus, f"{topic}.a", 1) == [(f"{topic}.a.x", b"yes")]


class TestAsk:
    async def test_a_question_gets_the_answer_of_the_one_who_serves(
        self, bus: AnyBus, topic: str
    ) -> None:
        async def upper(question: bytes) -> bytes:
            return question.upper()

        async with bus.answer(f"{topic}.upper", upper), asyncio.TaskGroup() as group:
            asked = [
                group.create_task(bus.ask(f"{topic}.upper", text, deadline_ms=30_000))
                for text in (b"a", b"b", b"c")
            ]
        assert [task.result() for task in asked] == [b"A", b"B", b"C"]

    async def test_a_question_that_nobody_serves_ends_with_the_deadline(
        self, bus: AnyBus, topic: str
    ) -> None:
        with pytest.raises(BusDown):
            await bus.ask(f"{topic}.nobody", b"", deadline_ms=200)

    async def test_a_question_waits_for_a_server_that_comes_in_time(
        self, bus: AnyBus, topic: str
    ) -> None:
        async def echo(question: bytes) -> bytes:
            return question

        async with asyncio.TaskGroup() as group:
            asked = group.create_task(bus.ask(f"{topic}.soon", b"x", deadline_ms=30_000))
            await asyncio.sleep(0.1)
            async with bus.answer(f"{topic}.soon", echo):
                assert await asked == b"x"

    async def test_a_closed_server_answers_no_more(self, bus: AnyBus, topic: str) -> None:
        async def echo(question: bytes) -> bytes:
            return question

        async with bus.answer(f"{topic}.echo", echo):
            await bus.ask(f"{topic}.echo", b"", deadline_ms=30_000)
        with pytest.raises(BusDown):
            await bus.ask(f"{topic}.echo", b"", deadline_ms=200)

    async def test_each_question_goes_to_one_of_several_servers(
        self, bus: AnyBus, topic: str
    ) -> None:
        heard: list[bytes] = []

        async def note(question: bytes) -> bytes:
            heard.append(question)
            return b""

        async with bus.answer(f"{topic}.n", note), bus.answer(f"{topic}.n", note):
            for number in range(10):
                await bus.ask(f"{topic}.n", b"%d" % number, deadline_ms=30_000)
        assert sorted(heard) == [b"%d" % number for number in range(10)]

    async def test_a_slow_answer_does_not_hold_up_another(self, bus: AnyBus, topic: str) -> None:
        release = asyncio.Event()

        async def wait_for_release(question: bytes) -> bytes:
            if question == b"slow":
                await release.wait()
            else:
                release.set()
            return question

        async with bus.answer(f"{topic}.n", wait_for_release), asyncio.TaskGroup() as group:
            slow = group.create_task(bus.ask(f"{topic}.n", b"slow", deadline_ms=30_000))
            await asyncio.sleep(0)
            assert await bus.ask(f"{topic}.n", b"fast", deadline_ms=30_000) == b"fast"
            assert await slow == b"slow"

    async def test_a_handler_that_fails_closes_its_context_with_its_error(
        self, bus: AnyBus, topic: str
    ) -> None:
        async def fail(question: bytes) -> bytes:
            raise LookupError(question)

        async def serve() -> None:
            async with bus.answer(f"{topic}.fail", fail):
                await bus.ask(f"{topic}.fail", b"x", deadline_ms=60_000)

        with pytest.raises(LookupError):
            await serve()

    async def test_the_error_of_the_body_comes_out_as_it_was_raised(
        self, bus: AnyBus, topic: str
    ) -> None:
        async def echo(question: bytes) -> bytes:
            return question

        with pytest.raises(LookupError):
            async with bus.answer(f"{topic}.n", echo):
                raise LookupError
