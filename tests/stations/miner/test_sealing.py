"""Seals are exchanged once, or as often as asked; what is proven is never lost, what is not is never
claimed, and a gateway that does not seal is trusted with less.
"""

import asyncio
import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.makers import GATEWAY, MINER, ToyKey, make_order, make_receipt, toy_verify
from tests.stations.miner.gate import VERIFY, Gate, Vouched, judged, judged_claim
from tests.stations.miner.test_sessions import OTHER, FixedClock, ready_gate, with_two_gateways
from tests.stations.miner.world import CONFIG, World, chat_body, chunk, playing, streaming

from penstock.kit.metrics import Metrics
from penstock.kit.spell import spell_digest
from penstock.kit.wire.problem import problem
from penstock.miner.config import Bounds
from penstock.miner.errors import SessionRefused
from penstock.miner.outbox import Outbox
from penstock.miner.sealing import ASK_AGAIN_MS, UNSEALED_MIN, OrderSeals, Sealing
from penstock.miner.session_pages import SEALS_BYTES_MAX
from penstock.miner.statement import Statement, seal_all, state
from penstock.miner.store import Claim
from penstock.sim.stores_miner import MemoryOutbox
from penstock.spec.messages import Order
from penstock.spec.seals import SEAL_LEAVES_MAX, seal_digest, seal_root

BODY = chat_body()
NOW_MS = 10_000_000
SEAL_MS = 60_000


async def served(gate: Gate, count: int = 1) -> list[Vouched]:
    """So many answered orders, none of them sealed."""
    return [await gate.call(BODY) for _ in range(count)]


def ids(answers: Sequence[Vouched]) -> list[str]:
    return [one.order.order_id for one in answers]


def orders_of(answers: Sequence[Vouched]) -> list[Order]:
    return [one.order for one in answers]


