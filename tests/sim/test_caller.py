"""A careful client against a gateway whose every answer a test writes."""

import hashlib
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator
from dataclasses import replace

import msgspec
import pytest
from tests.makers import GATEWAY, MINER, make_countersign, make_order, make_receipt, toy_verify

from penstock.kit.sse import comment
from penstock.kit.wire.client import HttpClient
from penstock.kit.wire.http import SSE_HEADERS, Request, Response, Stream, json_response
from penstock.kit.wire.server import Server
from penstock.sim.caller import Caller, Heard, Question
from penstock.sim.loop import VirtualLoop, run
from penstock.sim.net import MemoryNetwork
from penstock.sim.seeds import Chance
from penstock.spec.canon import to_plain
from penstock.spec.keys import Signed, sign
from penstock.spec.receipts import Outcome, Record
from penstock.spec.stream import COUNTERSIGN_COMMENT, RECEIPT_COMMENT

ORDER = make_order(request_digest=hashlib.sha256(b"{}").hexdigest())
NO_RECORD = Response(404)
ASKED = Question("/v1/chat/completions", b"{}", "sk-penstock-x")


def heard(
    answer: Response | Stream | None,
    question: Question = ASKED,
    *,
    record: Response = NO_RECORD,
) -> Heard:
    """What a caller makes of this answer; of none at all when it is None."""
    loop = VirtualLoop()

    async def main() -> Heard:
        network = MemoryNetwork(Chance(1).stream("net"), loop)

        async def serve(request: Request) -> Response | Stream:
            assert answer is not None
            if request.path.startswith("/v1/receipts/"):
                return record
            return answer

        server = Server(network.at("gateway"), serve, entropy=Chance(1).entropy("s"))
        if answer is not None:
            await server.start("gateway", 80)
        caller = Caller(HttpClient(network.at("person")), toy_verify)
        found = await caller.ask("http://gateway:80", question)
        await caller.close()
        await server.close(0)
        return found

    return run(main(), loop)


def signed_for(body: bytes, **changes: object) -> tuple[Signed, Signed]:
    """A receipt and a countersignature over these bytes."""
    receipt = make_receipt(ORDER, response_digest=hashlib.sha256(body).hexdigest())
    signed = sign("receipt", receipt, MINER)
    countersign = replace(make_countersign(ORDER, signed), **changes)  # type: ignore[arg-type] # any
    return signed, sign("countersign", countersign, GATEWAY)


def packed(signed: Signed) -> str:
    return urlsafe_b64encode(msgspec.json.encode(to_plain(signed))).rstrip(b"=").decode()


def whole(body: bytes, *, signed_body: bytes | None = None) -> Response:
    receipt, countersign = signed_for(body if signed_body is None else signed_body)
    return Response(
        200,
        body,
        (
            ("content-type", "application/json"),
            ("x-penstock-order", ORDER.order_id),
            ("x-penstock-miner", ORDER.miner),
            ("x-penstock-receipt", packed(receipt)),
            ("x-penstock-countersign", packed(countersign)),
        ),
    )


def streamed(*pieces: bytes, words: tuple[Signed, Signed] | None) -> Stream:
    """Events, then what is signed under them."""

    async def chunks() -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece
        if words is not None:
            receipt, countersign = words
            yield comment(RECEIPT_COMMENT, msgspec.json.encode(to_plain(receipt)))
            yield comment(COUNTERSIGN_COMMENT, msgspec.json.encode(to_plain(countersign)))

    headers = (("x-penstock-order", ORDER.order_id), ("x-penstock-miner", ORDER.miner))
    return Stream(200, SSE_HEADERS + headers, chunks())


def event(text: str) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": None}
    return b"data: " + msgspec.json.encode({"choices": [choice]}) + b"\n\n"


BODY = msgspec.json.encode({"choices": [{"message": {"content": "all well"}}]})
PIECES = (event("all"), event(" well"), b"data: [DONE]\n\n")


