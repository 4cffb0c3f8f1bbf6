"""What a miner asks for its work: the price of an offer, from the manifest and the market's target.

The market publishes a multiplier for each chute; a miner follows it and may ask less than all of it.
An offer above what the owner allows would be refused, so the manifest's price is the ceiling.
"""

from dataclasses import dataclass

from penstock.spec.units import PPM, Price


@dataclass(frozen=True, slots=True)
class PricePolicy:
    """`share_ppm` of the reference price is asked; `follow_target` lets the market's multiplier
    lower it further when there is more supply than demand.
    """

    share_ppm: int = PPM
    follow_target: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.share_ppm <= PPM:
            raise ValueError(f"share_ppm must be in 0..{PPM}, got {self.share_ppm}")


def asked_price(policy: PricePolicy, ceiling: Price, *, target_ppm: int) -> Price:
    """The price of an offer: each part of the ceiling, times share and multiplier, rounded down.

    The multiplier counts up to one whole: beyond it the ceiling holds.
    """
    multiplier = min(target_ppm, PPM) if policy.follow_target else PPM

    def part(nano: int) -> int:
        return nano * policy.share_ppm * multiplier // (PPM * PPM)

    return Price(
        request=part(ceiling.request),
        prompt=part(ceiling.prompt),
        cached=part(ceiling.cached),
        completion=part(ceiling.completion),
        images=part(ceiling.images),
        audio_ms=part(ceiling.audio_ms),
    )