class TestExchange:
    def test_one_seal_each_way_makes_records_of_a_whole_batch(self) -> None:
        async def scenario(world: World) -> None:
            gate = await ready_gate(world)
            answers = await served(gate, 5)
            given = await gate.seal(orders_of(answers), ids(answers)[::-1])
            assert given["orders_known"] == 5
            records = gate.records(answers, orders_of(answers), given)
            assert [judged(one).earned_nano for one in records] == [
                one.receipt.charge_nano for one in answers
            ]

        playing(scenario)

    def test_seals_are_given_again_for_any_part_of_the_batch(self) -> None:
        async def scenario(world: World) -> None:
            gate = await ready_gate(world)
            answers = await served(gate, 3)
            first = await gate.seal(orders_of(answers), ids(answers))
            assert await gate.seal(orders_of(answers), ids(answers)) == first
            part = await gate.seal([], ids(answers)[1:2])
            assert part["receipts"]["order_ids"] == ids(answers)[1:2]
            (record,) = gate.records(answers[1:2], orders_of(answers), part)
            judged(record)

        playing(scenario)

    def test_a_receipt_is_not_sealed_before_its_order_is(self) -> None:
        async def scenario(world: World) -> None:
            gate = await ready_gate(world)
            (answer,) = await served(gate)
            early = await gate.seal([], ids([answer]))
            assert early == {"orders_known": 0, "receipts": None, "unknown": []}
            both = await gate.seal([answer.order], ids([answer]))
            assert both["unknown"] == []

        playing(scenario)

    def test_another_gateway_neither_seals_nor_gets_what_is_not_its_own(self) -> None:
        async def scenario(world: World) -> None:
            gate, other = await ready_gate(world), await ready_gate(world, OTHER)
            (answer,) = await served(gate)
            stolen = await other.seal([answer.order], ids([answer]))
            assert stolen == {"orders_known": 0, "receipts": None, "unknown": ids([answer])}
            # The true gateway's seal, brought by another one, is not that one's word.
            seals = gate.order_seals([answer.order])
            reply = await other.post("/v1/seals", other.seals_body(seals, []))
            assert reply.status == 400
            given = await gate.seal([answer.order], ids([answer]))
            assert given["orders_known"] == 1
            asked = await other.seal([], ids([answer]))
            assert asked["unknown"] == ids([answer])

        playing(scenario, prepare=with_two_gateways)

    def test_a_new_session_of_the_gateway_speaks_for_the_orders_of_the_old_one(self) -> None:
        async def scenario(world: World) -> None:
            gate = await ready_gate(world)
            (answer,) = await served(gate)
            await gate.open()
            given = await gate.seal([answer.order], ids([answer]))
            (record,) = gate.records([answer], [answer.order], given)
            judged(record)

        playing(scenario)

    def test_a_seal_over_other_digests_proves_nothing(self) -> None:
        async def scenario(world: World) -> None:
            gate = await ready_gate(world)
            first, second = await served(gate, 2)
            cheaper = replace(first.order, charge_max=first.order.charge_max - 1)
            assert (await gate.seal([cheaper], ids([first])))["orders_known"] == 0
            swapped = gate.order_seals([first.order, second.order])
            swapped["order_ids"].reverse()
            reply = await gate.post("/v1/seals", gate.seals_body(swapped, ids([first, second])))
            assert msgspec.json.decode(reply.body)["orders_known"] == 0
            assert (await gate.seal([first.order], ids([first])))["receipts"] is not None

        playing(scenario)

    def test_a_wrong_signature_of_the_root_changes_nothing(self) -> None:
        async def scenario(world: World) -> None:
            gate = await ready_gate(world)
            (answer,) = await served(gate)
            forged = gate.order_seals([answer.order], key=ToyKey("thief"))
            good = gate.order_seals([answer.order])
            nested = {**good, "root_signature": f"seal1.1.0..{good['root_signature']}"}
            for seals in (forged, nested, {**good, "root_signature": ""}):
                reply = await gate.post("/v1/seals", gate.seals_body(seals, ids([answer])))
                assert reply.status == 400
                assert msgspec.json.decode(reply.body)["error"]["code"] == "bad_seal"
            assert (await gate.seal([], ids([answer])))["receipts"] is None

        playing(scenario)

    def test_a_seal_that_overtakes_its_order_proves_it(self) -> None:
        """A large body takes longer on its way than the 50 ms after which its order is sealed."""

        async def scenario(world: World) -> None:
            gate, other = await ready_gate(world), await ready_gate(world, OTHER)
            order = gate.order(BODY)
            early = await gate.seal([order], [order.order_id])
            assert early == {"orders_known": 0, "receipts": None, "unknown": [order.order_id]}
            answer = await gate.place(order, BODY, headers=gate.headers(order))
            assert world.miner.parts.claims.sealing.unsealed == 0
            given = await gate.seal([], [order.order_id])
            (record,) = gate.records([answer], [order], given)
            assert judged(record).earned_nano > 0
            # One gateway's seal is nothing in the name of another.
            foreign = gate.order(BODY, gateway=GATEWAY.identity)
            await other.seal([foreign])
            await gate.place(foreign, BODY, headers=gate.headers(foreign))
            assert world.miner.parts.claims.sealing.unsealed == 1

        playing(scenario, prepare=with_two_gateways)

    def test_a_seal_that_comes_while_the_order_is_in_work_proves_it(self) -> None:
        hold = asyncio.Event()

        async def scenario(world: World) -> None:
            gate = await ready_gate(world)
            async with asyncio.TaskGroup() as group:
                task = group.create_task(gate.call(chat_body(stream=True)))
                await world.until(lambda: len(world.miner.parts.front.jobs))
                (job,) = world.miner.parts.front.jobs._jobs.values()
                early = await gate.seal([job.admitted.order], [job.admitted.order.order_id])
                assert early["orders_known"] == 1
                assert (early["receipts"], early["unknown"]) == (None, [])
                hold.set()
                answer = await task
            (line,) = [msgspec.json.decode(one) for one in world.store.load()]
            assert line["order"]["signature"].startswith("seal1.")
            assert (await gate.seal([], ids([answer])))["receipts"] is not None

        def prepare(world: World) -> None:
            world.scripted(streaming(chunk("a", finish="stop"), hold=hold))

        playing(scenario, prepare=prepare)


