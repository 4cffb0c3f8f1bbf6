"""The market this gateway belongs to: the charter, checked once at start, and what follows from it."""

from dataclasses import dataclass
from typing import Any

import msgspec

from penstock.gateway.errors import StartRefused
from penstock.kit.ports import Verify
from penstock.spec.errors import SpecError
from penstock.spec.keys import Role, check_delegation, open_signed, parse_signed
from penstock.spec.messages import Charter
from penstock.spec.params import NETWORKS, Params, params_digest

UPDATE = "Update penstock on this machine, or ask the operator which version the market runs."


class InfoAnswer(msgspec.Struct):
    """The market's `GET /v1/info`, as far as a gateway needs it."""

    charter: dict[str, Any]
    now_ms: int
    ledger_url: str
    delegations: list[dict[str, Any]] = []


@dataclass(frozen=True, slots=True)
class Facts:
    """What holds for this gateway's whole life."""

    charter: Charter
    params: Params
    ledger_url: str
    market_now_ms: int


def read_facts(data: bytes, *, identity: str, operator: str, now_ms: int, verify: Verify) -> Facts:
    """Check `/v1/info` for the gateway with this identity.

    `operator` pins who must have signed the charter; empty trusts the first one. Raises StartRefused.
    """
    try:
        info = msgspec.json.decode(data, type=InfoAnswer)
        signed = parse_signed(info.charter)
        charter = open_signed(Charter, signed, kind="charter", verify=verify)
    except (msgspec.DecodeError, SpecError) as error:
        raise StartRefused(
            reason=f"the market's charter does not hold ({error})", remedy="Check `market_url`."
        ) from error
    if signed.signer != charter.operator or operator not in {"", charter.operator}:
        raise StartRefused(
            reason=f"the charter is signed by {signed.signer}, not by the operator",
            remedy="Check `operator` and `market_url` in the configuration.",
        )
    params = NETWORKS.get(charter.network)
    if params is None or params_digest(params) != charter.params_digest:
        raise StartRefused(
            reason=f"the market's network {charter.network!r} has other numbers than ours",
            remedy=UPDATE,
        )
    if not _is_chartered(info, charter, identity=identity, now_ms=now_ms, verify=verify):
        raise StartRefused(
            reason=f"{identity} is no gateway of the market's charter",
            remedy="Ask the operator to charter this key, then start again.",
        )
    return Facts(
        charter=charter,
        params=params,
        ledger_url=info.ledger_url.rstrip("/"),
        market_now_ms=info.now_ms,
    )


def _is_chartered(
    info: InfoAnswer, charter: Charter, *, identity: str, now_ms: int, verify: Verify
) -> bool:
    """In the charter itself, or delegated to by an owner that is."""
    if identity in charter.gateways:
        return True
    for value in info.delegations:
        try:
            delegation = check_delegation(
                parse_signed(value), role=Role.GATEWAY, now_ms=now_ms, verify=verify
            )
        except SpecError:
            continue
        if delegation.key == identity and delegation.owner in charter.gateways:
            return True
    return False
