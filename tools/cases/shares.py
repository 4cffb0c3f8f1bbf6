"""Sharing out: remainders, ties and refusals."""

from typing import Any

from penstock.spec.shares import normalise_ppm, split, split_ppm


def run_split(given: Any) -> Any:
    return split(given["whole"], given["weights"])


def run_split_ppm(given: Any) -> Any:
    return split_ppm(given["amount"], given["parts_ppm"])


def run_normalise_ppm(given: Any) -> Any:
    return normalise_ppm(given["weights"], given["whole_ppm"])


FUNCTIONS = {
    "split": (
        run_split,
        {
            "even": {"whole": 9, "weights": {"a": 1, "b": 2}},
            "largest_remainders_first": {"whole": 10, "weights": {"a": 1, "b": 2, "c": 4}},
            "ties_by_bytes": {"whole": 2, "weights": {"c": 1, "a": 1, "b": 1}},
            "ties_by_utf8_bytes": {
                "whole": 2,
                "weights": {"\U0001f600": 1, "\ufb33": 1, "z": 1},
            },
            "zero_weight": {"whole": 7, "weights": {"a": 0, "b": 3}},
            "no_claims": {"whole": 7, "weights": {"a": 0}},
            "beyond_64_bits": {"whole": 10**30, "weights": {"a": 10**25, "b": 2 * 10**25}},
            "negative_weight_is_refused": {"whole": 7, "weights": {"a": 9, "b": -1}},
        },
    ),
    "split_ppm": (
        run_split_ppm,
        {
            "full": {"amount": 101, "parts_ppm": {"m": 700_000, "o": 100_000, "p": 200_000}},
            "part": {"amount": 10, "parts_ppm": {"a": 300_000, "b": 250_000}},
            "rest_wins_ties": {"amount": 1, "parts_ppm": {"a": 500_000}},
            "above_one_whole_is_refused": {"amount": 1, "parts_ppm": {"a": 1_000_000, "b": 1}},
        },
    ),
    "normalise_ppm": (
        run_normalise_ppm,
        {
            "thirds": {"weights": {"a": 1, "b": 1, "c": 1}, "whole_ppm": 1_000_000},
            "part_of_the_whole": {"weights": {"a": 1, "b": 3}, "whole_ppm": 800_000},
        },
    ),
}