class TestRequests:
    def test_a_request_without_the_sessions_mac_is_refused(self) -> None:
        async def scenario(world: World) -> None:
            gate = await ready_gate(world)
            (answer,) = await served(gate)
            seals = gate.order_seals([answer.order])
            for changes, status, code in (
                ({"mac": "0" * 64}, 403, "bad_mac"),
                ({"mac": "\xe9"}, 403, "bad_mac"),
                ({"receipts": ["o-1"]}, 403, "bad_mac"),
                ({"orders": None}, 403, "bad_mac"),
                ({"session_id": "s-" + "0" * 32}, 401, "session_unknown"),
            ):
                body = gate.seals_body(seals, [], changes=changes)
                reply = await gate.post("/v1/seals", body)
                assert reply.status == status
                assert msgspec.json.decode(reply.body)["error"]["code"] == code
            assert world.miner.parts.claims.sealing.unsealed == 1

        playing(scenario)

    @pytest.mark.parametrize(
        ("orders", "receipts"),
        [
            ({"order_ids": [], "digests": [], "root_signature": "x"}, []),
            ({"order_ids": ["a"], "digests": [], "root_signature": "x"}, []),
            ({"order_ids": ["a", "b"], "digests": ["0" * 64], "root_signature": "x"}, []),
            ({"order_ids": ["a"], "digests": ["0" * 63], "root_signature": "x"}, []),
            ({"order_ids": ["a"], "digests": ["0" * 63 + "\n"], "root_signature": "x"}, []),
            ({"order_ids": ["a"], "digests": ["G" * 64], "root_signature": "x"}, []),
            ({"order_ids": ["a"], "digests": ["0" * 64], "root_signature": "x" * 601}, []),
            ({"order_ids": ["a"] * 65, "digests": ["0" * 64] * 65, "root_signature": "x"}, []),
            ({"order_ids": ["a" * 129], "digests": ["0" * 64], "root_signature": "x"}, []),
            (5, []),
            (None, ["a"] * 65),
            (None, [5]),
        ],
    )
    def test_a_request_of_another_shape_is_refused(self, orders: Any, receipts: Any) -> None:
        async def scenario(world: World) -> None:
            gate = await ready_gate(world)
            reply = await gate.post("/v1/seals", gate.seals_body(orders, receipts))
            assert reply.status == 400
            assert msgspec.json.decode(reply.body)["error"]["code"] == "bad_seal"

        playing(scenario)

    @pytest.mark.parametrize("body", [b"", b"{", b"[]", b"{}", b"\xff", b"[" * 9_000, b'{"mac":1}'])
    def test_nonsense_is_refused(self, body: bytes) -> None:
        async def scenario(world: World) -> None:
            gate = await ready_gate(world)
            assert (await gate.post("/v1/seals", body)).status == 400

        playing(scenario)

    def test_a_large_request_is_not_even_read(self) -> None:
        async def scenario(world: World) -> None:
            gate = await ready_gate(world)
            reply = await gate.post("/v1/seals", b" " * (SEALS_BYTES_MAX + 1))
            assert reply.status == 413

        playing(scenario)

    def test_the_same_receipt_asked_twice_in_one_request_is_one_leaf(self) -> None:
        async def scenario(world: World) -> None:
            gate = await ready_gate(world)
            (answer,) = await served(gate)
            given = await gate.seal([answer.order], [*ids([answer]) * 3, "o-none"])
            assert given["receipts"]["order_ids"] == ids([answer])
            assert given["unknown"] == ["o-none"]

        playing(scenario)


