"""Small parts by themselves: the tally, the proofs, orders, the charter, the configuration."""

import hmac
import json
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.makers import (
    GATEWAY,
    MANIFEST,
    MINER,
    ToyKey,
    make_offer,
    make_order,
    make_receipt,
    toy_verify,
)
from tests.stations.gateway.placed import placed_of
from tests.stations.gateway.test_directory import StandingClock, instance
from tests.stations.gateway.world import chat

from penstock.gateway.bodies import CHAT_PATH, parse_body
from penstock.gateway.charter import read_facts
from penstock.gateway.config import GatewayConfig, read_config
from penstock.gateway.errors import MinerFailed, StartRefused
from penstock.gateway.orders import Ceilings, Orders, Placed, ceilings, header_text, signed_json
from penstock.gateway.policy import Fault, end_of, parse_word, prove
from penstock.gateway.sessions import Session
from penstock.gateway.tally import WORD_BYTES_MAX, Tally
from penstock.kit.handshake import order_mac, parse_session_header, receipt_mac, vouch
from penstock.kit.spell import read_order, spell, spell_digest
from penstock.kit.sse import EVENT_BYTES_MAX, comment
from penstock.spec.canon import canonical, to_plain
from penstock.spec.keys import Delegation, Role, parse_signed, sign
from penstock.spec.messages import Charter, check_order
from penstock.spec.params import LOCAL, params_digest
from penstock.spec.receipts import Outcome

EVENTS = [b'data: {"a":1}\n\n', b"data: \xc3\xa9\n\n", b": penstock-checkpoint {}\n\n", b": hi\n\n"]
ANSWER = b"".join(EVENTS)
RECEIPT = comment("receipt", b'{"signed":"word"}')
OPERATOR = ToyKey("operator")


@given(st.lists(st.integers(0, len(ANSWER + RECEIPT)), max_size=12))
def test_the_tally_is_the_same_wherever_the_network_cuts(cuts: list[int]) -> None:
    tally, whole, out = Tally(), ANSWER + RECEIPT, b""
    places = [0, *sorted(cuts), len(whole)]
    for start, end in pairwise(places):
        if start < end:
            out += tally.feed(whole[start:end])
    assert out == whole
    assert tally.receipt == b'{"signed":"word"}'
    assert (tally.body_bytes, tally.events) == (len(ANSWER), 2)
    assert tally.digest == sha256(ANSWER).hexdigest()
    assert tally.checkpoint is not None
    assert tally.checkpoint.body_bytes == len(EVENTS[0] + EVENTS[1])
    assert tally.checkpoint.digest == sha256(EVENTS[0] + EVENTS[1]).hexdigest()


def test_half_an_event_is_not_passed_on() -> None:
    tally = Tally()
    assert tally.feed(b'data: {"a":1}\n\ndata: {"b') == b'data: {"a":1}\n\n'
    assert tally.body_bytes == len(EVENTS[0])


def test_an_event_without_end_breaks_the_stream() -> None:
    tally = Tally()
    assert tally.feed(b"data: " + b"x" * (EVENT_BYTES_MAX + 1)) == b""
    assert "longer than" in tally.broken


def test_content_is_what_is_neither_frame_nor_comment() -> None:
    tally = Tally()
    tally.feed(ANSWER)
    assert tally.content_bytes == len(EVENTS[0] + EVENTS[1]) - 16


def placed_order(**changes: Any) -> Placed:
    return placed_of(make_order(**changes))


def told(receipt_changes: dict[str, Any], body: bytes = b"answer") -> tuple[Placed, Tally]:
    placed, tally = placed_order(), Tally()
    tally.take_whole(body)
    receipt = make_receipt(placed.order, **receipt_changes)
    tally.receipt = signed_json(sign("receipt", receipt, MINER))
    return placed, tally


def test_more_completion_units_than_the_bytes_can_hold_are_not_believed() -> None:
    placed, tally = told({})
    proven = prove(placed, tally, is_error=False, verify=toy_verify)
    assert proven.fault is Fault.TOO_MANY_UNITS
    assert not proven.is_match
    assert end_of(placed, proven, is_cancelled=False).outcome is Outcome.MINER_FAILED
    assert end_of(placed, proven, is_cancelled=True).charge_nano == 0


def test_a_receipt_that_matches_is_believed() -> None:
    body = b"an answer of enough bytes"
    changes = {"response_digest": sha256(body).hexdigest(), "response_bytes": len(body)}
    placed, tally = told(changes, body)
    proven = prove(placed, tally, is_error=False, verify=toy_verify)
    assert proven.fault is Fault.NONE
    end = end_of(placed, proven, is_cancelled=False)
    assert end.outcome is Outcome.COMPLETE
    assert end.charge_nano == make_receipt(placed.order).charge_nano
    assert end_of(placed, proven, is_cancelled=True).charge_nano == end.charge_nano


