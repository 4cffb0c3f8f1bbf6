"""The list of models: one object that OpenAI's, Anthropic's and OpenRouter's strict clients all take.

Each client reads the fields it knows and ignores the rest. What this market knows more about a model
stands beside them: its chute, its prices in nano-USD, how many instances serve it.
"""

from typing import Any

from penstock.gateway.directory import Chute
from penstock.gateway.errors import BadRequest
from penstock.spec.canon import to_plain
from penstock.spec.messages import Modality
from penstock.spec.units import MILLION, NANO_PER_USD

PAGE_MAX = 1_000
EPOCH = "1970-01-01T00:00:00Z"
"""Anthropic's word for "not known when": a manifest tells no date."""

CHAT_PARAMETERS = (
    *("max_tokens", "max_completion_tokens", "temperature", "top_p", "stop", "seed"),
    *("frequency_penalty", "presence_penalty", "logprobs", "top_logprobs"),
    *("response_format", "tools", "tool_choice"),
)

_MEDIA = {
    Modality.CHAT: (["text"], ["text"]),
    Modality.EMBEDDINGS: (["text"], ["embeddings"]),
    Modality.RERANK: (["text"], ["rerank"]),
    Modality.IMAGES: (["text"], ["image"]),
    Modality.SPEECH: (["text"], ["speech"]),
    Modality.TRANSCRIPTION: (["audio"], ["transcription"]),
    Modality.MODERATION: (["text"], ["decisions"]),
}
"""(what goes in, what comes out), in OpenRouter's words."""


def model_card(chute: Chute, *, instances: int) -> dict[str, Any]:
    """One model. Prices are nano-USD per million units; `pricing` is USD per unit, as text."""
    manifest = chute.manifest
    price, limits = manifest.price_max, manifest.limits
    given, made = _MEDIA[manifest.modality]
    is_chat = manifest.modality is Modality.CHAT
    return {
        "id": manifest.name,
        "object": "model",
        "type": "model",
        "created": 0,
        "created_at": EPOCH,
        "owned_by": manifest.owner,
        "name": manifest.name,
        "display_name": manifest.name,
        "canonical_slug": f"{manifest.name}@{chute.chute}",
        "description": f"{manifest.modality.value} by {manifest.engine}, served by {instances}",
        "lifecycle": "active",
        "hugging_face_id": None,
        "context_length": limits.context_tokens_max,
        "max_input_tokens": limits.context_tokens_max,
        "max_tokens": limits.output_tokens_max,
        "max_output_tokens": limits.output_tokens_max,
        "architecture": {
            "modality": f"{'+'.join(given)}->{'+'.join(made)}",
            "input_modalities": given,
            "output_modalities": made,
            "tokenizer": "Other",
            "instruct_type": None,
        },
        "pricing": {
            "prompt": usd_per_unit(price.prompt),
            "completion": usd_per_unit(price.completion),
            "request": usd_per_unit(price.request * MILLION),
            "input_cache_read": usd_per_unit(price.cached),
            "image_output": usd_per_unit(price.images),
            "audio_ms": usd_per_unit(price.audio_ms),
        },
        "top_provider": {
            "context_length": limits.context_tokens_max,
            "max_completion_tokens": limits.output_tokens_max,
            "is_moderated": False,
        },
        "per_request_limits": None,
        "supported_parameters": list(CHAT_PARAMETERS) if is_chat else [],
        "default_parameters": None,
        "supported_voices": None,
        "links": {"details": f"/v1/models/{manifest.name}"},
        "chute": chute.chute,
        "modality": manifest.modality.value,
        "price_max": to_plain(price),
        "instances": instances,
    }


def model_list(cards: list[dict[str, Any]], *, has_more: bool, total: int) -> dict[str, Any]:
    """A page of models, as `GET /v1/models` gives it."""
    return {
        "object": "list",
        "data": cards,
        "has_more": has_more,
        "first_id": cards[0]["id"] if cards else None,
        "last_id": cards[-1]["id"] if cards else None,
        "total_count": total,
        "links": {"next": None},
    }


def page_of(
    chutes: list[Chute], *, limit: str, after_id: str, before_id: str
) -> tuple[list[Chute], bool]:
    """(the chutes of one page, are there more behind it) by Anthropic's fields, each "" if not sent.

    Without any of them a page is everything: OpenAI's clients know no pages. Names are in order, so a
    page can begin beside a model that has gone since. Raises BadRequest.
    """
    count = len(chutes)
    if limit:
        if not limit.isdecimal() or not 1 <= int(limit[:5]) <= PAGE_MAX:
            raise BadRequest(reason=f"limit must be from 1 to {PAGE_MAX}.", param="limit")
        count = int(limit)
    if before_id:
        found = [chute for chute in chutes if chute.manifest.name < before_id]
        return found[-count:], len(found) > count
    found = [chute for chute in chutes if chute.manifest.name > after_id]
    return found[:count], len(found) > count


def usd_per_unit(nano_per_million: int) -> str:
    """USD per unit, exact, without an exponent: 50_000_000 nano-USD per million is 0.00000005."""
    whole, rest = divmod(nano_per_million, MILLION * NANO_PER_USD)
    digits = f"{rest:015d}".rstrip("0")
    return f"{whole}.{digits}" if digits else str(whole)