class TestClaims:
    def test_only_proven_orders_are_claimed_and_the_law_accepts_them(self) -> None:
        async def scenario(world: World) -> None:
            gate = await ready_gate(world)
            answers = await served(gate, 3)
            await asyncio.sleep(20)
            assert world.market.claims == []
            await gate.seal(orders_of(answers[:2]))
            await world.until(lambda: len(world.market.claims) == 2)
            earned = [judged_claim(one).earned_nano for one in world.market.claims]
            assert earned == [one.receipt.charge_nano for one in answers[:2]]
            await world.until(lambda: len(world.miner.parts.outbox) == 1)
            assert len(world.miner.parts.claims.sealing) == 1

        playing(scenario)

    def test_a_receipt_that_the_gateway_had_sealed_is_claimed_under_that_very_seal(self) -> None:
        async def scenario(world: World) -> None:
            gate = await ready_gate(world)
            (answer,) = await served(gate)
            given = await gate.seal([answer.order], ids([answer]))
            (record,) = gate.records([answer], [answer.order], given)
            await world.until(lambda: world.market.claims)
            (claim,) = world.market.claims
            assert record.receipt is not None
            assert claim["receipt"]["signature"] == record.receipt.signature
            assert claim["order"]["signature"] == record.order.signature

        playing(scenario)

    def test_what_was_proven_survives_the_death_of_the_miner(self) -> None:
        def prepare(world: World) -> None:
            world.market.refuse["/v1/claims"] = problem(503, "down", "down")

        async def scenario(world: World) -> None:
            gate = await ready_gate(world)
            answers = await served(gate, 3)
            await gate.seal(orders_of(answers[:2]))
            left = MemoryOutbox()
            for line in world.store.load():
                left.append(line)
            world.stop.set()
            await asyncio.sleep(20)
            # As kill -9 leaves it: what the orderly end wrote is not there.
            world.store = left
            world.market.refuse.clear()
            world.market.offers.clear()
            async with asyncio.TaskGroup() as group:
                group.create_task(world.run_miner())
                await world.ready()
                await world.until(lambda: len(world.market.claims) == 2)
                for claim in world.market.claims:
                    judged_claim(claim)
                # The third is proven in the new life, under a new session, and sealed for both.
                await gate.open()
                given = await gate.seal([answers[2].order], ids(answers[2:]))
                (record,) = gate.records(answers[2:], [answers[2].order], given)
                judged(record)
                await world.until(lambda: len(world.market.claims) == 3)
                world.stop.set()

        playing(scenario, prepare=prepare)

    def test_orders_that_are_never_sealed_are_dropped_and_not_claimed(self) -> None:
        async def scenario(world: World) -> None:
            gate = await ready_gate(world)
            await served(gate, 2)
            sealing = world.miner.parts.claims.sealing
            await world.until(lambda: not len(sealing), within_ms=400_000)
            assert world.market.claims == []
            assert len(world.miner.parts.outbox) == 0
            assert world.miner.metrics.value("miner_orders_never_sealed_total") == 2

        playing(scenario)

    def test_a_miner_that_stops_waits_a_moment_for_the_last_seals(self) -> None:
        async def scenario(world: World) -> None:
            gate = await ready_gate(world)
            answers = await served(gate, 2)
            world.stop.set()
            await asyncio.sleep(0.1)
            given = await gate.seal(orders_of(answers), ids(answers))
            assert given["unknown"] == []
            await world.until(lambda: len(world.market.claims) == 2)

        playing(scenario)


