"""What seals are for: only what is proven is claimed, and who does not seal loses trust."""

import asyncio

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.makers import GATEWAY, MINER, ToyKey, make_order, make_receipt
from tests.properties import in_full
from tests.stations.miner.gate import VERIFY, judged, judged_claim
from tests.stations.miner.test_seal_table import Bench
from tests.stations.miner.test_sealing import ids, orders_of, served
from tests.stations.miner.test_sessions import OTHER, ready_gate, with_two_gateways
from tests.stations.miner.world import CONFIG, World, chat_body, playing

from penstock.kit.wire.problem import problem
from penstock.miner.config import Bounds
from penstock.miner.sealing import UNSEALED_MIN
from penstock.miner.statement import Statement, seal_all, state
from penstock.sim.stores_miner import MemoryOutbox
from penstock.spec.seals import SEAL_LEAVES_MAX

BODY = chat_body()
SEAL_MS = 60_000


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


@settings(max_examples=in_full(30))
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
