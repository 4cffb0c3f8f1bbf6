"""A gateway that answers nonsense, a proxy's page, or nothing: only ClientErrors reach the caller."""

import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.client.replayed import TEXT, Played, PlayedReply, calls, hear, played, signed_answer
from tests.properties import in_full

from penstock.client.client import AsyncClient
from penstock.client.errors import ApiError, BadAnswer, ClientError, Unreachable
from penstock.kit.errors import ConnectFailed, DeadlinePassed, WireError

RECEIPT = "x-penstock-receipt"
COUNTERSIGN = "x-penstock-countersign"
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=10),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["choices", "delta", "message", "content", "error", "code", "data"]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)

Call = Callable[[AsyncClient], Awaitable[Any]]


async def stream(client: AsyncClient) -> None:
    async with client.stream_chat("m", "Hi") as answer:
        async for _ in answer:
            pass


CALLS: dict[str, Call] = {
    "chat": lambda client: client.chat("m", "Hi"),
    "embed": lambda client: client.embed("m", ["Hi"]),
    "stream": stream,
    "models": lambda client: client.models(),
    "balance": lambda client: client.balance(),
    "receipt": lambda client: client.receipt("o-1"),
    "prove": lambda client: client.prove("o-1"),
}
every_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())


@every_call
@pytest.mark.parametrize("status", [400, 402, 429, 500, 502, 503])
async def test_an_error_envelope_is_an_api_error_with_its_fields(call: Call, status: int) -> None:
    body = json.dumps({"error": {"code": "no_capacity", "message": "All busy."}}).encode()
    transport = played(body, status=status)
    with pytest.raises(ApiError) as caught:
        await call(calls(transport))
    assert (caught.value.status, caught.value.code) == (status, "no_capacity")
    assert str(caught.value) == f"{status} no_capacity: All busy."
    assert transport.left == transport.opened


@every_call
@pytest.mark.parametrize(
    "page",
    [b"<html>502 Bad Gateway</html>", b"", b"\xff\xfe", b'"down"', b'{"error": "down"}', b"[1]"],
)
async def test_a_proxys_page_still_tells_its_status(call: Call, page: bytes) -> None:
    with pytest.raises(ApiError) as caught:
        await call(calls(played(page, status=502)))
    assert caught.value.status == 502


async def test_a_long_page_is_told_in_short() -> None:
    with pytest.raises(ApiError) as caught:
        await calls(played(b"x" * 100_000, status=500)).models()
    assert len(caught.value.message) == 200


@every_call
@pytest.mark.parametrize(
    "error", [ConnectFailed("gateway", 1), DeadlinePassed("head", 5)], ids=["nobody", "silent"]
)
async def test_nobody_there_is_unreachable(call: Call, error: WireError) -> None:
    with pytest.raises(Unreachable) as caught:
        await call(calls(Played(PlayedReply(200, ()), refuses=error)))
    assert caught.value.url == "http://gateway"
    assert str(error) in str(caught.value)


@every_call
async def test_an_answer_cut_off_is_unreachable(call: Call) -> None:
    with pytest.raises(Unreachable):
        await call(calls(played(b'{"data":', breaks=True)))


@every_call
async def test_a_refusal_cut_off_is_unreachable(call: Call) -> None:
    with pytest.raises(Unreachable):
        await call(calls(played(b'{"error":', status=503, breaks=True)))


@every_call
@pytest.mark.parametrize("url", ["localhost:8400", "ftp://gateway", "", "http://"])
async def test_what_is_no_address_is_told_and_not_a_crash(call: Call, url: str) -> None:
    async with AsyncClient(url, "sk-test") as client:
        with pytest.raises(Unreachable, match="URL"):
            await call(client)


async def test_a_key_with_a_line_end_cannot_smuggle_headers() -> None:
    async with AsyncClient("http://127.0.0.1:1", "sk\r\nx-admin: 1") as client:
        with pytest.raises(Unreachable, match="header"):
            await client.models()


def test_the_key_does_not_show_in_the_clients_repr() -> None:
    assert "sk-secret" not in repr(AsyncClient("http://gateway", "sk-secret", played()))


@pytest.mark.parametrize("value", [b"[]", b"5", b"null", b'"x"'])
@pytest.mark.parametrize("name", ["chat", "embed", "models", "balance", "receipt"])
async def test_another_shape_than_an_object_is_a_bad_answer(name: str, value: bytes) -> None:
    with pytest.raises(BadAnswer):
        await CALLS[name](calls(played(value)))


