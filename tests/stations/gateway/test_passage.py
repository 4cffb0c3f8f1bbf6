"""A request's way through the gateway: slow readers, silent engines, second orders, and no trace left."""

import asyncio
import gc
import json
from hashlib import sha256

import pytest
from tests.stations.gateway.script import Act, Script
from tests.stations.gateway.world import (
    CHAT,
    SECRET,
    URL,
    World,
    bearer,
    chat,
    error_of,
    play,
    renamed,
    settle,
)

from penstock.gateway.attempts import Attempt
from penstock.gateway.config import Deadlines, KeyLimits
from penstock.gateway.passage import Passage
from penstock.gateway.sealer import Ended
from penstock.kit.errors import DeadlinePassed, PeerClosed
from penstock.kit.wire.http import Request
from penstock.spec.canon import digest
from penstock.spec.messages import Modality
from penstock.spec.receipts import Outcome

WORDS = "Water turns the wheel."
KEEP_ALIVE = b": penstock-alive gateway\n\n"


def test_a_silent_engine_is_covered_by_comments_that_are_no_part_of_the_answer() -> None:
    async def scenario(world: World) -> None:
        (await world.add_miner("m1")).default = Script(word_ms=5_000)
        heard = await world.hear(chat(stream=True))
        assert heard.text == WORDS
        assert heard.raw.count(KEEP_ALIVE) >= 10
        seen = heard.word("countersign")
        assert (seen["outcome"], seen["match"]) == ("complete", True)
        miners_own = heard.raw.replace(KEEP_ALIVE, b"")
        body = miners_own[: miners_own.index(b": penstock-receipt")]
        assert heard.word("receipt")["response_digest"] == sha256(body).hexdigest()
        await world.at_rest()

    play(scenario, deadlines=Deadlines(keepalive_ms=2_000))


def test_a_stream_whose_engine_says_nothing_at_all_is_opened_and_ends_failover() -> None:
    async def scenario(world: World) -> None:
        for name in ("m1", "m2"):
            (await world.add_miner(name)).default = Script(act=Act.HANG)
        heard = await world.hear(chat(stream=True))
        assert heard.status == 200
        assert heard.raw.startswith(KEEP_ALIVE)
        assert json.loads(heard.data[-1])["error"]["code"] == "miner_failed"
        assert heard.word("countersign")["outcome"] == "miner_failed"
        await world.at_rest()
        assert world.outcomes() == [Outcome.MINER_FAILED]

    play(scenario, deadlines=Deadlines(keepalive_ms=1_000, head_ms=4_000))


def test_an_engines_refusal_behind_an_early_head_is_said_in_the_stream() -> None:
    async def scenario(world: World) -> None:
        miner = await world.add_miner("m1")
        miner.delay_ms = 3_000
        miner.default = Script(act=Act.ERROR, status=422)
        heard = await world.hear(chat(stream=True))
        assert heard.status == 200
        assert json.loads(heard.data[-1])["error"]["code"] == "scripted"
        assert heard.word("countersign")["outcome"] == "complete"
        await world.at_rest()

    play(scenario, deadlines=Deadlines(keepalive_ms=1_000))


def test_whole_answers_get_no_comments() -> None:
    async def scenario(world: World) -> None:
        (await world.add_miner("m1")).default = Script(word_ms=3_000)
        reply = await world.post(chat())
        assert reply.status == 200
        assert KEEP_ALIVE not in reply.body

    play(scenario, deadlines=Deadlines(keepalive_ms=1_000))


