"""The gateway's configuration: one file, read once at start. Protocol numbers are not in it."""

from pathlib import Path

import msgspec


class KeyLimits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one API key may do at once and per second. Work is counted as docs/limits.md says."""

    parallel_max: int = 256
    requests_per_s: int = 200
    burst_max: int = 400
    work_per_s: int = 2_000_000
    work_max: int = 100_000_000
    """What may be asked for at once by one who was quiet before."""


class PayerLimits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one account may do, over all its keys."""

    parallel_max: int = 1_024
    work_per_s: int = 8_000_000
    work_max: int = 400_000_000


class AddressLimits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one client address may do: an IPv4 address, or an IPv6 /64, which many may share."""

    work_per_s: int = 16_000_000
    work_max: int = 800_000_000
    failures_per_s: int = 1
    failures_max: int = 60
    """Requests with keys that nobody knows; beyond it the ledger is not asked about new ones."""
    reads_per_s: int = 200
    reads_max: int = 2_000
    """Questions that the ledger or the store answers: receipts, balances, files and batches."""
    addresses_max: int = 100_000
    trusted_proxies: tuple[str, ...] = ()
    """Networks, such as `10.0.0.0/8`, whose `X-Forwarded-For` is believed."""


class CallerLimits(msgspec.Struct, frozen=True):
    """The three together."""

    key: KeyLimits = KeyLimits()
    payer: PayerLimits = PayerLimits()
    address: AddressLimits = AddressLimits()


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
    keepalive_ms: int = 10_000
    """A streamed client hears a comment when nothing else came for so long."""
    gather_ms: int = 2
    """A stream with more than an event a millisecond is read again at most so long after a read, and
    what came meanwhile goes on in one piece; 0: at once, at several times the cost.
    """
    seal_ms: int = 50
    """At most so long after the first unsealed order or receipt of a miner they are sealed."""
    seal_call_ms: int = 5_000
    """For one exchange of seals; it is repeated until its receipts are `seal_deadline_ms` old."""
    seal_deadline_ms: int = 30_000
    """A receipt whose seal does not come within this is none: the payer gets the charge back."""
    seal_stop_ms: int = 5_000
    """How long a gateway that stops waits for seals."""
    session_ms: int = 3_600_000
    """The life of a session with a miner; a new one is agreed on before it ends."""
    client_head_ms: int = 10_000
    """For a client to send a request's head, from its first byte."""
    client_body_ms: int = 60_000
    """For a client to send a request's body; for a form, between two parts of it."""
    client_idle_ms: int = 75_000
    """How long a connection may rest between requests."""
    drain_ms: int = 20_000
    """A gateway that stops: for running answers to end."""
    drain_idle_ms: int = 1_000
    """A gateway that stops: kept connections may ask once more within this, and are then closed."""
    flush_ms: int = 10_000


