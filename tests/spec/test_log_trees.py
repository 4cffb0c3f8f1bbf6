"""Logs of any size, grown in any steps: the same roots and proofs as the plain definition gives."""

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.spec.errors import BadProof
from penstock.spec.log import (
    EMPTY,
    EMPTY_ROOT,
    Frontier,
    GetNode,
    check_consistency,
    check_inclusion,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    node_hash,
    root,
)

SIZE_MAX = 3_000


def leaf(number: int, log: int = 0) -> bytes:
    return leaf_hash(b"%d of log %d" % (number, log))


LEAVES = [leaf(number) for number in range(SIZE_MAX)]


class Plain:
    """RFC 6962, section 2.1, by recursion, with what was computed kept: the tree to compare with."""

    def __init__(self, leaves: list[bytes]) -> None:
        self.leaves = leaves
        self._roots: dict[tuple[int, int], bytes] = {}

    def root(self, start: int, end: int) -> bytes:
        if start == end:
            return sha256(b"").digest()
        if end - start == 1:
            return self.leaves[start]
        if (start, end) not in self._roots:
            middle = start + self.half(end - start)
            joined = node_hash(self.root(start, middle), self.root(middle, end))
            self._roots[start, end] = joined
        return self._roots[start, end]

    def path(self, index: int, start: int, end: int) -> list[bytes]:
        """PATH(m, D[n]) of section 2.1.1."""
        if end - start == 1:
            return []
        middle = start + self.half(end - start)
        if index < middle:
            return [*self.path(index, start, middle), self.root(middle, end)]
        return [*self.path(index, middle, end), self.root(start, middle)]

    def proof(self, old: int, start: int, end: int, *, is_whole: bool = True) -> list[bytes]:
        """SUBPROOF(m, D[n], b) of section 2.1.2."""
        if old == end:
            return [] if is_whole else [self.root(start, end)]
        middle = start + self.half(end - start)
        if old <= middle:
            deeper = self.proof(old, start, middle, is_whole=is_whole)
            return [*deeper, self.root(middle, end)]
        return [*self.proof(old, middle, end, is_whole=False), self.root(start, middle)]

    @staticmethod
    def half(count: int) -> int:
        half = 1
        while half * 2 < count:
            half *= 2
        return half


PLAIN = Plain(LEAVES)


def stored(leaves: list[bytes]) -> tuple[list[Frontier], GetNode]:
    """The frontier at every size, and the nodes as a store keeps them."""
    nodes: dict[tuple[int, int], bytes] = {}
    frontiers = [EMPTY]
    for one in leaves:
        frontier, completed = frontiers[-1].grow(one)
        frontiers.append(frontier)
        for node in completed:
            assert (node.level, node.index) not in nodes, "a subtree is completed once"
            nodes[node.level, node.index] = node.hash
    return frontiers, lambda level, index: nodes[level, index]


FRONTIERS, NODE = stored(LEAVES)

sizes = st.integers(1, SIZE_MAX)


@given(sizes)
def test_a_frontier_of_any_size_has_the_plain_trees_root(size: int) -> None:
    assert FRONTIERS[size].root() == PLAIN.root(0, size)
    assert len(FRONTIERS[size].roots) == size.bit_count()


@given(sizes, st.data())
def test_an_inclusion_proof_is_the_one_of_the_definition_and_holds(
    size: int, data: st.DataObject
) -> None:
    index = data.draw(st.integers(0, size - 1))
    proof = inclusion_proof(index, size, node=NODE)
    assert list(proof) == PLAIN.path(index, 0, size)
    check_inclusion(LEAVES[index], index, size=size, proof=proof, expected=PLAIN.root(0, size))


@given(sizes, st.data())
def test_a_consistency_proof_is_the_one_of_the_definition_and_holds(
    size: int, data: st.DataObject
) -> None:
    old = data.draw(st.integers(1, size))
    proof = consistency_proof(old, size, node=NODE)
    assert list(proof) == PLAIN.proof(old, 0, size)
    check_consistency(
        old,
        size,
        old_root=FRONTIERS[old].root(),
        new_root=FRONTIERS[size].root(),
        proof=proof,
    )


@given(st.lists(st.integers(0, 40), max_size=12))
def test_the_steps_in_which_a_log_grows_leave_no_trace(steps: list[int]) -> None:
    frontier, at = EMPTY, 0
    for step in steps:
        for one in LEAVES[at : at + step]:
            frontier = frontier.append(one)
        at += step
    assert frontier == FRONTIERS[at]
    assert root(LEAVES[:at]) == frontier.root()


@given(sizes, st.data())
def test_a_frontier_kept_and_taken_up_again_grows_into_the_same_log(
    size: int, data: st.DataObject
) -> None:
    """What a store keeps of a log is its size and roots: a restart must lose nothing."""
    kept = FRONTIERS[data.draw(st.integers(0, size))]
    again = Frontier(kept.size, tuple(bytes(one) for one in kept.roots))
    for one in LEAVES[kept.size : size]:
        again = again.append(one)
    assert again == FRONTIERS[size]


@given(sizes, st.data())
def test_any_bit_flipped_in_a_proof_is_noticed(size: int, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, size - 1))
    proof = list(inclusion_proof(index, size, node=NODE))
    if not proof:
        return
    place = data.draw(st.integers(0, len(proof) - 1))
    bit = data.draw(st.integers(0, 255))
    flipped = bytearray(proof[place])
    flipped[bit // 8] ^= 1 << bit % 8
    proof[place] = bytes(flipped)
    with pytest.raises(BadProof):
        check_inclusion(LEAVES[index], index, size=size, proof=proof, expected=PLAIN.root(0, size))


@given(st.integers(2, 200), st.data())
def test_two_logs_that_part_somewhere_are_never_shown_to_be_one(
    size: int, data: st.DataObject
) -> None:
    old = data.draw(st.integers(1, size - 1))
    parted = data.draw(st.integers(0, old - 1))
    forked = [LEAVES[n] if n < parted else leaf(n, log=1) for n in range(size)]
    frontiers, node = stored(forked)
    for proof in (consistency_proof(old, size, node=node), consistency_proof(old, size, node=NODE)):
        with pytest.raises(BadProof):
            check_consistency(
                old,
                size,
                old_root=FRONTIERS[old].root(),
                new_root=frontiers[size].root(),
                proof=proof,
            )


@given(st.integers(2, 500), st.data())
def test_a_node_never_passes_for_a_leaf(size: int, data: st.DataObject) -> None:
    """The second preimage that naive trees allow: an inner node offered as a record."""
    index = data.draw(st.integers(0, size - 1))
    proof = inclusion_proof(index, size, node=NODE)
    pair = index & ~1
    if pair + 1 >= size:
        return
    inner = LEAVES[pair] + LEAVES[pair + 1]
    with pytest.raises(BadProof):
        check_inclusion(
            leaf_hash(inner),
            index >> 1,
            size=size >> 1,
            proof=proof[1:],
            expected=PLAIN.root(0, size),
        )


def test_no_size_shares_its_root_with_another() -> None:
    roots = {PLAIN.root(0, size) for size in range(SIZE_MAX + 1)}
    assert len(roots) == SIZE_MAX + 1
    assert EMPTY_ROOT in roots
