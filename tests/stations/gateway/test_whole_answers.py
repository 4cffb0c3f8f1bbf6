"""Answers in one piece: checked before the client sees a byte, and what happens when they are bad."""

import json
from dataclasses import replace

import pytest
from tests.stations.gateway.script import Act, Script
from tests.stations.gateway.world import World, chat, error_of, play

from penstock.gateway.config import Bounds
from penstock.kit.errors import DeadlinePassed
from penstock.spec.canon import from_plain
from penstock.spec.params import LOCAL
from penstock.spec.receipts import Countersign, Outcome, Receipt


def test_an_answer_comes_with_its_receipt_and_countersignature_and_is_charged_once() -> None:
    async def scenario(world: World) -> None:
        await world.add_miner("m1")
        reply = await world.post(chat())
        assert reply.status == 200
        content = json.loads(reply.body)["choices"][0]["message"]["content"]
        assert content == "Water turns the wheel."
        assert reply.header("server-timing").startswith("route;dur=")
        copy = await world.get(f"/v1/receipts/{reply.header('x-penstock-order')}")
        record = json.loads(copy.body)["record"]
        receipt = from_plain(Receipt, record["receipt"]["body"])
        seen = from_plain(Countersign, record["countersign"]["body"])
        assert seen.match
        assert seen.outcome is Outcome.COMPLETE
        assert seen.charge_nano == receipt.charge_nano == int(reply.header("x-penstock-charge"))
        assert receipt.order_id == reply.header("x-penstock-order")
        assert reply.header("x-penstock-instance") == "m1-1"
        await world.at_rest()
        assert world.outcomes() == [Outcome.COMPLETE]
        assert world.charged_nano() == receipt.charge_nano > 0

    play(scenario)


def test_the_body_reaches_the_miner_byte_for_byte() -> None:
    async def scenario(world: World) -> None:
        miner = await world.add_miner("m1")
        body = (
            b'{ "messages":[{"role":"user","content":"\\u00e9"}],\n "model" :"tiny-chat", "x": 1e5}'
        )
        assert (await world.post(body)).status == 200
        assert miner.served[0].body == body

    play(scenario)


BAD = {
    "another digest": Script(tamper=lambda one: replace(one, response_digest="0" * 64)),
    "too many units": Script(
        tamper=lambda one: replace(one, units=replace(one.units, completion=17), charge_nano=0)
    ),
    "a charge above the price": Script(
        tamper=lambda one: replace(one, charge_nano=one.charge_nano + 1)
    ),
    "another order": Script(tamper=lambda one: replace(one, order_digest="1" * 64)),
    "a forged signature": Script(forge=lambda signed: replace(signed, signature="0" * 64)),
    "no receipt": Script(omit_receipt=True),
    "an engine that broke": Script(act=Act.LOSE),
    "a cut connection": Script(act=Act.CUT),
    "a server error": Script(act=Act.BREAK, status=500),
    "a redirect": Script(act=Act.BREAK, status=302),
    "a client error without a receipt": Script(act=Act.BREAK, status=403),
    "a cancel that nobody asked for": Script(
        tamper=lambda one: replace(one, outcome=Outcome.CLIENT_CANCELLED)
    ),
    "a receipt that is no JSON": Script(forge=lambda signed: replace(signed, kind="x" * 20_000)),
}


@pytest.mark.parametrize("name", sorted(BAD))
def test_a_bad_answer_is_never_sent_or_charged_and_another_miner_is_tried(name: str) -> None:
    async def scenario(world: World) -> None:
        first, second = await world.add_miner("m1"), await world.add_miner("m2")
        for miner in (first, second):
            miner.scripts = [BAD[name]]
        second_try = await world.post(chat())
        assert second_try.status == 502
        assert error_of(second_try)["code"] == "miner_failed"
        third = await world.post(chat())
        assert third.status == 200
        await world.at_rest()
        failed, done = [Outcome.MINER_FAILED] * 2, [Outcome.COMPLETE]
        assert world.outcomes() == failed + done
        assert world.charged_nano() == int(third.header("x-penstock-charge"))

    play(scenario)


def test_failover_reaches_the_good_miner_with_an_order_of_its_own() -> None:
    async def scenario(world: World) -> None:
        miners = [await world.add_miner(f"m{n}") for n in range(3)]
        for miner in miners:
            miner.default = Script(act=Act.BREAK, status=500)
        miners[2].default = Script()
        reply = await world.post(chat())
        assert reply.status == 200
        assert reply.header("x-penstock-instance") == "m2-1"
        ids = [served.order.order_id for miner in miners for served in miner.served]
        assert len(set(ids)) == len(ids)
        await world.at_rest()
        assert world.outcomes().count(Outcome.COMPLETE) == 1
        assert len(world.outcomes()) == len(ids)

    play(scenario)


