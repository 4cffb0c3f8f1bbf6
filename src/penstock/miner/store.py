"""Where the outbox keeps its lines: an append-only journal that survives the process."""

from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from penstock.spec.canon import to_plain
from penstock.spec.errors import SpecError
from penstock.spec.keys import Signed, parse_signed

_decode = msgspec.json.Decoder(dict[str, Any]).decode
_encode = msgspec.json.Encoder().encode


class OutboxStore(Protocol):
    """Lines of JSON, in order. What `append` returned from survives kill -9; what `sync` returned
    from survives a power cut. One process owns a store at a time.
    """

    def load(self) -> list[bytes]:
        """All complete lines, without their ends. A last line cut by a crash is dropped for good."""
        ...

    def append(self, line: bytes) -> None:
        """Add one line, which holds no line end. Raises kit's DiskFull; nothing is kept then."""
        ...

    async def sync(self) -> None:
        """Wait until the disk has all that was appended. Raises kit's DiskFull."""
        ...

    def replace(self, lines: list[bytes]) -> None:
        """These lines instead of all, atomically and durably. Raises kit's DiskFull."""
        ...


@dataclass(frozen=True, slots=True)
class Claim:
    """An order and our receipt for it, to be claimed if the gateway does not deliver them."""

    order_id: str
    order: Signed
    receipt: Signed


def claim_line(claim: Claim) -> bytes:
    """A claim as a line of the journal."""
    return _encode({"order": to_plain(claim.order), "receipt": to_plain(claim.receipt)})


def settled_line(order_id: str) -> bytes:
    """The line that says that the ledger knows the order."""
    return _encode({"settled": order_id})


def read_line(line: bytes) -> Claim | str | None:
    """A Claim, the id of a settled order, or None for a line that says neither."""
    try:
        fields = _decode(line)
        if fields.keys() == {"settled"} and isinstance(fields["settled"], str):
            return fields["settled"]
        order = parse_signed(fields.get("order"))
        receipt = parse_signed(fields.get("receipt"))
    except (msgspec.DecodeError, UnicodeDecodeError, SpecError, RecursionError):
        return None
    order_id = order.body.get("order_id")
    return Claim(order_id, order, receipt) if isinstance(order_id, str) else None
