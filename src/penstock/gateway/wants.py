"""What a request asks of those who may serve it: the `provider` object and the tier header.

The names are OpenRouter's, so that its clients work unchanged. A provider here is a miner: by its
identity, by the name of an instance, or by what such a name begins with (`alice` is `alice-4090-1`,
`alice/a100`, `alice.eu`). An unknown key is refused: what nobody
reads cannot be honoured. `data_collection: "deny"` and `zdr` ask for attested instances, since on all
others the miner can read what passes.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from enum import Enum
from typing import Literal, get_args

import msgspec

from penstock.gateway.errors import BadRequest
from penstock.gateway.instances import Instance
from penstock.spec.messages import PRICE_NANO_MAX, Manifest, Tier
from penstock.spec.routing import Rejection
from penstock.spec.units import MILLION, NANO_PER_USD, Price

TIER_HEADER = "x-penstock-tier"
_TIER = TIER_HEADER.encode()
NAMES_MAX = 64
"""Providers in one list."""

SEPARATORS = "-./_"
"""What may follow a provider's name in the name of its instance."""

TIER_RANK = {Tier.OPEN: 0, Tier.MEASURED: 1, Tier.ATTESTED: 2}
UNKNOWN = "unknown"


class Sort(Enum):
    """By what instances are ordered. BALANCE is our own policy."""

    BALANCE = ""
    PRICE = "price"
    THROUGHPUT = "throughput"
    LATENCY = "latency"


@dataclass(frozen=True, slots=True)
class Wants:
    """One request's conditions, checked. `NO_WANTS` has none."""

    order: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    sort: Sort = Sort.BALANCE
    price_max: Price | None = None
    """Of a request, or of a million units; a part that is not limited has the most there is."""
    quantizations: tuple[str, ...] = ()
    require_parameters: bool = False
    allow_fallbacks: bool = True
    tier: Tier = Tier.OPEN
    fits: Callable[[Instance], bool] | None = None
    """Work from inside that takes only what nobody else needs: is there enough of it here?"""

    def rejection(self, manifest: Manifest, one: Instance) -> Rejection | None:
        """Why this instance is not wanted, or None. Prices are the law's affair."""
        if TIER_RANK[one.tier] < TIER_RANK[self.tier]:
            return Rejection.LOW_TIER
        reason = self._unlisted(one)
        if reason is not None:
            return reason
        if self.quantizations and quantization_of(manifest) not in self.quantizations:
            return Rejection.OTHER_QUANTIZATION
        if self.fits is not None and not self.fits(one):
            return Rejection.NO_ROOM
        return None

    def _unlisted(self, one: Instance) -> Rejection | None:
        if self.only and self.place(one, self.only) is None:
            return Rejection.NOT_IN_ONLY
        if self.ignore and self.place(one, self.ignore) is not None:
            return Rejection.IGNORED
        if self.order and not self.allow_fallbacks and self.place(one, self.order) is None:
            return Rejection.NOT_IN_ORDER
        return None

    def place(self, one: Instance, names: tuple[str, ...]) -> int | None:
        """Which of these names is its provider; None if none is."""
        return next((place for place, name in enumerate(names) if is_provider(one, name)), None)


NO_WANTS = Wants()


class SortBody(msgspec.Struct, forbid_unknown_fields=True):
    """`sort` as an object. `partition` tells whether models are mixed; ours never are."""

    by: Literal["price", "throughput", "latency"] | None = None
    partition: Literal["model", "none"] | None = None


class PriceBody(msgspec.Struct, forbid_unknown_fields=True):
    """USD, as number or text: per million tokens, per request, per image."""

    prompt: Decimal | None = None
    completion: Decimal | None = None
    request: Decimal | None = None
    image: Decimal | None = None
    audio: Decimal | None = None


Names = list[str] | None
Quantization = Literal["int4", "int8", "fp4", "fp6", "fp8", "fp16", "bf16", "fp32", "unknown"]


class ProviderBody(msgspec.Struct, forbid_unknown_fields=True):
    """The `provider` object."""

    order: Names = None
    only: Names = None
    ignore: Names = None
    sort: Literal["price", "throughput", "latency"] | SortBody | None = None
    max_price: PriceBody | None = None
    quantizations: list[Quantization] | None = None
    require_parameters: bool | None = None
    allow_fallbacks: bool | None = None
    data_collection: Literal["allow", "deny"] | None = None
    zdr: bool | None = None


_decoder = msgspec.json.Decoder(ProviderBody)
_PLACE = re.compile(r"at `\$\.([a-z_]+)")
_FIELD = re.compile(r"field `([^`]{1,40})`")
KNOWN = ProviderBody.__struct_fields__
VALUES = {
    "sort": ("price", "throughput", "latency"),
    "quantizations": get_args(Quantization),
    "data_collection": ("allow", "deny"),
    "max_price": PriceBody.__struct_fields__,
}
"""What may stand under a key that does not take any value."""


