"""Sessions: a gateway and a miner agree once, under signature, on a key for the orders to come.

Within a session orders and receipts carry a MAC at first and are signed in batches a moment later
(`seals`). The MAC is only ever shown between the two: what a record, a claim or a dispute needs are
signatures. The key itself is agreed on in `kit/handshake.py`; here stands what both sides sign.
"""

from dataclasses import dataclass
from hashlib import sha256
from re import compile as pattern

from penstock.spec.errors import BadMessage, Expired
from penstock.spec.keys import Signed, Verify, open_signed

OFFER_KIND = "session-offer"
ANSWER_KIND = "session-answer"
SESSION_MS_MAX = 24 * 3_600_000
"""A day: whoever finds a session's key later finds a day's key at most."""

KEY_INFO = b"penstock/session/v1"
"""What the key is for, as HKDF's info."""

SESSION_HEADER = "x-penstock-session"
"""`<session id>.<MAC of the order, hex>`; `x-penstock-order` is then the order's canonical JSON."""

_SESSION_ID = pattern(r"s-[0-9a-f]{32}")
_KEY_HEX = pattern(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class SessionOffer:
    """A gateway's side: `exchange_key` is a fresh X25519 public key, in hex."""

    session_id: str
    gateway: str
    miner: str
    exchange_key: str
    issued_ms: int
    expires_ms: int


@dataclass(frozen=True, slots=True)
class SessionAnswer:
    """The miner's side of exactly this offer; it may end the session earlier, never later."""

    session_id: str
    offer_digest: str
    miner: str
    exchange_key: str
    expires_ms: int


def is_session_id(text: str) -> bool:
    """`s-` and 32 lower-case hex digits."""
    return _SESSION_ID.fullmatch(text) is not None


def check_session_offer(
    signed: Signed, *, miner: str, now_ms: int, skew_max_ms: int, verify: Verify
) -> SessionOffer:
    """An offer to this miner, signed by the gateway it names, now. Raises a SpecError.

    The miner also checks that the gateway is chartered.
    """
    offer = open_signed(SessionOffer, signed, kind=OFFER_KIND, verify=verify)
    if (signed.signer, offer.miner) != (offer.gateway, miner):
        raise BadMessage(kind=OFFER_KIND, reason="by another gateway or to another miner")
    if not is_session_id(offer.session_id) or not _KEY_HEX.fullmatch(offer.exchange_key):
        raise BadMessage(kind=OFFER_KIND, reason="bad session id or exchange key")
    if offer.issued_ms > now_ms + skew_max_ms:
        raise BadMessage(kind=OFFER_KIND, reason="issued in the future: check the gateway's clock")
    if not 0 < offer.expires_ms - offer.issued_ms <= SESSION_MS_MAX:
        raise BadMessage(kind=OFFER_KIND, reason=f"a session lasts at most {SESSION_MS_MAX} ms")
    if now_ms > offer.expires_ms:
        raise Expired(what=OFFER_KIND, at_ms=offer.expires_ms, now_ms=now_ms)
    return offer


def check_session_answer(
    signed: Signed, offer: SessionOffer, *, offer_digest: str, verify: Verify
) -> SessionAnswer:
    """The answer of the miner that the offer names, to exactly this offer. Raises a SpecError."""
    answer = open_signed(SessionAnswer, signed, kind=ANSWER_KIND, verify=verify)
    if (signed.signer, answer.miner) != (offer.miner, offer.miner):
        raise BadMessage(kind=ANSWER_KIND, reason="by another miner")
    if (answer.session_id, answer.offer_digest) != (offer.session_id, offer_digest):
        raise BadMessage(kind=ANSWER_KIND, reason="to another offer")
    if not _KEY_HEX.fullmatch(answer.exchange_key):
        raise BadMessage(kind=ANSWER_KIND, reason="bad exchange key")
    if not offer.issued_ms < answer.expires_ms <= offer.expires_ms:
        raise BadMessage(kind=ANSWER_KIND, reason="ends after the offer does, or before it began")
    return answer


def session_salt(offer_digest: str, answer_digest: str) -> bytes:
    """What both signatures cover, as the salt of the session's key (RFC 5869): 32 bytes."""
    return sha256((offer_digest + answer_digest).encode()).digest()
