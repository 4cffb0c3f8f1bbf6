"""What a gateway gets for one order, and what the law says of it."""

import base64
import hashlib
from dataclasses import dataclass
from typing import Any

import msgspec
from tests.makers import GATEWAY, toy_verify

from penstock.kit.sse import EventSplitter, event_data, parse_comment
from penstock.miner.normalise import Step, StreamReader
from penstock.spec.keys import Signed, open_signed, parse_signed, sign, signed_digest
from penstock.spec.messages import Order
from penstock.spec.params import LOCAL
from penstock.spec.receipts import (
    Countersign,
    Judgement,
    Outcome,
    Receipt,
    Record,
    check_receipt,
    judge,
)


@dataclass
class Answer:
    """What the gateway got for one order. `sent` are the bytes before the receipt comment."""

    status: int
    headers: Any
    body: bytes
    order: Signed

    @property
    def events(self) -> list[bytes]:
        return EventSplitter().feed(self.body)

    @property
    def data(self) -> list[Any]:
        """The payloads of the data events, decoded, `[DONE]` as it is."""
        payloads = [event_data(event) for event in self.events]
        return [
            "[DONE]" if payload == b"[DONE]" else msgspec.json.decode(payload)
            for payload in payloads
            if payload
        ]

    def words(self, name: str) -> list[Signed]:
        """The signed messages in comments of that name."""
        parsed = [parse_comment(event) for event in self.events]
        return [
            parse_signed(msgspec.json.decode(one[1]))
            for one in parsed
            if one is not None and one[0] == name
        ]

    @property
    def signed_receipt(self) -> Signed:
        text = self.headers.get(b"x-penstock-receipt")
        if text is not None:
            data = base64.urlsafe_b64decode(text + b"=" * (-len(text) % 4))
            return parse_signed(msgspec.json.decode(data))
        (receipt,) = self.words("receipt")
        assert self.events[-1].startswith(b": penstock-receipt "), "the receipt comes last"
        return receipt

    @property
    def sent(self) -> bytes:
        if b"x-penstock-receipt" in self.headers:
            return self.body
        return b"".join(self.events[:-1])

    @property
    def receipt(self) -> Receipt:
        """The receipt, checked against the order and against the bytes."""
        order = open_signed(Order, self.order, kind="order", verify=toy_verify)
        receipt = check_receipt(
            self.signed_receipt,
            order,
            order_digest=signed_digest(self.order),
            verify=toy_verify,
        )
        assert receipt.response_digest == hashlib.sha256(self.sent).hexdigest()
        assert receipt.response_bytes == len(self.sent)
        return receipt

    @property
    def error(self) -> str:
        code: str = msgspec.json.decode(self.body)["error"]["code"]
        return code

    def judged(self, outcome: Outcome, *, charge_nano: int) -> Judgement:
        """The law's word on it, with a gateway that countersigns what it saw."""
        receipt = self.signed_receipt
        countersign = Countersign(
            order_id=self.order.body["order_id"],
            order_digest=signed_digest(self.order),
            receipt_digest=signed_digest(receipt),
            outcome=outcome,
            charge_nano=charge_nano,
            response_bytes=len(self.sent),
            events=len(self.data) if b"x-penstock-receipt" not in self.headers else 0,
            ttft_us=1000,
            total_us=2000,
            match=True,
        )
        record = Record(
            order=self.order,
            receipt=receipt,
            checkpoint=None,
            countersign=sign("countersign", countersign, GATEWAY),
        )
        return judge(record, refusal_free_ms=LOCAL.refusal_free_ms, verify=toy_verify)


def steps_of(reader: StreamReader, data: bytes) -> list[Step]:
    """What a reader makes of events that differ in more than their text: each is read in full."""
    found = reader.feed(data)
    steps = [one for one in found if isinstance(one, Step)]
    assert len(steps) == len(found)
    return steps
