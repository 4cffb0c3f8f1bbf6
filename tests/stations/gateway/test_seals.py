"""Sessions and seals: one signature for many orders, promises that must be kept, and what if not."""

import asyncio
from dataclasses import replace

import pytest
from tests.stations.gateway.script import Act, Script, SealAct
from tests.stations.gateway.scripted_miner import ScriptedMiner
from tests.stations.gateway.world import World, chat, play

from penstock.gateway.config import Bounds, Deadlines
from penstock.kit.errors import DeadlinePassed
from penstock.spec.keys import parse_signed, signed_digest
from penstock.spec.params import LOCAL
from penstock.spec.receipts import Outcome
from penstock.spec.seals import is_seal

QUICK = Deadlines(seal_deadline_ms=2_000, seal_call_ms=500)


async def many(world: World, miner: ScriptedMiner, count: int) -> None:
    """So many whole answers at once."""
    miner.room = count
    await world.put_offer(miner)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(world.post(chat())) for _ in range(count)]
    assert {task.result().status for task in tasks} == {200}


def test_orders_receipts_and_countersigns_of_many_requests_share_signatures() -> None:
    async def scenario(world: World) -> None:
        miner = await world.add_miner("m1")
        await many(world, miner, 70)
        await world.at_rest()
        assert world.outcomes() == [Outcome.COMPLETE] * 70
        assert miner.seal_calls <= 6
        roots = set()
        for _, event in world.ledger.events:
            if "record" not in event:
                continue
            record = event["record"]
            for name in ("order", "receipt", "countersign"):
                assert is_seal(record[name]["signature"])
                roots.add(record[name]["signature"].rpartition(".")[2])
        assert len(roots) <= 12, "batches were signed, not messages"

    play(scenario, has_sessions=True)


def test_the_miner_gets_the_proof_it_claims_with_and_nothing_is_signed_twice() -> None:
    async def scenario(world: World) -> None:
        miner = await world.add_miner("m1")
        miner.default = Script(word_ms=1)
        reply = await world.post(chat())
        assert reply.status == 200
        assert reply.header("x-penstock-order") not in miner.proofs
        await world.at_rest()
        assert reply.header("x-penstock-order") in miner.proofs
        assert world.gateway.sessions.open_count == 1
        assert miner.sessions_opened == 1

    play(scenario, has_sessions=True)


def test_a_receipt_that_is_asked_for_before_its_seal_is_waited_for() -> None:
    async def scenario(world: World) -> None:
        await world.add_miner("m1")
        reply = await world.post(chat())
        order_id = reply.header("x-penstock-order")
        assert world.gateway.sealer.waiting == 1
        copy = await world.get(f"/v1/receipts/{order_id}")
        assert copy.status == 200
        assert world.gateway.sealer.waiting == 0

    play(scenario, has_sessions=True)


BROKEN_PROMISES = {
    SealAct.UNKNOWN: "unknown",
    SealAct.FORGE: "forged",
    SealAct.SWAP: "forged",
    SealAct.FAIL: "late",
    SealAct.HANG: "late",
    SealAct.NEST: "late",
}


@pytest.mark.parametrize("act", list(BROKEN_PROMISES))
def test_a_receipt_without_its_seal_costs_nothing_and_is_the_miners_failure(act: SealAct) -> None:
    async def scenario(world: World) -> None:
        miner = await world.add_miner("m1")
        miner.seal_act = act
        for stream in (False, True):
            if stream:
                heard = await world.hear(chat(stream=True))
                assert heard.word("countersign")["outcome"] == "complete"
            else:
                reply = await world.post(chat())
                assert int(reply.header("x-penstock-charge")) > 0
        payer = next(iter(world.gateway.leases._payers.values()))
        await world.at_rest()
        assert world.outcomes() == [Outcome.MINER_FAILED] * 2
        assert world.charged_nano() == 0
        assert payer.lease is None or payer.lease.spent_nano == 0
        failed = world.gateway.metrics.value(
            "gateway_seals_failed_total", reason=BROKEN_PROMISES[act]
        )
        assert failed == 2
        for _, event in world.ledger.events:
            assert "record" not in event or event["record"]["receipt"] is None

    play(scenario, has_sessions=True, deadlines=QUICK)


