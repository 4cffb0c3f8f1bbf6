"""Structured events: one line each, no secrets."""

import io
import logging
from collections.abc import Iterator

import msgspec
import pytest

from penstock.kit.log import MASK, configure, events, masked


@pytest.fixture(autouse=True)
def restore_logging() -> Iterator[None]:
    root = logging.getLogger("penstock")
    handlers, level, propagate = root.handlers[:], root.level, root.propagate
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    root.propagate = propagate


def test_a_json_line_holds_the_event_and_its_fields() -> None:
    out = io.StringIO()
    configure(as_json=True, stream=out)
    events("gateway").info("receipt.charged", receipt="r1", price_nano=5, tags=["a"])
    line = msgspec.json.decode(out.getvalue())
    at_ms = line.pop("at_ms")
    assert at_ms > 1_600_000_000_000
    assert line == {
        "level": "info",
        "station": "gateway",
        "event": "receipt.charged",
        "receipt": "r1",
        "price_nano": 5,
        "tags": ["a"],
    }


def test_plain_text_is_one_line_whatever_the_values() -> None:
    out = io.StringIO()
    configure(as_json=False, stream=out)
    events("miner").warning("probe.failed", node="n1", why="a b\nERROR forged")
    assert out.getvalue().count("\n") == 1
    assert "WARNING miner probe.failed node=n1 why='a b\\nERROR forged'" in out.getvalue()


def test_an_error_carries_its_traceback() -> None:
    out = io.StringIO()
    configure(as_json=True, stream=out)
    try:
        int("lost")
    except ValueError as error:
        events("ledger").error("post.failed", error=error, transfer="t1")
    line = msgspec.json.decode(out.getvalue())
    assert "ValueError" in line["traceback"]
    assert "lost" in line["error"]


def test_levels_below_the_configured_one_are_silent() -> None:
    out = io.StringIO()
    configure(as_json=True, level="WARNING", stream=out)
    log = events("gateway")
    log.debug("a")
    log.info("b")
    assert out.getvalue() == ""


def test_a_field_cannot_overwrite_the_event() -> None:
    out = io.StringIO()
    configure(as_json=True, stream=out)
    events("gateway").info("real", station="forged")
    assert msgspec.json.decode(out.getvalue())["station"] == "gateway"


@pytest.mark.parametrize(
    "name", ["key", "api_key", "token", "secret", "Authorization", "proxy-authorization", "cookie"]
)
def test_values_under_secret_names_are_masked(name: str) -> None:
    out = io.StringIO()
    configure(as_json=True, stream=out)
    events("gateway").info("x", **{name: "pk_very_secret", "nested": {name: ["pk_very_secret"]}})
    assert "very_secret" not in out.getvalue()
    assert out.getvalue().count(MASK) == 2


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tokens_max", "9"),
        ("token", 12),
        ("monkey", "m"),
        ("identity", "ed25519:00"),
        ("key", None),
    ],
)
def test_what_is_not_a_secret_is_shown(name: str, value: object) -> None:
    assert masked(name, value) == value
