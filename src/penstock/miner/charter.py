"""Whose orders this miner serves: the gateways of the market's charter, and their working keys.

The operator is pinned when it is first seen (or in the configuration): a market that suddenly names
another one is not believed, and the last good charter stays in force.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from penstock.miner.errors import PeerRefused
from penstock.spec.errors import SpecError
from penstock.spec.keys import Role, Verify, check_delegation, open_signed, parse_signed
from penstock.spec.messages import Charter

DELEGATIONS_MAX = 10_000


@dataclass(slots=True)
class Trust:
    """The charter in force. `operator` may be "" until the first one is seen."""

    verify: Verify
    operator: str = ""
    charter: Charter | None = None
    _keys: dict[str, int] = field(default_factory=dict)

    def learn(self, info: Mapping[str, Any], *, now_ms: int) -> None:
        """Take over the charter of the market's `/v1/info`. Raises PeerRefused; nothing changes."""
        try:
            signed = parse_signed(info.get("charter"))
            charter = open_signed(Charter, signed, kind="charter", verify=self.verify)
        except SpecError as error:
            raise _refused("bad_charter", f"its charter does not hold: {error}") from error
        if signed.signer != charter.operator:
            raise _refused("bad_charter", "its charter is not signed by the operator it names")
        if self.operator not in {"", charter.operator}:
            raise _refused(
                "operator_changed",
                f"it names {charter.operator} as its operator, but {self.operator} is trusted. If "
                "the change is right, set `operator` in the miner's configuration and restart",
            )
        delegations = info.get("delegations")
        self.operator = charter.operator
        self.charter = charter
        self._keys = self._working_keys(
            charter, delegations if isinstance(delegations, list) else [], now_ms=now_ms
        )

    def is_gateway(self, key: str, *, now_ms: int) -> bool:
        """May this key sign orders now: chartered itself, or delegated to by a chartered owner?"""
        if self.charter is None:
            return False
        return key in self.charter.gateways or now_ms <= self._keys.get(key, -1)

    def _working_keys(
        self, charter: Charter, delegations: Iterable[Any], *, now_ms: int
    ) -> dict[str, int]:
        """Working key -> its last moment. A delegation that does not hold simply gives no key."""
        keys: dict[str, int] = {}
        for value in list(delegations)[:DELEGATIONS_MAX]:
            try:
                delegation = check_delegation(
                    parse_signed(value), role=Role.GATEWAY, now_ms=now_ms, verify=self.verify
                )
            except SpecError:
                continue
            if delegation.owner in charter.gateways:
                keys[delegation.key] = delegation.not_after_ms
        return keys


def _refused(code: str, message: str) -> PeerRefused:
    return PeerRefused(peer="market", status=200, code=code, message=message)
