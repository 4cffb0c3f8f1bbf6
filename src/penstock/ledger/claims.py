"""Claims: how a miner is paid for a receipt that its gateway did not deliver."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from penstock.kit.ports import Clock
from penstock.ledger.consumer import CHECKED_BETWEEN_TURNS_MAX, Consumer
from penstock.ledger.errors import Rejected
from penstock.ledger.intake import ORDER_ID, Judged, Rules, judged_record
from penstock.ledger.policy import ClaimState, Draft
from penstock.ledger.state import Wanted
from penstock.ledger.writer import Writer
from penstock.spec.books import OPERATOR
from penstock.spec.entries import EntryKind
from penstock.spec.receipts import Outcome

CLAIMS_MAX = 256

Checked = tuple[str, Judged | Rejected | None]
"""(order id, what was found); None for an order that is logged already and needs no check."""


@dataclass
class Claims:
    """Answers claims. A claim changes nothing until its grace is over; then it is a record."""

    writer: Writer
    consumer: Consumer
    clock: Clock

    async def take(self, claims: Sequence[object], rules: Rules) -> list[dict[str, str]]:
        """One answer per claim, in their order. Raises StoreDown."""
        assert len(claims) <= CLAIMS_MAX, "the route bounds them"
        orders = tuple(_order_id(one) for one in claims)
        known = await self.writer.look(_wanted(orders))
        checked: list[Checked] = []
        for index, (order_id, claim) in enumerate(zip(orders, claims, strict=True), start=1):
            if (EntryKind.RECORD, order_id) in known.entries:
                checked.append((order_id, None))
            else:
                checked.append((order_id, _check(claim, rules)))
            if not index % CHECKED_BETWEEN_TURNS_MAX:
                await asyncio.sleep(0)
        now_ms, quiet_ms = self.clock.now_ms(), self.consumer.quiet_ms

        def decide(draft: Draft) -> list[dict[str, str]]:
            return [_answer(draft, one, now_ms=now_ms, quiet_ms=quiet_ms) for one in checked]

        found = [one for _, one in checked if isinstance(one, Judged)]
        gateways = sorted({one.judgement.order.gateway for one in found})
        return await self.writer.decide(_wanted(orders, gateways), decide)


def _wanted(orders: tuple[str, ...], gateways: Sequence[str] = ()) -> Wanted:
    named = tuple(one for one in orders if one)
    return Wanted(
        entries=tuple((EntryKind.RECORD, one) for one in named),
        accounts=(OPERATOR,),
        leases_of=tuple(gateways),
        claims=named,
    )


def _order_id(claim: object) -> str:
    """The order a claim is about, or "" if it does not say."""
    order = claim.get("order") if isinstance(claim, dict) else None
    body = order.get("body") if isinstance(order, dict) else None
    order_id = body.get("order_id") if isinstance(body, dict) else None
    return order_id if isinstance(order_id, str) and ORDER_ID.fullmatch(order_id) else ""


def _check(claim: object, rules: Rules) -> Judged | Rejected:
    if not isinstance(claim, dict) or set(claim) != {"order", "receipt"}:
        return Rejected("malformed", "a claim is an order and a receipt")
    try:
        alone = {"checkpoint": None, "countersign": None, "decision": None}
        return judged_record({**claim, **alone}, rules)
    except Rejected as error:
        return error


def _answer(draft: Draft, checked: Checked, *, now_ms: int, quiet_ms: int) -> dict[str, str]:
    order_id, found = checked
    if isinstance(found, Rejected):
        return _said(order_id, ClaimState.REJECTED, reason=str(found))
    logged = draft.find((EntryKind.RECORD, order_id))
    if logged is not None:
        assert logged.row is not None, "records have rows"
        return _said(order_id, ClaimState.POSTED, outcome=logged.row.outcome)
    assert found is not None, "the log never forgets an order"
    state = draft.take_claim(found, now_ms=now_ms, quiet_ms=quiet_ms)
    outcome = Outcome.GATEWAY_FAILED.value if state is ClaimState.ACCEPTED else ""
    return _said(order_id, state, outcome=outcome)


def _said(
    order_id: str, state: ClaimState, *, outcome: str = "", reason: str = ""
) -> dict[str, str]:
    return {"order_id": order_id, "state": state.value, "outcome": outcome, "reason": reason}
