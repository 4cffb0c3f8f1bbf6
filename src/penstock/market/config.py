"""The market's configuration: one JSON or TOML file, read once at start.

Protocol numbers are not in it. Secrets stand in files of their own that only the operator can read.
"""

from pathlib import Path

import msgspec


class Bounds(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Bounds of everything that grows."""

    chutes_max: int = 2_000
    """All of them stand in one Targets message of the bus."""
    owner_chutes_max: int = 500
    instances_max: int = 20_000
    miners_max: int = 5_000
    miner_instances_max: int = 512
    device_instances_max: int = 32
    """Instances that one agent offers on one device."""
    device_hold_ms: int = 600_000
    """How long a card is held for an agent whose offers ran out."""
    miner_presences_max: int = 2_048
    """Presences of one miner in one epoch: an instance that changes its device is another one."""
    counters_max: int = 100_000
    body_bytes_max: int = 1 << 18
    connections_max: int = 8_192


class Proven(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A device whose hardware this operator has verified."""

    miner: str
    device: str
    hardware: str


class MarketConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file given to `--config`."""

    network: str
    nats_url: str
    key_file: str
    charter_file: str
    """`{"charter": Signed Charter, "delegations": [Signed Delegation]}`."""
    ledger_url: str
    gateway_urls: tuple[str, ...]
    database_url: str = ""
    database_url_file: str = ""
    """Instead of `database_url`, when the URL holds a password."""
    host: str = "127.0.0.1"
    port: int = 8090
    log_json: bool = True
    sponsors: tuple[str, ...] | None = None
    """Owners whose `instances_min` the market stands by (it is paid from the pool); None: all."""
    proven: tuple[Proven, ...] = ()
    bounds: Bounds = Bounds()
    drain_ms: int = 10_000

    def __post_init__(self) -> None:
        if bool(self.database_url) == bool(self.database_url_file):
            raise ValueError("give either database_url or database_url_file")


def read_config(path: Path) -> MarketConfig:
    """Raises OSError, and msgspec.DecodeError with the place of what is wrong."""
    if path.suffix == ".toml":
        return msgspec.toml.decode(path.read_bytes(), type=MarketConfig)
    return msgspec.json.decode(path.read_bytes(), type=MarketConfig)
