"""An order or a receipt as it is kept: spelled once, hashed once, and signed sooner or later.

Under a session neither side signs each message: their seals come a moment later, for many at once.
So a statement begins without a signature, and everybody who holds it sees when it gets one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from penstock.kit.ports import Sign
from penstock.kit.spell import spell
from penstock.spec.canon import digest_spelled
from penstock.spec.seals import SEAL_LEAVES_MAX, seal_digest, seal_root, seal_signatures


@dataclass(slots=True)
class Statement:
    """The canonical `body` of a message with its digest. `signature` is "" until there is one."""

    kind: str
    body: bytes
    digest: bytes
    signer: str
    signature: str = ""

    @property
    def is_signed(self) -> bool:
        """Does it convince a third party?"""
        return bool(self.signature)

    def spelled(self) -> bytes:
        """The canonical JSON of the Signed; with "" for a signature that is still to come."""
        return b'{"body":%b,"kind":"%b","signature":"%b","signer":"%b"}' % (
            self.body,
            self.kind.encode(),
            self.signature.encode(),
            self.signer.encode(),
        )


def state(kind: str, message: object, *, signer: str, signature: str = "") -> Statement:
    """The statement of a message dataclass. Raises NotCanonical."""
    return spelled_statement(kind, spell(message), signer=signer, signature=signature)


def spelled_statement(kind: str, body: bytes, *, signer: str, signature: str = "") -> Statement:
    """The statement whose canonical body is at hand already."""
    return Statement(kind, body, digest_spelled(kind, body), signer, signature)


def seal(statements: Sequence[Statement], key: Sign) -> str:
    """Sign up to SEAL_LEAVES_MAX statements of our own at once; the signature of their root.

    One that has a signature keeps it: both say the same.
    """
    digests = [one.digest for one in statements]
    root_signature = key.sign(seal_digest(seal_root(digests), len(digests)))
    for one, signature in zip(statements, seal_signatures(digests, root_signature), strict=True):
        one.signature = one.signature or signature
    return root_signature


def seal_all(statements: Sequence[Statement], key: Sign) -> None:
    """Sign every statement of our own that has no signature yet, however many there are."""
    bare = [one for one in statements if not one.is_signed]
    for start in range(0, len(bare), SEAL_LEAVES_MAX):
        seal(bare[start : start + SEAL_LEAVES_MAX], key)
