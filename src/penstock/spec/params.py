"""Every number of the protocol, by network. A network is a name; its numbers are never configured.

A change here is a change of the law: it needs an ADR, new vectors and a changelog line.
"""

from dataclasses import dataclass

from penstock.spec.canon import digest, to_plain
from penstock.spec.units import PPM


@dataclass(frozen=True, slots=True)
class Weights:
    """Scoring policy v1: the published promise. The four parts add up to one whole (ppm)."""

    capacity_ppm: int
    speed_ppm: int
    availability_ppm: int
    bounties_ppm: int


@dataclass(frozen=True, slots=True)
class FeeSplit:
    """Where a charge goes. `pool_ppm` is the buyback share: it is paid out by score each epoch."""

    miner_ppm: int
    operator_ppm: int
    pool_ppm: int


@dataclass(frozen=True, slots=True)
class Params:
    """One network's numbers."""

    network: str
    policy: str
    epoch_ms: int
    window_epochs: int
    close_grace_ms: int
    """How long after its end an epoch is closed: late receipts still count in it."""
    report_deadline_ms: int
    """How long after an epoch's close validators may report before it is settled without them."""
    weights: Weights
    fees: FeeSplit
    standby_ppm: int
    """Standby time of instances the market asked for counts at this rate."""
    refusal_free_ms: int
    """A refusal within this time does not count against availability."""
    speed_ratio_max_ppm: int
    beat_ms: int
    """How often an instance renews its offer."""
    offer_ttl_ms: int
    clock_skew_max_ms: int
    order_ttl_ms: int
    claim_grace_ms: int
    """A miner claims a receipt its gateway did not deliver after this long."""
    lease_ttl_ms: int
    lease_amount_nano: int
    checkpoint_events: int
    """A stream carries a signed checkpoint every this many events."""
    entity_stake_max_ppm: int
    kappa_ppm: int
    work_prompt: int
    work_cached: int
    work_completion: int
    """Work units per prompt, cached and completion token (capacity and speed count these)."""
    utilisation_low_ppm: int
    utilisation_high_ppm: int
    price_step_ppm: int
    price_min_ppm: int
    price_max_ppm: int
    bounty_points: int
    sample_ppm: int
    """Share of an epoch's records that validators re-check after the checkpoint."""


MAINNET = Params(
    network="mainnet",
    policy="v1",
    epoch_ms=3_600_000,
    window_epochs=168,
    close_grace_ms=60_000,
    report_deadline_ms=900_000,
    weights=Weights(
        capacity_ppm=550_000, speed_ppm=200_000, availability_ppm=200_000, bounties_ppm=50_000
    ),
    fees=FeeSplit(miner_ppm=700_000, operator_ppm=100_000, pool_ppm=200_000),
    standby_ppm=300_000,
    refusal_free_ms=100,
    speed_ratio_max_ppm=2 * PPM,
    beat_ms=5_000,
    offer_ttl_ms=20_000,
    clock_skew_max_ms=2_000,
    order_ttl_ms=600_000,
    claim_grace_ms=120_000,
    lease_ttl_ms=300_000,
    lease_amount_nano=5_000_000_000,
    checkpoint_events=64,
    entity_stake_max_ppm=300_000,
    kappa_ppm=500_000,
    work_prompt=1,
    work_cached=0,
    work_completion=8,
    utilisation_low_ppm=300_000,
    utilisation_high_ppm=700_000,
    price_step_ppm=50_000,
    price_min_ppm=500_000,
    price_max_ppm=2_000_000,
    bounty_points=100,
    sample_ppm=20_000,
)

LOCAL = Params(
    network="local",
    policy="v1",
    epoch_ms=60_000,
    window_epochs=10,
    close_grace_ms=2_000,
    report_deadline_ms=20_000,
    weights=MAINNET.weights,
    fees=MAINNET.fees,
    standby_ppm=300_000,
    refusal_free_ms=100,
    speed_ratio_max_ppm=2 * PPM,
    beat_ms=1_000,
    offer_ttl_ms=4_000,
    clock_skew_max_ms=2_000,
    order_ttl_ms=120_000,
    claim_grace_ms=8_000,
    lease_ttl_ms=30_000,
    lease_amount_nano=1_000_000_000,
    checkpoint_events=64,
    entity_stake_max_ppm=300_000,
    kappa_ppm=500_000,
    work_prompt=1,
    work_cached=0,
    work_completion=8,
    utilisation_low_ppm=300_000,
    utilisation_high_ppm=700_000,
    price_step_ppm=50_000,
    price_min_ppm=500_000,
    price_max_ppm=2_000_000,
    bounty_points=100,
    sample_ppm=200_000,
)

NETWORKS = {params.network: params for params in (MAINNET, LOCAL)}

for _params in NETWORKS.values():
    _w, _f = _params.weights, _params.fees
    assert _w.capacity_ppm + _w.speed_ppm + _w.availability_ppm + _w.bounties_ppm == PPM
    assert _f.miner_ppm + _f.operator_ppm + _f.pool_ppm == PPM


def params_digest(params: Params) -> str:
    """Hex digest of a network's numbers; named in the charter so that everyone counts alike."""
    return digest("params", to_plain(params)).hex()
