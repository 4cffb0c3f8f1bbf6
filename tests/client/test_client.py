"""The client against the fake market: answers, streams, errors, and what it refuses."""

from dataclasses import replace

import pytest

import penstock
from penstock.client.answers import StreamCheck, check_signatures
from penstock.client.client import AsyncClient
from penstock.client.errors import ApiError, BadAnswer, ClientClosed
from penstock.client.testing import FakeMarket
from penstock.kit.keys import verify
from penstock.kit.sse import comment
from penstock.spec.canon import encode
from penstock.spec.keys import sign
from penstock.spec.receipts import is_valid
from penstock.spec.stream import Checkpoint
from penstock.spec.units import NO_UNITS

ANSWERS = {"tiny-chat": "one two three", "minilm": ""}


def client(market: FakeMarket) -> penstock.Client:
    return penstock.Client("http://fake/v1", "sk-test", transport=market)


def test_an_answer_has_its_text_its_price_and_who_signed() -> None:
    market = FakeMarket(ANSWERS)
    with client(market) as calls:
        answer = calls.chat("tiny-chat", "Hi", max_tokens=5)
    assert answer.text == "one two three"
    assert answer.charge_nano > 0
    assert answer.miner == market.miner.identity
    assert answer.completion_units == 1
    method, path, asked = market.requests[0]
    assert (method, path) == ("POST", "/v1/chat/completions")
    assert asked["messages"] == [{"role": "user", "content": "Hi"}]
    assert asked["max_tokens"] == 5


def test_a_stream_comes_in_pieces_and_ends_signed() -> None:
    with client(FakeMarket(ANSWERS)) as calls:
        assert list(calls.stream_chat("tiny-chat", "Hi")) == ["one", " two", " three"]


async def test_an_async_stream_tells_what_was_signed_under_it() -> None:
    market = FakeMarket(ANSWERS)
    async with AsyncClient("http://fake", "sk-test", market) as calls:
        async with calls.stream_chat("tiny-chat", [{"role": "user", "content": "Hi"}]) as stream:
            pieces = [piece async for piece in stream]
        assert "".join(pieces) == stream.text == "one two three"
        assert stream.signed.receipt is not None
        assert stream.signed.receipt.units.completion == 3
        proof = await calls.prove(stream.order_id)
        assert proof.judgement.charge_nano == stream.signed.receipt.charge_nano
        assert proof.seq == -1


def test_a_changed_byte_is_refused_whole_and_streamed() -> None:
    with client(FakeMarket(ANSWERS, tamper=True)) as calls:
        with pytest.raises(BadAnswer):
            calls.chat("tiny-chat", "Hi")
        with pytest.raises(BadAnswer):
            list(calls.stream_chat("tiny-chat", "Hi"))


def test_an_unknown_model_is_an_api_error_with_its_code() -> None:
    with client(FakeMarket(ANSWERS)) as calls:
        with pytest.raises(ApiError) as caught:
            calls.chat("nope", "Hi")
        assert (caught.value.status, caught.value.code) == (404, "model_not_found")
        with pytest.raises(ApiError):
            list(calls.stream_chat("nope", "Hi"))
        with pytest.raises(ApiError):
            calls.prove("o-none")


def test_models_and_embeddings_are_listed() -> None:
    with client(FakeMarket(ANSWERS)) as calls:
        assert [one["id"] for one in calls.models()] == ["tiny-chat", "minilm"]
        data = calls.embed("minilm", ["a", "b", "a"]).body["data"]
    assert data[0]["embedding"] == data[2]["embedding"] != data[1]["embedding"]


def test_the_fakes_records_are_ones_the_law_accepts() -> None:
    market = FakeMarket(ANSWERS)
    with client(market) as calls:
        calls.chat("tiny-chat", "Hi")
        list(calls.stream_chat("tiny-chat", "Hi"))
    assert len(market.receipts) == 2
    for record in market.receipts.values():
        assert is_valid(record, refusal_free_ms=100, verify=verify)


def test_a_stream_that_departs_from_its_checkpoint_is_refused_at_once() -> None:
    market = FakeMarket(ANSWERS)
    event = b'data: {"choices":[]}\n\n'
    honest = Checkpoint("o-1", "00", 1, len(event), NO_UNITS, _sha(event))
    lying = replace(honest, body_bytes=len(event) + 1)
    check = StreamCheck(verify)
    check.feed(event)
    check.feed(comment("checkpoint", encode(sign("checkpoint", honest, market.miner))))
    late = StreamCheck(verify)
    late.feed(event)
    with pytest.raises(BadAnswer):
        late.feed(comment("checkpoint", encode(sign("checkpoint", lying, market.miner))))


def test_signatures_about_different_orders_are_refused() -> None:
    market = FakeMarket(ANSWERS)
    with client(market) as calls:
        calls.chat("tiny-chat", "Hi")
        calls.chat("tiny-chat", "Ho")
    first, second = market.receipts.values()
    assert first.receipt is not None
    digest = first.receipt.body["response_digest"]
    check_signatures(first.receipt, first.countersign, digest=digest, verify=verify)
    with pytest.raises(BadAnswer):
        check_signatures(first.receipt, second.countersign, digest=digest, verify=verify)
    with pytest.raises(BadAnswer):
        check_signatures(first.receipt, first.countersign, digest="00", verify=verify)


async def test_the_receipt_of_another_order_proves_nothing() -> None:
    market = FakeMarket(ANSWERS)
    async with AsyncClient("http://fake", "sk-test", market) as calls:
        one = await calls.chat("tiny-chat", "Hi")
        other = await calls.chat("tiny-chat", "Ho")
        market.receipts[one.order_id] = market.receipts[other.order_id]
        with pytest.raises(BadAnswer):
            await calls.prove(one.order_id)


@pytest.mark.parametrize("payload", [b"{}", b"no json", b'{"kind":1}'])
def test_a_malformed_receipt_comment_is_a_bad_answer(payload: bytes) -> None:
    with pytest.raises(BadAnswer):
        StreamCheck(verify).feed(comment("receipt", payload))


def test_the_clients_are_loaded_by_name_only() -> None:
    assert penstock.AsyncClient is AsyncClient
    with pytest.raises(AttributeError):
        penstock.Nothing  # noqa: B018 - naming it is the test


def test_a_client_can_be_closed_twice() -> None:
    calls = client(FakeMarket(ANSWERS))
    calls.close()
    calls.close()
    with pytest.raises(ClientClosed):
        calls.models()


def _sha(data: bytes) -> str:
    import hashlib

    return hashlib.sha256(data).hexdigest()
