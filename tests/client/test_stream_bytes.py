"""A streamed answer under attack: cut anywhere, a byte flipped, parts added, moved or left out."""

import asyncio
import functools
import itertools
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.client.replayed import TEXT, hear, played, signed_stream
from tests.properties import in_full

from penstock.client.answers import Signatures, StreamCheck
from penstock.client.errors import ApiError, BadAnswer, Unreachable
from penstock.client.testing import FakeMarket
from penstock.kit.keys import Ed25519Key, verify
from penstock.kit.sse import EventSplitter, comment, parse_comment
from penstock.spec.canon import encode, from_plain, parse
from penstock.spec.keys import Signed, parse_signed, sign
from penstock.spec.receipts import Countersign, Receipt
from penstock.spec.stream import COUNTERSIGN_COMMENT, RECEIPT_COMMENT

LATE = b'data: {"choices":[{"delta":{"content":" And more."}}]}\n\n'
STRANGER = Ed25519Key(b"\7" * 32)


@functools.cache
def honest() -> bytes:
    return asyncio.run(signed_stream())


@dataclass(frozen=True)
class Verdict:
    """What a reader makes of a stream: its text and who signed, or why it is refused."""

    text: str
    signed: Signatures | None
    refused: str = ""


def read(parts: list[bytes]) -> Verdict:
    check = StreamCheck(verify)
    text = ""
    try:
        for part in parts:
            for event in check.feed(part):
                text += event["choices"][0]["delta"]["content"]
        return Verdict(text, check.finish())
    except BadAnswer as error:
        return Verdict(text, None, error.reason)
    except (KeyError, TypeError, IndexError):
        return Verdict(text, None, "not an event of a chat")


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(edges)]


def parts_of(data: bytes) -> tuple[list[bytes], Signed, Signed]:
    """(events before the receipt, receipt, countersignature)."""
    events = EventSplitter().feed(data)
    words = [parse_comment(event) for event in events[-2:]]
    receipt, countersign = (parse_signed(parse(word[1])) for word in words if word is not None)
    return events[:-2], receipt, countersign


def joined(events: list[bytes], receipt: Signed | None, countersign: Signed | None) -> bytes:
    tail = b"" if receipt is None else comment(RECEIPT_COMMENT, encode(receipt))
    if countersign is not None:
        tail += comment(COUNTERSIGN_COMMENT, encode(countersign))
    return b"".join(events) + tail


def test_the_honest_stream_is_signed_by_both() -> None:
    verdict = read([honest()])
    assert verdict.text == TEXT
    assert verdict.signed is not None
    assert verdict.signed.receipt is not None
    assert verdict.signed.countersign is not None


@given(st.lists(st.integers(0, 10_000), max_size=30))
def test_however_the_bytes_are_cut_the_verdict_is_the_same(places: list[int]) -> None:
    assert read(cut(honest(), places)) == read([honest()])


@settings(max_examples=in_full(50))
@given(st.integers(0, 10_000), st.integers(1, 255), st.lists(st.integers(0, 10_000), max_size=10))
def test_a_forged_stream_is_refused_alike_however_it_is_cut(
    place: int, flip: int, places: list[int]
) -> None:
    forged = bytearray(honest())
    forged[place % len(forged)] ^= flip
    whole, pieces = read([bytes(forged)]), read(cut(bytes(forged), places))
    assert whole.signed == pieces.signed
    assert whole.refused == pieces.refused


@pytest.mark.parametrize("bit", [0, 1, 5, 7])
def test_every_flipped_bit_is_caught_or_leaves_no_signature_to_believe(bit: int) -> None:
    """A flip may hide a signature (then the answer counts as unsigned), but never forge one."""
    data = honest()
    whole = read([data])
    for place in range(len(data)):
        forged = bytearray(data)
        forged[place] ^= 1 << bit
        verdict = read([bytes(forged)])
        if verdict.signed is None:
            assert verdict.refused
        elif verdict.signed.receipt is not None:
            assert verdict.text == whole.text, f"byte {place}"
            assert verdict.signed.receipt == whole.signed.receipt if whole.signed else False
        else:
            assert verdict.signed.countersign is None, f"byte {place}"


def test_text_behind_the_receipt_is_refused_before_it_is_handed_out() -> None:
    """Nobody signed it: a gateway could put words into the miner's mouth there."""
    events, receipt, countersign = parts_of(honest())
    late = joined(events, receipt, None) + LATE + comment(COUNTERSIGN_COMMENT, encode(countersign))
    for data in (late, honest() + LATE):
        verdict = read(EventSplitter().feed(data))
        assert verdict.text == TEXT
        assert "behind the receipt" in verdict.refused


def test_an_end_mark_behind_the_receipt_is_refused_too() -> None:
    assert read([honest() + b"data: [DONE]\n\n"]).refused


