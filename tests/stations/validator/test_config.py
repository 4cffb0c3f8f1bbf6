"""The configuration: what it needs, and words for what is wrong."""

import json
from pathlib import Path
from typing import Any

import pytest

from penstock.validator.config import parse_config, read_config
from penstock.validator.errors import ConfigInvalid

GOOD: dict[str, Any] = {
    "name": "validator-1",
    "gateway_url": "http://127.0.0.1:1",
    "market_url": "http://127.0.0.1:2",
    "ledger_url": "https://ledger.example",
    "api_key_file": "key",
    "key_file": "seed.json",
    "home": "home",
}


def test_a_configuration_needs_names_and_addresses_only() -> None:
    config = parse_config(json.dumps(GOOD).encode(), place="here")
    assert (config.port, config.operator) == (0, "")
    assert config.bounds.probes_per_epoch_max > 0


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"name": "Validator 1"}, "name"),
        ({"name": 5}, "name"),
        ({"ledger_url": "ledger"}, "ledger_url"),
        ({"prot": 1}, "prot"),
        ({"bounds": {"probes_parallel_max": 0}}, "probes_parallel_max"),
        ({"bounds": {"probes_per_epoch_max": -1}}, "probes_per_epoch_max"),
        ({"deadlines": {"probe_ms": "1"}}, "probe_ms"),
    ],
)
def test_what_is_wrong_is_named(change: dict[str, Any], word: str) -> None:
    with pytest.raises(ConfigInvalid) as caught:
        parse_config(json.dumps({**GOOD, **change}).encode(), place="here")
    assert word in str(caught.value)
    assert "here" in str(caught.value)


@pytest.mark.parametrize("name", sorted(GOOD))
def test_what_is_missing_is_named(name: str) -> None:
    lacking = {key: value for key, value in GOOD.items() if key != name}
    with pytest.raises(ConfigInvalid) as caught:
        parse_config(json.dumps(lacking).encode(), place="here")
    assert name in caught.value.reason


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid) as caught:
        read_config(tmp_path / "none.json")
    assert "none.json" in str(caught.value)