@pytest.mark.parametrize(
    "payload", [b"", b"{", b"[]", b"\xff", b"[" * 5_000, b" " * (WORD_BYTES_MAX + 1)]
)
def test_a_word_that_is_none_is_none(payload: bytes) -> None:
    assert parse_word(payload) is None


def test_an_order_is_one_the_miner_may_serve_and_tags_the_payer_by_epoch() -> None:
    clock = StandingClock(ms=LOCAL.epoch_ms * 9)
    orders = Orders(
        clock=clock,
        sign=GATEWAY,
        entropy=lambda n: bytes(one % 256 for one in range(n)),
        params=LOCAL,
        tag_secret=b"s",
    )
    call = parse_body(CHAT_PATH, json.dumps(chat(stream=True, seed=3)).encode())
    bounds = ceilings(call, MANIFEST.limits)
    placed = orders.place(call, instance().offer, bounds=bounds, account="alice")
    order = check_order(
        parse_signed(json.loads(placed.signed_json())),
        body_digest=sha256(call.body).hexdigest(),
        now_ms=clock.ms,
        verify=toy_verify,
    )
    assert order == placed.order
    assert (order.stream, order.seed, order.path) == (True, 3, CHAT_PATH)
    assert order.charge_max == bounds.charge_max(instance().offer.price)
    assert len(order.order_id) == 34
    assert order.order_id.startswith("o-")
    assert order.deadline_ms == clock.ms + LOCAL.order_ttl_ms
    tag = hmac.new(b"s", b"alice/9", sha256).hexdigest()[:32]
    assert order.payer_tag == tag
    clock.ms += LOCAL.epoch_ms
    assert orders.payer_tag("alice", clock.ms) != tag
    assert "=" not in header_text(make_offer())


SESSION = Session("s-" + "0" * 32, b"k" * 32, expires_ms=9, renew_ms=8)


def test_an_order_under_a_session_is_its_own_json_with_a_mac_and_unsigned() -> None:
    orders = Orders(
        clock=StandingClock(ms=5), sign=GATEWAY, entropy=bytes, params=LOCAL, tag_secret=b"s"
    )
    call = parse_body(CHAT_PATH, json.dumps(chat(model="\u00e9")).encode())
    bounds = ceilings(call, MANIFEST.limits)
    placed = orders.place(
        call, instance().offer, bounds=bounds, account="a", decision_digest="d", session=SESSION
    )
    lines = dict(line.split(b": ", 1) for line in placed.head_lines().split(b"\r\n"))
    assert read_order(lines[b"x-penstock-order"]) == placed.order
    assert placed.order.decision_digest == "d"
    named = parse_session_header(lines[b"x-penstock-session"].decode())
    assert named == (SESSION.session_id, order_mac(SESSION.key, placed.covered))
    assert placed.signature == ""
    assert orders.take_back(placed)
    placed.signature = GATEWAY.sign(placed.covered)
    assert not orders.take_back(placed), "a signature of it is out in the world"


VOUCHED: dict[str, tuple[Callable[[bytes], bytes], Fault]] = {
    "as it should be": (lambda word: word, Fault.NONE),
    "a receipt with another mac": (
        lambda word: word[:-66] + b"0" * 64 + b'"}',
        Fault.BAD_SIGNATURE,
    ),
    "another spelling": (
        lambda word: word.replace(b'{"body":{', b'{"body":{ '),
        Fault.BAD_SIGNATURE,
    ),
    "a signed receipt where a vouched one is due": (lambda _: b'{"kind":"x"}', Fault.BAD_SIGNATURE),
    "nothing": (lambda _: b"", Fault.BAD_SIGNATURE),
}


@pytest.mark.parametrize("name", sorted(VOUCHED))
def test_a_receipt_under_a_session_is_believed_by_its_mac(name: str) -> None:
    change, fault = VOUCHED[name]
    body = b"an answer of enough bytes"
    placed, tally = placed_order(), Tally()
    placed.session = SESSION
    tally.take_whole(body)
    receipt = make_receipt(
        placed.order, response_digest=sha256(body).hexdigest(), response_bytes=len(body)
    )
    mac = receipt_mac(SESSION.key, spell_digest("receipt", receipt))
    tally.receipt = change(vouch(spell(receipt), mac))
    proven = prove(placed, tally, is_error=False, verify=toy_verify)
    assert proven.fault is fault
    assert proven.is_match is (fault is Fault.NONE)
    if proven.told is not None:
        assert proven.told.signature == ""
        assert proven.told.body == spell(receipt)


def info(charter: Charter | None = None, *, signer: ToyKey = OPERATOR, **changes: Any) -> bytes:
    charter = charter or replace(CHARTER, **changes)
    plain = {
        "charter": to_plain(sign("charter", charter, signer)),
        "delegations": [],
        "now_ms": 5,
        "ledger_url": "http://ledger/",
        "gateway_urls": [],
    }
    return json.dumps(plain).encode()