def wants_in(provider: bytes, headers: Mapping[bytes, bytes]) -> Wants:
    """`wants_of`, with the tier from a request's headers."""
    tier = headers.get(_TIER)
    return wants_of(provider, "" if tier is None else tier.decode("latin-1"))


def wants_of(provider: bytes, tier: str) -> Wants:
    """The conditions in a raw `provider` object and the tier header (empty for none of either).

    Raises BadRequest.
    """
    if not provider and not tier:
        return NO_WANTS
    wants = NO_WANTS if provider in {b"", b"null"} else _read(provider)
    if not tier:
        return wants
    try:
        least = Tier(tier.strip().lower())
    except ValueError as error:
        known = ", ".join(one.value for one in Tier)
        raise BadRequest(
            reason=f"{TIER_HEADER} says {tier[:40]!r}. Known: {known}.", param=TIER_HEADER
        ) from error
    if TIER_RANK[least] > TIER_RANK[wants.tier]:
        wants = replace(wants, tier=least)
    return wants


def is_provider(one: Instance, name: str) -> bool:
    """Is this instance of the provider of that name? Case does not count, except in identities."""
    if one.offer.miner == name:
        return True
    name = name.lower()
    instance = one.offer.instance
    return instance.startswith(name) and (
        len(instance) == len(name) or instance[len(name)] in SEPARATORS
    )


_QUANTIZED = (
    ("int4", re.compile(r"(?<![a-z0-9])(i?q4(_[a-z0-9]+)*|int4|w4a16|awq|gptq|4bit)(?![a-z0-9])")),
    ("int8", re.compile(r"(?<![a-z0-9])(q8(_[a-z0-9]+)*|int8|w8a8|8bit)(?![a-z0-9])")),
    ("fp4", re.compile(r"(?<![a-z0-9])(nvfp4|mxfp4|fp4)(?![a-z0-9])")),
    ("fp6", re.compile(r"(?<![a-z0-9])(fp6)(?![a-z0-9])")),
    ("fp8", re.compile(r"(?<![a-z0-9])(fp8)(?![a-z0-9])")),
    ("bf16", re.compile(r"(?<![a-z0-9])(bf16)(?![a-z0-9])")),
    ("fp16", re.compile(r"(?<![a-z0-9])(fp16|f16)(?![a-z0-9])")),
    ("fp32", re.compile(r"(?<![a-z0-9])(fp32|f32)(?![a-z0-9])")),
)


def quantization_of(manifest: Manifest) -> str:
    """How the weights are stored, as far as the source or the name says; "unknown" if neither does."""
    for text in (manifest.source.lower(), manifest.name):
        for name, sign in _QUANTIZED:
            if sign.search(text):
                return name
    return UNKNOWN


def _read(provider: bytes) -> Wants:
    try:
        body = _decoder.decode(provider)
    except (msgspec.ValidationError, msgspec.DecodeError, RecursionError) as error:
        said = str(error)
        found = [sign.search(said) for sign in (_PLACE, _FIELD)]
        names = [one.group(1) for one in found if one is not None]
        known = VALUES.get(names[0] if names else "", KNOWN)
        raise BadRequest(
            reason=f"provider does not fit: {said}. Known: {', '.join(known)}.",
            param=".".join(["provider", *names]),
        ) from error
    sort = body.sort.by if isinstance(body.sort, SortBody) else body.sort
    is_private = body.data_collection == "deny" or bool(body.zdr)
    return Wants(
        order=_names("order", body.order),
        only=_names("only", body.only),
        ignore=_names("ignore", body.ignore),
        sort=Sort(sort or ""),
        price_max=None if body.max_price is None else _price(body.max_price),
        quantizations=tuple(body.quantizations or ()),
        require_parameters=bool(body.require_parameters),
        allow_fallbacks=body.allow_fallbacks is not False,
        tier=Tier.ATTESTED if is_private else Tier.OPEN,
    )


def _names(key: str, names: Names) -> tuple[str, ...]:
    if names is None:
        return ()
    if len(names) > NAMES_MAX or not all(names):
        raise BadRequest(
            reason=f"provider.{key} holds at most {NAMES_MAX} names, none of them empty.",
            param=f"provider.{key}",
        )
    return tuple(names)


def _price(body: PriceBody) -> Price:
    prompt = _nano("prompt", body.prompt, per=1)
    return Price(
        request=_nano("request", body.request, per=1),
        prompt=prompt,
        cached=prompt,
        completion=_nano("completion", body.completion, per=1),
        images=_nano("image", body.image, per=MILLION),
        audio_ms=_nano("audio", body.audio, per=1),
    )


def _nano(key: str, usd: Decimal | None, *, per: int) -> int:
    """nano-USD, rounded down: what is dearer by less than a nano-USD is dearer."""
    if usd is None:
        return PRICE_NANO_MAX
    if not usd.is_finite() or usd < 0 or usd > MILLION:
        raise BadRequest(
            reason=f"provider.max_price.{key} must be a price in USD from 0 to {MILLION}.",
            param=f"provider.max_price.{key}",
        )
    return min(int(usd * NANO_PER_USD * per), PRICE_NANO_MAX)
