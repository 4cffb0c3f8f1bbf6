"""The log: roots of the reference records, proofs, and proofs that are false."""

from typing import Any

from penstock.spec.log import (
    EMPTY,
    check_consistency,
    check_inclusion,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    root,
)

RECORDS = ["", "00", "10", "2021", "3031", "40414243"]
RECORDS += [bytes(range(0x50, 0x58)).hex(), bytes(range(0x60, 0x70)).hex()]


def leaves_of(records: list[str]) -> list[bytes]:
    return [leaf_hash(bytes.fromhex(record)) for record in records]


def nodes_of(records: list[str]) -> dict[tuple[int, int], bytes]:
    nodes, frontier = {}, EMPTY
    for leaf in leaves_of(records):
        frontier, completed = frontier.grow(leaf)
        nodes.update({(node.level, node.index): node.hash for node in completed})
    return nodes


def root_of(size: int) -> str:
    return root(leaves_of(RECORDS[:size])).hex()


def run_root(given: Any) -> str:
    return root(leaves_of(given["records"])).hex()


def run_inclusion_proof(given: Any) -> list[str]:
    nodes = nodes_of(given["records"])
    size = len(given["records"])
    proof = inclusion_proof(given["index"], size, node=lambda level, index: nodes[level, index])
    return [sibling.hex() for sibling in proof]


def run_consistency_proof(given: Any) -> list[str]:
    nodes = nodes_of(given["records"])
    size = len(given["records"])
    proof = consistency_proof(
        given["old_size"], size, node=lambda level, index: nodes[level, index]
    )
    return [sibling.hex() for sibling in proof]


def run_check_inclusion(given: Any) -> str:
    check_inclusion(
        bytes.fromhex(given["leaf"]),
        given["index"],
        size=given["size"],
        proof=[bytes.fromhex(sibling) for sibling in given["proof"]],
        expected=bytes.fromhex(given["root"]),
    )
    return "holds"


def run_check_consistency(given: Any) -> str:
    check_consistency(
        given["old_size"],
        given["size"],
        old_root=bytes.fromhex(given["old_root"]),
        new_root=bytes.fromhex(given["new_root"]),
        proof=[bytes.fromhex(sibling) for sibling in given["proof"]],
    )
    return "holds"


INCLUDED: dict[str, Any] = {
    "leaf": leaves_of(RECORDS)[5].hex(),
    "index": 5,
    "size": 7,
    "proof": run_inclusion_proof({"records": RECORDS[:7], "index": 5}),
    "root": root_of(7),
}
CONSISTENT: dict[str, Any] = {
    "old_size": 3,
    "size": 7,
    "old_root": root_of(3),
    "new_root": root_of(7),
    "proof": run_consistency_proof({"records": RECORDS[:7], "old_size": 3}),
}

FUNCTIONS = {
    "root": (
        run_root,
        {f"of_{size}_records": {"records": RECORDS[:size]} for size in range(9)},
    ),
    "inclusion_proof": (
        run_inclusion_proof,
        {
            "first_of_eight": {"records": RECORDS, "index": 0},
            "sixth_of_seven": {"records": RECORDS[:7], "index": 5},
            "last_of_seven": {"records": RECORDS[:7], "index": 6},
            "only_one": {"records": RECORDS[:1], "index": 0},
            "beyond_the_end_is_refused": {"records": RECORDS[:2], "index": 2},
        },
    ),
    "consistency_proof": (
        run_consistency_proof,
        {
            "one_to_eight": {"records": RECORDS, "old_size": 1},
            "three_to_seven": {"records": RECORDS[:7], "old_size": 3},
            "four_to_seven": {"records": RECORDS[:7], "old_size": 4},
            "to_itself": {"records": RECORDS, "old_size": 8},
            "from_nothing": {"records": RECORDS, "old_size": 0},
            "from_a_larger_log_is_refused": {"records": RECORDS[:2], "old_size": 3},
        },
    ),
    "check_inclusion": (
        run_check_inclusion,
        {
            "true": INCLUDED,
            "other_place": {**INCLUDED, "index": 4},
            "other_root": {**INCLUDED, "root": root_of(6)},
            "too_short": {**INCLUDED, "proof": INCLUDED["proof"][:-1]},
            "too_long": {**INCLUDED, "proof": [*INCLUDED["proof"], root_of(1)]},
        },
    ),
    "check_consistency": (
        run_check_consistency,
        {
            "true": CONSISTENT,
            "rewritten": {**CONSISTENT, "old_root": root_of(4)},
            "too_short": {**CONSISTENT, "proof": CONSISTENT["proof"][:-1]},
            "too_long": {**CONSISTENT, "proof": [*CONSISTENT["proof"], root_of(1)]},
            "two_roots_for_one_size": {
                "old_size": 3,
                "size": 3,
                "old_root": root_of(3),
                "new_root": root_of(4),
                "proof": [],
            },
        },
    ),
}