def test_a_client_that_stops_reading_stops_the_miner_and_loses_nothing() -> None:
    async def scenario(world: World) -> None:
        miner = await world.add_miner("m1")
        words = tuple("long " * 20_000 for _ in range(40))
        miner.default = Script(words=words, word_ms=1)
        data = json.dumps(chat(stream=True, max_tokens=64)).encode()
        async with world.client.open_stream(
            "POST", URL + CHAT, headers=bearer(SECRET), body=data, head_deadline_ms=60_000
        ) as reply:
            chunks = reply.chunks(idle_deadline_ms=60_000)
            raw = await anext(chunks)
            await asyncio.sleep(20)
            held = miner.served[0].words
            assert held < len(words), "what nobody reads is not asked for"
            await asyncio.sleep(20)
            assert miner.served[0].words == held
            async for chunk in chunks:
                raw += chunk
        assert miner.served[0].words == len(words)
        assert raw.count(b"data: ") == len(words) + 1
        assert raw.rstrip().rpartition(b"\n")[2].startswith(b": penstock-countersign")
        await world.at_rest()
        assert world.outcomes() == [Outcome.COMPLETE]

    play(scenario, deadlines=Deadlines(idle_ms=5_000))


async def leave_early(world: World, number: int) -> None:
    """One client that leaves: before the head, in mid-stream, or in the middle of a whole answer."""
    if number % 3 == 0:
        await world.hear(chat(stream=True), leave_after=1 + number % 2)
        return
    try:
        await world.post(chat(stream=number % 3 == 1), deadline_ms=1 + number % 70)
    except (DeadlinePassed, PeerClosed):
        return


@pytest.mark.slow
def test_a_thousand_requests_that_were_left_leave_nothing_behind() -> None:
    """Slow: fewer might not show what only adds up."""

    async def scenario(world: World) -> None:
        miner = await world.add_miner("m1")
        miner.room = 1_000
        await world.put_offer(miner)
        for start in range(0, 1_000, 50):
            async with asyncio.TaskGroup() as group:
                for number in range(start, start + 50):
                    group.create_task(leave_early(world, number))
        await world.at_rest()
        gateway = world.gateway
        assert not gateway.closing.leaving
        assert not gateway.line.trailing
        await asyncio.sleep(5)
        assert len(gateway.errands) == 0
        assert gateway.sealer.waiting == 0
        assert len(world.outcomes()) > 900

    gc.collect()
    gc.disable()  # whatever is still here afterwards was held by a cycle, or by somebody
    try:
        limits = KeyLimits(parallel_max=1_000, requests_per_s=10_000)
        play(scenario, has_sessions=True, key_limits=limits)
        left = [one for one in gc.get_objects() if isinstance(one, Passage | Attempt | Ended)]
        assert not left
    finally:
        gc.enable()


def test_the_decision_is_shown_to_who_asks_and_its_digest_stands_in_the_order() -> None:
    async def scenario(world: World) -> None:
        miner = await world.add_miner("m1")
        data = json.dumps(chat()).encode()
        headers = (*bearer(SECRET), ("x-penstock-trace", "1"))
        reply = await world.client.call(
            "POST", URL + CHAT, headers=headers, body=data, deadline_ms=60_000
        )
        decision = json.loads(reply.header("x-penstock-decision"))
        assert decision["choice"] == "m1-1"
        named = miner.served[0].order.decision_digest
        assert digest("decision", decision).hex() == named
        assert not (await world.post(chat())).header("x-penstock-decision")
        await world.at_rest()
        record = next(event["record"] for _, event in world.ledger.events if "record" in event)
        assert digest("decision", record["decision"]).hex() == named

    play(scenario)


def test_another_dialect_is_ordered_as_chat_and_answered_as_itself() -> None:
    async def scenario(world: World) -> None:
        miner = await world.add_miner("m1")
        ask = {
            "model": "tiny-chat",
            "max_tokens": 16,
            "messages": [{"role": "user", "content": "What does water do?"}],
        }
        data = json.dumps(ask).encode()
        whole = await world.client.call(
            "POST",
            f"{URL}/v1/messages",
            headers=(("x-api-key", SECRET),),
            body=data,
            deadline_ms=60_000,
        )
        assert whole.status == 200
        order = miner.served[0].order
        assert order.path == CHAT
        assert order.request_digest == sha256(miner.served[0].body).hexdigest()
        assert miner.served[0].body != data
        heard = await world.hear({**ask, "stream": True}, "/v1/messages")
        assert b"event: message_stop" in heard.raw
        assert heard.events[-1].startswith(b": penstock-countersign ")
        await world.at_rest()
        assert world.outcomes() == [Outcome.COMPLETE] * 2

    play(scenario)


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/responses", CHAT])
def test_refusals_are_in_the_callers_dialect(path: str) -> None:
    async def scenario(world: World) -> None:
        ask = {"model": "nobody", "max_tokens": 4, "messages": [], "input": "x"}
        ask["messages"] = [{"role": "user", "content": "x"}]
        for secret, status in ((SECRET, 404), ("sk-penstock-x", 401)):
            reply = await world.post(ask, path, secret=secret)
            assert reply.status == status
            if path == "/v1/messages":
                assert json.loads(reply.body)["type"] == "error"
            else:
                assert error_of(reply)["message"]
        assert (await world.post(b"{", path)).status == 400

    play(scenario)


