"""Which instances can be asked at all: those whose miner must dial us, only while it has.

An instance that cannot be reached has no room here, so no plan counts on it and no order is lost on it.
"""

from dataclasses import dataclass, field

from penstock.gateway.instances import Instance
from penstock.kit.wire.tunnel_pool import node_host
from penstock.spec.errors import SpecError
from penstock.spec.messages import Offer
from penstock.spec.tunnels import reach_of


@dataclass(slots=True)
class Reachable:
    """Instances by the node that they are reached through. Bounded by the directory's own bound."""

    here: set[str] = field(default_factory=set)
    """Hosts (`node_host`) with an open connection."""
    _known: dict[str, dict[Instance, None]] = field(default_factory=dict)

    def knows(self, host: str) -> bool:
        """Is there an offer of this node?"""
        return host in self._known

    @property
    def missing(self) -> int:
        """Nodes with an offer and without a connection."""
        return sum(host not in self.here for host in self._known)

    def listed(self, instance: Instance) -> None:
        """An offer has come, or has another endpoint now."""
        host, is_dialled = _node_of(instance.offer)
        if host:
            self._known.setdefault(host, {})[instance] = None
        is_here = is_dialled or host in self.here
        if instance.is_away is is_here:
            instance.reached(is_here=is_here)

    def unlisted(self, instance: Instance, offer: Offer) -> None:
        """This offer of it holds no more."""
        host, _ = _node_of(offer)
        known = self._known.get(host, {})
        known.pop(instance, None)
        if host and not known:
            self._known.pop(host, None)

    def changed(self, host: str, *, is_here: bool) -> None:
        """A node can be reached now, or no more."""
        if is_here:
            self.here.add(host)
        else:
            self.here.discard(host)
        for instance in self._known.get(host, {}):
            _, is_dialled = _node_of(instance.offer)
            instance.reached(is_here=is_here or is_dialled)


def _node_of(offer: Offer) -> tuple[str, bool]:
    """(the node's host, "" if there is none; whether it may be dialled as well)."""
    try:
        reach = reach_of(offer.endpoint)
    except SpecError:  # such an offer is on no board; an attempt at it fails by itself
        reach = None
    if reach is None:
        return "", True
    return node_host(offer.miner, reach.node), bool(reach.direct)