@pytest.mark.parametrize("act", [SealAct.FAIL, SealAct.HANG])
def test_a_seal_that_comes_in_time_after_all_is_as_good(act: SealAct) -> None:
    async def scenario(world: World) -> None:
        miner = await world.add_miner("m1")
        miner.seal_act = act
        reply = await world.post(chat())
        await asyncio.sleep(1)
        assert world.gateway.sealer.waiting == 1
        miner.seal_act = SealAct.SIGN
        await world.at_rest()
        assert world.outcomes() == [Outcome.COMPLETE]
        assert world.charged_nano() == int(reply.header("x-penstock-charge"))

    play(scenario, has_sessions=True, deadlines=Deadlines(seal_call_ms=500))


@pytest.mark.parametrize("stream", [False, True])
def test_a_session_that_the_miner_has_forgotten_costs_one_more_message_and_nothing_else(
    *, stream: bool
) -> None:
    async def scenario(world: World) -> None:
        miner = await world.add_miner("m1")
        assert (await world.post(chat())).status == 200
        await world.at_rest()
        miner.sessions.clear()
        if stream:
            assert (await world.hear(chat(stream=True))).text == "Water turns the wheel."
        else:
            assert (await world.post(chat())).status == 200
        assert miner.served[-1].session == b"", "it was sent again under a signature"
        assert (await world.post(chat())).status == 200
        assert miner.served[-1].session, "and there is a new session"
        await world.at_rest()
        assert world.outcomes() == [Outcome.COMPLETE] * 3
        assert world.gateway.metrics.value("gateway_sessions_lost_total") == 1
        assert world.gateway.metrics.value("gateway_failovers_total") == 0

    play(scenario, has_sessions=True)


def test_receipts_of_a_lost_session_are_sealed_under_the_next_one() -> None:
    async def scenario(world: World) -> None:
        miner = await world.add_miner("m1")
        assert (await world.post(chat())).status == 200
        miner.sessions.clear()
        await world.at_rest()
        assert world.outcomes() == [Outcome.COMPLETE]
        assert miner.sessions_opened == 2

    play(scenario, has_sessions=True)


def test_a_session_is_renewed_before_it_ends() -> None:
    async def scenario(world: World) -> None:
        miner = await world.add_miner("m1")
        for _ in range(20):
            assert (await world.post(chat())).status == 200
            await asyncio.sleep(1.5)
        await world.at_rest()
        assert all(served.session for served in miner.served)
        assert miner.sessions_opened > 2

    play(scenario, has_sessions=True, deadlines=Deadlines(session_ms=10_000))


def test_a_miner_that_knows_no_sessions_is_not_asked_for_one_again_and_again() -> None:
    async def scenario(world: World) -> None:
        miner = await world.add_miner("m1")
        for _ in range(3):
            assert (await world.post(chat())).status == 200
        await world.at_rest()
        assert miner.seal_calls == 0
        record = next(event["record"] for _, event in world.ledger.events if "record" in event)
        assert not is_seal(record["order"]["signature"])
        assert signed_digest(parse_signed(record["order"])) == miner.served[0].digest

    play(scenario, has_sessions=False)


def test_a_gateway_that_stops_fetches_its_seals_first() -> None:
    async def scenario(world: World) -> None:
        await world.add_miner("m1")
        assert (await world.post(chat())).status == 200
        assert world.gateway.sealer.waiting == 1
        await world.server.close(1_000)
        await world.gateway.stop()
        await asyncio.sleep(1)
        assert world.outcomes() == [Outcome.COMPLETE]
        assert world.ledger.held_nano == 0

    play(scenario, has_sessions=True)


