"""The ledger's configuration: one JSON or TOML file, read once at start.

Protocol numbers are not in it. Secrets stand in files of their own that only the operator can read.
"""

from pathlib import Path

import msgspec

from penstock.spec.params import NETWORKS


class Bounds(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Bounds of everything that grows."""

    body_bytes_max: int = 4 << 20
    """256 claims are about a megabyte, a verdict's transcript at most 88 kB."""
    connections_max: int = 4_096


class LedgerConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file given to `--config`."""

    network: str
    nats_url: str
    key_file: str
    """The log's key; made on first use."""
    charter_file: str
    """`{"charter": Signed Charter, ...}`; other fields are left alone."""
    public: str
    """The folder of the published files."""
    database_url: str = ""
    database_url_file: str = ""
    """Instead of `database_url`, when the URL holds a password."""
    host: str = "127.0.0.1"
    port: int = 8091
    log_json: bool = True
    bounds: Bounds = Bounds()
    drain_ms: int = 10_000

    def __post_init__(self) -> None:
        """What a type cannot say. Raises ValueError, which msgspec reports with its place."""
        if self.network not in NETWORKS:
            raise ValueError(f"network must be one of {', '.join(sorted(NETWORKS))}")
        if bool(self.database_url) == bool(self.database_url_file):
            raise ValueError("give either database_url or database_url_file")


def read_config(path: Path) -> LedgerConfig:
    """Raises OSError, and msgspec.DecodeError with the place of what is wrong."""
    if path.suffix == ".toml":
        return msgspec.toml.decode(path.read_bytes(), type=LedgerConfig)
    return msgspec.json.decode(path.read_bytes(), type=LedgerConfig)
