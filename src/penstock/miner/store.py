"""Where the outbox keeps its lines: an append-only journal that survives the process."""

from dataclasses import dataclass
from typing import Protocol

import msgspec

from penstock.kit.spell import read_order, read_receipt
from penstock.miner.statement import Statement, spelled_statement
from penstock.spec.errors import SpecError


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
    """An order and our receipt for it, to be claimed if the gateway does not deliver them.

    Both statements may still wait for their signatures: the order's comes with its gateway's seal,
    the receipt's when its gateway or the ledger wants it.
    """

    order_id: str
    order: Statement
    receipt: Statement

    @property
    def is_proven(self) -> bool:
        """Can it be claimed? An order under a session is proven by its seal."""
        return self.order.is_signed


@dataclass(frozen=True, slots=True)
class Proven:
    """Signatures that came after their orders were kept, by order id."""

    signatures: dict[str, str]


@dataclass(frozen=True, slots=True)
class Settled:
    """The order is done with."""

    order_id: str


class _SignedLine(msgspec.Struct, forbid_unknown_fields=True):
    kind: str
    body: msgspec.Raw
    signer: str
    signature: str


class _Line(msgspec.Struct, forbid_unknown_fields=True):
    order: _SignedLine | None = None
    receipt: _SignedLine | None = None
    proven: dict[str, str] | None = None
    settled: str | None = None


_decode = msgspec.json.Decoder(_Line).decode
_encode = msgspec.json.Encoder().encode


def claim_line(claim: Claim) -> bytes:
    """A claim as a line of the journal."""
    return b'{"order":%b,"receipt":%b}' % (claim.order.spelled(), claim.receipt.spelled())


def proven_line(signatures: dict[str, str]) -> bytes:
    """The line that adds signatures to claims of earlier lines."""
    return _encode({"proven": signatures})


def settled_line(order_id: str) -> bytes:
    """The line that says that the order is done with."""
    return _encode({"settled": order_id})


def read_line(line: bytes) -> Claim | Proven | Settled | None:
    """What a line says, or None for one that says nothing."""
    try:
        said = _decode(line)
        match (said.order, said.receipt, said.proven, said.settled):
            case (_SignedLine() as order, _SignedLine() as receipt, None, None):
                return _claim(order, receipt)
            case (None, None, dict() as signatures, None):
                return Proven(signatures)
            case (None, None, None, str() as order_id):
                return Settled(order_id)
    except (msgspec.DecodeError, UnicodeDecodeError, SpecError, RecursionError):
        return None
    return None


def _claim(order: _SignedLine, receipt: _SignedLine) -> Claim | None:
    """The claim of two statements about one order. Raises NotCanonical."""
    order_body, receipt_body = bytes(order.body), bytes(receipt.body)
    order_id = read_order(order_body).order_id
    if read_receipt(receipt_body).order_id != order_id:
        return None
    if (order.kind, receipt.kind) != ("order", "receipt"):
        return None
    return Claim(
        order_id,
        _statement(order, order_body),
        _statement(receipt, receipt_body),
    )


def _statement(line: _SignedLine, body: bytes) -> Statement:
    return spelled_statement(line.kind, body, signer=line.signer, signature=line.signature)