class Bounds(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Bounds of everything that grows."""

    running_max: int = 8_192
    """Requests under way at once, over all callers; more are told to come again."""
    connections_max: int = 16_384
    bodies_bytes_max: int = 1 << 30
    """Of all connections together: bodies that arrive, wait, or are being answered."""
    head_bytes_max: int = 65_536
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
    peers_max: int = 10_000
    """Miners with which sessions are kept."""
    unsealed_max: int = 4_096
    """Ended orders of one miner that wait for its seals; beyond it the miner is passed over."""
    hedge_ppm: int = 0
    """Of requests: how many may be sent to a second instance when the first is late to answer."""
    lease_idle_ms: int = 60_000


class Telemetry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Spans for OpenTelemetry (docs/observe.md). Needs the extra `penstock[otel]`."""

    endpoint: str = ""
    """Where spans go, by OTLP over HTTP: `http://collector:4318/v1/traces`. "": nowhere."""
    service_name: str = "penstock-gateway"
    sample_ppm: int = 10_000
    """Of requests whose caller brings no trace of its own; who does decides by its `traceparent`."""
    queue_max: int = 2_048
    """Spans that wait to be sent; beyond it they are dropped."""
    export_ms: int = 10_000
    """For one call of the collector."""


class StoreBounds(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Bounds of uploaded files."""

    file_bytes_max: int = 100 << 20
    account_bytes_max: int = 400 << 20
    account_files_max: int = 1_000
    uploads_max: int = 16
    """That arrive at once."""
    account_uploads_max: int = 4


class TunnelConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where miners that nobody can dial open reverse connections to this gateway (docs/nat.md)."""

    host: str = ""
    """Where to listen; "": where the gateway does."""
    port: int = 0
    """The first worker's; the next worker has the next port, and one more is for renewals. 0: none."""
    public_host: str = ""
    """What miners dial; "": the host by which they know the gateway."""
    greeting_max: int = 256
    """Connections that have not proven yet who they are."""
    node_links_max: int = 512
    """Of one node of a miner, at each worker."""
    links_max: int = 8_192
    """Of all miners, at each worker."""
    wait_ms: int = 5_000
    """For a connection of a node to become free; then another miner is asked."""


class BatchBounds(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Bounds and times of batches."""

    lines_max: int = 50_000
    window_s: int = 86_400
    """How long a batch may take."""
    account_open_max: int = 20
    """Batches of one account that have not ended."""
    running_max: int = 4
    """Batches that this gateway runs at once."""
    parallel_max: int = 16
    """Lines of one batch on their way at once."""
    parallel_all_max: int = 48
    """Lines of all batches of this gateway."""
    answer_bytes_max: int = 8 << 20
    output_bytes_max: int = 256 << 20
    hold_ms: int = 15_000
    """A gateway that renews its hold on a batch no more has lost it after this long."""
    beat_ms: int = 3_000
    scan_ms: int = 5_000
    quiet_ms: int = 2_000
    """A chute that nobody asked for this long may use an instance's last room for a batch."""
    settle_ms: int = 3_000
    """After the start: until the directory is complete."""


class GatewayConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file given to `--config`. Secrets stand in files that only the operator can read."""

    name: str
    market_url: str
    nats_url: str
    key_file: str
    tag_secret_file: str
    operator: str = ""
    """The operator's identity; empty trusts the market's word on first contact."""
    market_public_url: str = ""
    """Where miners reach the market, told at `GET /market`; "": at `market_url`."""
    host: str = "127.0.0.1"
    port: int = 8080
    tls_certificate_file: str = ""
    """PEM: the certificate and its chain. With it the port speaks HTTPS only."""
    tls_key_file: str = ""
    """PEM: the certificate's key, without a passphrase, readable by its owner only."""
    workers: int = 0
    """Processes that share the port; each has a name and a key of its own, and there is one spare (see
    docs/operate.md). 0: this process serves by itself.
    """
    telemetry: Telemetry = Telemetry()
    log_json: bool = True
    key_limits: KeyLimits = KeyLimits()
    payer_limits: PayerLimits = PayerLimits()
    address_limits: AddressLimits = AddressLimits()
    deadlines: Deadlines = Deadlines()
    bounds: Bounds = Bounds()
    store: StoreBounds = StoreBounds()
    batches: BatchBounds = BatchBounds()
    tunnel: TunnelConfig = TunnelConfig()
    aliases: dict[str, str] = {}
    """Names that stand for model strings: `"fast": "a/b:nitro, c/d"`."""


WORKERS_MAX = 256


def as_worker(config: GatewayConfig, number: int) -> GatewayConfig:
    """The configuration of one of several processes: the first has the gateway's own name and key file,
    the others `name-2` and `key-2.json`, and so on.
    """
    if number == 1:
        return config
    key_file = Path(config.key_file)
    return msgspec.structs.replace(
        config,
        name=f"{config.name}-{number}",
        key_file=str(key_file.with_name(f"{key_file.stem}-{number}{key_file.suffix}")),
    )


def read_config(path: Path) -> GatewayConfig:
    """Raises OSError, and msgspec.DecodeError with the place of what is wrong."""
    config = msgspec.json.decode(path.read_bytes(), type=GatewayConfig)
    if bool(config.tls_certificate_file) != bool(config.tls_key_file):
        raise msgspec.ValidationError("tls_certificate_file and tls_key_file go together")
    if not 0 <= config.workers <= WORKERS_MAX:
        raise msgspec.ValidationError(f"workers must be in 0..{WORKERS_MAX}")
    return config
