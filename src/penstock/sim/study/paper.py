"""The published figures that the study is held against: token hit rates by policy and cache size.

"A Year in LLM Serving" (Nixon, Durbin, Standhartinger, Gunawi, Yang; PVLDB 2027); data of its
artefact, HarvardMadSys/chutes_workload, CC BY 4.0.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from penstock.sim.study.traffic import DEEPSEEK, MINIMAX, Workload

SIZES = (1_125, 5_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 5_000_000)
"""Tokens of one instance's cache."""
IMBALANCE_MAX_PPM = 20_000


@dataclass(frozen=True, slots=True)
class Table:
    """One model on so many instances: hit rates in thousandths by policy, in the order of `sizes`."""

    workload: Workload
    instances: int
    sizes: tuple[int, ...]
    hits: Mapping[str, tuple[int, ...]]


TABLES = (
    Table(
        workload=MINIMAX,
        instances=5,
        sizes=SIZES,
        hits={
            "cache_first": (382, 383, 400, 449, 523, 613, 629, 635, 639),
            "load_first": (75, 75, 82, 110, 168, 241, 250, 255, 266),
            "round_robin": (82, 83, 90, 118, 168, 226, 232, 237, 248),
            "sticky": (105, 105, 112, 148, 247, 542, 639, 641, 642),
        },
    ),
    Table(
        workload=MINIMAX,
        instances=20,
        sizes=SIZES[2:],
        hits={
            "cache_first": (584, 595, 605, 632, 637, 639, 641),
            "load_first": (51, 67, 85, 92, 94, 97, 102),
            "round_robin": (31, 32, 33, 35, 37, 40, 45),
            "sticky": (117, 153, 251, 543, 640, 641, 642),
        },
    ),
    Table(
        workload=DEEPSEEK,
        instances=5,
        sizes=SIZES,
        hits={
            "cache_first": (28, 30, 50, 74, 102, 133, 159, 196, 364),
            "load_first": (6, 7, 14, 22, 32, 44, 52, 63, 112),
            "round_robin": (6, 6, 13, 20, 29, 40, 47, 58, 107),
            "sticky": (16, 18, 45, 70, 98, 133, 160, 199, 373),
        },
    ),
)
