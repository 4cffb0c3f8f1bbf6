"""What stations say to each other before work is done: manifests, offers, orders, and what
validators and the market publish. Receipts have a file of their own.
"""

from dataclasses import dataclass
from enum import Enum

from penstock.spec.canon import digest, to_plain
from penstock.spec.errors import BadMessage, Expired
from penstock.spec.keys import Signed, Verify, check_identity, open_signed
from penstock.spec.tunnels import reach_of
from penstock.spec.units import CHARGE_NANO_MAX, Price

NAME_CHARS_MAX = 64
ENDPOINT_CHARS_MAX = 256
NAME_ALPHABET = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-._/")
ROOM_MAX = 100_000
PRICE_NANO_MAX = 10**12
"""1,000 USD for a request or a million units: more is a mistake."""
TOKENS_MAX = 1 << 24
"""Of a context or an answer. With `PRICE_NANO_MAX` and 128 answers at once, every ceiling of an order
stays below 2**53, so that an order can always be spelled.
"""
UNITS_MAX = 1 << 31
"""Of one order, of any kind of unit: sums over a window stay below 2**53 too."""


class Modality(Enum):
    """What a chute answers."""

    CHAT = "chat"
    EMBEDDINGS = "embeddings"
    RERANK = "rerank"
    IMAGES = "images"
    SPEECH = "speech"
    TRANSCRIPTION = "transcription"
    MODERATION = "moderation"


class Tier(Enum):
    """How far a miner's hardware is proven."""

    OPEN = "open"
    MEASURED = "measured"
    ATTESTED = "attested"


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one instance of a chute."""

    context_tokens_max: int
    output_tokens_max: int
    parallel_max: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """A chute, defined by its content. `chute_id` is its digest: other bytes are another chute."""

    name: str
    owner: str
    modality: Modality
    engine: str
    source: str
    model_digest: str
    limits: Limits
    price_max: Price
    hardware: str
    instances_min: int
    instances_max: int


def chute_id(manifest: Manifest) -> str:
    """`sha256:<hex>` of the manifest under its own domain."""
    return "sha256:" + digest("manifest", to_plain(manifest)).hex()


def is_name(name: str) -> bool:
    """Lower-case letters, digits and `-._/`, at most 64, starting with a letter or a digit."""
    return (
        0 < len(name) <= NAME_CHARS_MAX
        and name[0].isalnum()
        and all(c in NAME_ALPHABET for c in name)
    )


def check_price(price: Price) -> None:
    """Every part is in 0..PRICE_NANO_MAX. Raises BadMessage."""
    if any(not 0 <= value <= PRICE_NANO_MAX for value in to_plain(price).values()):
        raise BadMessage(kind="price", reason="a price is negative or too high")


def check_manifest(manifest: Manifest) -> None:
    """A manifest that can be served and paid for. Raises BadMessage or BadIdentity."""
    check_identity(manifest.owner)
    if not is_name(manifest.name):
        raise BadMessage(kind="manifest", reason=f"bad name {manifest.name[:80]!r}")
    limits = manifest.limits
    if min(limits.context_tokens_max, limits.output_tokens_max, limits.parallel_max) < 1:
        raise BadMessage(kind="manifest", reason="limits must be at least 1")
    if max(limits.context_tokens_max, limits.output_tokens_max) > TOKENS_MAX:
        raise BadMessage(kind="manifest", reason=f"limits go up to {TOKENS_MAX} tokens")
    if max(limits.parallel_max, manifest.instances_max) > ROOM_MAX:
        raise BadMessage(kind="manifest", reason=f"at most {ROOM_MAX} requests or instances")
    if not 0 <= manifest.instances_min <= manifest.instances_max:
        raise BadMessage(kind="manifest", reason="instances_min must be in 0..instances_max")
    check_price(manifest.price_max)


@dataclass(frozen=True, slots=True)
class Offer:
    """A miner's statement: this instance serves this chute at this price, with room, until then.

    `seq` rises with each renewal; a lower one is stale. `device` names the physical device that
    it uses, or several joined by `+` (one device counts once), `delegation` binds the signing key to `miner`.
    """

    instance: str
    miner: str
    chute: str
    endpoint: str
    price: Price
    room: int
    hardware: str
    device: str
    tier: Tier
    issued_ms: int
    valid_until_ms: int
    seq: int


def check_offer(signed: Signed, *, now_ms: int, skew_max_ms: int, verify: Verify) -> Offer:
    """A well-formed, signed, present offer. Raises a SpecError.

    Edge: valid at exactly `valid_until_ms`; issued at most `skew_max_ms` in the future.
    """
    offer = open_signed(Offer, signed, kind="offer", verify=verify)
    if offer.miner != signed.signer:
        raise BadMessage(kind="offer", reason="the signer is not the miner it names")
    if not is_name(offer.instance) or not offer.chute.startswith("sha256:"):
        raise BadMessage(kind="offer", reason="bad instance or chute")
    if not 0 <= offer.room <= ROOM_MAX or len(offer.endpoint) > ENDPOINT_CHARS_MAX:
        raise BadMessage(kind="offer", reason="room or endpoint out of bounds")
    reach_of(offer.endpoint)
    check_price(offer.price)
    if now_ms > offer.valid_until_ms:
        raise Expired(what="offer", at_ms=offer.valid_until_ms, now_ms=now_ms)
    if offer.issued_ms > now_ms + skew_max_ms:
        raise BadMessage(kind="offer", reason="issued in the future: check the miner's clock")
    return offer


@dataclass(frozen=True, slots=True)
class Order:
    """A gateway's instruction to a miner to serve one request, with the price snapshot.

    The price and the ceilings stand in the order itself, so a later change of the offer can never
    change what this request costs. `request_digest` is the hex SHA-256 of the exact body bytes.
    `images_max` and `audio_ms_max` are 0 where the answer can hold none. `decision_digest` is the hex
    digest of the routing decision that chose this instance, "" when none is kept with the record.
    """

    order_id: str
    gateway: str
    miner: str
    instance: str
    chute: str
    payer_tag: str
    path: str
    stream: bool
    request_digest: str
    price: Price
    prompt_max: int
    completion_max: int
    images_max: int
    audio_ms_max: int
    charge_max: int
    issued_ms: int
    deadline_ms: int
    seed: int
    nonce: str
    decision_digest: str


def check_order(signed: Signed, *, body_digest: str, now_ms: int, verify: Verify) -> Order:
    """An order this miner may serve now: signed by the gateway it names, for these bytes.

    Raises a SpecError. The miner also checks that the gateway is chartered, that it is itself the
    miner named, and that it has not seen the order before.
    """
    order = open_signed(Order, signed, kind="order", verify=verify)
    if order.gateway != signed.signer:
        raise BadMessage(kind="order", reason="the signer is not the gateway it names")
    check_order_terms(order, body_digest=body_digest, now_ms=now_ms)
    return order


def check_order_terms(order: Order, *, body_digest: str, now_ms: int) -> None:
    """It is for these bytes, its sums can be reckoned with, and it has not expired. Raises a SpecError.

    This is all of `check_order` but for who signed: an order under a session is sealed later.
    """
    if order.request_digest != body_digest:
        raise BadMessage(kind="order", reason="another request body")
    check_ceilings(order)
    if now_ms > order.deadline_ms:
        raise Expired(what="order", at_ms=order.deadline_ms, now_ms=now_ms)


def check_ceilings(order: Order) -> None:
    """Ceilings and price under which no charge is negative and no sum too long. Raises BadMessage."""
    ceilings = (order.prompt_max, order.completion_max, order.images_max, order.audio_ms_max)
    if min(order.charge_max, *ceilings) < 0:
        raise BadMessage(kind="order", reason="a ceiling is negative")
    if order.charge_max > CHARGE_NANO_MAX:
        raise BadMessage(kind="order", reason=f"a charge above {CHARGE_NANO_MAX}")
    if max(ceilings) > UNITS_MAX:
        raise BadMessage(kind="order", reason=f"more than {UNITS_MAX} units")
    check_price(order.price)


@dataclass(frozen=True, slots=True)
class Seat:
    """A validator in the charter, with its stake."""

    validator: str
    stake: int


@dataclass(frozen=True, slots=True)
class Charter:
    """Who runs this market, from this entry of its log on. The newest charter before an epoch's
    close governs the epoch.
    """

    origin: str
    network: str
    params_digest: str
    operator: str
    ledger: str
    market: str
    gateways: tuple[str, ...]
    seats: tuple[Seat, ...]


@dataclass(frozen=True, slots=True)
class Target:
    """How many instances of a chute the market wants, and why."""

    chute: str
    instances: int
    serving: int
    price_ppm: int
    """Reference price multiplier, in ppm of the manifest's price."""
    bounty_points: int
    requests: int
    refused: int
    busy_us: int


