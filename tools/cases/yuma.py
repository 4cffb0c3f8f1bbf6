"""Yuma: epochs whose outcome was measured on the Bittensor runtime (spec 143), and one edge.

`tests/spec/test_yuma.py` holds the measured outcomes of the chain epochs.
"""

from dataclasses import asdict
from typing import Any

from penstock.spec.yuma import Epoch, run_epoch

CHAIN_EPOCH_6: dict[str, Any] = {
    "stakes": [1000000000000, 2000000000000, 3000000000000, 4000000000000, 0, 0, 0, 0],
    "permits": [True, True, True, True, True, True, True, True],
    "weights": [
        {"2": 65535},
        {"4": 16875, "7": 34892, "3": 65535, "5": 48828, "0": 50305},
        {"3": 65535, "4": 52789, "0": 6536},
        {"7": 65535},
        {},
        {},
        {},
        {},
    ],
    "bonds": [
        {"1": 16379, "4": 21546, "5": 6207, "6": 9506, "7": 6067},
        {"4": 49251, "5": 32554, "6": 38724, "7": 33963},
        {"4": 65535, "5": 43804, "6": 43886, "7": 33729},
        {"1": 65535, "4": 64821, "5": 65535, "6": 65535, "7": 65535},
        {},
        {},
        {},
        {},
    ],
    "updated_blocks": [240, 241, 242, 243, 117, 118, 119, 120],
    "registered_blocks": [113, 114, 115, 116, 117, 118, 119, 120],
    "kappa_u16": 32767,
    "bonds_average_ppm": 900000,
}


def run_run_epoch(given: Any) -> Any:
    def rows(name: str) -> tuple[dict[int, int], ...]:
        return tuple({int(uid): value for uid, value in row.items()} for row in given[name])

    plain = asdict(
        run_epoch(
            Epoch(
                stakes=tuple(given["stakes"]),
                permits=tuple(given["permits"]),
                weights=rows("weights"),
                bonds=rows("bonds"),
                updated_blocks=tuple(given["updated_blocks"]),
                registered_blocks=tuple(given["registered_blocks"]),
                kappa_u16=given["kappa_u16"],
                bonds_average_ppm=given["bonds_average_ppm"],
            )
        )
    )
    plain["bonds"] = [{str(uid): bond for uid, bond in row.items()} for row in plain["bonds"]]
    return plain


FUNCTIONS = {
    "run_epoch": (
        run_run_epoch,
        {
            "chain_epoch_6": CHAIN_EPOCH_6,
            "without_a_permit": {**CHAIN_EPOCH_6, "permits": [False, *[True] * 7]},
            "without_stake": {**CHAIN_EPOCH_6, "stakes": [0] * 8},
        },
    ),
}
