"""The key of a session between a gateway and a miner, and the MACs made with it.

X25519 (RFC 7748) with a fresh key on both sides, under both sides' signatures (`spec.sessions`), so a
stolen working key opens no old session; HKDF-SHA256 (RFC 5869) makes the session's key of the shared
secret. A MAC takes a microsecond where a signature takes fifty. It convinces only the other side:
records, claims and disputes are served by the seals that follow within milliseconds.
"""

import hmac
import re
from dataclasses import dataclass
from hashlib import sha256

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from penstock.kit.ports import Entropy
from penstock.spec.errors import BadMessage
from penstock.spec.sessions import KEY_INFO, is_session_id, session_salt

SECRET_BYTES = 32
SESSION_ID_BYTES = 16
MAC_HEX = re.compile(r"[0-9a-f]{64}")
MAC_HEX_CHARS = 64
HMAC_BLOCK_BYTES = 64
_INNER, _OUTER = (bytes(byte ^ mask for byte in range(256)) for mask in (0x36, 0x5C))

_VOUCHED_HEAD = b'{"body":'
_VOUCHED_MIDDLE = b',"mac":"'
_VOUCHED_TAIL = b'"}'
_HEX = b"0123456789abcdef"
_VOUCHED_END_BYTES = len(_VOUCHED_MIDDLE) + MAC_HEX_CHARS + len(_VOUCHED_TAIL)


@dataclass(frozen=True, slots=True)
class Exchange:
    """One side's fresh X25519 key. The private half never leaves this object."""

    private: X25519PrivateKey
    public_hex: str

    def __repr__(self) -> str:
        return f"Exchange(public_hex={self.public_hex!r})"


def new_exchange(entropy: Entropy) -> Exchange:
    """A key for one session; forget it when the session's key is made."""
    private = X25519PrivateKey.from_private_bytes(entropy(SECRET_BYTES))
    return Exchange(private=private, public_hex=private.public_key().public_bytes_raw().hex())


def new_session_id(entropy: Entropy) -> str:
    """`s-` and 32 hex digits."""
    return "s-" + entropy(SESSION_ID_BYTES).hex()


def session_key(
    exchange: Exchange, peer_public_hex: str, *, offer_digest: str, answer_digest: str
) -> bytes:
    """32 bytes that both sides have; the digests are the hex ones of the two signed messages.

    Raises BadMessage for a public key that is none, or one whose secret is the same for everybody.
    """
    try:
        peer = X25519PublicKey.from_public_bytes(bytes.fromhex(peer_public_hex))
        secret = exchange.private.exchange(peer)
    except ValueError as error:
        raise BadMessage(kind="session", reason="not a key for an exchange") from error
    salt = session_salt(offer_digest, answer_digest)
    return HKDF(algorithm=SHA256(), length=SECRET_BYTES, salt=salt, info=KEY_INFO).derive(secret)


def order_mac(key: bytes, order_digest: bytes) -> str:
    """The gateway vouches for this order, to the miner alone. 64 hex digits."""
    return hmac.digest(key, b"order\0" + order_digest, "sha256").hex()


def receipt_mac(key: bytes, receipt_digest: bytes) -> str:
    """The miner vouches for this receipt, to the gateway alone. 64 hex digits."""
    return hmac.digest(key, b"receipt\0" + receipt_digest, "sha256").hex()


def seals_mac(key: bytes, rest: bytes) -> str:
    """The MAC of a `/v1/seals` request: `rest` is the canonical JSON of all of it but the MAC."""
    return hmac.digest(key, b"seals\0" + sha256(rest).digest(), "sha256").hex()


class Macs:
    """The MACs of one session, quicker by two thirds: HMAC's two blocks of the key (RFC 2104) are hashed
    once, with the kind behind the first. Equal to `order_mac` and `receipt_mac`.
    """

    __slots__ = ("_order", "_outer", "_receipt")

    def __init__(self, key: bytes) -> None:
        assert len(key) == SECRET_BYTES, "a session's key has 32 bytes"
        block = key + bytes(HMAC_BLOCK_BYTES - SECRET_BYTES)
        inner = block.translate(_INNER)
        self._order = sha256(inner + b"order\0")
        self._receipt = sha256(inner + b"receipt\0")
        self._outer = sha256(block.translate(_OUTER))

    def order(self, digest: bytes) -> str:
        """`order_mac`."""
        inner, outer = self._order.copy(), self._outer.copy()
        inner.update(digest)
        outer.update(inner.digest())
        return outer.hexdigest()

    def receipt(self, digest: bytes) -> str:
        """`receipt_mac`."""
        inner, outer = self._receipt.copy(), self._outer.copy()
        inner.update(digest)
        outer.update(inner.digest())
        return outer.hexdigest()


def is_same(mac: str, expected: str) -> bool:
    """Are these two MACs equal? In the same time whatever the first one holds."""
    return hmac.compare_digest(mac, expected) if mac.isascii() else False


def session_header(session_id: str, mac: str) -> str:
    """The value of `x-penstock-session`."""
    return f"{session_id}.{mac}"


def parse_session_header(text: str) -> tuple[str, str] | None:
    """(session id, MAC) of such a header; None if it is another text."""
    session_id, _, mac = text.partition(".")
    if not is_session_id(session_id) or not MAC_HEX.fullmatch(mac):
        return None
    return session_id, mac


def vouch(body: bytes, mac: str) -> bytes:
    """A vouched message, `{"body":<canonical JSON>,"mac":"<hex>"}`."""
    return b"".join((_VOUCHED_HEAD, body, _VOUCHED_MIDDLE, mac.encode(), _VOUCHED_TAIL))


def split_vouched(data: bytes) -> tuple[bytes, str] | None:
    """(body, MAC) of a vouched message in the spelling of `vouch`; None if it is another text.

    The body is only cut out: whoever knows the key checks the MAC, then reads it strictly.
    """
    end = len(data) - _VOUCHED_END_BYTES
    mac = data[end + len(_VOUCHED_MIDDLE) : -len(_VOUCHED_TAIL)]
    if (
        end <= len(_VOUCHED_HEAD)
        or not data.startswith(_VOUCHED_HEAD)
        or not data.startswith(_VOUCHED_MIDDLE, end)
        or not data.endswith(_VOUCHED_TAIL)
        or mac.translate(None, _HEX)
    ):
        return None
    return data[len(_VOUCHED_HEAD) : end], mac.decode()
