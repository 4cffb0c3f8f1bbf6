"""The request as the engine needs it: its own model name, a bound on the answer, and usage counts.

All other fields are the client's and go through as they are, known or not, but for those that steer
an engine itself. What an engine was not seen to do at its start is refused here, because engines
drop such fields without a word.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from penstock.kit.audio import audio_ms
from penstock.kit.engine import Capability
from penstock.kit.multipart import BadMultipart, Form, parse_multipart
from penstock.miner.errors import RequestUnservable
from penstock.spec.messages import Manifest, Order

CHAT_PATH = "/v1/chat/completions"
COMPLETIONS_PATH = "/v1/completions"
EMBEDDINGS_PATH = "/v1/embeddings"
RERANK_PATH = "/v1/rerank"
SPEECH_PATH = "/v1/audio/speech"
TRANSCRIPTIONS_PATH = "/v1/audio/transcriptions"
TRANSLATIONS_PATH = "/v1/audio/translations"
TOKENIZE_PATH = "/tokenize"
IMAGES_PATH = "/v1/images/generations"
DETOKENIZE_PATH = "/detokenize"
TEMPLATE_PATH = "/apply-template"

PATHS = {
    CHAT_PATH: Capability.CHAT,
    COMPLETIONS_PATH: Capability.COMPLETIONS,
    EMBEDDINGS_PATH: Capability.EMBEDDINGS,
    RERANK_PATH: Capability.RERANK,
    "/v2/rerank": Capability.RERANK,
    "/rerank": Capability.RERANK,
    IMAGES_PATH: Capability.IMAGES,
    SPEECH_PATH: Capability.SPEECH,
    TRANSCRIPTIONS_PATH: Capability.TRANSCRIPTION,
    TRANSLATIONS_PATH: Capability.TRANSLATION,
    "/v1/moderations": Capability.MODERATION,
    TOKENIZE_PATH: Capability.TOKENIZE,
    DETOKENIZE_PATH: Capability.TOKENIZE,
}
"""The only paths that reach an engine, and what it must be able to do there. Engines have other
routes (sleep, reload, cache control) that nobody outside may touch."""

GENERATION = frozenset({CHAT_PATH, COMPLETIONS_PATH})
FORMS = frozenset({TRANSCRIPTIONS_PATH, TRANSLATIONS_PATH})

STEERING = frozenset(
    {
        *("provider", "id_slot", "slot_id", "rid", "request_id", "priority", "session_params"),
        *("lora_path", "custom_logit_processor", "kv_transfer_params"),
        *("bootstrap_host", "bootstrap_port", "bootstrap_room"),
        *("n_cmpl", "n_probs"),
    }
)
"""Fields by which a client would steer the engine instead of its own answer: whose cache slot is
used, which request is aborted, which files are read, who goes first. They are left out, as is the
routing wish that the gateway has already followed, and llama.cpp's other names of `n` and
`top_logprobs`, which would get around the order's ceiling and the gateway's bounds."""

LLAMA = frozenset({"llamacpp", "llama.cpp"})
"""Engines with llama.cpp's own tokenizer routes and its count of every event (`timings`)."""

USAGE_OPTIONS = frozenset({"vllm", "sglang"})
"""Engines that do the same by `stream_options.continuous_usage_stats`."""

# llama.cpp takes these as other names of max_tokens; they would get around the order's ceiling.
TOKEN_ALIASES = ("max_completion_tokens", "n_predict")

