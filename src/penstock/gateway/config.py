"""The gateway's configuration: one file, read once at start. Protocol numbers are not in it."""

from pathlib import Path

import msgspec


class KeyLimits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one API key may do at once and per second."""

    parallel_max: int = 256
    requests_per_s: int = 200
    burst_max: int = 400


class Deadlines(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How long the gateway waits, in ms. The whole of an order is bound by `params.order_ttl_ms`."""

    ask_ms: int = 2_000
    head_ms: int = 30_000
    """From sending the order to the reply's head and the first byte of a stream."""
    idle_ms: int = 30_000
    """Between two chunks."""
    reader_ms: int = 60_000
    """For the client to take a stream, all its waits together; less than an order's life."""
    cancel_wait_ms: int = 2_000
    """After a client left: how long the miner's last words are waited for."""
    trailer_ms: int = 250
    """After the receipt: how long the connection may take to become reusable."""
    drain_ms: int = 20_000
    flush_ms: int = 10_000


class Bounds(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Bounds of everything that grows."""

    body_bytes_max: int = 8 << 20
    response_bytes_max: int = 64 << 20
    keys_max: int = 100_000
    bad_keys_max: int = 10_000
    bad_key_ms: int = 5_000
    instances_max: int = 100_000
    chutes_max: int = 10_000
    records_max: int = 20_000
    """Records that wait for the bus; beyond it new requests get 503."""
    recent_max: int = 10_000
    """Ended records kept for `GET /v1/receipts/{id}`."""
    tries_max: int = 3
    lease_idle_ms: int = 60_000


class GatewayConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file given to `--config`. Secrets stand in files that only the operator can read."""

    name: str
    market_url: str
    nats_url: str
    key_file: str
    tag_secret_file: str
    operator: str = ""
    """The operator's identity; empty trusts the market's word on first contact."""
    host: str = "127.0.0.1"
    port: int = 8080
    log_json: bool = True
    key_limits: KeyLimits = KeyLimits()
    deadlines: Deadlines = Deadlines()
    bounds: Bounds = Bounds()


def read_config(path: Path) -> GatewayConfig:
    """Raises OSError, and msgspec.DecodeError with the place of what is wrong."""
    return msgspec.json.decode(path.read_bytes(), type=GatewayConfig)