def test_seals_that_do_not_come_when_a_gateway_stops_are_left_to_the_miners_claim() -> None:
    async def scenario(world: World) -> None:
        miner = await world.add_miner("m1")
        miner.seal_act = SealAct.HANG
        assert (await world.post(chat())).status == 200
        await world.server.close(1_000)
        await world.gateway.stop()
        await asyncio.sleep(1)
        assert world.outcomes() == []
        assert world.charged_nano() == 0
        assert world.ledger.held_nano == 0, "what was spent under the lease is free again"
        assert world.gateway.metrics.value("gateway_seals_given_up_total") == 1

    play(scenario, has_sessions=True)


def test_a_lease_is_given_back_only_behind_the_last_record_under_it() -> None:
    """The scripted ledger refuses a record that comes behind its lease's closing."""

    async def scenario(world: World) -> None:
        miner = await world.add_miner("m1")
        miner.seal_act = SealAct.FAIL
        assert (await world.post(chat())).status == 200
        world.gateway.leases.close()
        await asyncio.sleep(1)
        assert not any(subject.startswith("events.lease") for subject in closings(world))
        miner.seal_act = SealAct.SIGN
        await world.at_rest()
        assert world.outcomes() == [Outcome.COMPLETE]
        assert closings(world)

    play(scenario, has_sessions=True)


def closings(world: World) -> list[str]:
    """The lease closings that came, but for the one at the start."""
    return [
        subject
        for subject, event in world.ledger.events
        if subject.startswith("events.lease") and event["lease_id"] != "*"
    ]


def test_a_miner_that_owes_too_many_seals_gets_no_more_orders() -> None:
    async def scenario(world: World) -> None:
        owing = await world.add_miner("m1")
        owing.seal_act = SealAct.FAIL
        owing.room = 100
        await world.put_offer(owing)
        statuses = [(await world.post(chat())).status for _ in range(5)]
        assert statuses == [200, 200, 200, 429, 429]
        await world.add_miner("m2")
        assert (await world.post(chat())).header("x-penstock-instance") == "m2-1"
        owing.seal_act = SealAct.SIGN
        await world.at_rest()

    play(scenario, has_sessions=True, bounds=Bounds(unsealed_max=3))


def test_a_lost_client_pays_for_the_prefix_under_seal_too() -> None:
    async def scenario(world: World) -> None:
        miner = await world.add_miner("m1")
        miner.default = Script(words=("a",) * 16, word_ms=500)
        heard = await world.hear(chat(stream=True), leave_after=3)
        await world.at_rest()
        judged = world.ledger.judgements[heard.headers["x-penstock-order"]]
        assert judged.outcome is Outcome.CLIENT_CANCELLED
        assert 0 < judged.charge_nano == world.charged_nano()

    play(scenario, has_sessions=True)


def test_an_order_that_never_reached_its_miner_is_sealed_by_us_alone() -> None:
    async def scenario(world: World) -> None:
        miner = await world.add_miner("m1")
        world.network.kill(miner.host)
        assert (await world.post(chat())).status == 502
        await world.at_rest()
        assert world.outcomes() == [Outcome.MINER_FAILED]

    play(scenario, has_sessions=True, deadlines=QUICK)


def test_a_client_that_left_before_the_order_was_sealed_proves_it_all_the_same() -> None:
    async def scenario(world: World) -> None:
        miner = await world.add_miner("m1")
        miner.default = Script(act=Act.HANG)
        with pytest.raises(DeadlinePassed):
            await world.post(chat(), deadline_ms=20)
        await world.at_rest()
        assert miner.cancels == [miner.served[0].order.order_id]
        assert world.outcomes() == [Outcome.CLIENT_CANCELLED]

    play(scenario, has_sessions=True, params=replace(LOCAL, order_ttl_ms=5_000))


def test_a_session_answer_nested_too_deeply_is_no_session_and_orders_are_signed() -> None:
    async def scenario(world: World) -> None:
        miner = await world.add_miner("m1")
        miner.nests_sessions = True
        assert (await world.post(chat())).status == 200
        await world.at_rest()
        assert world.outcomes() == [Outcome.COMPLETE]
        miner.nests_sessions = False
        await asyncio.sleep(120)
        await many(world, miner, 3)
        await world.at_rest()
        assert miner.sessions_opened == 1, "it is asked again"

    play(scenario, has_sessions=True)
