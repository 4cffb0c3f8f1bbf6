"""The toy signature scheme of a world: one secret for all, so a signature costs a microsecond.

Whoever holds the `Keyring` could sign for anybody; the simulated adversaries do not hold it, they
only ever get their own `ToyKey`. No production verifier knows the scheme (`spec/keys.py`). The log's
key is a real one: the notes it signs are ed25519 by their format, and there are few of them.
"""

import hmac
from dataclasses import dataclass, field
from hashlib import blake2b

from penstock.kit import keys
from penstock.spec.seals import is_seal, sealed_verify

SCHEME = "toy"
PUBLIC_BYTES = 8
SIGNATURE_BYTES = 16


@dataclass(frozen=True, slots=True)
class Keyring:
    """Makes and checks the keys of one world. `secret` has at most 64 bytes."""

    secret: bytes
    roots: keys.KnownRoots = field(default_factory=keys.KnownRoots, compare=False, repr=False)

    def key(self, name: str) -> "ToyKey":
        """The key of that name; the same name gives the same key."""
        public = blake2b(name.encode(), key=self.secret, digest_size=PUBLIC_BYTES)
        return ToyKey(keyring=self, identity=f"{SCHEME}:{public.hexdigest()}")

    def log_key(self) -> keys.Ed25519Key:
        """The key of the world's log."""
        return keys.Ed25519Key(
            blake2b(b"log", key=self.secret, digest_size=keys.SEED_BYTES).digest()
        )

    def verify(self, identity: str, digest: bytes, signature: str) -> bool:
        """The Verify port: seals of toy signatures too."""
        if is_seal(signature):
            return sealed_verify(self._verify_single, known=self.roots)(identity, digest, signature)
        return self._verify_single(identity, digest, signature)

    def _verify_single(self, identity: str, digest: bytes, signature: str) -> bool:
        if not identity.startswith(f"{SCHEME}:"):
            return keys.verify(identity, digest, signature)
        return hmac.compare_digest(self.signature(identity, digest), signature)

    def signature(self, identity: str, digest: bytes) -> str:
        """What only the holder of the secret can compute."""
        state = blake2b(identity.encode(), key=self.secret, digest_size=SIGNATURE_BYTES)
        state.update(digest)
        return state.hexdigest()


@dataclass(frozen=True, slots=True)
class ToyKey:
    """Implements the Sign port. `identity` is `toy:<16 hex>`."""

    keyring: Keyring
    identity: str

    def sign(self, digest: bytes) -> str:
        """Sign a digest; lower-case hex."""
        return self.keyring.signature(self.identity, digest)
