"""The bytes of an answer: what is hashed, what a checkpoint says, how many units bytes can hold.

The stream digest is the running SHA-256 over the exact response body bytes, up to but not including
the receipt comment. Checkpoint comments are part of the bytes that later digests cover.
Every `params.checkpoint_events` data events the miner emits `: penstock-checkpoint <signed JSON>`.
The last thing in a stream is `: penstock-receipt <signed JSON>`. Comments are legal SSE: clients
that do not know them skip them.
"""

from dataclasses import dataclass

from penstock.spec.errors import BadMessage
from penstock.spec.keys import Signed, Verify, open_signed
from penstock.spec.messages import Order
from penstock.spec.units import Units

CHECKPOINT_COMMENT = "checkpoint"
RECEIPT_COMMENT = "receipt"
COUNTERSIGN_COMMENT = "countersign"
ALIVE_COMMENT = "alive"
"""A gateway's own words while an engine is silent (`: penstock-alive gateway`). They are no part of the
answer: whoever hashes what a gateway sent leaves them out. No miner may use the name.
"""

RECEIPT_HEADER = "x-penstock-receipt"
"""A whole (not streamed) answer carries the signed receipt here, base64url JSON."""

ORDER_HEADER = "x-penstock-order"
"""The gateway's signed order, base64url JSON."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The miner's signed statement in mid-stream: so many events, bytes and units so far.

    `order_digest` binds it to the very order, price and ceilings included, as in the receipt.
    """

    order_id: str
    order_digest: str
    events: int
    body_bytes: int
    units: Units
    digest: str


def check_checkpoint(
    signed: Signed, order: Order, *, order_digest: str, verify: Verify
) -> Checkpoint:
    """Signed by the order's miner for exactly this order, within its ceilings. Raises a SpecError."""
    checkpoint = open_signed(Checkpoint, signed, kind="checkpoint", verify=verify)
    said = (signed.signer, checkpoint.order_id, checkpoint.order_digest)
    if said != (order.miner, order.order_id, order_digest):
        raise BadMessage(kind="checkpoint", reason="of another order or miner")
    if min(checkpoint.events, checkpoint.body_bytes) < 0:
        raise BadMessage(kind="checkpoint", reason="a count is negative")
    check_units(checkpoint.units, order)
    return checkpoint


def check_units(units: Units, order: Order) -> None:
    """Counts that are possible for this order at all. Raises BadMessage.

    Every kind has its ceiling in the order: without one a miner could name any number of units.
    """
    counts = (units.prompt, units.cached, units.completion, units.images, units.audio_ms)
    if min(counts) < 0 or units.cached > units.prompt:
        raise BadMessage(kind="units", reason="a count is negative or cached exceeds prompt")
    if units.prompt > order.prompt_max:
        raise BadMessage(kind="units", reason="more prompt units than the request has bytes")
    if units.completion > order.completion_max:
        raise BadMessage(kind="units", reason="more completion units than the order allows")
    if units.images > order.images_max or units.audio_ms > order.audio_ms_max:
        raise BadMessage(kind="units", reason="more images or audio than the order allows")


def completion_units_max(*, events: int, content_bytes: int) -> int:
    """The most completion units an answer can hold: a unit is at least a byte or an event of it."""
    return max(events, content_bytes)
