"""Keys: signatures under three schemes behind one identity form, `<scheme>:<public key hex>`.

ed25519 are the stations' working keys, sr25519 the hotkeys of Bittensor, eip155 the wallets of the
EVM. `verify` answers and never raises. Everything has exactly one spelling (lower-case hex, low s,
v of 27 or 28), so that a signature or identity cannot be altered without becoming invalid.
The rare schemes are imported when first met.
"""

import functools
import re
from typing import ClassVar

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from penstock.kit.ports import Entropy
from penstock.spec.seals import is_seal, sealed_verify

SEED_BYTES = 32
DIGEST_BYTES = 32
PARSED_KEYS_MAX = 4096
KNOWN_ROOTS_MAX = 4096
PUBLIC_KEY_HEX = re.compile(r"[0-9a-f]{64}")
ADDRESS_HEX = re.compile(r"[0-9a-f]{40}")
SIGNATURE_HEX = re.compile(r"[0-9a-f]{128}")
RECOVERABLE_HEX = re.compile(r"[0-9a-f]{130}")
# Points whose multiples are few (order 1, 2, 4 or 8), by their y: under such a "key" signatures can
# be made up by anybody; all zeros, the value of a field nobody filled in, is one of them.
ED25519_P = 2**255 - 19
ED25519_Y_MASK = 2**255 - 1
ED25519_Y_OF_ORDER_8 = 0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826
ED25519_Y_REFUSED = frozenset(
    {0, 1, ED25519_P - 1, ED25519_Y_OF_ORDER_8, ED25519_P - ED25519_Y_OF_ORDER_8}
)
SR25519_REFUSED = "00" * 32
# Half of the order of secp256k1: EIP-2 lets only the smaller of the two valid s count.
SECP256K1_S_MAX = 0x7FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF5D576E7357A4501DDFE92F46681B20A0
# EIP-191 personal_sign adds this to the recovery number.
EIP155_V_FIRST = 27


class Ed25519Key:
    """A working key from its 32-byte seed (RFC 8032)."""

    scheme: ClassVar[str] = "ed25519"

    def __init__(self, seed: bytes) -> None:
        self._private = Ed25519PrivateKey.from_private_bytes(_check_seed(seed))
        self._identity = f"{self.scheme}:{self._private.public_key().public_bytes_raw().hex()}"

    @classmethod
    def generate(cls, entropy: Entropy) -> "Ed25519Key":
        return cls(entropy(SEED_BYTES))

    @property
    def identity(self) -> str:
        return self._identity

    @property
    def public_key(self) -> bytes:
        """The 32 bytes of the public key."""
        return self._private.public_key().public_bytes_raw()

    def sign(self, digest: bytes) -> str:
        return self._private.sign(_check_digest(digest)).hex()

    def sign_raw(self, message: bytes) -> bytes:
        """Sign the message itself: C2SP notes are signed so. A note is never 32 bytes long, so
        that this signature cannot be taken for one over a digest.
        """
        assert len(message) != DIGEST_BYTES, "digests go to sign()"
        return self._private.sign(message)


class Sr25519Key:
    """An owner's Bittensor (Substrate) key from its 32-byte mini secret."""

    scheme: ClassVar[str] = "sr25519"

    def __init__(self, seed: bytes) -> None:
        import sr25519

        self._pair: tuple[bytes, bytes] = sr25519.pair_from_seed(_check_seed(seed))

    @classmethod
    def generate(cls, entropy: Entropy) -> "Sr25519Key":
        return cls(entropy(SEED_BYTES))

    @property
    def identity(self) -> str:
        return f"{self.scheme}:{self._pair[0].hex()}"

    def sign(self, digest: bytes) -> str:
        import sr25519

        signature: bytes = sr25519.sign(self._pair, _check_digest(digest))
        return signature.hex()


class Eip155Key:
    """An owner's EVM key; signs the digest's 64 hex digits as a text, as every wallet can."""

    scheme: ClassVar[str] = "eip155"

    def __init__(self, seed: bytes) -> None:
        from coincurve import PrivateKey

        self._private = PrivateKey(_check_seed(seed))

    @classmethod
    def generate(cls, entropy: Entropy) -> "Eip155Key":
        return cls(entropy(SEED_BYTES))

    @property
    def identity(self) -> str:
        point = self._private.public_key.format(compressed=False)
        return f"{self.scheme}:{address_of(point).hex()}"

    def sign(self, digest: bytes) -> str:
        return self.sign_text(_check_digest(digest).hex().encode())

    def sign_text(self, text: bytes) -> str:
        """EIP-191 personal_sign of any text: r, s, v as 130 hex digits."""
        signature = self._private.sign_recoverable(personal_digest(text), hasher=None)
        return (signature[:-1] + bytes([signature[-1] + EIP155_V_FIRST])).hex()


