"""The request as the engine needs it: its own model name, a bound on the answer, and usage counts.

All other fields are the client's and go through as they are, known or not, but for those that steer
an engine itself, and those that demand what an engine was not seen to do (demands.py).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from penstock.kit.audio import audio_ms
from penstock.kit.engine import Capability
from penstock.kit.multipart import BadMultipart, Form, parse_multipart
from penstock.miner.demands import check_capabilities, check_fields, check_lengths
from penstock.miner.errors import RequestUnservable
from penstock.miner.grammars import check_grammars
from penstock.miner.isolation import FORGO_FIELD, SALT_FIELD, cache_salt, payer_of
from penstock.miner.llama_request import (
    LLAMA,
    NATIVE_PATH,
    ask_lengths,
    native_completion,
    tokenize_question,
)
from penstock.miner.paths import (
    CHAT_PATH,
    COMPLETIONS_PATH,
    FORMS,
    GENERATION,
    IMAGES_PATH,
    PATHS,
    RERANK_PATH,
    SPEECH_PATH,
    TOKENIZE_PATH,
    TRANSCRIPTIONS_PATH,
)
from penstock.miner.tool_choice import choose_tools
from penstock.spec.messages import Manifest, Order

STEERING = frozenset(
    {
        *("provider", "id_slot", "slot_id", "rid", "request_id", "priority", "session_params"),
        *("lora_path", "custom_logit_processor", "kv_transfer_params"),
        *("bootstrap_host", "bootstrap_port", "bootstrap_room"),
        *("n_cmpl", "n_probs", FORGO_FIELD),
    }
)
"""Fields by which a client would steer the engine instead of its own answer: whose cache slot is
used, which request is aborted, which files are read, who goes first. They are left out, as is the
routing wish that the gateway has already followed, and llama.cpp's other names of `n` and
`top_logprobs`, which would get around the order's ceiling and the gateway's bounds."""

USAGE_OPTIONS = frozenset({"vllm", "sglang"})
"""Engines that do the same by `stream_options.continuous_usage_stats`."""

# llama.cpp takes these as other names of max_tokens; they would get around the order's ceiling.
TOKEN_ALIASES = ("max_completion_tokens", "n_predict")

_decode = msgspec.json.Decoder(dict[str, Any]).decode
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request for the engine, and what of the answer was only asked for by us.

    `path` says what is asked; `own_path` is the engine's where that is another. `asked` are the
    client's fields, which decide the answer's shape; `upload_ms` is the length of the audio it
    brought. `shows_usage`: the client wants the usage event. `hidden` are fields of an answer's
    events that the client did not ask for. `template` is asked first where it is not b"": its
    answer's `prompt` becomes the `content` of the body. `order_id` and `issued_s` are the order's,
    for answers of engines that tell neither an id nor a time. `payer` is who may find in the cache what
    this request leaves there ("": it leaves nothing); `choices` are the answers to one prompt.
    """

    body: bytes
    shows_usage: bool = True
    hidden: frozenset[str] = frozenset()
    path: str = CHAT_PATH
    content_type: str = "application/json"
    asked: Mapping[str, Any] = field(default_factory=dict)
    upload_ms: int = 0
    template: bytes = b""
    own_path: str = ""
    order_id: str = ""
    issued_s: int = 0
    payer: str = ""
    choices: int = 1
    forgoes_cache: bool = False

    @property
    def engine_path(self) -> str:
        """Where the engine takes it."""
        return self.own_path or self.path

    @property
    def kind(self) -> Capability:
        """What is asked of the engine."""
        return PATHS[self.path]

    def filled(self, prompt: str) -> bytes:
        """The body with the prompt that a template gave."""
        return _encode({**_decode(self.body), "content": prompt})


def prepare(
    body: bytes,
    order: Order,
    *,
    manifest: Manifest,
    model: str,
    capabilities: frozenset[Capability],
    salt_key: bytes = b"",
) -> Prepared:
    """The engine's request for an order. Raises RequestUnservable.

    `salt_key` parts the payers in the cache of an engine that takes salts.
    """
    if order.path in FORMS:
        return _prepared_form(body, order, model=model, capabilities=capabilities)
    asked = _fields(body)
    _check_stream(order, asked.get("stream_format") == "sse" or bool(asked.get("stream")))
    fields = {name: value for name, value in asked.items() if name not in STEERING}
    check_fields(order.path, asked)
    if order.path == CHAT_PATH:
        choose_tools(fields)
    check_capabilities(order.path, fields, capabilities)
    fields["model"] = model
    if order.path == IMAGES_PATH:
        _set_seed(fields, order, capabilities)
    _check_bounds(order.path, asked, manifest)
    if order.path not in GENERATION:
        return _prepared_other(order.path, fields, asked=asked, engine=manifest.engine)
    _check_choices(fields, manifest)
    _bound_answer(fields, order)
    _set_seed(fields, order, capabilities)
    payer = payer_of(order, fields.pop(SALT_FIELD, None))
    if Capability.CACHE_SALT in capabilities and salt_key:
        fields[SALT_FIELD] = cache_salt(salt_key, payer)
    _forgo_cache(fields, manifest, capabilities)
    shows_usage, hidden, own_path = True, frozenset[str](), ""
    answers = answers_asked(asked)
    if order.stream:
        shows_usage, only_ours = _ask_counts(fields, manifest.engine)
        hidden = frozenset(only_ours)
    elif manifest.engine in LLAMA and answers.total > 1:
        if order.path == COMPLETIONS_PATH:
            fields, own_path = native_completion(fields), NATIVE_PATH
        elif Capability.LOGPROBS in capabilities:
            hidden = frozenset(ask_lengths(fields))
    return Prepared(
        body=_encode(fields),
        shows_usage=shows_usage,
        hidden=hidden,
        path=order.path,
        asked=asked,
        own_path=own_path,
        order_id=order.order_id,
        issued_s=order.issued_ms // 1_000,
        payer=payer,
        choices=answers.each,
        forgoes_cache=asked.get(FORGO_FIELD) is False,
    )


