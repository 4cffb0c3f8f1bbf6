"""The list of models in OpenAI's shape, with what this market knows more about each."""

from typing import Any

from penstock.gateway.directory import Chute
from penstock.spec.canon import to_plain
from penstock.spec.units import MILLION, NANO_PER_USD


def model_card(chute: Chute, *, instances: int) -> dict[str, Any]:
    """One model. Prices are nano-USD per million units; `pricing` is USD per token, as text."""
    manifest = chute.manifest
    price = manifest.price_max
    return {
        "id": manifest.name,
        "object": "model",
        "created": 0,
        "owned_by": manifest.owner,
        "chute": chute.chute,
        "modality": manifest.modality.value,
        "context_length": manifest.limits.context_tokens_max,
        "max_output_tokens": manifest.limits.output_tokens_max,
        "price_max": to_plain(price),
        "pricing": {
            "prompt": usd_per_unit(price.prompt),
            "completion": usd_per_unit(price.completion),
            "request": usd_per_unit(price.request * MILLION),
        },
        "instances": instances,
    }


def model_list(cards: list[dict[str, Any]]) -> dict[str, Any]:
    """All models, as `GET /v1/models` gives them."""
    return {"object": "list", "data": cards}


def usd_per_unit(nano_per_million: int) -> str:
    """USD per unit, exact, without an exponent: 50_000_000 nano-USD per million is 0.00000005."""
    whole, rest = divmod(nano_per_million, MILLION * NANO_PER_USD)
    digits = f"{rest:015d}".rstrip("0")
    return f"{whole}.{digits}" if digits else str(whole)
