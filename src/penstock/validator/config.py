"""The validator's configuration: one file, read once at start. Protocol numbers are not in it."""

import re
from pathlib import Path

import msgspec

from penstock.validator.errors import ConfigInvalid

NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")


class Deadlines(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How long the validator waits, in ms."""

    peer_ms: int = 5_000
    """One question to the market or the ledger."""
    probe_ms: int = 30_000
    """One probe, from asking to its last byte."""
    drain_ms: int = 5_000


class Bounds(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Bounds of everything that grows."""

    probes_per_epoch_max: int = 12
    probes_parallel_max: int = 4
    answer_bytes_max: int = 1 << 20
    exhibits_max: int = 32
    """Transcripts of lies that wait for their record to be logged."""
    awaited_max: int = 10_000
    """Probes whose records are looked for in the log."""
    segment_bytes_max: int = 1 << 30


class ValidatorConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The file given to `--config`. Secrets stand in files that only the validator can read."""

    name: str
    gateway_url: str
    market_url: str
    ledger_url: str
    api_key_file: str
    key_file: str
    home: str
    operator: str = ""
    """The operator's identity; empty trusts the market's word on first contact."""
    host: str = "127.0.0.1"
    port: int = 0
    log_json: bool = True
    deadlines: Deadlines = Deadlines()
    bounds: Bounds = Bounds()


def read_config(path: Path) -> ValidatorConfig:
    """The configuration in this file. Raises ConfigInvalid."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigInvalid(place=str(path), reason=str(error)) from error
    return parse_config(data, place=str(path))


def parse_config(data: bytes, *, place: str) -> ValidatorConfig:
    """The configuration that these bytes spell as JSON. Raises ConfigInvalid."""
    try:
        config = msgspec.json.decode(data, type=ValidatorConfig)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigInvalid(place=place, reason=str(error)) from error
    urls = (config.gateway_url, config.market_url, config.ledger_url)
    if NAME.fullmatch(config.name) is None:
        reason = "`name` takes 1 to 32 lower-case letters, digits and hyphens"
    elif not all(url.startswith(("http://", "https://")) for url in urls):
        reason = "`gateway_url`, `market_url` and `ledger_url` start with http:// or https://"
    elif config.bounds.probes_parallel_max < 1 or config.bounds.probes_per_epoch_max < 0:
        reason = "`probes_parallel_max` is at least 1 and `probes_per_epoch_max` at least 0"
    else:
        return config
    raise ConfigInvalid(place=place, reason=reason)
