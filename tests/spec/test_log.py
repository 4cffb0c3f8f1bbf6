"""The log: RFC 6962 roots, and proofs that convince only when they are true."""

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

SIZE_MAX = 65
REFERENCE_RECORDS = [
    b"",
    b"\0",
    b"\x10",
    b"\x20\x21",
    b"\x30\x31",
    b"\x40\x41\x42\x43",
    bytes(range(0x50, 0x58)),
    bytes(range(0x60, 0x70)),
]
REFERENCE_ROOT = "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328"

LEAVES = [leaf_hash(bytes([number])) for number in range(SIZE_MAX)]


def tree_root(leaves: list[bytes]) -> bytes:
    """RFC 6962, section 2.1, word for word: the slow definition to compare with."""
    if not leaves:
        return EMPTY_ROOT
    if len(leaves) == 1:
        return leaves[0]
    half = 1
    while half * 2 < len(leaves):
        half *= 2
    return node_hash(tree_root(leaves[:half]), tree_root(leaves[half:]))


def store(leaves: list[bytes]) -> GetNode:
    """The complete subtrees of a log, as a real store keeps them: from what `grow` completes."""
    nodes: dict[tuple[int, int], bytes] = {}
    frontier = EMPTY
    for leaf in leaves:
        frontier, completed = frontier.grow(leaf)
        nodes.update({(node.level, node.index): node.hash for node in completed})
    return lambda level, index: nodes[level, index]


NODE = store(LEAVES)
ROOTS = [tree_root(LEAVES[:size]) for size in range(SIZE_MAX + 1)]


def test_the_reference_log_has_the_reference_root() -> None:
    assert root(leaf_hash(record) for record in REFERENCE_RECORDS).hex() == REFERENCE_ROOT


def test_the_empty_log_has_the_root_of_nothing() -> None:
    assert EMPTY.root() == root([]) == EMPTY_ROOT


def test_the_frontier_follows_the_definition_at_every_size() -> None:
    assert [root(LEAVES[:size]) for size in range(SIZE_MAX + 1)] == ROOTS


def test_a_frontier_has_one_root_for_each_one_in_its_size() -> None:
    frontier = EMPTY
    for size, leaf in enumerate(LEAVES, start=1):
        frontier = frontier.append(leaf)
        assert frontier.size == size
        assert len(frontier.roots) == size.bit_count()


def test_a_record_is_refused_where_its_hash_belongs() -> None:
    with pytest.raises(AssertionError):
        Frontier(0, ()).append(b"record")


def test_every_record_is_shown_to_be_in_every_log_that_holds_it() -> None:
    for size in range(1, SIZE_MAX + 1):
        for index in range(size):
            proof = inclusion_proof(index, size, node=NODE)
            check_inclusion(LEAVES[index], index, size=size, proof=proof, expected=ROOTS[size])


def test_every_log_is_shown_to_begin_every_later_one() -> None:
    for size in range(SIZE_MAX + 1):
        for old_size in range(size + 1):
            check_consistency(
                old_size,
                size,
                old_root=ROOTS[old_size],
                new_root=ROOTS[size],
                proof=consistency_proof(old_size, size, node=NODE),
            )


def test_a_wrong_root_is_refused_at_every_size() -> None:
    for size in range(1, SIZE_MAX + 1):
        proof = consistency_proof(size - 1, size, node=NODE)
        wrong = ROOTS[size][::-1]
        with pytest.raises(BadProof):
            check_consistency(
                size - 1, size, old_root=ROOTS[size - 1][::-1], new_root=ROOTS[size], proof=proof
            )
        if size > 1:
            with pytest.raises(BadProof):
                check_consistency(
                    size - 1, size, old_root=ROOTS[size - 1], new_root=wrong, proof=proof
                )
        with pytest.raises(BadProof):
            check_inclusion(
                LEAVES[0],
                0,
                size=size,
                proof=inclusion_proof(0, size, node=NODE),
                expected=wrong,
            )


@given(data=st.data(), size=st.integers(2, SIZE_MAX))
def test_a_proof_of_inclusion_holds_for_no_other_place_leaf_or_length(
    data: st.DataObject, size: int
) -> None:
    index = data.draw(st.integers(0, size - 1))
    other = data.draw(st.integers(0, size - 1).filter(lambda place: place != index))
    proof = inclusion_proof(index, size, node=NODE)
    bad = [
        (LEAVES[index], other, proof),
        (LEAVES[other], index, proof),
        (LEAVES[index], index, proof[:-1]),
        (LEAVES[index], index, (*proof, LEAVES[0])),
        (LEAVES[index], index, (proof[0][::-1], *proof[1:])),
        (LEAVES[index], size, proof),
        (LEAVES[index], -1, proof),
    ]
    for leaf, place, hashes in bad:
        with pytest.raises(BadProof) as caught:
            check_inclusion(leaf, place, size=size, proof=hashes, expected=ROOTS[size])
        assert caught.value.what == "inclusion"


@given(data=st.data(), size=st.integers(2, SIZE_MAX))
def test_a_rewritten_log_cannot_be_shown_to_be_consistent(data: st.DataObject, size: int) -> None:
    old_size = data.draw(st.integers(1, size - 1))
    changed = data.draw(st.integers(0, old_size - 1))
    leaves = LEAVES[:size]
    leaves[changed] = leaf_hash(b"rewritten")
    proof = consistency_proof(old_size, size, node=store(leaves))
    with pytest.raises(BadProof):
        check_consistency(
            old_size, size, old_root=ROOTS[old_size], new_root=tree_root(leaves), proof=proof
        )


@given(data=st.data(), size=st.integers(2, SIZE_MAX))
def test_a_proof_of_consistency_of_another_length_is_refused(
    data: st.DataObject, size: int
) -> None:
    old_size = data.draw(st.integers(1, size - 1))
    proof = consistency_proof(old_size, size, node=NODE)
    for hashes in ((), proof[:-1], (*proof, LEAVES[0])):
        with pytest.raises(BadProof) as caught:
            check_consistency(
                old_size,
                size,
                old_root=ROOTS[old_size],
                new_root=ROOTS[size],
                proof=hashes,
            )
        assert caught.value.what == "consistency"


@pytest.mark.parametrize(
    ("old_size", "size", "old_root", "proof"),
    [
        (0, 5, EMPTY_ROOT, [LEAVES[0]]),
        (0, 5, ROOTS[1], []),
        (5, 5, ROOTS[4], []),
        (5, 5, ROOTS[5], [LEAVES[0]]),
        (6, 5, ROOTS[6], []),
        (-1, 5, EMPTY_ROOT, []),
        (3, 5, ROOTS[3], []),
    ],
)
def test_the_edges_of_consistency_are_refused_when_wrong(
    old_size: int, size: int, old_root: bytes, proof: list[bytes]
) -> None:
    with pytest.raises(BadProof):
        check_consistency(old_size, size, old_root=old_root, new_root=ROOTS[5], proof=proof)


def test_no_proof_is_built_for_a_leaf_or_log_that_is_not_there() -> None:
    with pytest.raises(BadProof):
        inclusion_proof(5, 5, node=NODE)
    with pytest.raises(BadProof):
        consistency_proof(6, 5, node=NODE)


def test_a_proof_in_a_log_of_a_million_is_twenty_hashes() -> None:
    """Nodes are looked up, never computed: a log of any size is proven from its stored nodes."""
    asked: list[tuple[int, int]] = []

    def node(level: int, index: int) -> bytes:
        asked.append((level, index))
        return LEAVES[level]

    assert len(inclusion_proof(123_456, 1 << 20, node=node)) == 20
    assert len(asked) == 20
