"""The public log: an append-only Merkle tree (RFC 6962), so that a record, once shown, stays.

Whoever holds one root can check that a record is in the log (inclusion) and that a later root only
adds to an earlier one (consistency), from a few dozen hashes. The tree itself is never held here:
a writer keeps a `Frontier`, the few subtree roots that decide everything to come, and proofs are
built from a `GetNode` that looks up the roots of complete subtrees wherever they are stored.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256

from penstock.spec.errors import BadProof

HASH_BYTES = 32

EMPTY_ROOT = sha256(b"").digest()
"""The root of a log without records (RFC 6962, section 2.1)."""

GetNode = Callable[[int, int], bytes]
"""(level, index) -> root of the complete subtree of 2**level leaves that begins at leaf
index << level. Level 0 holds the leaf hashes."""


@dataclass(frozen=True, slots=True)
class Node:
    """The root of one complete subtree, as a store keeps it."""

    level: int
    index: int
    hash: bytes


@dataclass(frozen=True, slots=True)
class Frontier:
    """A log's size and the roots of its complete subtrees, largest (leftmost) first.

    There is one root for each 1 in the binary form of `size`.
    """

    size: int
    roots: tuple[bytes, ...]

    def append(self, leaf: bytes) -> "Frontier":
        """The frontier with one more leaf hash."""
        return self.grow(leaf)[0]

    def grow(self, leaf: bytes) -> tuple["Frontier", tuple[Node, ...]]:
        """Append a leaf hash; also says which subtrees this leaf completes, lowest level first."""
        assert len(leaf) == HASH_BYTES, "append leaf hashes, not records"
        nodes = [Node(0, self.size, leaf)]
        roots = list(self.roots)
        level = 0
        while (self.size >> level) & 1:
            level += 1
            joined = node_hash(roots.pop(), nodes[-1].hash)
            nodes.append(Node(level, self.size >> level, joined))
        return Frontier(self.size + 1, (*roots, nodes[-1].hash)), tuple(nodes)

    def root(self) -> bytes:
        """The root of the whole log."""
        return _fold(self.roots) if self.roots else EMPTY_ROOT


EMPTY = Frontier(0, ())


def leaf_hash(record: bytes) -> bytes:
    """SHA-256(0x00 || record): a leaf is never mistaken for a node."""
    return sha256(b"\0" + record).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """SHA-256(0x01 || left || right)."""
    return sha256(b"\1" + left + right).digest()


def leaf_hashes(records: Iterable[bytes]) -> list[bytes]:
    """`leaf_hash` of each: seals are made by the batch."""
    return [sha256(b"\0" + one).digest() for one in records]


def node_hashes(lefts: Iterable[bytes], rights: Iterable[bytes]) -> list[bytes]:
    """`node_hash` of each pair; one that is left over is left out."""
    return [
        sha256(b"\1" + left + right).digest() for left, right in zip(lefts, rights, strict=False)
    ]


def root(leaves: Iterable[bytes]) -> bytes:
    """The root over these leaf hashes."""
    frontier = EMPTY
    for leaf in leaves:
        frontier = frontier.append(leaf)
    return frontier.root()


def inclusion_proof(index: int, size: int, *, node: GetNode) -> tuple[bytes, ...]:
    """The siblings from leaf `index` up to the root of the first `size` leaves, lowest first.

    RFC 6962, section 2.1.1. Raises BadProof if there is no such leaf.
    """
    if not 0 <= index < size:
        raise BadProof(what="inclusion", reason=f"no leaf {index} in a log of {size}")
    start, end = 0, size
    siblings = []
    while end - start > 1:
        middle = start + _half(end - start)
        if index < middle:
            siblings.append(_range_root(middle, end, node=node))
            end = middle
        else:
            siblings.append(_range_root(start, middle, node=node))
            start = middle
    return tuple(reversed(siblings))


def consistency_proof(old_size: int, size: int, *, node: GetNode) -> tuple[bytes, ...]:
    """What shows that the first `old_size` leaves are a prefix of the first `size`.

    RFC 6962, section 2.1.2. Empty where there is nothing to show: from the empty log, and from a
    log to itself. Raises BadProof if the old log is larger.
    """
    if not 0 <= old_size <= size:
        raise BadProof(what="consistency", reason=f"{old_size} leaves are not among {size}")
    if not old_size:
        return ()
    start, end = 0, size
    hashes = []
    while old_size != end:
        middle = start + _half(end - start)
        if old_size <= middle:
            hashes.append(_range_root(middle, end, node=node))
            end = middle
        else:
            hashes.append(_range_root(start, middle, node=node))
            start = middle
    if start:
        # Otherwise this subtree is the old log itself, whose root the checker holds.
        hashes.append(_range_root(start, end, node=node))
    return tuple(reversed(hashes))


def check_inclusion(
    leaf: bytes, index: int, *, size: int, proof: Sequence[bytes], expected: bytes
) -> None:
    """The leaf hash stands at `index` in the log of `size` leaves whose root is `expected`.

    The walk is RFC 9162's, section 2.1.3.2. Raises BadProof.
    """
    if not 0 <= index < size:
        raise BadProof(what="inclusion", reason=f"no leaf {index} in a log of {size}")
    position, last, found = index, size - 1, leaf
    for sibling in proof:
        if not last:
            raise BadProof(what="inclusion", reason="the proof is too long")
        if position & 1 or position == last:
            found = node_hash(sibling, found)
            position, last = _skip_lone_levels(position, last)
        else:
            found = node_hash(found, sibling)
        position, last = position >> 1, last >> 1
    if last:
        raise BadProof(what="inclusion", reason="the proof is too short")
    if found != expected:
        raise BadProof(what="inclusion", reason="the proof leads to another root")


def check_consistency(
    old_size: int, size: int, *, old_root: bytes, new_root: bytes, proof: Sequence[bytes]
) -> None:
    """The log of `size` leaves begins with the log of `old_size` leaves.

    The walk is RFC 9162's, section 2.1.4.2. The empty log begins every log. Raises BadProof.
    """
    if not 0 <= old_size <= size:
        raise BadProof(what="consistency", reason=f"{old_size} leaves are not among {size}")
    if old_size in (0, size):
        _check_trivial(old_size, size, old_root=old_root, new_root=new_root, proof=proof)
        return
    hashes = list(proof)
    if old_size & (old_size - 1) == 0:
        hashes.insert(0, old_root)
    if not hashes:
        raise BadProof(what="consistency", reason="the proof is too short")
    found = _climb_two(old_size - 1, size - 1, hashes=hashes)
    if found != (old_root, new_root):
        raise BadProof(what="consistency", reason="the proof leads to other roots")


def _climb_two(position: int, last: int, *, hashes: Sequence[bytes]) -> tuple[bytes, bytes]:
    """Both roots that the hashes lead to, from the last leaf of the old log upwards."""
    while position & 1:
        position, last = position >> 1, last >> 1
    old_found = new_found = hashes[0]
    for sibling in hashes[1:]:
        if not last:
            raise BadProof(what="consistency", reason="the proof is too long")
        if position & 1 or position == last:
            old_found, new_found = node_hash(sibling, old_found), node_hash(sibling, new_found)
            position, last = _skip_lone_levels(position, last)
        else:
            new_found = node_hash(new_found, sibling)
        position, last = position >> 1, last >> 1
    if last:
        raise BadProof(what="consistency", reason="the proof is too short")
    return old_found, new_found


def _check_trivial(
    old_size: int, size: int, *, old_root: bytes, new_root: bytes, proof: Sequence[bytes]
) -> None:
    """From the empty log, or from a log to itself: no hashes, and the roots must fit."""
    if proof:
        raise BadProof(what="consistency", reason="the proof is too long")
    if old_size == size and old_root != new_root:
        raise BadProof(what="consistency", reason="two roots for one size")
    if not old_size and old_root != EMPTY_ROOT:
        raise BadProof(what="consistency", reason="not the root of the empty log")


def _skip_lone_levels(position: int, last: int) -> tuple[int, int]:
    """A right-edge subtree without a sibling rises unchanged: its levels take no hash."""
    while position and not position & 1:
        position, last = position >> 1, last >> 1
    return position, last


def _half(count: int) -> int:
    """The largest power of two below `count` (which is at least 2): where RFC 6962 splits."""
    return 1 << ((count - 1).bit_length() - 1)


def _range_root(start: int, end: int, *, node: GetNode) -> bytes:
    """The root over leaves start..end, where start is a multiple of a power of two >= the range."""
    roots = []
    while start < end:
        level = (end - start).bit_length() - 1
        roots.append(node(level, start >> level))
        start += 1 << level
    return _fold(roots)


def _fold(roots: Sequence[bytes]) -> bytes:
    """Join the roots of complete subtrees, largest first, into one."""
    found = roots[-1]
    for left in reversed(roots[:-1]):
        found = node_hash(left, found)
    return found
