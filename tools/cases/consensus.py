"""Consensus: the cap, the clip and the reserve."""

from dataclasses import asdict
from typing import Any

from penstock.spec.consensus import agree, cap_stakes

NAMES = ["v0", "v1", "v2", "v3", "v4", "v5"]
EQUAL = dict.fromkeys(NAMES, 1)
HALVES = {"a": 500_000, "b": 500_000}
ALL_B = {"b": 1_000_000}
QUARTER = {"a": 250_000}
LIMITS = {"entity_stake_max_ppm": 300_000, "kappa_ppm": 500_000}


def run_cap_stakes(given: Any) -> Any:
    return cap_stakes(given["stakes"], max_ppm=given["max_ppm"])


def run_agree(given: Any) -> Any:
    return asdict(
        agree(
            given["reports"],
            given["stakes"],
            entity_stake_max_ppm=given["entity_stake_max_ppm"],
            kappa_ppm=given["kappa_ppm"],
        )
    )


FUNCTIONS = {
    "cap_stakes": (
        run_cap_stakes,
        {
            "below_the_cap": {"stakes": EQUAL, "max_ppm": 300_000},
            "one_whale": {"stakes": {**EQUAL, "v0": 10**9}, "max_ppm": 300_000},
            "three_whales": {
                "stakes": {"v0": 100, "v1": 100, "v2": 100, "v3": 1},
                "max_ppm": 300_000,
            },
            "too_few_for_the_cap": {"stakes": {"v0": 5, "v1": 90, "v2": 1}, "max_ppm": 300_000},
            "zero_stake_is_left_out": {"stakes": {**EQUAL, "v0": 0}, "max_ppm": 300_000},
            "negative_stake_is_refused": {"stakes": {"v0": -1}, "max_ppm": 300_000},
        },
    ),
    "agree": (
        run_agree,
        {
            "all_equal": {"reports": dict.fromkeys(NAMES, HALVES), "stakes": EQUAL, **LIMITS},
            "a_lone_favourite": {
                "reports": {**dict.fromkeys(NAMES, HALVES), "v5": {"c": 1_000_000}},
                "stakes": EQUAL,
                **LIMITS,
            },
            "a_whale": {
                "reports": {**dict.fromkeys(NAMES, ALL_B), "v0": {"a": 1_000_000}},
                "stakes": {**EQUAL, "v0": 10**15},
                **LIMITS,
            },
            "reserve_is_kept": {
                "reports": {**dict.fromkeys(NAMES, QUARTER), "v0": {"a": 900_000}},
                "stakes": EQUAL,
                **LIMITS,
            },
            "rounding": {
                "reports": {
                    "v0": {"a": 333_333, "b": 333_333, "c": 333_334},
                    "v1": {"a": 333_334, "b": 333_333, "c": 333_333},
                    "v2": {"a": 333_000, "b": 334_000, "c": 333_000},
                    "v3": {"a": 100_000, "b": 450_000, "c": 449_999},
                },
                "stakes": {"v0": 7, "v1": 5, "v2": 3, "v3": 2},
                **LIMITS,
            },
            "nothing_in_common": {
                "reports": {name: {f"m{name}": 1_000_000} for name in NAMES},
                "stakes": EQUAL,
                **LIMITS,
            },
            "nobody_counts": {"reports": {"v0": HALVES}, "stakes": {"v1": 1}, **LIMITS},
            "report_above_one_whole_is_refused": {
                "reports": {"v0": {"a": 1_000_000, "b": 1}},
                "stakes": {"v0": 1},
                **LIMITS,
            },
        },
    ),
}
