"""Records as honest miners and gateways make them: any order, ended in any of the ways there are."""

from dataclasses import dataclass, replace
from enum import Enum

from hypothesis import strategies as st
from tests.makers import (
    GATEWAY,
    ToyKey,
    make_checkpoint,
    make_countersign,
    make_decision,
    make_order,
    make_receipt,
)

from penstock.spec.keys import Signed, sign
from penstock.spec.messages import Order
from penstock.spec.pricing import charge_ceiling
from penstock.spec.receipts import Countersign, Outcome, Record, charge_for, decision_digest
from penstock.spec.routing import Considered
from penstock.spec.units import NO_UNITS, Price, Units

MINERS = tuple(ToyKey(f"miner-{number}") for number in range(3))
PAYERS = ("ann", "bob", "eve")
MILLISECOND_US = 1_000


class Ending(Enum):
    """How the life of an order went."""

    COMPLETE = "complete"
    CANCELLED_WITH_RECEIPT = "cancelled with a receipt that matches"
    CANCELLED_WITH_CHECKPOINT = "cancelled, and only a checkpoint came"
    CANCELLED_WITH_NOTHING = "cancelled before anything was signed"
    MINER_FAILED = "miner failed"
    REFUSED = "refused"
    UNSEEN = "the gateway never spoke"


@dataclass(frozen=True)
class Told:
    """A record, how it came about, and what it must cost by the plain reading of the rules."""

    record: Record
    order: Order
    ending: Ending
    units: Units
    charge_nano: int
    earned_nano: int
    miner: ToyKey


prices = st.builds(
    Price,
    request=st.integers(0, 1_000_000),
    prompt=st.integers(0, 10**9),
    cached=st.integers(0, 10**9),
    completion=st.integers(0, 10**9),
    images=st.integers(0, 10**6),
    audio_ms=st.integers(0, 10**6),
)


@st.composite
def units_within(draw: st.DrawFn, order: Order) -> Units:
    """What an answer to this order may hold, and never nothing at all."""
    prompt = draw(st.integers(1, order.prompt_max))
    return Units(
        prompt=prompt,
        cached=draw(st.integers(0, prompt)),
        completion=draw(st.integers(0, order.completion_max)),
        images=draw(st.integers(0, order.images_max)),
        audio_ms=draw(st.integers(0, order.audio_ms_max)),
    )


decisions = st.none() | st.builds(
    make_decision,
    seed=st.integers(0, 2**31),
    present=st.integers(2, 5),
    considered=st.lists(
        st.builds(
            Considered,
            instance=st.sampled_from(["a-1", "b-1"]),
            reason=st.sampled_from(["", "no_room"]),
            merit=st.integers(0, 10**12),
            cached_ppm=st.integers(0, 10**6),
        ),
        max_size=3,
    ).map(tuple),
)


@st.composite
def orders(draw: st.DrawFn, number: int) -> Order:
    """An order; its ceiling is sometimes below what the prices would allow."""
    price = draw(prices)
    prompt_max, completion_max = draw(st.integers(1, 5_000)), draw(st.integers(0, 5_000))
    images_max, audio_ms_max = (draw(st.sampled_from([0, 0, most])) for most in (4, 60_000))
    ceiling = charge_ceiling(
        price,
        prompt_max=prompt_max,
        completion_max=completion_max,
        images_max=images_max,
        audio_ms_max=audio_ms_max,
    )
    return make_order(
        order_id=f"o-{number:032x}",
        miner=draw(st.sampled_from(MINERS)).identity,
        payer_tag=draw(st.sampled_from(PAYERS)),
        price=price,
        prompt_max=prompt_max,
        completion_max=completion_max,
        images_max=images_max,
        audio_ms_max=audio_ms_max,
        charge_max=draw(st.sampled_from([ceiling, ceiling, ceiling // 2])),
    )


@st.composite
def told(draw: st.DrawFn, number: int = 0, ending: Ending | None = None) -> Told:
    """A record of order `number` with an ending, and the sum it must come to."""
    decision = draw(decisions)
    order = replace(draw(orders(number)), decision_digest=decision_digest(decision))
    chosen = draw(st.sampled_from(Ending)) if ending is None else ending
    units = draw(units_within(order))
    miner = next(key for key in MINERS if key.identity == order.miner)
    receipt, checkpoint = _words_of_miner(order, chosen, units=units, key=miner)
    seen = _seen(draw, order, chosen, receipt=receipt, units=units)
    proven = units if chosen in PROVEN else NO_UNITS
    full = charge_for(order, units) if chosen in PROVEN else 0
    return Told(
        record=Record(
            order=sign("order", order, GATEWAY),
            receipt=receipt,
            checkpoint=checkpoint,
            countersign=None if seen is None else sign("countersign", seen, GATEWAY),
            decision=None if seen is None else decision,
        ),
        order=order,
        ending=chosen,
        units=proven,
        charge_nano=0 if chosen is Ending.UNSEEN else full,
        earned_nano=full,
        miner=miner,
    )


PROVEN = frozenset(
    {
        Ending.COMPLETE,
        Ending.CANCELLED_WITH_RECEIPT,
        Ending.CANCELLED_WITH_CHECKPOINT,
        Ending.UNSEEN,
    }
)
RECEIPT_OUTCOMES = {
    Ending.COMPLETE: Outcome.COMPLETE,
    Ending.UNSEEN: Outcome.COMPLETE,
    Ending.CANCELLED_WITH_RECEIPT: Outcome.CLIENT_CANCELLED,
    Ending.REFUSED: Outcome.REFUSED,
}
SEEN_OUTCOMES = {
    Ending.COMPLETE: Outcome.COMPLETE,
    Ending.CANCELLED_WITH_RECEIPT: Outcome.CLIENT_CANCELLED,
    Ending.CANCELLED_WITH_CHECKPOINT: Outcome.CLIENT_CANCELLED,
    Ending.CANCELLED_WITH_NOTHING: Outcome.CLIENT_CANCELLED,
    Ending.MINER_FAILED: Outcome.MINER_FAILED,
    Ending.REFUSED: Outcome.REFUSED,
}


def _words_of_miner(
    order: Order, ending: Ending, *, units: Units, key: ToyKey
) -> tuple[Signed | None, Signed | None]:
    receipt = checkpoint = None
    if ending in RECEIPT_OUTCOMES:
        outcome = RECEIPT_OUTCOMES[ending]
        receipt = sign("receipt", make_receipt(order, outcome=outcome, units=units), key)
    if ending is Ending.CANCELLED_WITH_CHECKPOINT:
        checkpoint = sign("checkpoint", make_checkpoint(order, units=units), key)
    return receipt, checkpoint


def _seen(
    draw: st.DrawFn, order: Order, ending: Ending, *, receipt: Signed | None, units: Units
) -> Countersign | None:
    if ending is Ending.UNSEEN:
        return None
    is_paid = ending in PROVEN
    total_us = draw(st.integers(0, 60_000)) * MILLISECOND_US
    return replace(
        make_countersign(order, receipt),
        outcome=SEEN_OUTCOMES[ending],
        charge_nano=charge_for(order, units) if is_paid else 0,
        match=receipt is not None,
        ttft_us=total_us // 2,
        total_us=total_us,
    )