def test_three_miners_are_tried_and_no_more() -> None:
    async def scenario(world: World) -> None:
        miners = [await world.add_miner(f"m{n}") for n in range(5)]
        for miner in miners:
            miner.default = Script(act=Act.BREAK, status=500)
        assert (await world.post(chat())).status == 502
        assert sum(len(miner.served) for miner in miners) == 3

    play(scenario)


def test_signed_refusals_are_recorded_as_such_and_end_in_no_capacity() -> None:
    async def scenario(world: World) -> None:
        for name in ("m1", "m2"):
            (await world.add_miner(name)).default = Script(act=Act.REFUSE)
        reply = await world.post(chat())
        assert reply.status == 429
        assert error_of(reply)["code"] == "no_capacity"
        assert reply.header("retry-after") == "1"
        await world.at_rest()
        assert world.outcomes() == [Outcome.REFUSED, Outcome.REFUSED]
        assert world.charged_nano() == 0

    play(scenario)


def test_an_engines_client_error_is_final_and_passed_on_with_its_receipt() -> None:
    async def scenario(world: World) -> None:
        for name in ("m1", "m2"):
            (await world.add_miner(name)).default = Script(act=Act.ERROR, status=422)
        for stream in (False, True):
            reply = await world.post(chat(stream=stream))
            assert reply.status == 422
            assert json.loads(reply.body)["error"]["code"] == "scripted"
            assert reply.header("x-penstock-charge") == "0"
        await world.at_rest()
        assert world.outcomes() == [Outcome.COMPLETE, Outcome.COMPLETE]

    play(scenario)


def test_a_client_error_that_bills_units_is_not_believed() -> None:
    async def scenario(world: World) -> None:
        miner = await world.add_miner("m1")

        def bill(receipt: Receipt) -> Receipt:
            units = replace(receipt.units, prompt=20)
            return replace(receipt, units=units, charge_nano=20 * 50)

        miner.default = Script(act=Act.ERROR, status=400, tamper=bill)
        assert (await world.post(chat())).status == 502
        await world.at_rest()
        assert world.outcomes() == [Outcome.MINER_FAILED]
        rejected = world.gateway.metrics.value(
            "gateway_receipts_rejected_total", reason="units_for_error"
        )
        assert rejected == 1

    play(scenario)


def test_a_miner_that_is_gone_or_silent_is_passed_over() -> None:
    async def scenario(world: World) -> None:
        gone, silent = await world.add_miner("m1"), await world.add_miner("m2")
        await world.add_miner("m3")
        world.network.kill("m1")
        silent.default = Script(act=Act.HANG)
        replies = [await world.post(chat()) for _ in range(6)]
        assert [reply.status for reply in replies] == [200] * 6
        assert not gone.served
        await world.at_rest()

    play(scenario, params=replace(LOCAL, order_ttl_ms=5_000))


def test_a_connection_that_died_in_the_pool_is_not_held_against_the_miner() -> None:
    async def scenario(world: World) -> None:
        miner = await world.add_miner("m1")
        assert (await world.post(chat())).status == 200
        await miner.stop()
        await miner.start()
        assert (await world.post(chat())).status == 200
        await world.at_rest()
        assert world.outcomes() == [Outcome.COMPLETE] * 2

    play(scenario)


def test_a_client_that_leaves_pays_for_what_the_cancelled_miner_had_done() -> None:
    async def scenario(world: World) -> None:
        miner = await world.add_miner("m1")
        miner.default = Script(words=("a",) * 16, word_ms=1_000)
        with pytest.raises(DeadlinePassed):
            await world.post(chat(), deadline_ms=3_500)
        await world.at_rest()
        assert miner.cancels == [miner.served[0].order.order_id]
        assert world.outcomes() == [Outcome.CLIENT_CANCELLED]
        units = next(iter(world.ledger.judgements.values())).units
        assert 0 < units.completion < 16
        assert world.charged_nano() > 0

    play(scenario)


def test_an_answer_that_is_too_large_is_cut_off() -> None:
    async def scenario(world: World) -> None:
        miner = await world.add_miner("m1")
        miner.default = Script(words=("x" * 5_000,))
        assert (await world.post(chat())).status == 502
        await world.at_rest()
        assert world.outcomes() == [Outcome.MINER_FAILED]

    play(scenario, bounds=Bounds(response_bytes_max=4_096))
