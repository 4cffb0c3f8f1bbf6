"""Seals: one signature for many messages, so that signing costs a hash instead of a curve.

The digests of up to `SEAL_LEAVES_MAX` messages of one signer are the leaves of an RFC 6962 tree, and
the signer signs its root under the kind `seal`. Each message then carries its own way to that root
in place of a signature of its own:

    seal1.<size>.<index>.<nodes of the path, base64url without padding>.<signature of the root>

A message under a seal is proof by itself, without the others. The leaves are digests under the
domain of their kind, so a seal of one kind never fits another, as with any signature here.
"""

from base64 import b64encode, urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from functools import lru_cache
from typing import Protocol

from penstock.spec.canon import digest
from penstock.spec.keys import Verify
from penstock.spec.log import HASH_BYTES, leaf_hash, leaf_hashes, node_hash, node_hashes

SEAL_LEAVES_MAX = 64
SEAL_PREFIX = "seal1."
TREES_MAX = 4
SEAL_CHARS_MAX = 600
"""A path of six nodes is 256 characters, the longest signature of any scheme 130."""


class Known(Protocol):
    """Where checked root signatures are remembered: `(signer, root, size, signature)`.

    It may forget at any time; it must never hold what was not added.
    """

    def __contains__(self, item: object, /) -> bool: ...
    def add(self, item: tuple[str, bytes, int, str], /) -> None: ...


def seal_root(digests: Sequence[bytes]) -> bytes:
    """The root over the digests of 1..SEAL_LEAVES_MAX messages, in this order."""
    return _levels(tuple(digests))[-1][0]


def seal_digest(root: bytes, size: int) -> bytes:
    """What the signer of a seal signs: 32 bytes, of a kind of its own."""
    return digest("seal", {"root": root.hex(), "size": size})


def seal_signatures(digests: Sequence[bytes], root_signature: str) -> tuple[str, ...]:
    """The signature of each message, in the order of the digests."""
    head = f"{SEAL_PREFIX}{len(digests)}."
    texts = _texts_of(_paths(_levels(tuple(digests))))
    return tuple([f"{head}{index}.{text}.{root_signature}" for index, text in enumerate(texts)])


def _paths(levels: list[list[bytes]]) -> list[bytes]:
    """The way of every leaf to the root, lowest node first. From the root down, so that two leaves
    share the joining of what they share.
    """
    above = [b""]
    for level in levels[-2::-1]:
        size = len(level)
        above = [
            level[place ^ 1] + above[place >> 1] if place ^ 1 < size else above[place >> 1]
            for place in range(size)
        ]
    return above


def _texts_of(paths: list[bytes]) -> list[str]:
    """The nodes of each path as text. Paths of one length that fills whole groups of base64, as those of
    a full batch do, are spelled all at once.
    """
    size = len(paths[0])
    if size % 3 or {*map(len, paths)} != {size}:
        return [urlsafe_b64encode(path).rstrip(b"=").decode() for path in paths]
    text, step = urlsafe_b64encode(b"".join(paths)).decode(), size // 3 * 4
    return [text[place * step : (place + 1) * step] for place in range(len(paths))]


def is_seal(signature: str) -> bool:
    """Whether this text claims to be a seal; no scheme's own signature does."""
    return signature.startswith(SEAL_PREFIX)


def sealed_verify(verify: Verify, *, known: Known | None = None) -> Verify:
    """The same check of signatures, with seals accepted too; like `verify` it never raises.

    With `known`, the root of a batch is checked once for all its messages.
    """

    def verify_any(identity: str, digest: bytes, signature: str) -> bool:
        if not signature.startswith(SEAL_PREFIX):
            return verify(identity, digest, signature)
        opened = _open(digest, signature)
        if opened is None:
            return False
        root, size, root_signature = opened
        key = (identity, root, size, root_signature)
        if known is not None and key in known:
            return True
        holds = verify(identity, seal_digest(root, size), root_signature)
        if holds and known is not None:
            known.add(key)
        return holds

    return verify_any


def _open(digest: bytes, text: str) -> tuple[bytes, int, str] | None:
    """(root, size, signature of the root) that this seal leads to; None if it is misspelled."""
    parts = text.split(".", 4) if len(text) <= SEAL_CHARS_MAX else []
    if len(parts) != 5 or len(digest) != HASH_BYTES:
        return None
    size, index = _number(parts[1]), _number(parts[2])
    if size is None or index is None or not index < size <= SEAL_LEAVES_MAX:
        return None
    siblings = _siblings(index, size)
    nodes = _nodes(parts[3], len(siblings))
    if nodes is None or is_seal(parts[4]):
        return None
    top = leaf_hash(digest)
    for start, (_, place) in zip(range(0, len(nodes), HASH_BYTES), siblings, strict=True):
        node = nodes[start : start + HASH_BYTES]
        top = node_hash(top, node) if place & 1 else node_hash(node, top)
    return top, size, parts[4]


_NUMBERS = {str(number): number for number in range(SEAL_LEAVES_MAX + 1)}


def _number(text: str) -> int | None:
    """0..SEAL_LEAVES_MAX in its one spelling."""
    return _NUMBERS.get(text)


def _nodes(text: str, count: int) -> bytes | None:
    """The bytes of exactly `count` nodes, in their one spelling; None otherwise."""
    if len(text) != -(-count * HASH_BYTES * 8 // 6):
        return None
    try:
        nodes = urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except ValueError:
        return None
    # Base64 has spare bits and Python's reader skips strange characters: only what it would itself
    # write counts, so that nobody can make a second spelling of a seal.
    same = b64encode(nodes, b"-_").rstrip(b"=").decode() == text
    return nodes if same else None


@lru_cache(maxsize=SEAL_LEAVES_MAX * SEAL_LEAVES_MAX)
def _siblings(index: int, size: int) -> tuple[tuple[int, int], ...]:
    """The path of a leaf, lowest first, as (level, place); an odd place stands to the right.

    A last node without a sibling rises to the next level as it is: that gives RFC 6962's tree.
    """
    path = []
    level = 0
    while size > 1:
        if index ^ 1 < size:
            path.append((level, index ^ 1))
        index, size, level = index >> 1, (size + 1) >> 1, level + 1
    return tuple(path)


@lru_cache(maxsize=TREES_MAX)  # a root is asked for first, and its signatures a moment later
def _levels(digests: tuple[bytes, ...]) -> list[list[bytes]]:
    """The tree by level and place; the last level holds the root alone."""
    assert 0 < len(digests) <= SEAL_LEAVES_MAX, "a seal covers 1 to 64 messages"
    assert {*map(len, digests)} == {HASH_BYTES}, "seal digests, never messages"
    levels = [leaf_hashes(digests)]
    while len(levels[-1]) > 1:
        below = levels[-1]
        above = node_hashes(below[0::2], below[1::2])
        if len(below) & 1:
            above.append(below[-1])
        levels.append(above)
    return levels
