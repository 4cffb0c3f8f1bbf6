"""Streams: which counts an order allows, and the most that bytes can hold."""

from dataclasses import replace
from typing import Any

from penstock.spec.canon import from_plain, to_plain
from penstock.spec.messages import Order
from penstock.spec.stream import check_units, completion_units_max
from penstock.spec.units import FREE, Units

ORDER = Order(
    order_id="o-" + "00" * 16,
    gateway="ed25519:" + "01" * 32,
    miner="ed25519:" + "02" * 32,
    instance="m-1",
    chute="sha256:" + "cd" * 32,
    payer_tag="p",
    path="/v1/chat/completions",
    stream=True,
    request_digest="ab" * 32,
    price=FREE,
    prompt_max=100,
    completion_max=50,
    images_max=0,
    audio_ms_max=0,
    charge_max=0,
    issued_ms=1_000,
    deadline_ms=61_000,
    seed=7,
    nonce="n",
    decision_digest="",
)
MEDIA = replace(ORDER, images_max=4, audio_ms_max=9_000)


def run_check_units(given: Any) -> Any:
    units = from_plain(Units, given["units"])
    check_units(units, from_plain(Order, given["order"]))
    return to_plain(units)


def run_completion_units_max(given: Any) -> int:
    return completion_units_max(events=given["events"], content_bytes=given["content_bytes"])


def counted(*counts: int, order: Order = ORDER) -> Any:
    return {"units": to_plain(Units(*counts)), "order": to_plain(order)}


FUNCTIONS = {
    "check_units": (
        run_check_units,
        {
            "at_both_ceilings": counted(100, 100, 50, 0, 0),
            "nothing": counted(0, 0, 0, 0, 0),
            "prompt_above_its_ceiling": counted(101, 0, 0, 0, 0),
            "completion_above_its_ceiling": counted(1, 0, 51, 0, 0),
            "more_cached_than_prompt": counted(1, 2, 1, 0, 0),
            "negative": counted(-1, -2, 1, 0, 0),
            "images_without_a_ceiling": counted(1, 0, 1, 1, 0),
            "audio_without_a_ceiling": counted(1, 0, 1, 0, 1),
            "media_at_their_ceilings": counted(1, 0, 1, 4, 9_000, order=MEDIA),
            "images_above_their_ceiling": counted(1, 0, 1, 5, 0, order=MEDIA),
            "audio_above_its_ceiling": counted(1, 0, 1, 0, 9_001, order=MEDIA),
        },
    ),
    "completion_units_max": (
        run_completion_units_max,
        {
            "by_bytes": {"events": 3, "content_bytes": 12},
            "by_events": {"events": 3, "content_bytes": 0},
        },
    ),
}
