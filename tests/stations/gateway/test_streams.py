"""Streamed answers: bytes verbatim and at once, the receipt found wherever chunks end, lost clients."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace

import pytest
from tests.stations.gateway.script import Act, Script
from tests.stations.gateway.world import CHAT, SECRET, URL, World, bearer, chat, play

from penstock.gateway.config import Bounds, Deadlines
from penstock.kit.errors import DeadlinePassed, PeerClosed
from penstock.kit.spell import spell_digest
from penstock.kit.wire.client import StreamReply
from penstock.spec.canon import from_plain
from penstock.spec.params import LOCAL
from penstock.spec.receipts import Countersign, Outcome, Receipt
from penstock.spec.stream import Checkpoint

WORDS = ("Water", " turns", " the", " wheel", ".")


def seen_by(world: World, index: int = -1) -> Countersign:
    """What the gateway countersigned for the order that the ledger booked at this place."""
    records = [event for subject, event in world.ledger.events if ".record." in subject]
    return from_plain(Countersign, records[index]["record"]["countersign"]["body"])


@pytest.mark.parametrize("cut_bytes", [0, 1, 3, 7, 64, 100_000])
def test_a_stream_arrives_verbatim_with_the_countersignature_as_its_last_event(
    cut_bytes: int,
) -> None:
    async def scenario(world: World) -> None:
        miner = await world.add_miner("m1")
        miner.default = Script(cut_bytes=cut_bytes, word_ms=1)
        heard = await world.hear(chat(stream=True))
        assert heard.status == 200
        assert heard.headers["content-type"].startswith("text/event-stream")
        assert heard.text == "".join(WORDS)
        assert heard.data[-1] == b"[DONE]"
        receipt, seen = from_plain(Receipt, heard.word("receipt")), heard.word("countersign")
        assert seen["receipt_digest"] == spell_digest("receipt", receipt).hex()
        assert seen["match"] is True
        assert seen["response_bytes"] == receipt.response_bytes
        assert seen["events"] == receipt.events == len(WORDS) + 1
        assert heard.events[-1].startswith(b": penstock-countersign ")
        assert heard.raw.count(b": penstock-checkpoint ") == 2
        await world.at_rest()
        assert world.outcomes() == [Outcome.COMPLETE]
        assert world.charged_nano() == receipt.charge_nano > 0

    play(scenario)


def test_words_are_passed_on_while_the_miner_still_works() -> None:
    async def scenario(world: World) -> None:
        miner = await world.add_miner("m1")
        miner.default = Script(word_ms=10_000)
        heard = await world.hear(chat(stream=True), leave_after=1)
        assert heard.text == WORDS[0]
        assert miner.served[0].words == 1

    play(scenario)


def test_time_to_the_first_byte_and_in_all_are_measured() -> None:
    async def scenario(world: World) -> None:
        (await world.add_miner("m1")).default = Script(word_ms=1_000)
        await world.hear(chat(stream=True))
        await world.at_rest()
        seen = seen_by(world)
        assert 0 < seen.ttft_us < 100_000
        assert 5_000_000 <= seen.total_us < 5_100_000

    play(scenario)


LOST = {
    "a cut connection": Script(act=Act.CUT, words_until=2),
    "silence": Script(act=Act.STALL, words_until=2),
    "an end without a receipt": Script(omit_receipt=True),
}


@pytest.mark.parametrize("name", sorted(LOST))
def test_a_miner_lost_in_mid_stream_costs_nothing_and_the_client_is_told(name: str) -> None:
    async def scenario(world: World) -> None:
        (await world.add_miner("m1")).default = LOST[name]
        heard = await world.hear(chat(stream=True))
        assert heard.text.startswith("Water turns")
        error = json.loads(heard.data[-1])["error"]
        assert error["code"] == "miner_failed"
        seen = heard.word("countersign")
        assert (seen["outcome"], seen["charge_nano"]) == ("miner_failed", 0)
        await world.at_rest()
        assert world.outcomes() == [Outcome.MINER_FAILED]
        assert world.charged_nano() == 0

    play(scenario)


FALSE = {
    "another digest": Script(tamper=lambda one: replace(one, response_digest="0" * 64)),
    "another length": Script(tamper=lambda one: replace(one, response_bytes=1)),
    "a forged signature": Script(forge=lambda signed: replace(signed, signature="0" * 64)),
    "an engine that was lost": Script(act=Act.LOSE, words_until=2),
    "a cancel that nobody asked for": Script(
        tamper=lambda one: replace(one, outcome=Outcome.CLIENT_CANCELLED)
    ),
    "a receipt for a refusal": Script(
        tamper=lambda one: replace(one, outcome=Outcome.REFUSED, charge_nano=0)
    ),
}


@pytest.mark.parametrize("name", sorted(FALSE))
def test_a_stream_whose_receipt_does_not_hold_is_free(name: str) -> None:
    async def scenario(world: World) -> None:
        (await world.add_miner("m1")).default = FALSE[name]
        heard = await world.hear(chat(stream=True))
        seen = heard.word("countersign")
        assert (seen["outcome"], seen["charge_nano"]) == ("miner_failed", 0)
        await world.at_rest()
        assert world.charged_nano() == 0

    play(scenario)


def test_bytes_after_the_receipt_do_not_reach_the_client() -> None:
    async def scenario(world: World) -> None:
        (await world.add_miner("m1")).default = Script(trailing=b"data: spam\n\n")
        heard = await world.hear(chat(stream=True))
        assert b"spam" not in heard.raw
        assert heard.word("countersign")["outcome"] == "complete"
        await world.at_rest()

    play(scenario)


@pytest.mark.parametrize("act", [Act.HANG, Act.BREAK, Act.REFUSE])
def test_before_the_first_byte_another_miner_takes_over(act: Act) -> None:
    async def scenario(world: World) -> None:
        for name in ("m1", "m2"):
            (await world.add_miner(name)).scripts = [Script(act=act, status=500)]
        first = await world.post(chat(stream=True))
        assert first.status in {429, 502}
        heard = await world.hear(chat(stream=True))
        assert heard.text == "".join(WORDS)
        await world.at_rest()
        assert world.outcomes()[-1] is Outcome.COMPLETE
        assert len(world.outcomes()) == 3

    play(scenario, deadlines=Deadlines(head_ms=1_000))


def test_a_client_that_leaves_pays_for_the_prefix_by_the_miners_last_receipt() -> None:
    async def scenario(world: World) -> None:
        miner = await world.add_miner("m1")
        miner.default = Script(words=("a",) * 16, word_ms=500)
        heard = await world.hear(chat(stream=True), leave_after=3)
        await world.at_rest()
        assert miner.cancels == [heard.headers["x-penstock-order"]]
        assert world.outcomes() == [Outcome.CLIENT_CANCELLED]
        judged = world.ledger.judgements[heard.headers["x-penstock-order"]]
        assert judged.units.completion == miner.served[0].words < 16
        assert seen_by(world).match
        assert world.charged_nano() == judged.charge_nano > 0

    play(scenario)


def test_a_checkpoint_is_on_record_only_where_no_receipt_says_more() -> None:
    async def scenario(world: World) -> None:
        miner = await world.add_miner("m1")
        miner.scripts = [Script(word_ms=1)]
        miner.default = Script(
            act=Act.STALL, words=("a",) * 9, words_until=5, word_ms=10, answers_cancel=False
        )
        whole = await world.hear(chat(stream=True))
        left = await world.hear(chat(stream=True), leave_after=5)
        await world.at_rest()
        for heard, has_checkpoint in ((whole, False), (left, True)):
            record = world.gateway.recorder.recent(heard.headers["x-penstock-order"])
            assert record is not None
            assert (record["checkpoint"] is not None) is has_checkpoint
            assert (record["receipt"] is None) is has_checkpoint

    play(scenario)


def test_without_last_words_a_lost_client_pays_up_to_the_last_checkpoint() -> None:
    async def scenario(world: World) -> None:
        miner = await world.add_miner("m1")
        miner.default = Script(
            act=Act.STALL, words=("a",) * 9, words_until=5, word_ms=10, answers_cancel=False
        )
        heard = await world.hear(chat(stream=True), leave_after=5)
        await world.at_rest()
        judged = world.ledger.judgements[heard.headers["x-penstock-order"]]
        assert judged.outcome is Outcome.CLIENT_CANCELLED
        assert judged.units.completion == 4
        assert not seen_by(world).match

    play(scenario)


BAD_CHECKPOINTS: dict[str, Callable[[Checkpoint], Checkpoint]] = {
    "another digest": lambda point: replace(point, digest="0" * 64),
    "another place": lambda point: replace(point, body_bytes=point.body_bytes + 1),
    "another order": lambda point: replace(point, order_id="o-other"),
    "more units than allowed": lambda point: replace(
        point, units=replace(point.units, completion=17)
    ),
}


@pytest.mark.parametrize("name", sorted(BAD_CHECKPOINTS))
def test_a_checkpoint_that_does_not_hold_proves_nothing(name: str) -> None:
    async def scenario(world: World) -> None:
        (await world.add_miner("m1")).default = Script(
            act=Act.STALL,
            words=("a",) * 9,
            words_until=5,
            word_ms=10,
            answers_cancel=False,
            tamper_checkpoint=BAD_CHECKPOINTS[name],
        )
        await world.hear(chat(stream=True), leave_after=5)
        await world.at_rest()
        assert world.outcomes() == [Outcome.CLIENT_CANCELLED]
        assert world.charged_nano() == 0

    play(scenario)


def test_a_client_that_leaves_before_the_first_byte_is_seen_off_too() -> None:
    async def scenario(world: World) -> None:
        miner = await world.add_miner("m1")
        miner.default = Script(act=Act.HANG)
        with pytest.raises(DeadlinePassed):
            await world.post(chat(stream=True), deadline_ms=500)
        await world.at_rest()
        assert miner.cancels == [miner.served[0].order.order_id]
        assert world.outcomes() == [Outcome.CLIENT_CANCELLED]
        assert world.charged_nano() == 0

    play(scenario)


def test_a_miner_that_drips_past_the_orders_end_is_cut_off() -> None:
    async def scenario(world: World) -> None:
        (await world.add_miner("m1")).default = Script(words=("a",) * 16, word_ms=1_000)
        heard = await world.hear(chat(stream=True))
        assert heard.word("countersign")["outcome"] == "miner_failed"
        await world.at_rest()
        assert seen_by(world).total_us < 7_000_000

    play(scenario, params=replace(LOCAL, order_ttl_ms=5_000))


def test_a_stream_that_grows_without_end_is_cut_off() -> None:
    async def scenario(world: World) -> None:
        (await world.add_miner("m1")).default = Script(words=("a" * 500,) * 16, word_ms=1)
        heard = await world.hear(chat(stream=True))
        assert len(heard.raw) < 8_000
        assert json.loads(heard.data[-1])["error"]["code"] == "miner_failed"
        await world.at_rest()

    play(scenario, bounds=Bounds(response_bytes_max=4_000))


def test_a_connection_is_used_again_after_a_stream() -> None:
    async def scenario(world: World) -> None:
        await world.add_miner("m1")
        for _ in range(4):
            await world.hear(chat(stream=True))
        # One for the streams; a second one where the miner is asked for seals meanwhile.
        assert world.gateway.http.idle_links <= 2
        await world.at_rest()

    play(scenario)


def test_many_streams_at_once_each_get_their_own_words() -> None:
    async def scenario(world: World) -> None:
        miner = await world.add_miner("m1")
        miner.room = 64
        await world.put_offer(miner)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(world.hear(chat(stream=True))) for _ in range(40)]
        assert {task.result().text for task in tasks} == {"".join(WORDS)}
        assert len({task.result().headers["x-penstock-order"] for task in tasks}) == 40
        await world.at_rest()
        assert world.outcomes() == [Outcome.COMPLETE] * 40

    play(scenario)


def test_a_whole_answer_to_a_streamed_request_and_the_other_way_round_are_failures() -> None:
    async def scenario(world: World) -> None:
        miner = await world.add_miner("m1")
        miner.confused = True
        assert (await world.post(chat(stream=True))).status == 502
        assert (await world.post(chat(stream=False))).status == 502
        await world.at_rest()
        assert world.outcomes() == [Outcome.MINER_FAILED] * 2

    play(scenario)


@pytest.mark.parametrize(
    "endpoint", ["", "nonsense", "ftp://m1", "http://", "http://nowhere:1", "http://m1:bad"]
)
def test_an_endpoint_that_leads_nowhere_is_the_miners_failure(endpoint: str) -> None:
    async def scenario(world: World) -> None:
        miner = await world.add_miner("m1")
        await world.put_offer(miner, endpoint=endpoint)
        reply = await world.post(chat(stream=True))
        assert reply.status == 502
        await world.at_rest()
        assert world.outcomes() == [Outcome.MINER_FAILED]

    play(scenario)


def test_an_instance_that_fails_three_times_rests_and_comes_back() -> None:
    async def scenario(world: World) -> None:
        miner = await world.add_miner("m1")
        miner.default = Script(act=Act.BREAK, status=500)
        statuses = [(await world.post(chat())).status for _ in range(5)]
        assert statuses == [502, 502, 502, 429, 429]
        miner.default = Script()
        await asyncio.sleep(5)
        assert (await world.post(chat())).status == 200
        assert world.gateway.metrics.value("gateway_breakers_opened_total") == 1
        await world.at_rest()

    play(scenario)


def test_requests_beyond_the_room_are_turned_away_without_an_order() -> None:
    async def scenario(world: World) -> None:
        miner = await world.add_miner("m1")
        miner.room = 2
        miner.default = Script(word_ms=1_000)
        await world.put_offer(miner)
        async with asyncio.TaskGroup() as group:
            posts = [group.create_task(world.post(chat())) for _ in range(5)]
        statuses = sorted(post.result().status for post in posts)
        assert statuses == [200, 200, 429, 429, 429]
        assert len(miner.served) == 2
        await world.at_rest()

    play(scenario)


async def read_slowly(reply: StreamReply) -> None:
    async for _ in reply.chunks(idle_deadline_ms=600_000):
        await asyncio.sleep(9)


def test_a_client_that_reads_too_slowly_has_left_and_pays_for_what_came() -> None:
    """Else it would keep the stream open until the order's end, pay nothing, and blame the miner."""

    async def scenario(world: World) -> None:
        miner = await world.add_miner("m1")
        miner.default = Script(words=(("long " * 40_000),) * 14, word_ms=1)
        body = json.dumps(chat(stream=True)).encode()
        async with world.client.open_stream(
            "POST", URL + CHAT, headers=bearer(SECRET), body=body, head_deadline_ms=60_000
        ) as reply:
            with pytest.raises(PeerClosed):
                await read_slowly(reply)
        await world.at_rest()
        assert world.outcomes() == [Outcome.CLIENT_CANCELLED]
        assert world.charged_nano() > 0

    play(scenario, deadlines=Deadlines(reader_ms=10_000))
