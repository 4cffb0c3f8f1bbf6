"""Pricing: what units cost, the ceiling before, and who gets which part."""

from typing import Any

from penstock.spec.canon import from_plain, to_plain
from penstock.spec.params import MAINNET
from penstock.spec.pricing import charge_ceiling, cost, is_within, split_charge
from penstock.spec.units import FREE, Price, Units

PRICE = Price(request=7, prompt=50_000, cached=10_000, completion=200_000, images=3, audio_ms=1)


def run_cost(given: Any) -> int:
    return cost(from_plain(Price, given["price"]), from_plain(Units, given["units"]))


def run_charge_ceiling(given: Any) -> int:
    return charge_ceiling(
        from_plain(Price, given["price"]),
        prompt_max=given["prompt_max"],
        completion_max=given["completion_max"],
        images_max=given.get("images_max", 0),
        audio_ms_max=given.get("audio_ms_max", 0),
    )


def run_split_charge(given: Any) -> Any:
    return to_plain(split_charge(given["charge_nano"], MAINNET.fees))


def run_is_within(given: Any) -> bool:
    return is_within(from_plain(Price, given["price"]), from_plain(Price, given["ceiling"]))


def units(prompt: int, cached: int, completion: int) -> Any:
    return {
        "prompt": prompt,
        "cached": cached,
        "completion": completion,
        "images": 0,
        "audio_ms": 0,
    }


def priced(given: dict[str, Any], **changes: int) -> Any:
    return {"price": {**to_plain(PRICE), **changes}, **given}


FUNCTIONS = {
    "cost": (
        run_cost,
        {
            "nothing_costs_the_request": priced({"units": units(0, 0, 0)}),
            "one_unit_is_rounded_up": priced({"units": units(1, 0, 0)}),
            "cached_units_cost_less": priced({"units": units(1_000, 900, 0)}),
            "rounded_once_on_the_sum": priced({"units": units(19, 0, 1)}),
            "free": {"price": to_plain(FREE), "units": units(10**6, 0, 10**6)},
            "fraction_is_refused": priced({"units": {**units(1, 0, 0), "prompt": 0.5}}),
        },
    ),
    "charge_ceiling": (
        run_charge_ceiling,
        {
            "both_kinds": priced({"prompt_max": 1_000, "completion_max": 256}),
            "the_dearer_of_prompt_and_cached": priced(
                {"prompt_max": 1_000, "completion_max": 0}, cached=60_000
            ),
            "with_images_and_audio": priced(
                {"prompt_max": 1, "completion_max": 0, "images_max": 4, "audio_ms_max": 60_000},
                images=40_000_000_000_000,
                audio_ms=100_000_000,
            ),
            "beyond_64_bits": priced(
                {"prompt_max": 2**31, "completion_max": 2**31}, completion=2**53 - 1
            ),
        },
    ),
    "split_charge": (
        run_split_charge,
        {f"of_{nano}": {"charge_nano": nano} for nano in (0, 1, 9, 10, 101, 10**15 - 1)},
    ),
    "is_within": (
        run_is_within,
        {
            "equal": {"price": to_plain(PRICE), "ceiling": to_plain(PRICE)},
            "one_part_above": {"price": to_plain(PRICE), "ceiling": priced({}, cached=1)["price"]},
        },
    ),
}