@dataclass(frozen=True, slots=True)
class Targets:
    """The market's demand statement for one epoch."""

    epoch: int
    targets: tuple[Target, ...]


@dataclass(frozen=True, slots=True)
class Presence:
    """One instance's heartbeats in one epoch, as the market saw them.

    `asked` is true when the instance was among those the target asked for (the first
    `target.instances` of its chute by when they came).
    """

    instance: str
    miner: str
    chute: str
    device: str
    hardware: str
    beats_seen: int
    beats_due: int
    asked: bool


@dataclass(frozen=True, slots=True)
class Roll:
    """All presences of an epoch, and the bounties claimed in it: (miner, points)."""

    epoch: int
    presences: tuple[Presence, ...]
    bounties: tuple["Claimed", ...]


@dataclass(frozen=True, slots=True)
class Claimed:
    """A bounty that a miner earned by being first to serve a wanted chute."""

    miner: str
    chute: str
    points: int


@dataclass(frozen=True, slots=True)
class Score:
    """One miner's score and its parts, all in ppm of the whole."""

    miner: str
    total_ppm: int
    capacity_ppm: int
    speed_ppm: int
    availability_ppm: int
    bounties_ppm: int


@dataclass(frozen=True, slots=True)
class Report:
    """A validator's scores for one epoch, with what they were computed from."""

    validator: str
    epoch: int
    policy: str
    log_size: int
    log_root: str
    evidence_digest: str
    scores: tuple[Score, ...]


@dataclass(frozen=True, slots=True)
class Verdict:
    """Proof that a receipt lied: the transcript is the exhibit.

    `transcript` is the response body (base64) whose SHA-256 the receipt signed; whoever reads it
    recounts the units. A verdict that does not prove itself has no effect.
    """

    validator: str
    epoch: int
    miner: str
    order_id: str
    transcript: str


@dataclass(frozen=True, slots=True)
class Payout:
    """What one identity is paid."""

    identity: str
    amount_nano: int


@dataclass(frozen=True, slots=True)
class Settlement:
    """An epoch's end: consensus weights and payouts. Payouts and reserve add up to the pool."""

    epoch: int
    reports: tuple[str, ...]
    """Signed digests of the reports that were counted, sorted."""
    weights: tuple["Weight", ...]
    pool_nano: int
    payouts: tuple[Payout, ...]
    reserve_nano: int


@dataclass(frozen=True, slots=True)
class Weight:
    """A miner's consensus share."""

    miner: str
    ppm: int