class TestWhole:
    def test_an_honest_answer_leaves_no_doubt(self) -> None:
        found = heard(whole(BODY))
        assert (found.status, found.text, found.doubt) == (200, "all well", "")
        assert found.countersign is not None
        assert found.countersign.outcome is Outcome.COMPLETE
        assert found.order_id == ORDER.order_id

    def test_other_bytes_than_signed_are_doubted(self) -> None:
        assert "other bytes" in heard(whole(BODY, signed_body=b"{}")).doubt

    def test_an_answer_without_signatures_is_doubted(self) -> None:
        assert heard(Response(200, BODY)).doubt == "an answer without signatures"

    def test_a_refusal_needs_no_signature(self) -> None:
        refusal = json_response(402, {"error": {"code": "insufficient_funds"}})
        found = heard(refusal)
        assert (found.status, found.code, found.doubt) == (402, "insufficient_funds", "")

    def test_a_gateway_that_is_not_there_is_status_nought(self) -> None:
        assert heard(None) == Heard(status=0, code="ConnectFailed")


def vouched(body: bytes) -> Response:
    """A whole answer as within a session: an order id, and no word."""
    headers = (("content-type", "application/json"), ("x-penstock-order", ORDER.order_id))
    return Response(200, body, headers)


def told(*pieces: bytes, words: tuple[Signed, Signed]) -> Stream:
    """A stream whose words come without signatures."""

    async def chunks() -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece
        for name, word in zip((RECEIPT_COMMENT, COUNTERSIGN_COMMENT), words, strict=True):
            yield comment(name, msgspec.json.encode({"body": word.body}))

    return Stream(200, (*SSE_HEADERS, ("x-penstock-order", ORDER.order_id)), chunks())


def record_of(body: bytes, **changes: object) -> Response:
    receipt, countersign = signed_for(body, **changes)
    order = sign("order", ORDER, GATEWAY)
    return json_response(200, {"record": to_plain(Record(order, receipt, None, countersign))})


class TestSealed:
    def test_words_that_the_record_signs_leave_no_doubt(self) -> None:
        stream = b"".join(PIECES)
        for found in (
            heard(vouched(BODY), record=record_of(BODY)),
            heard(told(*PIECES, words=signed_for(stream)), record=record_of(stream)),
        ):
            assert (found.text, found.doubt) == ("all well", "")
            assert found.countersign is not None

    def test_a_record_over_other_bytes_is_doubted(self) -> None:
        assert "other bytes" in heard(vouched(BODY), record=record_of(b"else")).doubt

    def test_a_record_with_another_word_than_was_told_is_doubted(self) -> None:
        stream = b"".join(PIECES)
        words, other = signed_for(stream), record_of(stream, ttft_us=1)
        assert "than was told" in heard(told(*PIECES, words=words), record=other).doubt

    @pytest.mark.parametrize("status", [404, 503])
    def test_without_the_record_nobody_has_said_a_word(self, status: int) -> None:
        words = signed_for(b"".join(PIECES))
        for answer in (vouched(BODY), told(*PIECES, words=words)):
            found = heard(answer, record=Response(status))
            assert (found.text, found.doubt, found.countersign) == ("all well", "", None)


class TestStreamed:
    def test_an_honest_stream_leaves_no_doubt(self) -> None:
        found = heard(streamed(*PIECES, words=signed_for(b"".join(PIECES))))
        assert (found.text, found.doubt, found.code) == ("all well", "", "")
        assert found.countersign is not None

    def test_a_receipt_over_other_bytes_is_doubted(self) -> None:
        assert "other bytes" in heard(streamed(*PIECES, words=signed_for(b"else"))).doubt

    def test_a_stream_without_last_words_is_doubted(self) -> None:
        found = heard(streamed(*PIECES, words=None))
        assert found.doubt == "a stream that ended without a countersignature"

    def test_an_error_in_mid_stream_is_heard(self) -> None:
        lost = b'data: {"error": {"code": "miner_failed"}}\n\n'
        found = heard(streamed(event("all"), lost, words=None))
        assert found.code == "miner_failed"

    @pytest.mark.parametrize("events", [0, 1, 2])
    def test_who_leaves_early_hears_no_last_words(self, events: int) -> None:
        found = heard(
            streamed(*PIECES, words=signed_for(b"".join(PIECES))),
            replace(ASKED, leave_after=events),
        )
        assert found.has_left
        assert found.countersign is None