def test_bodies_that_are_no_json_pass_both_ways() -> None:
    async def scenario(world: World) -> None:
        talker = await world.add_miner("m1", renamed("talk", modality=Modality.SPEECH))
        talker.default = Script(binary=b"\x00\xff" * 400, content_type="audio/mpeg")
        reply = await world.post(
            {"model": "talk", "input": "hello", "voice": "alloy"}, "/v1/audio/speech"
        )
        assert (reply.status, reply.header("content-type")) == (200, "audio/mpeg")
        assert reply.body == b"\x00\xff" * 400
        hearer = await world.add_miner("m2", renamed("hear", modality=Modality.TRANSCRIPTION))
        form = (
            b'--b\r\ncontent-disposition: form-data; name="model"\r\n\r\nhear\r\n'
            b'--b\r\ncontent-disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
            + WAV
            + b"\r\n--b--\r\n"
        )
        kind = "multipart/form-data; boundary=b"
        reply = await world.client.call(
            "POST",
            f"{URL}/v1/audio/transcriptions",
            headers=(*bearer(SECRET), ("content-type", kind)),
            body=form,
            deadline_ms=60_000,
        )
        assert reply.status == 200
        assert hearer.content_type == kind
        assert hearer.served[0].body == form
        await world.at_rest()

    play(scenario)


def wav(seconds: int) -> bytes:
    data = bytes(16_000 * 2 * seconds)
    head = b"RIFF" + (36 + len(data)).to_bytes(4, "little") + b"WAVEfmt "
    form = (16).to_bytes(4, "little") + b"\1\0\1\0" + (16_000).to_bytes(4, "little")
    return (
        head
        + form
        + (32_000).to_bytes(4, "little")
        + b"\2\0\x10\0data"
        + (len(data).to_bytes(4, "little") + data)
    )


WAV = wav(1)


def test_a_request_from_inside_gets_its_whole_answer_and_may_be_left() -> None:
    async def scenario(world: World) -> None:
        miner = await world.add_miner("m1")
        headers = {b"authorization": b"Bearer " + SECRET.encode()}

        def request(*, stream: bool) -> Request:
            body = json.dumps(chat(stream=stream)).encode()
            return Request("POST", CHAT, headers=headers, body=body, request_id="r-1")

        answer = await world.gateway.answer(request(stream=False))
        assert answer.status == 200
        assert ("x-penstock-instance", "m1-1") in answer.headers
        streamed = await world.gateway.answer(request(stream=True))
        assert b"data: [DONE]" in streamed.body
        miner.default = Script(act=Act.HANG)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await world.gateway.answer(request(stream=False))
        await settle()
        assert len(miner.cancels) == 1
        await world.at_rest()
        assert world.outcomes()[-1] is Outcome.CLIENT_CANCELLED

    play(scenario)


def test_a_stop_in_the_middle_of_an_order_ends_it_with_a_record() -> None:
    async def scenario(world: World) -> None:
        miner = await world.add_miner("m1")
        miner.default = Script(act=Act.STALL, words_until=2, answers_cancel=False)
        task = asyncio.ensure_future(world.hear(chat(stream=True)))
        await asyncio.sleep(1)
        await world.server.close(500)
        with pytest.raises(PeerClosed):
            await task
        await world.gateway.stop()
        await asyncio.sleep(1)
        assert world.outcomes() == [Outcome.CLIENT_CANCELLED]

    play(scenario)
