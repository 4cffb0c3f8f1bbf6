"""Policy v1: each part's raw weights and whole scores, over the local network's numbers."""

from dataclasses import replace
from typing import Any

from penstock.spec.canon import from_plain, to_plain
from penstock.spec.evidence import (
    BountySum,
    Evidence,
    Median,
    PresenceSum,
    Served,
    Work,
    evidence_digest,
)
from penstock.spec.params import LOCAL
from penstock.spec.scoring import availability, capacity, score, speed

NOTHING = Evidence((), (), (), (), (), ())
MARKET = Evidence(
    works=(
        Work("a", "c1", 7, 10, 1_000_000, 900),
        Work("a", "c1", 9, 2, 400_000, 1_100),
        Work("b", "c1", 7, 12, 1_300_000, 1_200),
        Work("c", "c1", 7, 9, 900_000, 300),
        Work("c", "c2", 5, 4, 70_000, 0),
    ),
    medians=(Median("c1", 1_000),),
    served=(Served("a", 12, 12), Served("b", 13, 12), Served("c", 14, 13)),
    presences=(
        PresenceSum("a", "a-1", "c1", "gpu-1", "cpu", 590, 600, 590),
        PresenceSum("b", "b-1", "c1", "gpu-2", "nvidia-h100", 600, 600, 300),
        PresenceSum("c", "c-1", "c1", "gpu-2", "cpu", 500, 600, 300),
        PresenceSum("d", "d-1", "c2", "gpu-3", "cpu", 7, 600, 7),
    ),
    bounties=(BountySum("a", 100), BountySum("d", 50)),
    failed=(),
)
CASES = {
    "nothing": to_plain(NOTHING),
    "market": to_plain(MARKET),
    "failed_miner": to_plain(replace(MARKET, failed=("b",))),
    "several_devices_at_once": to_plain(
        replace(
            MARKET,
            presences=(
                PresenceSum("a", "a-1", "c1", "gpu-1+gpu-2", "cpu", 600, 600, 590),
                PresenceSum("b", "b-1", "c1", "gpu-2+gpu-3", "cpu", 600, 600, 580),
                PresenceSum("c", "c-1", "c1", "gpu-3", "cpu", 600, 600, 570),
                PresenceSum("d", "d-1", "c2", "gpu-1", "cpu", 600, 600, 560),
            ),
        )
    ),
    "no_bounties": to_plain(replace(MARKET, bounties=())),
    "unmeasured_work": to_plain(replace(NOTHING, works=(Work("a", "c", 1, 1, 5, 0),))),
    "alone_in_a_bucket": to_plain(
        replace(NOTHING, works=(Work("a", "c", 1, 1, 9_999, 7),), medians=(Median("c", 5_000),))
    ),
}


def read(given: Any) -> Evidence:
    return from_plain(Evidence, given)


def run_score(given: Any) -> Any:
    return [to_plain(one) for one in score(read(given), LOCAL)]


FUNCTIONS = {
    "evidence_digest": (lambda given: evidence_digest(read(given)), CASES),
    "capacity": (lambda given: capacity(read(given), LOCAL), CASES),
    "speed": (lambda given: speed(read(given), LOCAL), CASES),
    "availability": (lambda given: availability(read(given), LOCAL), CASES),
    "score": (
        run_score,
        {
            **CASES,
            "float_is_refused": {**to_plain(NOTHING), "bounties": [{"miner": "a", "points": 0.5}]},
        },
    ),
}