class TestTrust:
    def test_too_many_unsealed_orders_are_refused_until_seals_come(self) -> None:
        def prepare(world: World) -> None:
            world.config = msgspec.structs.replace(CONFIG, bounds=Bounds(unsealed_max=10))

        async def scenario(world: World) -> None:
            gate = await ready_gate(world)
            answers = await served(gate, 10)
            refused = await gate.call(BODY)
            assert (refused.status, refused.error) == (503, "no_capacity")
            assert refused.text == b""
            assert (await world.call(BODY)).status == 200, "a signed order needs no trust"
            await gate.seal(orders_of(answers[:1]))
            assert (await gate.call(BODY)).status == 200
            assert (await gate.call(BODY)).status == 503

        playing(scenario, prepare=prepare)

    def test_a_new_session_gives_no_new_trust(self) -> None:
        def prepare(world: World) -> None:
            world.config = msgspec.structs.replace(CONFIG, bounds=Bounds(unsealed_max=10))
            with_two_gateways(world)

        async def scenario(world: World) -> None:
            gate, other = await ready_gate(world), await ready_gate(world, OTHER)
            await served(gate, 10)
            await gate.open()
            assert (await gate.call(BODY)).status == 503
            assert (await other.call(BODY)).status == 200

        playing(scenario, prepare=prepare)

    def test_broken_trust_is_won_back_one_sealed_order_at_a_time(self) -> None:
        bench = Bench(unsealed_max=UNSEALED_MIN + 5)
        for number in range(5):
            bench.take(number)
        bench.clock.ms += 1_000 + SEAL_MS + 1
        bench.sealing.sweep()
        assert len(bench.sealing) == 0
        for number in range(10, 10 + UNSEALED_MIN):
            assert bench.sealing.has_room(GATEWAY.identity)
            bench.take(number)
        assert not bench.sealing.has_room(GATEWAY.identity)
        bench.seal([10, 11, 12])
        found = 0
        while bench.sealing.has_room(GATEWAY.identity):
            bench.take(100 + found)
            found += 1
        assert found == 3 + 3, "three places are free again, and three are won back"


class Bench:
    """A Sealing by itself, at a time of the test's choice."""

    def __init__(self, *, unsealed_max: int = 1_000, taken_max: int = 1_000) -> None:
        self.clock = FixedClock(NOW_MS)
        self.store = MemoryOutbox()
        self.life(unsealed_max=unsealed_max, taken_max=taken_max)

    def life(self, *, unsealed_max: int = 1_000, taken_max: int = 1_000) -> None:
        """A new life of the miner over the same disk."""
        outbox = Outbox(self.store, Metrics())
        outbox.open(now_ms=self.clock.ms)
        self.sealing = Sealing(
            key=MINER,
            verify=toy_verify,
            outbox=outbox,
            time=self.clock,
            metrics=Metrics(),
            taken_max=taken_max,
            unsealed_max=unsealed_max,
            seal_ms=SEAL_MS,
            settle_ms=0,
        )
        self.sealing.adopt()

    def order(self, number: int, key: ToyKey = GATEWAY) -> Order:
        return make_order(order_id=f"o-{number}", gateway=key.identity, deadline_ms=NOW_MS + 1_000)

    def take(self, number: int, key: ToyKey = GATEWAY) -> Statement:
        order = self.order(number, key)
        statement = state("order", order, signer=key.identity)
        self.sealing.take(order.order_id, statement, deadline_ms=self.clock.ms + 1_000)
        return statement

    def end(self, number: int, statement: Statement, key: ToyKey = GATEWAY) -> None:
        """The order ends with a receipt that earns."""
        order = self.order(number, key)
        receipt = state("receipt", make_receipt(order), signer=order.miner)
        if self.sealing.close(order.order_id, receipt):
            claim = Claim(order.order_id, statement, receipt)
            self.sealing.outbox.put(claim, due_ms=self.clock.ms)

    def seal(self, numbers: Sequence[int], key: ToyKey = GATEWAY) -> int:
        digests = [spell_digest("order", self.order(number, key)) for number in numbers]
        signature = key.sign(seal_digest(seal_root(digests), len(digests)))
        order_ids = [f"o-{number}" for number in numbers]
        return self.sealing.take_seals(key.identity, OrderSeals(order_ids, digests, signature))

    def claimable(self) -> set[str]:
        found = self.sealing.outbox.due(now_ms=1 << 50, claims_max=1_000)
        for one in found:
            self.sealing.outbox.postpone(one.order_id, due_ms=0)
        return {one.order_id for one in found}


