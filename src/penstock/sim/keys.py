"""The toy signature scheme of a world: one secret for all, so a signature costs a microsecond.

Whoever holds the `Keyring` could sign for anybody; the simulated adversaries do not hold it, they
only ever get their own `ToyKey`. No production verifier knows the scheme (`spec/keys.py`).
"""

import hmac
from dataclasses import dataclass
from hashlib import blake2b

SCHEME = "toy"
PUBLIC_BYTES = 8
SIGNATURE_BYTES = 16
# A note is signed as it is, a message by its digest: two uses, two personalities of the hash.
_DIGESTS, _NOTES = b"digests", b"notes"


@dataclass(frozen=True, slots=True)
class Keyring:
    """Makes and checks the keys of one world. `secret` has at most 64 bytes."""

    secret: bytes

    def key(self, name: str) -> "ToyKey":
        """The key of that name; the same name gives the same key."""
        public = blake2b(name.encode(), key=self.secret, digest_size=PUBLIC_BYTES).digest()
        return ToyKey(keyring=self, public_key=public)

    def verify(self, identity: str, digest: bytes, signature: str) -> bool:
        """The Verify port."""
        scheme, _, public = identity.partition(":")
        if scheme != SCHEME:
            return False
        expected = self.tag(public.encode(), digest, use=_DIGESTS).hex()
        return hmac.compare_digest(expected, signature)

    def verify_raw(self, public_key: bytes, message: bytes, signature: bytes) -> bool:
        """The check of a note's signature line."""
        expected = self.tag(public_key.hex().encode(), message, use=_NOTES)
        return hmac.compare_digest(expected, signature)

    def tag(self, public: bytes, message: bytes, *, use: bytes) -> bytes:
        """What only the holder of the secret can compute."""
        state = blake2b(public, key=self.secret, digest_size=SIGNATURE_BYTES, person=use)
        state.update(message)
        return state.digest()


@dataclass(frozen=True, slots=True)
class ToyKey:
    """Implements the Sign port, and signs notes as a log's key does."""

    keyring: Keyring
    public_key: bytes

    @property
    def identity(self) -> str:
        """`toy:<16 hex>`."""
        return f"{SCHEME}:{self.public_key.hex()}"

    def sign(self, digest: bytes) -> str:
        """Sign a digest; lower-case hex."""
        return self.keyring.tag(self.public_key.hex().encode(), digest, use=_DIGESTS).hex()

    def sign_raw(self, message: bytes) -> bytes:
        """Sign a note's text."""
        return self.keyring.tag(self.public_key.hex().encode(), message, use=_NOTES)
