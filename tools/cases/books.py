"""Books: transfers, holds, captures, releases, and what is refused."""

from typing import Any

from penstock.spec.books import (
    Books,
    Capture,
    Extend,
    Hold,
    Operation,
    Post,
    Release,
    apply_all,
    charge_legs,
    operation_digest,
    owed_legs,
)
from penstock.spec.canon import from_plain, to_plain
from penstock.spec.params import FeeSplit

KINDS: dict[str, type] = {
    "post": Post,
    "hold": Hold,
    "extend": Extend,
    "capture": Capture,
    "release": Release,
}


def operation(given: Any) -> Operation:
    found: Operation = from_plain(KINDS[given["kind"]], given["operation"])
    return found


def run_apply_all(given: Any) -> Any:
    books = apply_all(Books(), [operation(one) for one in given])
    return {
        "accounts": {name: to_plain(one) for name, one in sorted(books.accounts.items())},
        "holds": {name: to_plain(one) for name, one in sorted(books.holds.items())},
    }


def run_operation_digest(given: Any) -> Any:
    return operation_digest(operation(given)).hex()


def run_charge_legs(given: Any) -> Any:
    fees = from_plain(FeeSplit, given["fees"])
    legs = charge_legs(given["miner"], given["charge_nano"], fees=fees, paid_by=given["paid_by"])
    return to_plain(legs)


def run_owed_legs(given: Any) -> Any:
    fees = from_plain(FeeSplit, given["fees"])
    return to_plain(owed_legs(given["miner"], given["earned_nano"], fees=fees))


def legs(*pairs: tuple[str, int]) -> list[dict[str, Any]]:
    return [{"account": name, "amount_nano": nano} for name, nano in pairs]


def post(posting_id: str, *pairs: tuple[str, int]) -> dict[str, Any]:
    return {"kind": "post", "operation": {"id": posting_id, "legs": legs(*pairs)}}


def capture(posting_id: str, *pairs: tuple[str, int]) -> dict[str, Any]:
    body = {"id": posting_id, "hold": "h", "legs": legs(*pairs)}
    return {"kind": "capture", "operation": body}


FUND = post("fund", ("mint", -1000), ("payer/ann", 1000))
HOLD = {"kind": "hold", "operation": {"id": "h", "account": "payer/ann", "amount_nano": 600}}
EXTEND = {"kind": "extend", "operation": {"id": "e", "hold": "h", "amount_nano": 100}}
RELEASE = {"kind": "release", "operation": {"hold": "h"}}
TAKE = capture("c1", ("payer/ann", -250), ("miner/toy:a", 250))
FEES = {"miner_ppm": 700_000, "operator_ppm": 100_000, "pool_ppm": 200_000}
MINER = "toy:" + "1" * 16

FUNCTIONS = {
    "apply_all": (
        run_apply_all,
        {
            "life_of_a_hold": [FUND, HOLD, EXTEND, TAKE, RELEASE, RELEASE],
            "said_twice": [FUND, FUND, HOLD, HOLD, TAKE, TAKE],
            "overdraft_counts_holds": [FUND, HOLD, post("p", ("payer/ann", -401), ("pool", 401))],
            "hold_exceeded": [FUND, HOLD, capture("c", ("payer/ann", -601), ("pool", 601))],
            "released": [FUND, HOLD, RELEASE, TAKE],
            "unknown_hold": [FUND, TAKE],
            "unbalanced": [post("p", ("mint", -2), ("pool", 1))],
            "account_twice": [post("p", ("mint", -1), ("mint", 1))],
            "id_reused": [FUND, post("fund", ("mint", -1), ("payer/ann", 1))],
        },
    ),
    "charge_legs": (
        run_charge_legs,
        {
            "by_the_payer": {
                "miner": MINER,
                "charge_nano": 1009,
                "fees": FEES,
                "paid_by": "payer/ann",
            },
            "by_the_operator": {
                "miner": MINER,
                "charge_nano": 1009,
                "fees": FEES,
                "paid_by": "operator",
            },
        },
    ),
    "owed_legs": (
        run_owed_legs,
        {"gateway_failed": {"miner": MINER, "earned_nano": 1009, "fees": FEES}},
    ),
    "operation_digest": (run_operation_digest, {"hold": HOLD, "release": RELEASE, "post": FUND}),
}