class TestTable:
    def test_a_full_table_lets_go_of_the_oldest_that_needs_no_seal_any_more(self) -> None:
        bench = Bench(taken_max=4)
        statements = [bench.take(number) for number in range(4)]
        assert not bench.sealing.has_room(GATEWAY.identity), "all of them run"
        for number in (1, 2):
            bench.end(number, statements[number])
        bench.seal([2])
        bench.sealing.give_seals(GATEWAY.identity, ["o-2"])
        assert bench.sealing.has_room(GATEWAY.identity)
        assert bench.sealing.give_seals(GATEWAY.identity, ["o-2"]).unknown == ("o-2",)
        assert bench.claimable() == {"o-2"}, "it is still claimed"
        bench.take(4)
        assert bench.sealing.has_room(GATEWAY.identity)
        assert bench.seal([1]) == 0, "the one that was never sealed had to go"
        assert not bench.sealing.knows("o-1")
        assert bench.sealing.knows("o-2"), "what earns keeps its id"

    def test_sealed_both_ways_it_is_kept_for_a_while_and_then_forgotten(self) -> None:
        bench = Bench()
        bench.end(1, bench.take(1))
        bench.seal([1])
        assert bench.sealing.give_seals(GATEWAY.identity, ["o-1"]).order_ids == ("o-1",)
        bench.clock.ms += ASK_AGAIN_MS
        bench.sealing.sweep()
        assert bench.sealing.give_seals(GATEWAY.identity, ["o-1"]).order_ids == ("o-1",)
        bench.clock.ms += ASK_AGAIN_MS + 1
        bench.sealing.sweep()
        assert len(bench.sealing) == 0
        assert bench.claimable() == {"o-1"}

    def test_early_seals_are_bounded_and_forgotten(self) -> None:
        bench = Bench(unsealed_max=UNSEALED_MIN)
        bench.seal(range(UNSEALED_MIN + 2))
        statements = [bench.take(number) for number in range(UNSEALED_MIN + 2)]
        assert [one.is_signed for one in statements] == [False] * 2 + [True] * UNSEALED_MIN
        bench.seal([100])
        bench.clock.ms += SEAL_MS + 1
        bench.sealing.sweep()
        assert not bench.take(100).is_signed

    def test_a_clock_that_is_set_forward_drops_nothing(self) -> None:
        bench = Bench()
        bench.end(1, bench.take(1))
        bench.clock.ahead_ms = 3_600_000
        bench.sealing.sweep()
        assert bench.seal([1]) == 1

    def test_an_order_that_ended_after_it_was_given_up_is_not_kept(self) -> None:
        bench = Bench()
        statement = bench.take(1)
        bench.clock.ms += 1_000 + SEAL_MS + 1
        bench.sealing.sweep()
        bench.end(1, statement)
        assert len(bench.sealing.outbox) == 0

    def test_orders_of_a_former_life_cost_their_gateway_no_trust(self) -> None:
        bench = Bench()
        for number in range(20):
            bench.end(number, bench.take(number))
        bench.life(unsealed_max=UNSEALED_MIN)
        assert bench.sealing.unsealed == 0
        bench.clock.ms += SEAL_MS + 1
        bench.sealing.sweep()
        assert len(bench.sealing.outbox) == 0
        for number in range(100, 100 + UNSEALED_MIN):
            assert bench.sealing.has_room(GATEWAY.identity)
            bench.take(number)

    async def test_it_is_quiet_when_nothing_misses_a_seal(self) -> None:
        bench = Bench()
        await bench.sealing.wait_quiet()
        bench.end(1, bench.take(1))
        waiting = asyncio.create_task(bench.sealing.wait_quiet())
        await asyncio.sleep(0)
        bench.seal([1])
        await asyncio.sleep(0)
        assert not waiting.done()
        bench.sealing.give_seals(GATEWAY.identity, ["o-1"])
        await asyncio.wait_for(waiting, 20)

    def test_a_wrong_seal_raises_and_changes_nothing(self) -> None:
        bench = Bench()
        bench.take(1)
        digests = [spell_digest("order", bench.order(1))]
        with pytest.raises(SessionRefused):
            bench.sealing.take_seals(GATEWAY.identity, OrderSeals(["o-1"], digests, "00"))
        assert bench.sealing.unsealed == 1


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("take"), st.integers(0, 9)),
        st.tuples(st.just("end"), st.integers(0, 9)),
        st.tuples(st.just("seal"), st.integers(0, 9)),
        st.tuples(st.just("give"), st.integers(0, 9)),
        st.tuples(st.just("settle"), st.integers(0, 9)),
        st.tuples(st.just("die"), st.just(0)),
    ),
    max_size=50,
)


