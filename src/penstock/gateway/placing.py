"""Orders for the instances of one plan, one after another, best first."""

from penstock.gateway.attempts import JSON_TYPE, Attempt, Owner
from penstock.gateway.instances import Instance
from penstock.gateway.leases import Hold
from penstock.gateway.parts import Parts
from penstock.gateway.plan import Plan
from penstock.gateway.sessions import Peer

MULTIPART = b"multipart/"


class Placing:
    """Who is asked next, and how. `content_type` is the client's own."""

    __slots__ = ("_content_type", "_gateway", "_next", "plan")

    def __init__(self, gateway: Parts, plan: Plan, *, content_type: bytes) -> None:
        self._gateway = gateway
        self._next = 0
        # A form keeps its boundary; anything else was read as JSON, so JSON it is.
        self._content_type = content_type if content_type.startswith(MULTIPART) else JSON_TYPE
        self.plan = plan

    def next_fit(self) -> tuple[Instance, Peer | None] | None:
        """The next one to ask. Since the plan was made an offer may have ended, grown dearer, or filled
        up; and a miner that owes us too many seals gets no more orders. No peer: its endpoint leads
        nowhere, which is its failure.
        """
        gateway, plan = self._gateway, self.plan
        instances = plan.instances
        now_ms = gateway.clock.now_ms()
        while self._next < len(instances):
            instance = instances[self._next]
            self._next += 1
            offer = instance.offer
            if (
                offer.valid_until_ms < now_ms
                or not instance.has_room
                or plan.bounds.charge_max(offer.price) > plan.hold_nano
            ):
                continue
            try:
                peer = gateway.sessions.peer_of(offer.endpoint, offer.miner)
            except ValueError:
                return instance, None
            if peer.waiting < gateway.bounds.unsealed_max:
                return instance, peer
        return None

    def place(
        self,
        instance: Instance,
        peer: Peer | None,
        *,
        owner: Owner,
        hold: Hold,
        is_alone: bool = False,
    ) -> Attempt:
        """An order, under the session's MAC if there is one; `is_alone`: under its own signature. The
        attempt is to be sent.
        """
        gateway, plan = self._gateway, self.plan
        session = None if peer is None else gateway.sessions.session_of(peer)
        if is_alone:
            session = None
        placed = gateway.orders.place(
            plan.call,
            instance.offer,
            bounds=plan.bounds,
            account=hold.payer.account,
            decision_digest=plan.decision_digest,
            session=session,
        )
        if session is not None and peer is not None:
            gateway.sealer.sent(peer, placed)
        return Attempt(
            gateway.line, owner, call=plan.call, placed=placed, instance=instance, hold=hold
        )

    def send(self, attempt: Attempt, peer: Peer | None) -> None:
        """Off it goes."""
        attempt.send(peer, self._content_type)