def test_a_comment_of_others_behind_the_receipt_is_harmless() -> None:
    assert read([honest() + b": keep-alive\n\n"]) == read([honest()])


def test_a_countersigned_receipt_cannot_be_left_out() -> None:
    events, _, countersign = parts_of(honest())
    assert "missing" in read([joined(events, None, countersign)]).refused


def test_without_both_signatures_an_answer_is_simply_not_signed() -> None:
    events, _, _ = parts_of(honest())
    assert read([joined(events, None, None)]) == Verdict(TEXT, Signatures(None, None))


def test_a_receipt_that_nobody_countersigned_stands_alone() -> None:
    events, receipt, _ = parts_of(honest())
    verdict = read([joined(events, receipt, None)])
    assert verdict.signed is not None
    assert verdict.signed.countersign is None
    assert verdict.signed.receipt == from_plain(Receipt, receipt.body)


def test_a_stranger_cannot_sign_in_the_miners_name() -> None:
    events, receipt, _ = parts_of(honest())
    forged = sign("receipt", from_plain(Receipt, receipt.body), STRANGER)
    assert "by the miner it names" in read([joined(events, forged, None)]).refused


def test_a_stranger_cannot_sign_in_the_gateways_name() -> None:
    events, receipt, countersign = parts_of(honest())
    forged = sign("countersign", from_plain(Countersign, countersign.body), STRANGER)
    assert "gateway" in read([joined(events, receipt, forged)]).refused


REARRANGED: dict[str, Callable[[list[bytes]], list[bytes]]] = {
    "an event twice": lambda events: [events[0], *events],
    "an event left out": lambda events: events[1:],
    "two events swapped": lambda events: [events[1], events[0], *events[2:]],
    "a comment slipped in": lambda events: [b": hello\n\n", *events],
    "other line ends": lambda events: [event.replace(b"\n", b"\r\n") for event in events],
    "a field added": lambda events: [b"id: 1\n" + events[0], *events[1:]],
    "nothing at all": lambda events: [],
}


@pytest.mark.parametrize("change", REARRANGED.values(), ids=REARRANGED.keys())
def test_events_cannot_be_rearranged(change: Callable[[list[bytes]], list[bytes]]) -> None:
    events, receipt, countersign = parts_of(honest())
    assert read([joined(change(events), receipt, countersign)]).refused


def test_the_signatures_of_another_answer_do_not_fit() -> None:
    events, receipt, countersign = parts_of(honest())
    other_events, other_receipt, _ = parts_of(asyncio.run(signed_stream("Something else.")))
    assert read([joined(other_events, receipt, countersign)]).refused
    assert read([joined(events, other_receipt, countersign)]).refused


def test_an_event_without_end_is_refused_at_the_bound() -> None:
    verdict = read([b"data: "] + [b"x" * 65_536] * 17)
    assert "longer than" in verdict.refused


@pytest.mark.parametrize("data", [b'data: "\xff"\n\n', b"data: " + b"[" * 5_000 + b"\n\n"])
def test_what_is_no_json_at_all_is_a_bad_answer(data: bytes) -> None:
    assert "not JSON" in read([data]).refused


async def test_an_error_in_mid_stream_is_raised_after_the_text_before_it() -> None:
    event = b'data: {"error":{"code":"miner_failed","message":"The miner was lost."}}\n\n'
    transport = played(LATE, event)
    with pytest.raises(ApiError) as caught:
        await hear(transport)
    assert (caught.value.code, caught.value.status) == ("miner_failed", 200)
    assert transport.left == transport.opened == 1


async def test_a_connection_lost_in_mid_stream_is_unreachable_and_not_a_short_answer() -> None:
    data = honest()
    for size in (0, 10, len(data) // 2, len(data) - 1):
        with pytest.raises(Unreachable) as caught:
            await hear(played(data[:size], breaks=True))
        assert caught.value.url == "http://gateway"


async def test_a_stream_that_ends_cleanly_in_the_middle_is_not_signed() -> None:
    """A gateway that simply stops cannot be told from one that does not sign: it says so."""
    stream = await hear(played(LATE, b"data: half an ev"))
    assert stream.text == " And more."
    assert stream.signed == Signatures(None, None)


async def test_the_fake_market_streams_the_same_in_pieces_of_any_size() -> None:
    for chunk_bytes in (1, 2, 7, 4096):
        market = FakeMarket({"m": TEXT})
        async with market.open_stream(
            "POST",
            "http://fake/v1/chat/completions",
            headers=(("authorization", "x"),),
            body=b'{"model":"m","stream":true}',
            head_deadline_ms=1,
        ) as reply:
            reply.chunk_bytes = chunk_bytes
            parts = [part async for part in reply.chunks(idle_deadline_ms=1)]
        verdict = read(parts)
        assert verdict.text == TEXT
        assert verdict.signed is not None