@pytest.mark.parametrize("value", [b"{}", b'{"data": 5}', b'{"data": null}'])
async def test_a_list_of_models_without_data_is_a_bad_answer(value: bytes) -> None:
    with pytest.raises(BadAnswer, match="models"):
        await calls(played(value)).models()


@settings(max_examples=in_full(200))
@given(JSON, st.sampled_from([200, 404, 500]))
async def test_whatever_json_comes_only_client_errors_go_out(value: Any, status: int) -> None:
    body = json.dumps(value).encode()
    for call in CALLS.values():
        try:
            await call(calls(played(body, status=status)))
        except ClientError as error:
            assert str(error)


@settings(max_examples=in_full(200))
@given(st.lists(JSON, max_size=4))
async def test_whatever_events_come_only_client_errors_go_out(values: list[Any]) -> None:
    parts = [b"data: " + json.dumps(value).encode() + b"\n\n" for value in values]
    try:
        answer = await hear(played(*parts))
    except ClientError as error:
        assert str(error)
    else:
        assert isinstance(answer.text, str)
        assert answer.signed.receipt is None


@settings(max_examples=in_full(100))
@given(st.binary(max_size=200))
async def test_whatever_bytes_come_only_client_errors_go_out(body: bytes) -> None:
    for call in CALLS.values():
        try:
            await call(calls(played(body)))
        except ClientError as error:
            assert str(error)


async def test_a_whole_answer_is_checked_by_its_headers() -> None:
    honest = await signed_answer()
    answer = await calls(played(honest.body, headers=honest.headers)).chat("m", "Hi")
    assert answer.text == TEXT
    assert answer.signed.receipt is not None
    assert answer.order_id == answer.signed.receipt.order_id
    assert answer.charge_nano == answer.signed.receipt.charge_nano


async def test_every_flipped_byte_of_a_whole_answer_is_caught() -> None:
    honest = await signed_answer()
    for place in range(len(honest.body)):
        forged = bytearray(honest.body)
        forged[place] ^= 1
        with pytest.raises(BadAnswer):
            await calls(played(bytes(forged), headers=honest.headers)).chat("m", "Hi")


@pytest.mark.parametrize("name", [RECEIPT, COUNTERSIGN])
async def test_every_flipped_character_of_a_signature_is_caught_or_changes_no_word(
    name: str,
) -> None:
    """The last character of base64 holds bits that count for nothing; all others are signed."""
    honest = await signed_answer()
    expected = await calls(played(honest.body, headers=honest.headers)).chat("m", "Hi")
    text = honest.headers[name]
    caught = 0
    for place in range(len(text)):
        other = "B" if text[place] == "A" else "A"
        forged = {**honest.headers, name: text[:place] + other + text[place + 1 :]}
        try:
            answer = await calls(played(honest.body, headers=forged)).chat("m", "Hi")
        except BadAnswer:
            caught += 1
        else:
            assert answer.signed == expected.signed, f"character {place}"
    assert caught >= len(text) - 1


@pytest.mark.parametrize("text", ["%%%", "e30", "bm8ganNvbg", "A", "\u00ff", "W10"])
async def test_a_header_that_is_no_signature_is_a_bad_answer(text: str) -> None:
    honest = await signed_answer()
    with pytest.raises(BadAnswer):
        await calls(played(honest.body, headers={**honest.headers, RECEIPT: text})).chat("m", "Hi")


async def test_a_countersignature_without_its_receipt_is_refused() -> None:
    honest = await signed_answer()
    headers = {name: text for name, text in honest.headers.items() if name != RECEIPT}
    with pytest.raises(BadAnswer, match="missing"):
        await calls(played(honest.body, headers=headers)).chat("m", "Hi")


async def test_an_answer_that_nobody_signed_costs_nothing_and_names_nobody() -> None:
    honest = await signed_answer()
    answer = await calls(played(honest.body)).chat("m", "Hi")
    assert (answer.text, answer.charge_nano, answer.miner, answer.completion_units) == (
        TEXT,
        0,
        "",
        0,
    )


async def test_signatures_of_two_answers_cannot_be_mixed() -> None:
    first, second = await signed_answer(), await signed_answer("Another answer.")
    mixed = {**first.headers, COUNTERSIGN: second.headers[COUNTERSIGN]}
    with pytest.raises(BadAnswer):
        await calls(played(first.body, headers=mixed)).chat("m", "Hi")