CHARTER = Charter(
    origin="o",
    network="local",
    params_digest=params_digest(LOCAL),
    operator=OPERATOR.identity,
    ledger="l",
    market="m",
    gateways=(GATEWAY.identity,),
    seats=(),
)


def facts(data: bytes, *, operator: str = "", identity: str = GATEWAY.identity) -> Any:
    return read_facts(data, identity=identity, operator=operator, now_ms=5, verify=toy_verify)


def test_a_charter_that_holds_gives_the_numbers_of_its_network() -> None:
    found = facts(info(), operator=OPERATOR.identity)
    assert found.params is LOCAL
    assert found.ledger_url == "http://ledger"


BAD_INFO = {
    "no json": b"{",
    "another signer": info(signer=GATEWAY),
    "another network": info(network="elsewhere"),
    "other numbers": info(params_digest="0"),
    "without us": info(gateways=()),
}


@pytest.mark.parametrize("name", sorted(BAD_INFO))
def test_a_charter_that_does_not_fit_stops_the_start_with_a_remedy(name: str) -> None:
    with pytest.raises(StartRefused) as caught:
        facts(BAD_INFO[name])
    assert str(caught.value).endswith(".")
    assert caught.value.remedy


def test_another_operator_than_the_pinned_one_is_not_believed() -> None:
    with pytest.raises(StartRefused):
        facts(info(), operator=MINER.identity)


@pytest.mark.parametrize(("role", "is_fit"), [(Role.GATEWAY, True), (Role.MINER, False)])
def test_a_chartered_owner_may_delegate_to_a_working_key(role: Role, *, is_fit: bool) -> None:
    key = ToyKey("working")
    word = Delegation(owner=GATEWAY.identity, key=key.identity, role=role, not_after_ms=10)
    value = json.loads(info())
    value["delegations"] = [{"no": "message"}, to_plain(sign("delegation", word, GATEWAY))]
    data = json.dumps(value).encode()
    if is_fit:
        assert facts(data, identity=key.identity).params is LOCAL
        return
    with pytest.raises(StartRefused):
        facts(data, identity=key.identity)


def test_a_configuration_needs_only_what_has_no_default(tmp_path: Path) -> None:
    path = tmp_path / "gateway.json"
    needed = {
        "name": "gateway",
        "market_url": "http://127.0.0.1:1",
        "nats_url": "nats://127.0.0.1:2",
        "key_file": "k",
        "tag_secret_file": "s",
    }
    path.write_text(json.dumps(needed | {"bounds": {"tries_max": 2}}))
    config = read_config(path)
    assert isinstance(config, GatewayConfig)
    assert (config.bounds.tries_max, config.port) == (2, 8080)
    for bad in (needed | {"prot": 1}, {"name": "x"}, needed | {"bounds": {"tries": 1}}):
        path.write_text(json.dumps(bad))
        with pytest.raises(msgspec.ValidationError):
            read_config(path)


def test_a_failure_names_how_many_were_tried() -> None:
    assert "The one miner" in MinerFailed(tries=1, reason="x").text()
    assert "All 3 miners" in MinerFailed(tries=3, reason="x").text()


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@given(
    offer_texts=st.tuples(TEXT, TEXT, TEXT),
    numbers=st.tuples(*[st.integers(0, 2**31)] * 5),
    stream=st.booleans(),
    account=TEXT,
)
def test_an_order_that_is_filled_in_is_the_one_that_the_law_spells(
    offer_texts: tuple[str, str, str],
    numbers: tuple[int, int, int, int, int],
    *,
    stream: bool,
    account: str,
) -> None:
    chute, name, miner = offer_texts
    offer = replace(instance().offer, chute=chute, instance=name, miner=miner)
    now_ms, prompt, completion, images, audio = numbers
    bounds = Ceilings(prompt % 10**6, completion % 10**6, images % 10**6, audio % 10**6)
    orders = Orders(
        clock=StandingClock(ms=now_ms),
        sign=GATEWAY,
        entropy=lambda n: (sha256(account.encode()).digest() * n)[:n],
        params=LOCAL,
        tag_secret=b"s",
    )
    call = parse_body(CHAT_PATH, json.dumps(chat(stream=stream)).encode())
    placed = orders.place(call, offer, bounds=bounds, account=account)
    order = placed.order
    assert placed.body == spell(order) == canonical(to_plain(order))
    assert placed.covered == spell_digest("order", order)
    assert (order.chute, order.instance, order.miner) == offer_texts
    assert (order.images_max, order.audio_ms_max) == (bounds.images_max, bounds.audio_ms_max)
    assert (order.prompt_max, order.completion_max) == (bounds.prompt_max, bounds.completion_max)
    assert order.stream is stream
    assert (order.issued_ms, order.deadline_ms) == (now_ms, now_ms + LOCAL.order_ttl_ms)
