"""Which offers the market accepts, and what it writes down as their hardware. Pure decisions."""

from collections.abc import Mapping

from penstock.kit.bus_names import check_subject
from penstock.market.errors import BadOffer
from penstock.spec.errors import SpecError
from penstock.spec.keys import Role, Signed, Verify, check_delegation
from penstock.spec.messages import Manifest, Offer, Tier
from penstock.spec.params import Params
from penstock.spec.pricing import is_within
from penstock.spec.scoring import REFERENCE_PPM, devices_of, hardware_ppm

DEVICE_CHARS_MAX = 520
"""Eight digests in hex, joined."""
HARDWARE_CHARS_MAX = 64
UNPROVEN = "unproven"

ProvenDevices = Mapping[tuple[str, str], str]
"""(miner, device) -> the hardware that the operator has verified."""


def offer_key(instance: str) -> str:
    """The board's key of an offer. Raises BadOffer for a name that no key can hold."""
    try:
        return check_subject(f"offers.{instance}")
    except ValueError as error:
        raise BadOffer(reason="dots in an instance's name stand single and inside") from error


def check_terms(
    offer: Offer, manifest: Manifest, *, params: Params, proven: ProvenDevices, now_ms: int
) -> None:
    """What the market asks of an offer beyond its being well formed. Raises BadOffer.

    Edge: an offer may be valid for as long as `offer_ttl_ms` and the allowed clock skew together.
    """
    if not is_within(offer.price, manifest.price_max):
        raise BadOffer(reason="a part of the price is above the manifest's price_max")
    if offer.valid_until_ms > now_ms + params.offer_ttl_ms + params.clock_skew_max_ms:
        raise BadOffer(reason=f"an offer is valid for at most {params.offer_ttl_ms} ms")
    if not 0 < len(offer.device) <= DEVICE_CHARS_MAX or not offer.device.isascii():
        raise BadOffer(reason=f"device must have 1 to {DEVICE_CHARS_MAX} characters of ASCII")
    if not 0 < len(offer.hardware) <= HARDWARE_CHARS_MAX:
        raise BadOffer(reason=f"hardware must have 1 to {HARDWARE_CHARS_MAX} characters")
    if offer.tier is not Tier.OPEN and not is_proven(offer, proven):
        raise BadOffer(reason=f"the operator has not verified a {offer.tier.value} device here")


def owner_of(offer: Offer, delegation: Signed | None, *, now_ms: int, verify: Verify) -> str:
    """Who stands behind the offer's key: the key itself, or the owner who delegated to it.

    Raises BadOffer when there is a delegation and it does not hold for this key.
    """
    if delegation is None:
        return offer.miner
    try:
        found = check_delegation(delegation, role=Role.MINER, now_ms=now_ms, verify=verify)
    except SpecError as error:
        raise BadOffer(reason=f"the delegation does not hold ({error})") from error
    if found.key != offer.miner:
        raise BadOffer(reason="the delegation is for another key")
    return found.owner


def is_proven(offer: Offer, proven: ProvenDevices) -> bool:
    """Has the operator verified every device of it as one hardware?"""
    found = {proven.get((offer.miner, device)) for device in devices_of(offer.device)}
    return None not in found and len(found) == 1


def written_hardware(offer: Offer, proven: ProvenDevices) -> str:
    """The hardware that goes into the roll: what was verified, or what needs no proof.

    Hardware that weighs no more than the reference gains nothing, so it is written as claimed.
    """
    if is_proven(offer, proven):
        return proven[offer.miner, devices_of(offer.device)[0]]
    return offer.hardware if hardware_ppm(offer.hardware) <= REFERENCE_PPM else UNPROVEN