class KnownRoots:
    """Roots of seals whose signature held, so that one check does for a whole batch.

    Two generations of at most `roots_max` each: when the younger one is full the older one is
    forgotten. Nothing here can be wrong for long or short: a signature that held holds for ever.
    """

    def __init__(self, roots_max: int = KNOWN_ROOTS_MAX) -> None:
        self._roots_max = roots_max
        self._young: set[object] = set()
        self._old: set[object] = set()

    def __contains__(self, item: object, /) -> bool:
        return item in self._young or item in self._old

    def add(self, item: object, /) -> None:
        if len(self._young) >= self._roots_max:
            self._old, self._young = self._young, set()
        self._young.add(item)


def verify(identity: str, digest: bytes, signature: str) -> bool:
    """Did `identity` sign `digest` (32 bytes), by itself or under a seal (`spec.seals`)?

    Wrong in any way is False; it never raises. The roots of the latest seals are remembered.
    """
    if is_seal(signature):
        return _verify_sealed(identity, digest, signature)
    return verify_single(identity, digest, signature)


def verify_single(identity: str, digest: bytes, signature_hex: str) -> bool:
    """The same for a signature over this digest alone; a seal is none."""
    scheme, separator, public = identity.partition(":")
    if not separator or len(digest) != DIGEST_BYTES:
        return False
    match scheme:
        case Ed25519Key.scheme:
            return _verify_ed25519(public, digest, signature_hex)
        case Sr25519Key.scheme:
            return _verify_sr25519(public, digest, signature_hex)
        case Eip155Key.scheme:
            return _verify_eip155(public, digest, signature_hex)
        case _:
            return False


def verify_raw(public_key: bytes, message: bytes, signature: bytes) -> bool:
    """Did this ed25519 key sign the message itself (a C2SP note)? Wrong in any way is False."""
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def is_identity(text: str) -> bool:
    """Is this the one spelling of an identity that we know how to verify?"""
    scheme, _, public = text.partition(":")
    if scheme in (Ed25519Key.scheme, Sr25519Key.scheme):
        return PUBLIC_KEY_HEX.fullmatch(public) is not None
    return scheme == Eip155Key.scheme and ADDRESS_HEX.fullmatch(public) is not None


def personal_digest(text: bytes) -> bytes:
    """EIP-191 version 0x45: what a wallet's personal_sign really signs."""
    return keccak256(b"\x19Ethereum Signed Message:\n" + str(len(text)).encode() + text)


def keccak256(data: bytes) -> bytes:
    """Keccak with the padding of 2011, which Ethereum kept (SHA3-256 is another function)."""
    from Crypto.Hash import keccak

    return keccak.new(data=data, digest_bits=256).digest()


def address_of(point: bytes) -> bytes:
    """The 20-byte address of an uncompressed public key (65 bytes, 04 first)."""
    return keccak256(point[1:])[-20:]


@functools.lru_cache(maxsize=PARSED_KEYS_MAX)
def _parsed_ed25519(public: str) -> Ed25519PublicKey:
    """Raises ValueError for what is no point, a second spelling of one, or a refused one."""
    y = int.from_bytes(bytes.fromhex(public), "little") & ED25519_Y_MASK
    if y >= ED25519_P or y in ED25519_Y_REFUSED:
        raise ValueError("not a key that can sign for one person only")
    return Ed25519PublicKey.from_public_bytes(bytes.fromhex(public))


def _verify_ed25519(public: str, digest: bytes, signature_hex: str) -> bool:
    if not PUBLIC_KEY_HEX.fullmatch(public) or not SIGNATURE_HEX.fullmatch(signature_hex):
        return False
    try:
        _parsed_ed25519(public).verify(bytes.fromhex(signature_hex), digest)
    except (InvalidSignature, ValueError):
        return False
    return True


def _verify_sr25519(public: str, digest: bytes, signature_hex: str) -> bool:
    if not PUBLIC_KEY_HEX.fullmatch(public) or not SIGNATURE_HEX.fullmatch(signature_hex):
        return False
    if public == SR25519_REFUSED:
        return False
    import sr25519

    try:
        held: bool = sr25519.verify(bytes.fromhex(signature_hex), digest, bytes.fromhex(public))
    except ValueError:
        return False
    return held


def _verify_eip155(address: str, digest: bytes, signature_hex: str) -> bool:
    if not ADDRESS_HEX.fullmatch(address) or not RECOVERABLE_HEX.fullmatch(signature_hex):
        return False
    signature = bytes.fromhex(signature_hex)
    recovery = signature[-1] - EIP155_V_FIRST
    if recovery not in (0, 1) or int.from_bytes(signature[32:64], "big") > SECP256K1_S_MAX:
        return False
    from coincurve import PublicKey

    try:
        signer = PublicKey.from_signature_and_message(
            signature[:-1] + bytes([recovery]),
            personal_digest(digest.hex().encode()),
            hasher=None,
        )
    except ValueError:
        return False
    return address_of(signer.format(compressed=False)).hex() == address


_verify_sealed = sealed_verify(verify_single, known=KnownRoots())


def _check_seed(seed: bytes) -> bytes:
    assert len(seed) == SEED_BYTES, "a seed has 32 bytes"
    return seed


def _check_digest(digest: bytes) -> bytes:
    assert len(digest) == DIGEST_BYTES, "sign digests of 32 bytes, never messages"
    return digest
