"""Who signs: identities, signed envelopes and delegations.

An identity is `<scheme>:<public key, lower-case hex>`. Owners may hold ed25519, sr25519 (Bittensor
hotkeys) or eip155 (EVM wallets) keys. Stations sign with ed25519 working keys, bound to an owner by
a delegation that the owner signs once. The check of a signature comes in as an argument, so the law
needs no cryptography library and the simulator may use a toy scheme.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol, TypeVar

from penstock.spec.canon import digest, from_plain, to_plain
from penstock.spec.errors import BadIdentity, BadSignature, Expired, NotCanonical

SCHEME_HEX_CHARS = {"ed25519": 64, "sr25519": 64, "eip155": 40, "toy": 16}
"""Length of the key part by scheme. `toy` is the simulator's: no production verifier accepts it."""

Verify = Callable[[str, bytes, str], bool]
T = TypeVar("T")


class Signer(Protocol):
    @property
    def identity(self) -> str: ...
    def sign(self, digest: bytes) -> str: ...


def check_identity(identity: str) -> None:
    """`<scheme>:<hex>` of the right length, lower case. Raises BadIdentity."""
    scheme, _, key = identity.partition(":")
    # Stripping leaves nothing of a text that has only these digits, at the speed of C.
    if SCHEME_HEX_CHARS.get(scheme) != len(key) or key.strip("0123456789abcdef"):
        raise BadIdentity(identity=identity[:80])


@dataclass(frozen=True, slots=True)
class Signed:
    """A message with its signature. The signature covers digest(kind, body): one kind never fits
    another.
    """

    kind: str
    body: dict[str, Any]
    signer: str
    signature: str


def sign(kind: str, message: object, signer: Signer) -> Signed:
    """Sign a message dataclass."""
    signed, _ = sign_and_digest(kind, message, signer)
    return signed


def sign_and_digest(kind: str, message: object, signer: Signer) -> tuple[Signed, str]:
    """Sign a message dataclass; also what `signed_digest` says of it, spelled out only once."""
    body = to_plain(message)
    covered = digest(kind, body)
    signed = Signed(kind=kind, body=body, signer=signer.identity, signature=signer.sign(covered))
    return signed, covered.hex()


def open_signed(cls: type[T], signed: Signed, *, kind: str, verify: Verify) -> T:
    """Check kind, identity and signature, then build the message strictly.

    Raises BadSignature, BadIdentity or NotCanonical. The caller still checks *who* signed.
    """
    message, _ = open_and_digest(cls, signed, kind=kind, verify=verify)
    return message


def open_and_digest(cls: type[T], signed: Signed, *, kind: str, verify: Verify) -> tuple[T, str]:
    """The same; also what `signed_digest` says of it, spelled out only once."""
    if signed.kind != kind:
        raise BadSignature(kind=kind, signer=signed.signer[:80], reason="another kind")
    check_identity(signed.signer)
    covered = digest(kind, signed.body)
    if not verify(signed.signer, covered, signed.signature):
        raise BadSignature(kind=kind, signer=signed.signer, reason="signature does not hold")
    return from_plain(cls, signed.body), covered.hex()


def signed_digest(signed: Signed) -> str:
    """Hex digest of the signed message's body under its kind (what other messages refer to)."""
    return digest(signed.kind, signed.body).hex()


def parse_signed(value: object) -> Signed:
    """A Signed from plain values. Raises NotCanonical."""
    if not isinstance(value, dict) or set(value) != {"kind", "body", "signer", "signature"}:
        raise NotCanonical(reason="not a signed message")
    kind, body = value["kind"], value["body"]
    signer, signature = value["signer"], value["signature"]
    texts = (kind, signer, signature)
    if not isinstance(body, dict) or not all(isinstance(text, str) for text in texts):
        raise NotCanonical(reason="not a signed message")
    return Signed(kind=kind, body=body, signer=signer, signature=signature)


class Role(Enum):
    """What a working key may sign for its owner."""

    OPERATOR = "operator"
    MARKET = "market"
    LEDGER = "ledger"
    GATEWAY = "gateway"
    MINER = "miner"
    VALIDATOR = "validator"


@dataclass(frozen=True, slots=True)
class Delegation:
    """`owner` lets `key` act as `role` until `not_after_ms` (inclusive)."""

    owner: str
    key: str
    role: Role
    not_after_ms: int


def check_delegation(signed: Signed, *, role: Role, now_ms: int, verify: Verify) -> Delegation:
    """The owner signed it, for this role, and it has not expired.

    Raises BadSignature, BadIdentity, NotCanonical or Expired.
    """
    delegation = open_signed(Delegation, signed, kind="delegation", verify=verify)
    check_identity(delegation.key)
    if signed.signer != delegation.owner:
        raise BadSignature(kind="delegation", signer=signed.signer, reason="not the owner")
    if delegation.role is not role:
        raise BadSignature(kind="delegation", signer=signed.signer, reason="another role")
    if now_ms > delegation.not_after_ms:
        raise Expired(what="delegation", at_ms=delegation.not_after_ms, now_ms=now_ms)
    return delegation
