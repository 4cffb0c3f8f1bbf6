"""Configuration: file, environment, defaults, and errors that say what to do."""

import enum
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from penstock.kit.config import ConfigInvalid, Secret, read_config


class Tier(enum.Enum):
    OPEN = "open"
    MEASURED = "measured"


@dataclass(frozen=True, slots=True)
class Gateway:
    database_url: str
    admin_token: Secret
    port: int = 8080
    home: Path = Path("penstock")
    is_public: bool = False
    tier: Tier = Tier.OPEN
    peers: tuple[str, ...] = ()
    weights: tuple[int, ...] = ()
    fallback: str | None = None
    tags: tuple[str, ...] = field(default_factory=tuple)


FILE = {"database_url": "postgresql://db", "admin_token": "t0ken"}


def read(file: dict[str, Any] | None = None, **env: str) -> Gateway:
    return read_config(
        Gateway,
        file=FILE | (file or {}),
        env={"PATH": "/bin", **env},
        prefix="PENSTOCK_GATEWAY",
        source="penstock.toml",
    )


def message_of(call: Callable[[], object]) -> str:
    with pytest.raises(ConfigInvalid) as caught:
        call()
    return str(caught.value)


def test_what_the_file_does_not_say_has_its_default() -> None:
    assert read() == Gateway(database_url="postgresql://db", admin_token=Secret("t0ken"))


def test_every_type_is_read_from_the_file() -> None:
    config = read(
        {
            "port": 1,
            "home": "/srv/penstock",
            "is_public": True,
            "tier": "measured",
            "peers": ["a", "b"],
            "weights": [1, 2],
            "fallback": "x",
        }
    )
    assert (config.port, config.home, config.is_public) == (1, Path("/srv/penstock"), True)
    assert (config.tier, config.peers, config.weights) == (Tier.MEASURED, ("a", "b"), (1, 2))
    assert config.fallback == "x"


def test_every_type_is_read_from_the_environment_which_wins() -> None:
    config = read(
        {"port": 1, "is_public": False, "tier": "open", "peers": ["a"]},
        PENSTOCK_GATEWAY_PORT="9_000",
        PENSTOCK_GATEWAY_HOME="/srv",
        PENSTOCK_GATEWAY_IS_PUBLIC="yes",
        PENSTOCK_GATEWAY_TIER="measured",
        PENSTOCK_GATEWAY_PEERS="b, c,",
        PENSTOCK_GATEWAY_WEIGHTS="3,4",
        PENSTOCK_GATEWAY_FALLBACK="y",
        PENSTOCK_GATEWAY_ADMIN_TOKEN="other",
    )
    assert (config.port, config.home, config.is_public) == (9000, Path("/srv"), True)
    assert (config.tier, config.peers, config.weights) == (Tier.MEASURED, ("b", "c"), (3, 4))
    assert (config.fallback, config.admin_token.value) == ("y", "other")


def test_a_key_that_nobody_knows_is_named_with_the_file_and_the_known_ones() -> None:
    message = message_of(lambda: read({"prot": 1}))
    assert "prot: there is no such key" in message
    assert "penstock.toml" in message
    assert "port" in message


def test_a_variable_that_nobody_reads_is_named_with_the_fix() -> None:
    message = message_of(lambda: read(PENSTOCK_GATEWAY_PROT="1"))
    assert "unset PENSTOCK_GATEWAY_PROT" in message


def test_variables_of_other_stations_do_not_matter() -> None:
    assert read(PENSTOCK_MINER_PORT="1", PENSTOCK_GATEWAYS="x").port == 8080


def test_what_is_missing_is_named_with_both_ways_to_give_it() -> None:
    def call() -> object:
        return read_config(
            Gateway, file={}, env={}, prefix="PENSTOCK_GATEWAY", source="penstock.toml"
        )

    message = message_of(call)
    assert "database_url: it is missing" in message
    assert "into penstock.toml or set the variable PENSTOCK_GATEWAY_DATABASE_URL" in message
    assert "admin_token: it is missing" in message


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("port", "8080", "a whole number"),
        ("port", True, "a whole number"),
        ("port", 1.5, "a whole number"),
        ("is_public", 1, "true or false"),
        ("home", "", "empty"),
        ("home", 3, "a text in quotes"),
        ("tier", "gold", "one of open, measured"),
        ("peers", "a,b", "a list"),
        ("weights", ["x"], "a whole number"),
        ("admin_token", "", "empty"),
    ],
)
def test_a_value_of_the_wrong_kind_is_named(key: str, value: object, problem: str) -> None:
    message = message_of(lambda: read({key: value}))
    assert f"{key}: " in message
    assert problem in message


@pytest.mark.parametrize(
    ("variable", "value", "problem"),
    [("PORT", "eighty", "a whole number"), ("IS_PUBLIC", "perhaps", "true or false")],
)
def test_a_variable_of_the_wrong_kind_is_named(variable: str, value: str, problem: str) -> None:
    message = message_of(lambda: read(None, **{f"PENSTOCK_GATEWAY_{variable}": value}))
    assert f"PENSTOCK_GATEWAY_{variable}: it must be {problem}" in message


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(ConfigInvalid) as caught:
        read({"prot": 1, "port": "x", "tier": "gold"})
    assert [problem.key for problem in caught.value.problems] == ["prot", "port", "tier"]


def test_a_secret_never_shows() -> None:
    config = read()
    for shown in (repr(config), str(config), f"{config.admin_token}", repr([config.admin_token])):
        assert "t0ken" not in shown
    assert config.admin_token.value == "t0ken"


def test_a_wrong_value_of_a_secret_is_not_quoted() -> None:
    message = message_of(lambda: read({"admin_token": 4711}))
    assert "4711" not in message


def test_secrets_are_equal_by_value() -> None:
    assert Secret("a") == Secret("a")
    assert Secret("a") != Secret("b")
    assert Secret("a") != "a"
    assert len({Secret("a"), Secret("a"), Secret("b")}) == 2


def test_a_secret_with_a_default_is_a_bug_of_ours() -> None:
    @dataclass(frozen=True)
    class Careless:
        token: Secret = Secret("admin")  # noqa: RUF009 - the very mistake

    with pytest.raises(AssertionError, match="must not have a default"):
        read_config(Careless, file={}, env={}, prefix="X")


def test_a_secret_that_may_be_absent_is_none() -> None:
    @dataclass(frozen=True)
    class Optional:
        token: Secret | None = None

    assert read_config(Optional, file={}, env={}, prefix="X").token is None
    given = read_config(Optional, file={}, env={"X_TOKEN": "a"}, prefix="X").token
    assert given == Secret("a")
