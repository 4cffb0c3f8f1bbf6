"""The market as this miner sees it: which chutes there are, how many are wanted, and who serves.

Read from the market's public answers and believed only as far as it is signed: a manifest must hold
under its owner's key and have the id under which it is listed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from penstock.miner.choosing import Demand
from penstock.miner.placement import ChuteView
from penstock.spec.errors import SpecError
from penstock.spec.keys import Verify, open_signed, parse_signed
from penstock.spec.messages import Manifest, check_manifest, chute_id
from penstock.spec.units import PPM

CHUTES_MAX = 10_000
INSTANCES_MAX = 200_000


@dataclass(frozen=True, slots=True)
class MarketView:
    """`price_ppm` is the market's multiplier by chute; a chute without a target has none."""

    chutes: tuple[ChuteView, ...] = ()
    miners: tuple[str, ...] = ()
    price_ppm: Mapping[str, int] = field(default_factory=dict)
    demand: Mapping[str, Demand] = field(default_factory=dict)

    def multiplier(self, chute: str) -> int:
        """The price multiplier of a chute, one whole where the market set none."""
        return self.price_ppm.get(chute, PPM)


def read_view(
    targets: Mapping[str, Any],
    miners: Mapping[str, Any],
    *,
    known: Mapping[str, Manifest],
    verify: Verify,
) -> MarketView:
    """From the answers of `/v1/targets` and `/v1/miners`; entries that do not hold are left out.

    `known` are manifests by chute that were checked before: an id is a digest, so they still hold.
    """
    servers = _servers(miners)
    chutes: list[ChuteView] = []
    price_ppm: dict[str, int] = {}
    demand: dict[str, Demand] = {}
    for value in _list(targets.get("chutes"))[:CHUTES_MAX]:
        listed: dict[str, Any] = value if isinstance(value, dict) else {}
        chute = listed.get("chute")
        if not isinstance(chute, str):
            continue
        manifest = known.get(chute) or _manifest(listed, verify)
        if manifest is None:
            continue
        target = listed.get("target")
        said: dict[str, Any] = target if isinstance(target, dict) else {}
        wanted, multiplier = _target(said)
        price_ppm[chute] = multiplier
        demand[chute] = _demand(said, multiplier)
        chutes.append(
            ChuteView(
                chute=chute,
                manifest=manifest,
                wanted_instances=wanted,
                servers=tuple(servers.get(chute, ())),
            )
        )
    identities = [one for one in _list(targets.get("miners")) if isinstance(one, str)]
    return MarketView(
        chutes=tuple(chutes), miners=tuple(identities), price_ppm=price_ppm, demand=demand
    )


def _manifest(listed: Mapping[str, Any], verify: Verify) -> Manifest | None:
    try:
        signed = parse_signed(listed.get("manifest"))
        manifest = open_signed(Manifest, signed, kind="manifest", verify=verify)
        check_manifest(manifest)
    except SpecError:
        return None
    is_listed = chute_id(manifest) == listed.get("chute") and signed.signer == manifest.owner
    return manifest if is_listed else None


def _target(target: Mapping[str, Any]) -> tuple[int, int]:
    """(instances wanted, price multiplier); none wanted where nothing sensible is said."""
    wanted, multiplier = target.get("instances"), target.get("price_ppm")
    return (
        wanted if type(wanted) is int and wanted > 0 else 0,
        multiplier if type(multiplier) is int and multiplier > 0 else PPM,
    )


def _demand(target: Mapping[str, Any], price_ppm: int) -> Demand:
    def count(name: str) -> int:
        value = target.get(name)
        return value if type(value) is int and value > 0 else 0

    return Demand(
        price_ppm=price_ppm,
        bounty_points=count("bounty_points"),
        requests=count("requests"),
        refused=count("refused"),
        busy_us=count("busy_us"),
    )


def _servers(miners: Mapping[str, Any]) -> dict[str, list[str]]:
    """Chute -> the miner of each live instance."""
    servers: dict[str, list[str]] = {}
    seen = 0
    for listed in _list(miners.get("miners")):
        if not isinstance(listed, dict) or not isinstance(listed.get("miner"), str):
            continue
        for instance in _list(listed.get("instances")):
            seen += 1
            if seen > INSTANCES_MAX:
                return servers
            if isinstance(instance, dict) and isinstance(instance.get("chute"), str):
                servers.setdefault(instance["chute"], []).append(listed["miner"])
    return servers


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []
