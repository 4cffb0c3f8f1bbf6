"""What the market shows: the catalogue, the targets and the miners, as plain values."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from penstock.market.offers import Live
from penstock.market.ports import Chute
from penstock.market.service import Market
from penstock.spec.canon import to_plain
from penstock.spec.keys import Signed
from penstock.spec.messages import Target


@dataclass(frozen=True, slots=True)
class Info:
    """Who runs this market, as `GET /v1/info` tells it."""

    charter: Signed
    delegations: tuple[Signed, ...]
    ledger_url: str
    gateway_urls: tuple[str, ...]


def info_view(info: Info, now_ms: int) -> dict[str, Any]:
    """The body of `GET /v1/info`; `now_ms` lets others correct their clocks."""
    return {
        "charter": to_plain(info.charter),
        "delegations": [to_plain(one) for one in info.delegations],
        "now_ms": now_ms,
        "ledger_url": info.ledger_url,
        "gateway_urls": list(info.gateway_urls),
    }


def chutes_view(market: Market) -> list[dict[str, Any]]:
    """The newest chute of every name and older ones that are still served, by name, then age."""
    targets: Mapping[str, Target] = (
        {} if market.targets is None else {one.chute: one for one in market.targets.targets}
    )
    shown = [
        one
        for one in market.catalogue.all()
        if market.catalogue.is_newest(one) or market.offers.serving(one.chute)
    ]
    shown.sort(key=lambda one: one.manifest.name)  # a stable sort: age decides within a name
    return [_chute_view(market, one, targets.get(one.chute)) for one in shown]


def _chute_view(market: Market, one: Chute, target: Target | None) -> dict[str, Any]:
    return {
        "chute": one.chute,
        "name": one.manifest.name,
        "manifest": to_plain(one.signed),
        "target": None if target is None else to_plain(target),
        "serving": len(market.offers.serving(one.chute)),
    }


def targets_view(market: Market) -> dict[str, Any]:
    """The body of `GET /v1/targets`: all that a miner needs to choose what to host."""
    signed = market.signed_targets
    return {
        "targets": None if signed is None else to_plain(signed),
        "chutes": chutes_view(market),
        "miners": market.offers.miners,
    }


def miners_view(market: Market) -> dict[str, Any]:
    """The body of `GET /v1/miners`: every live instance by miner."""
    miners: dict[str, list[dict[str, Any]]] = {}
    owners: dict[str, str] = {}
    for live in sorted(market.offers, key=lambda live: (live.offer.miner, live.offer.instance)):
        owners[live.offer.miner] = live.owner
        miners.setdefault(live.offer.miner, []).append(_instance_view(market, live))
    return {
        "miners": [
            {"miner": miner, "owner": owners[miner], "instances": instances}
            for miner, instances in miners.items()
        ]
    }


def _instance_view(market: Market, live: Live) -> dict[str, Any]:
    offer = live.offer
    return {
        "instance": offer.instance,
        "chute": offer.chute,
        "name": market.catalogue.get(offer.chute).manifest.name,
        "room": offer.room,
        "tier": offer.tier.value,
        "hardware": offer.hardware,
        "price": to_plain(offer.price),
        "valid_until_ms": offer.valid_until_ms,
    }


def health_view(market: Market) -> dict[str, Any]:
    """The body of `GET /health`; `waiting` epochs are not in the database yet."""
    return {
        "status": "ok" if not market.waiting else "degraded",
        "epoch": market.epoch,
        "chutes": len(market.catalogue),
        "instances": len(market.offers),
        "waiting": market.waiting,
    }
