"""Answers whose words are signed in a batch: believed to be signed only once the record was seen."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
import pytest

from penstock.client.answers import Signatures, StreamCheck
from penstock.client.client import AsyncClient
from penstock.client.errors import BadAnswer
from penstock.client.records import Asked, Sent, check_asked, check_record
from penstock.client.testing import FakeMarket, FakeReply
from penstock.kit.keys import Ed25519Key, verify
from penstock.kit.sse import comment
from penstock.spec.canon import digest, to_plain
from penstock.spec.keys import Signed, signed_digest
from penstock.spec.messages import Order
from penstock.spec.receipts import Countersign, Outcome, Record
from penstock.spec.seals import is_seal

TEXT = "one two three"
CHAT = "/v1/chat/completions"
ORDER_ID = "o-" + "0" * 32
Change = Callable[["Market", Record], Record]


@dataclass
class Market(FakeMarket):
    """A fake market whose records a test may change, or keep back."""

    change: Change = field(default=lambda _, record: record)
    status: int = 200

    def _receipt(self, order_id: str) -> FakeReply:
        if self.status != 200:
            return FakeReply(self.status, b'{"error":{"code":"not_found"}}', {})
        record = self.change(self, self.receipts[order_id])
        return FakeReply(200, msgspec.json.encode({"record": to_plain(record)}), {})


def market(change: Change = lambda _, record: record, **options: Any) -> Market:
    return Market({"m": TEXT}, change=change, **options)


async def whole(said: Market) -> Signatures:
    async with AsyncClient("http://fake", "sk-test", said) as calls:
        answer = await calls.chat("m", "Hi")
    assert answer.text == TEXT
    return answer.signed


async def streamed(said: Market) -> Signatures:
    async with AsyncClient("http://fake", "sk-test", said) as calls:
        async with calls.stream_chat("m", "Hi") as stream:
            async for _ in stream:
                pass
        assert stream.text == TEXT
    return stream.signed


both = pytest.mark.parametrize("ask", [whole, streamed])


@both
async def test_the_record_shows_the_signatures(ask: Any) -> None:
    said = market()
    signed = await ask(said)
    (record,) = said.receipts.values()
    assert signed.is_signed
    assert signed.receipt is not None
    assert signed.countersign is not None
    assert signed.countersign.charge_nano > 0
    assert record.receipt is not None
    assert is_seal(record.receipt.signature)
    assert is_seal(record.order.signature)


async def test_every_word_may_also_be_signed_by_itself() -> None:
    for ask in (whole, streamed):
        said = market(seals=False, status=500)
        assert (await ask(said)).is_signed, "no record is asked for"


@both
@pytest.mark.parametrize("status", [404, 500, 503])
async def test_without_the_record_an_answer_is_not_called_signed(ask: Any, status: int) -> None:
    signed = await ask(market(status=status))
    assert not signed.is_signed


async def test_a_stream_without_its_record_still_shows_what_was_told() -> None:
    signed = await streamed(market(status=404))
    assert signed.receipt is not None
    assert signed.receipt.units.completion == 3
    assert (await whole(market(status=404))) == Signatures(None, None)


async def test_a_changed_stream_is_refused_without_waiting_for_the_record() -> None:
    with pytest.raises(BadAnswer, match="other bytes"):
        await streamed(market(tamper=True, status=404))


async def test_a_changed_whole_answer_is_refused_by_its_record() -> None:
    async with AsyncClient("http://fake", "sk-test", market(tamper=True)) as calls:
        with pytest.raises(BadAnswer, match="other bytes"):
            await calls.chat("m", "Hi")


def rewritten(said: Market, record: Record, **changes: Any) -> Record:
    """The record with a changed receipt, honestly signed, and a countersignature to fit."""
    assert record.receipt is not None
    assert record.countersign is not None
    body = {**record.receipt.body, **changes}
    receipt = resigned("receipt", body, said.miner)
    seen = {**record.countersign.body, "receipt_digest": signed_digest(receipt)}
    return replace(record, receipt=receipt, countersign=resigned("countersign", seen, said.gateway))


def resigned(kind: str, body: dict[str, Any], key: Ed25519Key) -> Signed:
    return Signed(kind, body, key.identity, key.sign(digest(kind, body)))


def other_receipt(said: Market, record: Record) -> Record:
    return rewritten(said, record, last_ms=9)


def other_countersign(said: Market, record: Record) -> Record:
    assert record.countersign is not None
    seen = {**record.countersign.body, "ttft_us": 5}
    return replace(record, countersign=resigned("countersign", seen, said.gateway))


@pytest.mark.parametrize("change", [other_receipt, other_countersign])
async def test_a_record_that_says_otherwise_than_the_stream_is_refused(change: Change) -> None:
    with pytest.raises(BadAnswer, match="than was told"):
        await streamed(market(change))


@both
@pytest.mark.parametrize("part", ["order", "receipt", "countersign"])
async def test_a_record_with_a_borrowed_seal_is_refused(ask: Any, part: str) -> None:
    stranger = Ed25519Key(b"\5" * 32)

    def forge(_: Market, record: Record) -> Record:
        signed = getattr(record, part)
        head = signed.signature.rpartition(".")[0]
        changed: dict[str, Any] = {
            part: replace(signed, signature=f"{head}.{stranger.sign(bytes(32))}")
        }
        return replace(record, **changed)

    with pytest.raises(BadAnswer):
        await ask(market(forge))


@both
async def test_a_record_of_another_order_is_refused(ask: Any) -> None:
    def swap(said: Market, record: Record) -> Record:
        return said._sign(CHAT, b"{}", b"{}", stream=False)

    with pytest.raises(BadAnswer, match="another order"):
        await ask(market(swap))


@both
async def test_a_record_for_another_request_is_refused(ask: Any) -> None:
    def swap(said: Market, record: Record) -> Record:
        said.receipts.clear()
        return said._sign(CHAT, b"another request", b"{}", stream=False)

    with pytest.raises(BadAnswer, match="another request"):
        await ask(market(swap))


def unsealed(said: Market, record: Record) -> Record:
    """The miner never signed: the gateway closed the order as failed and charges nothing."""
    assert record.countersign is not None
    seen = {
        **record.countersign.body,
        "outcome": Outcome.MINER_FAILED.value,
        "charge_nano": 0,
        "receipt_digest": "",
        "match": False,
    }
    countersign = resigned("countersign", seen, said.gateway)
    return replace(record, receipt=None, countersign=countersign)


@both
async def test_a_miner_that_never_signs_costs_nothing_and_leaves_no_receipt(ask: Any) -> None:
    signed = await ask(market(unsealed))
    assert signed.receipt is None
    assert signed.countersign is not None
    assert signed.countersign.charge_nano == 0
    assert signed.is_signed


@both
async def test_a_record_without_a_countersignature_is_not_what_a_stream_told(ask: Any) -> None:
    said = market(lambda _, record: replace(record, countersign=None))
    if ask is streamed:
        with pytest.raises(BadAnswer, match="than was told"):
            await ask(said)
    else:
        assert (await ask(said)).countersign is None


async def test_prove_compares_the_order_with_what_was_sent() -> None:
    said = market()
    async with AsyncClient("http://fake", "sk-test", said) as calls:
        answer = await calls.chat("m", "Hi")
        assert (await calls.prove(answer.order_id)).judgement.order.order_id == ORDER_ID
        said.receipts.clear()
        said._sign(CHAT, b"another request", b"{}", stream=False)
        with pytest.raises(BadAnswer, match="another request"):
            await calls.prove(answer.order_id)
    async with AsyncClient("http://fake", "sk-test", said) as stranger:
        assert await stranger.prove(ORDER_ID), "who sent nothing has nothing to compare"


async def test_the_lookup_of_a_receipt_is_no_request_of_the_user() -> None:
    said = market()
    await whole(said)
    assert [path for _, path, _ in said.requests] == [CHAT]


def order_for(path: str, request: bytes) -> Order:
    return replace(market()._order(CHAT, request, stream=False), path=path)


def test_a_translated_request_cannot_be_compared_and_any_other_must_be_the_same() -> None:
    order = order_for(CHAT, b"translated")
    check_asked(order, Asked.of(CHAT, b"translated"))
    check_asked(order, Asked.of("/v1/messages", b"as Anthropic says it"))
    check_asked(order, Asked.of("/v1/responses", b"as Responses says it"))
    for asked in (Asked.of(CHAT, b"sent"), Asked.of("/v1/embeddings", b"translated")):
        with pytest.raises(BadAnswer):
            check_asked(order, asked)


def test_the_bytes_of_a_translated_answer_are_not_compared() -> None:
    said = market()
    record = said._sign(CHAT, b"translated", b"the miner's bytes", stream=False)
    document = {"record": to_plain(record)}
    asked = Asked.of("/v1/messages", b"sent")
    signed = check_record(
        document,
        Signatures(None, None),
        order_id=ORDER_ID,
        asked=asked,
        digest="00" * 32,
        verify=verify,
    )
    assert signed.is_signed


@pytest.mark.parametrize("document", [None, [], {}, {"record": None}, {"record": {}}, "x"])
def test_what_is_no_receipt_document_is_refused(document: object) -> None:
    with pytest.raises(BadAnswer):
        check_record(
            document,
            Signatures(None, None),
            order_id=ORDER_ID,
            asked=Asked.of(CHAT, b""),
            digest="",
            verify=verify,
        )


def test_only_the_latest_requests_are_remembered() -> None:
    sent = Sent(sent_max=2)
    order = order_for(CHAT, b"asked")
    for number in range(3):
        sent.add(f"o-{number}", Asked.of(CHAT, b"something else"))
    sent.check(replace(order, order_id="o-0"))
    for known in ("o-1", "o-2"):
        with pytest.raises(BadAnswer):
            sent.check(replace(order, order_id=known))


@pytest.mark.parametrize(
    "payload",
    [
        b'{"body":1}',
        b'{"body":{},"mac":"","more":1}',
        b'{"mac":"00"}',
        b'{"body":{"order_id":"o-1"}}',
        b'{"body":{},"kind":"receipt"}',
    ],
)
@pytest.mark.parametrize("name", ["receipt", "countersign"])
def test_a_malformed_told_word_is_a_bad_answer(name: str, payload: bytes) -> None:
    with pytest.raises(BadAnswer):
        read(comment(name, payload))


def read(data: bytes) -> Signatures:
    check = StreamCheck(verify)
    check.feed(data)
    return check.finish()


def test_told_words_about_different_orders_are_refused() -> None:
    said = market()
    record = said._sign(CHAT, b"{}", b"", stream=True)
    assert record.receipt is not None
    assert record.countersign is not None
    seen: Countersign = replace(_countersign(record), order_digest="00" * 32)
    check = StreamCheck(verify)
    check.feed(comment("receipt", msgspec.json.encode({"body": record.receipt.body})))
    check.feed(comment("countersign", msgspec.json.encode({"body": to_plain(seen)})))
    with pytest.raises(BadAnswer):
        check.finish()


def _countersign(record: Record) -> Countersign:
    assert record.countersign is not None
    return msgspec.convert(record.countersign.body, Countersign)
