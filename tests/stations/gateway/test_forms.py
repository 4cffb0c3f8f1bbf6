"""Forms: what is filled in is what the law spells, and what is read quickly is what the law accepts."""

from dataclasses import fields, replace
from itertools import pairwise
from random import Random
from typing import Any

import msgspec
from hypothesis import example, given
from hypothesis import strategies as st
from tests.makers import GATEWAY, MANIFEST, make_offer, make_order, make_receipt
from tests.stations.gateway.placed import placed_of
from tests.stations.gateway.planning import StandingClock

from penstock.gateway.bodies import CHAT_PATH, parse_body
from penstock.gateway.choice import Asking, Prompt, judge
from penstock.gateway.field import Field
from penstock.gateway.forms import COUNTERSIGN, FALSE, TRUE, Form, outcome_word, quoted
from penstock.gateway.instances import Instance
from penstock.gateway.orders import DRAWS, Ceilings, Orders, Placed
from penstock.gateway.policy import Told, prove
from penstock.gateway.sealer import Ended
from penstock.gateway.sessions import Session
from penstock.gateway.tally import Tally
from penstock.kit.handshake import receipt_mac, vouch
from penstock.kit.spell import read_receipt, spell
from penstock.spec.canon import INT_MAX, canonical, digest_spelled, from_plain
from penstock.spec.errors import SpecError
from penstock.spec.keys import parse_signed
from penstock.spec.messages import Offer
from penstock.spec.params import LOCAL
from penstock.spec.pricing import charge_ceiling, cost
from penstock.spec.receipts import Countersign, Outcome, Receipt, check_account, parse_record
from penstock.spec.routing import Need, Usual, merit, rejection, request_work
from penstock.spec.units import Units

KEY = b"k" * 32
SESSION = Session("s-" + "0" * 32, KEY, expires_ms=9, renew_ms=8)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
COUNTS = st.integers(0, 200)
WIDE = st.integers(-INT_MAX, INT_MAX)
ORDER = make_order(images_max=3, audio_ms_max=100)
PLACED = placed_of(ORDER)
OUTCOMES = st.sampled_from(Outcome)


def offer_named(chute: str, instance: str, miner: str) -> Offer:
    return replace(
        from_plain(Offer, make_offer().body), chute=chute, instance=instance, miner=miner
    )


def is_plain(text: str) -> bool:
    return not text or text.isalnum()


@given(TEXTS, TEXTS, TEXTS, st.data())
@example("100%", '"', "\\", None)
def test_a_receipt_of_any_offer_is_known_by_its_bytes(
    chute: str, instance: str, miner: str, data: Any
) -> None:
    form = Form(offer_named(chute, instance, miner), "gateway%d")
    text = "ab" if data is None else data.draw(TEXTS)
    receipt = replace(
        make_receipt(ORDER, response_digest="ab", token_ids_digest=text, logprobs_digest=text),
        chute=chute,
        instance=instance,
        miner=miner,
        gateway="gateway%d",
    )
    said = (receipt.order_digest.encode(), receipt.order_id.encode(), receipt.payer_tag.encode())
    assert form.is_receipt(spell(receipt), receipt, said) is is_plain(text)
    assert not form.is_receipt(spell(receipt) + b" ", receipt, said)
    assert not form.is_receipt(spell(receipt), receipt, (b"x", *said[1:]))


def vouched(receipt: Receipt) -> Tally:
    tally = Tally()
    tally.take_whole(b"an answer of enough bytes")
    body = spell(receipt)
    tally.receipt = vouch(body, receipt_mac(KEY, digest_spelled("receipt", body)))
    return tally


def told_by_law(body: bytes) -> Receipt | None:
    """What `read_receipt` and `check_account` say."""
    try:
        receipt = read_receipt(body)
        check_account(receipt, ORDER, order_digest=PLACED.digest)
    except SpecError:
        return None
    return receipt


CHANGES = st.fixed_dictionaries(
    {},
    optional={
        "order_id": TEXTS,
        "order_digest": TEXTS,
        "payer_tag": TEXTS,
        "miner": TEXTS,
        "gateway": TEXTS,
        "charge_nano": COUNTS,
        "outcome": OUTCOMES,
        "response_digest": TEXTS,
        "token_ids_digest": TEXTS,
        "logprobs_digest": TEXTS,
        "seed": WIDE,
        "accept_ms": WIDE,
        "last_ms": WIDE,
        "events": st.integers(-5, INT_MAX),
        "response_bytes": st.integers(-5, INT_MAX),
        "units": st.builds(Units, *[st.integers(-1, 110)] * 5),
    },
)


@given(CHANGES, st.booleans())
def test_a_vouched_receipt_is_believed_exactly_when_the_law_believes_it(
    changes: dict[str, Any], is_priced: bool
) -> None:
    receipt = replace(make_receipt(ORDER), **{"order_digest": PLACED.digest, **changes})
    if is_priced and min(receipt.units.prompt, receipt.units.completion) >= 0:
        due = min(cost(ORDER.price, receipt.units), ORDER.charge_max)
        is_paid = receipt.outcome in {Outcome.COMPLETE, Outcome.CLIENT_CANCELLED}
        receipt = replace(receipt, charge_nano=due if is_paid else 0)
    placed = replace_session(PLACED)
    told = prove(placed, vouched(receipt), is_error=False, verify=lambda *_: False).told
    assert (None if told is None else told.receipt) == told_by_law(spell(receipt))


def replace_session(placed: Placed) -> Placed:
    return msgspec.structs.replace(placed, session=SESSION)