def _prepared_other(
    path: str, fields: dict[str, Any], *, asked: Mapping[str, Any], engine: str
) -> Prepared:
    """Everything but text generation and uploads."""
    template = b""
    match PATHS[path]:
        case Capability.RERANK:
            path = RERANK_PATH
            fields["documents"] = [_text_of(document) for document in fields.get("documents", ())]
        case Capability.IMAGES:
            fields["response_format"] = "b64_json"
        case Capability.TOKENIZE if engine in LLAMA and path == TOKENIZE_PATH:
            fields, template = tokenize_question(fields)
        case _:
            pass
    return Prepared(body=_encode(fields), path=path, asked=asked, template=template)


def _prepared_form(
    body: bytes, order: Order, *, model: str, capabilities: frozenset[Capability]
) -> Prepared:
    try:
        form = parse_multipart(body)
        asked = form.texts()
    except BadMultipart as error:
        raise RequestUnservable("invalid_form", f"The body is no form: {error.reason}.") from error
    is_stream = asked.get("stream", "").lower() in {"true", "1"}
    _check_stream(order, is_stream and order.path == TRANSCRIPTIONS_PATH)
    check_capabilities(order.path, {**asked, "stream": order.stream}, capabilities)
    streamed = "true" if order.stream else None
    sent = form.with_texts({"model": model, "stream": streamed})
    return Prepared(
        body=sent.body(),
        path=order.path,
        content_type=sent.content_type(),
        asked=asked,
        upload_ms=_upload_ms(form),
    )


def _upload_ms(form: Form) -> int:
    upload = form.file("file")
    return 0 if upload is None else audio_ms(upload.data)


def _text_of(document: object) -> object:
    return document.get("text", "") if isinstance(document, dict) else document


def _fields(body: bytes) -> dict[str, Any]:
    try:
        return _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RequestUnservable(
            "invalid_json", f"The body is not a JSON object: {error}. Send one."
        ) from error


def _check_stream(order: Order, is_stream: bool) -> None:  # noqa: FBT001 - a fact, not a mode
    if order.path in (*GENERATION, *FORMS, SPEECH_PATH) and is_stream is not order.stream:
        raise RequestUnservable("invalid_request", "stream is not what the order says.", "stream")


def _check_choices(fields: Mapping[str, Any], manifest: Manifest) -> None:
    """llama.cpp needs a slot for every choice, all at once."""
    most = manifest.limits.parallel_max
    if manifest.engine in LLAMA and (_count(fields.get("n")) or 1) > most:
        raise RequestUnservable(
            "unsupported_parameter", f"This model gives up to {most} choices at once.", "n"
        )


def _bound_answer(fields: dict[str, Any], order: Order) -> None:
    """No choice may grow beyond its part of the order's ceiling; engines choke on a bound of 0."""
    each_max = max(order.completion_max // answers_asked(fields).total, 1)
    asked = [_count(fields.get(name)) for name in ("max_tokens", *TOKEN_ALIASES)]
    limit = min([each_max, *(count for count in asked if count is not None)])
    fields["max_tokens"] = limit
    for name in TOKEN_ALIASES:
        if name in fields:
            fields[name] = limit


@dataclass(frozen=True, slots=True)
class Answers:
    """How many answers one request asks for: `each` of a prompt, `total` of all of them."""

    each: int
    total: int


def answers_asked(fields: Mapping[str, Any]) -> Answers:
    """The answers that come, by their index: prompt by prompt, `n` of each."""
    prompt = fields.get("prompt")
    is_batch = isinstance(prompt, list) and not all(isinstance(part, int) for part in prompt)
    prompts = len(prompt) if is_batch and isinstance(prompt, list) else 1
    each = _count(fields.get("n")) or 1
    return Answers(each=each, total=each * max(prompts, 1))


def _count(value: object) -> int | None:
    return value if type(value) is int and value > 0 else None


def _set_seed(fields: dict[str, Any], order: Order, capabilities: frozenset[Capability]) -> None:
    """The order's seed unless the client chose one, so that a validator can ask the same again."""
    if Capability.SEED not in capabilities:
        fields.pop("seed", None)
    elif order.seed and fields.get("seed") is None:
        fields["seed"] = order.seed


def _forgo_cache(
    fields: dict[str, Any], manifest: Manifest, capabilities: frozenset[Capability]
) -> None:
    """Of slots that are not ours to give nobody says whose prompts are in them: none is used again."""
    if manifest.engine in LLAMA and Capability.CACHE_SLOTS not in capabilities:
        fields[FORGO_FIELD] = False


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
    if engine in LLAMA and not fields.get("timings_per_token"):
        fields["timings_per_token"] = True
        hidden.add("timings")
    return shows_usage, hidden


def _check_bounds(path: str, asked: dict[str, Any], manifest: Manifest) -> None:
    """Before the engine spends time on it. Raises RequestUnservable."""
    check_lengths(path, asked, manifest)
    if manifest.engine in LLAMA:
        check_grammars(asked)
