"""Settlement: rounding, the reserve, and refusals."""

from typing import Any

from penstock.spec.canon import to_plain
from penstock.spec.settlement import settle


def run_settle(given: Any) -> Any:
    return to_plain(
        settle(
            given["epoch"],
            given["pool_nano"],
            weights=given["weights"],
            reports=given["reports"],
        )
    )


THIRDS = {"toy:a": 333_333, "toy:b": 333_333, "toy:c": 333_334}

FUNCTIONS = {
    "settle": (
        run_settle,
        {
            "thirds": {"epoch": 5, "pool_nano": 100, "weights": THIRDS, "reports": ["b", "a"]},
            "reserve": {
                "epoch": 5,
                "pool_nano": 1_001,
                "weights": {"toy:a": 250_000},
                "reports": [],
            },
            "nobody": {"epoch": 5, "pool_nano": 77, "weights": {}, "reports": []},
            "empty_pool": {"epoch": 5, "pool_nano": 0, "weights": THIRDS, "reports": []},
            "above_one_whole_is_refused": {
                "epoch": 5,
                "pool_nano": 1,
                "weights": {"toy:a": 1_000_000, "toy:b": 1},
                "reports": [],
            },
            "negative_pool_is_refused": {
                "epoch": 5,
                "pool_nano": -1,
                "weights": {},
                "reports": [],
            },
        },
    ),
}