_decode = msgspec.json.Decoder(dict[str, Any]).decode
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request for the engine, and what of the answer was only asked for by us.

    `path` is the engine's. `asked` are the client's fields, which decide the answer's shape;
    `upload_ms` is the length of the audio it brought. `shows_usage`: the client wants the usage
    event. `hidden` are fields of an answer's events that the client did not ask for. `template` is
    asked first where it is not b"": its answer's `prompt` becomes the `content` of the body.
    """

    body: bytes
    shows_usage: bool = True
    hidden: frozenset[str] = frozenset()
    path: str = CHAT_PATH
    content_type: str = "application/json"
    asked: Mapping[str, Any] = field(default_factory=dict)
    upload_ms: int = 0
    template: bytes = b""

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
) -> Prepared:
    """The engine's request for an order. Raises RequestUnservable."""
    if order.path in FORMS:
        return _prepared_form(body, order, model=model, capabilities=capabilities)
    asked = _fields(body)
    _check_stream(order, asked.get("stream_format") == "sse" or bool(asked.get("stream")))
    fields = {name: value for name, value in asked.items() if name not in STEERING}
    _check_capabilities(order.path, asked, capabilities)
    fields["model"] = model
    if order.path == IMAGES_PATH:
        _set_seed(fields, order, capabilities)
    if order.path not in GENERATION:
        return _prepared_other(order.path, fields, asked=asked, engine=manifest.engine)
    _check_choices(fields, manifest)
    _bound_answer(fields, order)
    _set_seed(fields, order, capabilities)
    hidden: set[str] = set()
    shows_usage = True
    if order.stream:
        shows_usage, hidden = _ask_counts(fields, manifest.engine)
    elif manifest.engine in LLAMA and Capability.LOGPROBS in capabilities:
        hidden = _ask_lengths(fields, order.path)
    return Prepared(
        body=_encode(fields),
        shows_usage=shows_usage,
        hidden=frozenset(hidden),
        path=order.path,
        asked=asked,
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
            fields, template = _llama_tokenize(fields)
        case _:
            pass
    return Prepared(body=_encode(fields), path=path, asked=asked, template=template)


def _llama_tokenize(fields: Mapping[str, Any]) -> tuple[dict[str, Any], bytes]:
    """The question of vLLM as llama.cpp's: (its body, the body for its template route or b"")."""
    question = {
        "content": fields.get("prompt") or "",
        "add_special": fields.get("add_special_tokens", "messages" not in fields),
        "parse_special": True,
        "with_pieces": bool(fields.get("return_token_strs")),
    }
    if not fields.get("messages"):
        return question, b""
    keep = ("messages", "tools", "add_generation_prompt", "chat_template_kwargs")
    return question, _encode({name: fields[name] for name in keep if name in fields})


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
    _check_capabilities(order.path, {**asked, "stream": order.stream}, capabilities)
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


def _check_capabilities(
    path: str, fields: Mapping[str, Any], capabilities: frozenset[Capability]
) -> None:
    """Refuse what the engine was seen to lack."""
    for capability, param in _needs(path, fields):
        if capability not in capabilities:
            raise RequestUnservable(
                "unsupported_parameter" if param else "unsupported_operation",
                f"This model's engine does not offer {capability.value}. "
                + ("Leave it out, or call another model." if param else "Call another model."),
                param,
            )


def _needs(path: str, fields: Mapping[str, Any]) -> list[tuple[Capability, str | None]]:
    """What a request needs, and by which of its fields (None: by its path)."""
    answer_format = fields.get("response_format")
    kind = answer_format.get("type") if isinstance(answer_format, dict) else None
    is_stream = bool(fields.get("stream"))
    conditions = (
        (Capability.STREAM, path == CHAT_PATH and is_stream, "stream"),
        (Capability.LOGPROBS, path in GENERATION and bool(fields.get("logprobs")), "logprobs"),
        (Capability.TOOLS, path == CHAT_PATH and bool(fields.get("tools")), "tools"),
        (Capability.JSON_SCHEMA, kind == "json_schema", "response_format"),
        (Capability.ECHO, path == COMPLETIONS_PATH and bool(fields.get("echo")), "echo"),
        (Capability.DIMENSIONS, path == EMBEDDINGS_PATH and "dimensions" in fields, "dimensions"),
        (Capability.SPEECH_STREAM, fields.get("stream_format") == "sse", "stream_format"),
        (Capability.TRANSCRIPTION_STREAM, path == TRANSCRIPTIONS_PATH and is_stream, "stream"),
        (Capability.TEMPLATE, path == TOKENIZE_PATH and bool(fields.get("messages")), "messages"),
    )
    named = [(capability, param) for capability, needed, param in conditions if needed]
    return [(PATHS[path], None), *named]


def _check_choices(fields: Mapping[str, Any], manifest: Manifest) -> None:
    """llama.cpp needs a slot for every choice, all at once."""
    most = manifest.limits.parallel_max
    if manifest.engine in LLAMA and (_count(fields.get("n")) or 1) > most:
        raise RequestUnservable(
            "unsupported_parameter", f"This model gives up to {most} choices at once.", "n"
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


def _choices(fields: Mapping[str, Any]) -> int:
    """How many answers are worked: as the gateway counts when it sets the ceiling."""
    answers = answers_asked(fields)
    return max(answers.each, _count(fields.get("best_of")) or 1) * (answers.total // answers.each)


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
    if engine in LLAMA and not fields.get("timings_per_token"):
        fields["timings_per_token"] = True
        hidden.add("timings")
    return shows_usage, hidden


def _ask_lengths(fields: dict[str, Any], path: str) -> set[str]:
    """Have llama.cpp tell how long each of several choices is: its usage has only the first's.

    The most likely token is enough, and no choice comes out otherwise for it.
    """
    if answers_asked(fields).total < 2 or fields.get("logprobs"):
        return set()
    if path == CHAT_PATH:
        fields["logprobs"], fields["top_logprobs"] = True, 1
    else:
        fields["logprobs"] = 1
    return {"logprobs"}