@given(OUTCOMES, st.booleans(), st.lists(WIDE, min_size=5, max_size=5), st.text("0af", max_size=9))
def test_a_countersignature_is_spelled_as_the_law_spells_it(
    outcome: Outcome, match: bool, numbers: list[int], text: str
) -> None:
    charge, events, size, total, ttft = numbers
    seen = Countersign("o-1", text, "", outcome, charge, size, events, ttft, total, match)
    filled = COUNTERSIGN % (
        charge,
        events,
        TRUE if match else FALSE,
        text.encode(),
        b"o-1",
        outcome_word(outcome),
        b"",
        size,
        total,
        ttft,
    )
    assert filled == spell(seen)
    assert {field.name for field in fields(seen)} == set(msgspec.json.decode(filled))


@given(TEXTS)
def test_a_text_is_quoted_as_the_law_quotes_it(text: str) -> None:
    assert quoted(text) == canonical(text)


def test_a_record_is_what_its_words_are() -> None:
    receipt = replace(make_receipt(ORDER), order_digest=PLACED.digest)
    body = spell(receipt)
    told = Told(receipt, body, digest_spelled("receipt", body), "")
    seen = Countersign("o-1", PLACED.digest, "", Outcome.COMPLETE, 1, 2, 3, 4, 5, match=True)
    entry = Ended(PLACED, told, b"null", b"null", spell(seen), 1, hold=None)  # type: ignore[arg-type] # none is needed
    entry.receipt_signature = "the miner's"
    record = parse_record(msgspec.json.decode(entry.record("ours")))
    assert record.order == parse_signed(msgspec.json.decode(PLACED.signed_json()))
    assert record.receipt is not None
    assert (record.receipt.signer, record.receipt.signature) == (ORDER.miner, "the miner's")
    assert canonical(record.receipt.body) == body
    assert record.countersign is not None
    assert (record.countersign.signer, record.countersign.signature) == (ORDER.gateway, "ours")
    assert canonical(record.countersign.body) == spell(seen)
    entry.broken()
    broken = parse_record(msgspec.json.decode(entry.record("ours")))
    assert broken.receipt is None
    assert broken.countersign is not None
    assert broken.countersign.body["outcome"] == "miner_failed"
    assert entry.refund_nano == 1


def test_chance_that_is_asked_for_in_bulk_is_used_once() -> None:
    asked: list[int] = []
    chance = Random(3)

    def entropy(size: int) -> bytes:
        asked.append(size)
        return chance.randbytes(size)

    orders = Orders(
        clock=StandingClock(), sign=GATEWAY, entropy=entropy, params=LOCAL, tag_secret=b"s"
    )
    call = parse_body(CHAT_PATH, b'{"model":"m","messages":[{"role":"user"}]}')
    offer = from_plain(Offer, make_offer().body)
    bounds = Ceilings(9, 9)
    found = [orders.place(call, offer, bounds=bounds, account="a").order for _ in range(3 * DRAWS)]
    assert len(asked) == 3
    for name in ("order_id", "nonce", "seed"):
        assert len({getattr(order, name) for order in found}) == len(found)
    assert all(one.order_id != other.order_id for one, other in pairwise(found))


def test_a_ceiling_is_reckoned_anew_for_another_price() -> None:
    bounds, price = Ceilings(100, 50), MANIFEST.price_max
    dearer = replace(price, prompt=price.prompt * 2)
    for one in (price, dearer, price):
        assert bounds.charge_max(one) == charge_ceiling(one, prompt_max=100, completion_max=50)
    assert bounds == Ceilings(100, 50)


@given(st.data())
def test_candidates_are_judged_as_the_law_judges_them(data: Any) -> None:
    numbers = st.integers(0, 5_000)
    field, now_ms = Field(), 3_000
    for number in range(3):
        said = make_offer(instance=f"m-{number}", room=data.draw(st.integers(1, 4)))
        one = Instance(from_plain(Offer, said.body))
        field.add(one)
        one.running = data.draw(st.integers(0, 4))
        one.failures = data.draw(st.integers(0, 4))
        one.broken_until_ms = data.draw(st.sampled_from([0, now_ms, now_ms + 1]))
        one.valid_until_ms = data.draw(st.sampled_from([now_ms - 1, now_ms, now_ms + 1]))
        one.is_trial = data.draw(st.booleans())
        one.paces_ns = [data.draw(numbers)] * len(one.paces_ns)
        one.given_us = data.draw(numbers)
        one.cost_ppm = data.draw(st.integers(250_000, 4_000_000))
    field.usual_given_us = data.draw(numbers)
    chute = data.draw(st.sampled_from([field.instances[0].chute, "another"]))
    need = Need(chute, data.draw(st.sampled_from([None, MANIFEST.price_max])))
    prompt = Prompt((), data.draw(st.integers(1, 5_000)), 100)
    judged = judge(field, prompt, field.instances, asking=Asking(need, now_ms, 1), known=(None, 0))
    completion = field.completion(prompt.tokens, 100)
    work = request_work(fresh=prompt.tokens, completion=completion)
    bucket = min(work.bit_length(), 24)
    field.refresh()
    usual = Usual(field.pace_ns(bucket), field.usual_given_us, field.mean_us)
    for one, found in zip(field.instances, judged, strict=True):
        assert found.reason is rejection(one, need, now_ms=now_ms)
        if found.reason is None:
            assert found.merit == merit(one, work, bucket=bucket, usual=usual)
