"""Requests with conditions of their own: all instances of the chute looked at, and put in the order
that the caller asked for; and what he is told when none of them fits.
"""

import msgspec

from penstock.gateway.bodies import Call
from penstock.gateway.choice import Choice, Merit
from penstock.gateway.directory import Chute
from penstock.gateway.errors import NobodyServes, NoCapacity, NoProvider
from penstock.gateway.models import CHAT_PARAMETERS
from penstock.gateway.orders import Ceilings
from penstock.gateway.wants import NO_WANTS, Sort, Wants
from penstock.spec.messages import Modality
from penstock.spec.pricing import is_within
from penstock.spec.routing import DECISION_SHOWN_MAX, PASSING, POLICY, Rejection

RANKED_MAX = 8
"""Instances that are kept to be asked, of however many fit."""

NO_PARAMETERS = frozenset(
    {"model", "messages", "prompt", "input", "stream", "stream_options", "provider", "user"}
    | {"metadata", "n"}
)
"""Fields of a request that ask nothing of the engine's sampling."""

UNKNOWN_NS = 1 << 40
"""For instances that nobody has measured yet: behind those that somebody has."""

_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])


def arranged(
    looked: Choice, call: Call, served: tuple[Chute, Ceilings], *, wants: Wants
) -> Choice | None:
    """Those that fit, in the caller's order; None if there are none (then `looked` has the reasons).

    `order` comes first, as groups; within a group `sort` decides, and without it our own merit.
    """
    chute, bounds = served
    if wants is not NO_WANTS:
        missing = wants.require_parameters and _unsupported(call, chute)
        for one in looked.judged:
            _reject(one, chute, wants, is_missing=bool(missing))
    fit = [one for one in looked.judged if one.reason is None]
    if not fit:
        return None
    for one in fit:
        one.merit = _merit(one, wants.sort, bounds)
    groups = {id(one): _group(one, wants) for one in fit}
    fit.sort(key=lambda one: (groups[id(one)], one.merit))
    if not wants.allow_fallbacks and not wants.order:
        fit = fit[:1]
    policy = POLICY
    if wants.order:
        policy += "/order"
    elif wants.sort is not Sort.BALANCE:
        policy += f"/{wants.sort.value}"
    rejected = [one for one in looked.judged if one.reason is not None]
    return msgspec.structs.replace(
        looked, judged=fit[:RANKED_MAX], rejected=rejected, policy=policy
    )


def refusal(looked: Choice, model: str, chute: Chute) -> NoProvider | NoCapacity:
    """Why nobody was chosen: want of room if one of the reasons passes by itself, else the caller's
    own conditions, with the reason of each instance.
    """
    judged = looked.judged
    reasons = {one.reason for one in judged}
    if not judged:
        return NobodyServes(model=model, instances=0, refused=0)
    if reasons & PASSING:
        return NoCapacity(model=model, instances=len(judged), refused=0)
    shown = [
        (one.instance.name, one.reason.value)
        for one in judged[:DECISION_SHOWN_MAX]
        if one.reason is not None
    ]
    return NoProvider(model=chute.manifest.name, present=len(judged), candidates=tuple(shown))


def _reject(one: Merit, chute: Chute, wants: Wants, *, is_missing: bool) -> None:
    """The caller's own conditions stand before want of room: waiting would not mend them."""
    if one.reason is not None and one.reason not in PASSING:
        return
    reason = wants.rejection(chute.manifest, one.instance)
    if reason is None and is_missing:
        reason = Rejection.PARAMETER_UNSUPPORTED
    price_max = wants.price_max
    if reason is None and price_max is not None and not is_within(one.instance.price, price_max):
        reason = Rejection.TOO_DEAR
    if reason is not None:
        one.reason = reason


def _merit(one: Merit, sort: Sort, bounds: Ceilings) -> int:
    match sort:
        case Sort.PRICE:
            return bounds.charge_max(one.instance.price)
        case Sort.THROUGHPUT:
            return one.instance.pace_ns or UNKNOWN_NS
        case Sort.LATENCY:
            return one.instance.ttft_us or UNKNOWN_NS
        case Sort.BALANCE:
            return one.merit


def _group(one: Merit, wants: Wants) -> int:
    if not wants.order:
        return 0
    place = wants.place(one.instance, wants.order)
    return len(wants.order) if place is None else place


def _unsupported(call: Call, chute: Chute) -> set[str]:
    """Parameters of the request that this chute does not say it supports."""
    if chute.manifest.modality is not Modality.CHAT:
        return set()
    return set(_fields.decode(call.body)) - NO_PARAMETERS - set(CHAT_PARAMETERS)
