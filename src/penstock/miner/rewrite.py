"""The request as the engine needs it: its own model name, a bound on the answer, and usage counts.

All other fields are the client's and go through as they are, known or not. What an engine was not
seen to do at its start is refused here, because engines drop such fields without a word.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from penstock.kit.engine import Capability
from penstock.miner.errors import RequestUnservable
from penstock.spec.messages import Manifest, Order

CHAT_PATH = "/v1/chat/completions"
COMPLETIONS_PATH = "/v1/completions"
EMBEDDINGS_PATH = "/v1/embeddings"

PATHS = {
    CHAT_PATH: Capability.CHAT,
    COMPLETIONS_PATH: Capability.COMPLETIONS,
    EMBEDDINGS_PATH: Capability.EMBEDDINGS,
}
"""The only paths that reach an engine, and what it must be able to do there. Engines have other
routes (sleep, reload, cache control) that nobody outside may touch."""

COUNT_FIELDS = {"llamacpp": "timings_per_token", "llama.cpp": "timings_per_token"}
"""Engines that tell their counts in every event when asked, by a field of the body."""

USAGE_OPTIONS = frozenset({"vllm", "sglang"})
"""Engines that do the same by `stream_options.continuous_usage_stats`."""

# llama.cpp takes these as other names of max_tokens; they would get around the order's ceiling.
TOKEN_ALIASES = ("max_completion_tokens", "n_predict")

_decode = msgspec.json.Decoder(dict[str, Any]).decode
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request for the engine, and what of the answer was only asked for by us.

    `shows_usage`: the client wants the usage event. `hidden` are fields of an answer's events that
    the client did not ask for.
    """

    body: bytes
    shows_usage: bool
    hidden: frozenset[str]


def prepare(
    body: bytes,
    order: Order,
    *,
    manifest: Manifest,
    model: str,
    capabilities: frozenset[Capability],
) -> Prepared:
    """The engine's request for an order. Raises RequestUnservable."""
    fields = _fields(body)
    is_embedding = order.path == EMBEDDINGS_PATH
    if bool(fields.get("stream")) is not order.stream and not is_embedding:
        raise RequestUnservable("invalid_request", "stream is not what the order says.", "stream")
    _check_capabilities(order.path, fields, capabilities)
    fields["model"] = model
    if is_embedding:
        return Prepared(body=_encode(fields), shows_usage=True, hidden=frozenset())
    _bound_answer(fields, order)
    _set_seed(fields, order, capabilities)
    hidden: set[str] = set()
    shows_usage = True
    if order.stream:
        shows_usage, hidden = _ask_counts(fields, manifest.engine)
    return Prepared(body=_encode(fields), shows_usage=shows_usage, hidden=frozenset(hidden))


def _fields(body: bytes) -> dict[str, Any]:
    try:
        return _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RequestUnservable(
            "invalid_json", f"The body is not a JSON object: {error}. Send one."
        ) from error


def _check_capabilities(
    path: str, fields: Mapping[str, Any], capabilities: frozenset[Capability]
) -> None:
    """Refuse what the engine was seen to lack."""
    answer_format = fields.get("response_format")
    kind = answer_format.get("type") if isinstance(answer_format, dict) else None
    needs = (
        (PATHS[path], True, None),
        (Capability.STREAM, bool(fields.get("stream")) and path == CHAT_PATH, "stream"),
        (Capability.LOGPROBS, bool(fields.get("logprobs")), "logprobs"),
        (Capability.TOOLS, bool(fields.get("tools")), "tools"),
        (Capability.JSON_SCHEMA, kind == "json_schema", "response_format"),
    )
    for capability, needed, param in needs:
        if needed and capability not in capabilities:
            raise RequestUnservable(
                "unsupported_parameter",
                f"This model's engine does not offer {capability.value}. Leave it out, or call "
                "another model.",
                param,
            )


def _bound_answer(fields: dict[str, Any], order: Order) -> None:
    """No choice may grow beyond its part of the order's ceiling; engines choke on a bound of 0."""
    each_max = max(order.completion_max // _choices(fields), 1)
    asked = [_count(fields.get(name)) for name in ("max_tokens", *TOKEN_ALIASES)]
    limit = min([each_max, *(count for count in asked if count is not None)])
    fields["max_tokens"] = limit
    for name in TOKEN_ALIASES:
        if name in fields:
            fields[name] = limit


def _choices(fields: Mapping[str, Any]) -> int:
    """How many answers one request asks for: as the gateway counts when it sets the ceiling."""
    prompt = fields.get("prompt")
    is_batch = isinstance(prompt, list) and not all(isinstance(part, int) for part in prompt)
    prompts = len(prompt) if is_batch and isinstance(prompt, list) else 1
    return max(_count(fields.get("n")) or 1, _count(fields.get("best_of")) or 1) * max(prompts, 1)


def _count(value: object) -> int | None:
    return value if type(value) is int and value > 0 else None


def _set_seed(fields: dict[str, Any], order: Order, capabilities: frozenset[Capability]) -> None:
    """The order's seed unless the client chose one, so that a validator can ask the same again."""
    if Capability.SEED not in capabilities:
        fields.pop("seed", None)
    elif order.seed and fields.get("seed") is None:
        fields["seed"] = order.seed


def _ask_counts(fields: dict[str, Any], engine: str) -> tuple[bool, set[str]]:
    """(did the client ask for usage, fields that only we asked for)."""
    given = fields.get("stream_options")
    options: dict[str, Any] = dict(given) if isinstance(given, dict) else {}
    shows_usage = bool(options.get("include_usage"))
    hidden: set[str] = set()
    options["include_usage"] = True
    if engine in USAGE_OPTIONS and not options.get("continuous_usage_stats"):
        options["continuous_usage_stats"] = True
        hidden.add("usage")
    fields["stream_options"] = options
    count_field = COUNT_FIELDS.get(engine)
    if count_field is not None and not fields.get(count_field):
        fields[count_field] = True
        hidden.add("timings")
    return shows_usage, hidden