@given(STEPS)
def test_what_ended_and_was_proven_is_claimed_over_any_deaths_and_nothing_else_is(
    steps: list[tuple[str, int]],
) -> None:
    """A model beside it: sets of what was taken, ended, proven and settled."""
    bench = Bench()
    running: dict[int, Statement] = {}
    taken: set[int] = set()
    ended: set[int] = set()
    proven: set[int] = set()
    early: set[int] = set()
    settled: set[int] = set()
    for step, number in steps:
        if step == "take" and number not in taken:
            running[number] = bench.take(number)
            taken.add(number)
            proven |= early & {number}
        elif step == "end" and number in running:
            bench.end(number, running.pop(number))
            ended.add(number)
        elif step == "seal":
            known = bench.seal([number])
            assert known == (number in running or number in ended - settled)
            proven |= {number} if known else set()
            early |= set() if known else {number}
        elif step == "give":
            given_seals = bench.sealing.give_seals(GATEWAY.identity, [f"o-{number}"])
            assert bool(given_seals.order_ids) == (number in (ended & proven) - settled)
        elif step == "settle" and number in ended & proven:
            bench.sealing.outbox.settle(f"o-{number}")
            bench.sealing.forget(f"o-{number}")
            settled.add(number)
        elif step == "die":
            # What was in work is gone with the process; its seal went with it.
            proven -= set(running)
            running.clear()
            early.clear()
            bench.life()
    assert bench.claimable() == {f"o-{number}" for number in (ended & proven) - settled}
    bench.life()
    assert bench.claimable() == {f"o-{number}" for number in (ended & proven) - settled}


@settings(max_examples=30)
@given(st.integers(1, 200), st.sets(st.integers(0, 199)))
def test_receipts_for_claims_are_sealed_in_batches_and_each_proves_itself(
    count: int, signed: set[int]
) -> None:
    statements = [
        state("receipt", make_receipt(make_order(order_id=f"o-{n}")), signer=MINER.identity)
        for n in range(count)
    ]
    for number in signed & set(range(count)):
        statements[number].signature = MINER.sign(statements[number].digest)
    key = CountingKey(MINER)
    seal_all(statements, key)
    assert all(VERIFY(MINER.identity, one.digest, one.signature) for one in statements)
    bare = count - len(signed & set(range(count)))
    assert key.signed == -(-bare // SEAL_LEAVES_MAX)


class CountingKey:
    """A working key that counts what it signs. Implements the Sign port."""

    def __init__(self, key: ToyKey) -> None:
        self._key = key
        self.signed = 0

    @property
    def identity(self) -> str:
        return self._key.identity

    def sign(self, digest: bytes) -> str:
        self.signed += 1
        return self._key.sign(digest)


def test_ten_thousand_orders_in_flight_of_one_gateway_stay_within_its_bound() -> None:
    bench = Bench(unsealed_max=100)
    rng = random.Random(8)
    for number in range(10_000):
        if bench.sealing.has_room(GATEWAY.identity):
            statement = bench.take(number)
            if rng.random() < 0.5:
                bench.end(number, statement)
        assert bench.sealing.unsealed <= 100
    assert bench.sealing.has_room(OTHER.identity)
