"""A miner's frame on terminals of 80 and 120 columns: nothing is folded, nothing important is lost."""

import io
from typing import Any

import pytest
from rich.console import Console
from tests.cli.agents import CARD, INSTANCE, SUM, frame_of

from penstock.cli.miner_summary import price_words, reached
from penstock.cli.miner_view import frame_view

BUSY = [
    INSTANCE,
    {
        **INSTANCE,
        "instance": "miner-2-1f1f1f1f",
        "name": "a-chute-with-a-rather-long-name-of-its-own",
        "state": "failed",
        "why": "Engine ended with status 1.\nOut of memory. " * 5,
        "slots": ["GPU-0123456789", "GPU-9876543210"],
    },
]


def drawn(frame: dict[str, Any], columns: int) -> list[str]:
    out = Console(
        file=io.StringIO(), width=columns, highlight=False, color_system=None, soft_wrap=False
    )
    out.print(frame_view(frame, columns=columns))
    assert isinstance(out.file, io.StringIO)
    return out.file.getvalue().splitlines()


@pytest.mark.parametrize("columns", [80, 120])
def test_a_full_frame_fits(columns: int) -> None:
    frame = frame_of(gpus=[CARD, CARD], instances=BUSY, problems=["the clock is off"])
    lines = drawn(frame, columns)
    assert max(map(len, lines)) <= columns
    text = "\n".join(lines)
    for wanted in ("73 %", "61.0/80 GiB", "412/700 W", "64 °C", "failed", "Engine ended", "2/4"):
        assert wanted in text, wanted
    for wanted in ("17.5 out", "cache hits 31 %", "24 h", "7 days", "! the clock is off"):
        assert wanted in text, wanted


def test_a_wide_terminal_shows_more() -> None:
    frame = frame_of(instances=BUSY)
    assert "miner-2-1f1f1f1f" in "\n".join(drawn(frame, 120))
    assert "miner-2-1f1f1f1f" not in "\n".join(drawn(frame, 80))


def test_what_is_not_known_is_a_dash_and_not_a_nought() -> None:
    bare = {**CARD, "busy_ppm": None, "memory_used_bytes": None, "power_mw": None}
    bare["temperature_mc"] = None
    frame = frame_of(gpus=[bare])
    frame["rates"]["cached_ppm"] = None
    text = "\n".join(drawn(frame, 120))
    assert "cache hits -" in text
    (line,) = [one for one in drawn(frame, 120) if "H100" in one]
    assert line.split()[-2:] == ["-", "-"]


def test_losses_are_shown_as_losses() -> None:
    (line,) = [one for one in drawn(frame_of(), 120) if one.startswith("7 days")]
    assert "-$0.005" in line
    (day,) = [one for one in drawn(frame_of(), 120) if one.startswith("24 h")]
    assert SUM["gross_nano"] == 1_234_567
    assert "$0.001234 " in day, "cut, not rounded up"


def test_an_idle_miner_says_why() -> None:
    text = "\n".join(drawn(frame_of(instances=[], status="idle"), 80))
    assert "lacks nothing" in text
    window = {"from_ms": 0, "until_ms": 1_800_000_000_000, "is_on": True}
    text = "\n".join(drawn(frame_of(instances=[], maintenance=window), 80))
    assert "no instances: in maintenance" in text
    assert "in maintenance until" in text


def test_an_owner_of_his_own_and_a_name_are_shown() -> None:
    owner = "sr25519:" + "ab" * 32
    head = drawn(frame_of(owner=owner, name="cellar"), 120)[0]
    assert "for sr25519:abab" in head
    assert "penstock miner cellar" in head


@pytest.mark.parametrize(
    ("price", "words"),
    [
        ({"prompt": 50_000_000, "completion": 200_000_000}, "$0.05/M in, $0.20/M out"),
        ({"request": 1_000_000}, "$0.001 a request"),
        ({"audio_ms": 16_666_667}, "$0.001 a minute"),
        ({"images": 5_000_000_000_000}, "$0.005 a step of an image"),
        ({}, "-"),
    ],
)
def test_prices_are_said_in_the_units_that_people_count_in(
    price: dict[str, int], words: str
) -> None:
    assert price_words(price) == words


def test_how_gateways_come_here() -> None:
    assert "no open port" in reached("tunnel:abc")
    assert reached("http://me:1") == "at http://me:1"
