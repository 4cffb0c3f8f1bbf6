"""Demand: targets over the local network's numbers, and who is asked."""

from typing import Any

from penstock.spec.canon import from_plain, to_plain
from penstock.spec.demand import Standing, Usage, asked, target
from penstock.spec.messages import Limits, Manifest, Modality, Target, chute_id
from penstock.spec.params import LOCAL
from penstock.spec.units import FREE

MANIFEST = Manifest(
    name="tiny-chat",
    owner="toy:0000000000000000",
    modality=Modality.CHAT,
    engine="echo",
    source="builtin:echo",
    model_digest="",
    limits=Limits(context_tokens_max=1024, output_tokens_max=256, parallel_max=4),
    price_max=FREE,
    hardware="cpu",
    instances_min=1,
    instances_max=8,
)
EPOCH_US = LOCAL.epoch_ms * 1000


def run_target(given: Any) -> Any:
    found = target(
        from_plain(Manifest, given["manifest"]),
        from_plain(Usage, given["usage"]),
        params=LOCAL,
        previous=None if given["previous"] is None else from_plain(Target, given["previous"]),
    )
    return to_plain(found)


def run_asked(given: Any) -> Any:
    standing = [from_plain(Standing, one) for one in given["standing"]]
    return list(asked(standing, given["instances"]))


def case(usage: Usage, *, instances: int | None = 2, busy_us: int = 4 * EPOCH_US) -> Any:
    previous = Target(
        chute=chute_id(MANIFEST),
        instances=instances or 0,
        serving=2,
        price_ppm=1_000_000,
        bounty_points=0,
        requests=10,
        refused=0,
        busy_us=busy_us,
    )
    return {
        "manifest": to_plain(MANIFEST),
        "usage": to_plain(usage),
        "previous": None if instances is None else to_plain(previous),
    }


FUNCTIONS = {
    "target": (
        run_target,
        {
            "first": case(Usage(0, 0, 0, 0, 4), instances=None),
            "steady": case(Usage(10, 0, 4 * EPOCH_US, 2, 4)),
            "busy": case(Usage(10, 0, 7 * EPOCH_US, 2, 4)),
            "refusals": case(Usage(10, 6, 4 * EPOCH_US, 4, 4), instances=4),
            "not_met": case(Usage(10, 6, 4 * EPOCH_US, 2, 4), instances=4),
            "idle_once": case(Usage(1, 0, 0, 2, 4)),
            "idle_twice": case(Usage(1, 0, 0, 2, 4), busy_us=0),
            "at_the_top": case(Usage(10, 10, 0, 8, 4), instances=8),
        },
    ),
    "asked": (
        run_asked,
        {
            "by_age_then_name": {
                "standing": [
                    {"instance": "b", "since_ms": 1},
                    {"instance": "a", "since_ms": 1},
                    {"instance": "c", "since_ms": 0},
                ],
                "instances": 2,
            },
            "nobody": {"standing": [], "instances": 3},
        },
    ),
}
