"""The OpenAPI 3.1 document of the gateway, made of the Structs that read the requests.

Served at `/openapi.json` and kept in docs/openapi.json (`make docs`). A request's schema says what is
checked here; more fields are welcome and go to the engine.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, get_origin

import msgspec

from penstock.gateway import bodies, bodies_media, bodies_text, calls
from penstock.gateway import openapi_shapes as shapes

Schema = dict[str, Any]

REFERENCE = "#/components/schemas/{name}"
JSON = "application/json"
EVENTS = "text/event-stream"
FORM = "multipart/form-data"
MESSAGES_PATH = "/v1/messages"

MESSAGES: Schema = {
    "type": "array",
    "minItems": 1,
    "items": {
        "type": "object",
        "required": ["role"],
        "properties": {"role": {"type": "string"}},
    },
}
INPUTS: Schema = {
    "oneOf": [
        {"type": "string"},
        {"type": "array", "minItems": 1, "maxItems": calls.INPUTS_MAX, "items": {"type": "string"}},
        {"type": "array", "minItems": 1, "items": {"type": "integer", "minimum": 0}},
        {
            "type": "array",
            "minItems": 1,
            "maxItems": calls.INPUTS_MAX,
            "items": {"type": "array", "items": {"type": "integer", "minimum": 0}},
        },
    ]
}
RAW: Mapping[str, Schema] = {
    "messages": MESSAGES,
    "prompt": INPUTS,
    "input": INPUTS,
    "provider": {"type": ["object", "null"], "description": "OpenRouter's routing wishes."},
}
"""What stands in fields that are only cut out of a body, never taken apart."""

UPLOAD: Schema = {
    "type": "object",
    "required": ["file", "model"],
    "properties": {
        "file": {
            "type": "string",
            "contentMediaType": "application/octet-stream",
            "minLength": 1,
        },
        "model": {"type": "string", "minLength": 1, "maxLength": calls.MODEL_CHARS_MAX},
        "response_format": {"type": "string", "enum": list(bodies_media.TRANSCRIPT_FORMATS)},
        "temperature": {"type": "number", "minimum": 0, "maximum": 1},
        "stream": {"type": "boolean"},
    },
}


@dataclass(frozen=True, slots=True)
class Operation:
    """One thing that can be asked. `asked` is the request's Struct, or FORM's schema for an upload;
    `answers` are the media types of a 200 with their Struct (None: bytes or text).
    """

    method: str
    path: str
    summary: str
    answers: Mapping[str, type[msgspec.Struct] | None]
    asked: type[msgspec.Struct] | Schema | None = None
    parameters: tuple[str, ...] = ()
    has_key: bool = True
    is_anthropic: bool = False


ANSWERS = dict[str, type[msgspec.Struct] | None]
TRANSCRIPT: ANSWERS = {JSON: shapes.TranscriptAnswer, "text/plain": None, "text/vtt": None}
RANKED: ANSWERS = {JSON: shapes.RerankAnswer}
SOUND: ANSWERS = dict.fromkeys(("audio/mpeg", "audio/wav", "audio/pcm", "audio/*"))
ASKED: tuple[tuple[str, str, ANSWERS, type[msgspec.Struct] | Schema], ...] = (
    (calls.CHAT_PATH, "Chat.", {JSON: shapes.ChatAnswer}, bodies.ChatBody),
    (
        calls.COMPLETIONS_PATH,
        "Continue prompts: texts or token ids.",
        {JSON: shapes.CompletionAnswer},
        bodies.CompletionBody,
    ),
    (
        "/v1/responses",
        "OpenAI's Responses, without state.",
        {JSON: shapes.ResponsesAnswer},
        shapes.ResponsesAsked,
    ),
    (MESSAGES_PATH, "Anthropic's Messages.", {JSON: shapes.MessagesAnswer}, shapes.MessagesAsked),
    (
        f"{MESSAGES_PATH}/count_tokens",
        "How many tokens messages are.",
        {JSON: shapes.CountAnswer},
        shapes.CountAsked,
    ),
    (
        calls.EMBEDDINGS_PATH,
        "Vectors of texts or token ids.",
        {JSON: shapes.EmbeddingsAnswer},
        bodies.EmbeddingBody,
    ),
    *(
        (path, "Documents, best first.", RANKED, bodies_text.RerankBody)
        for path in calls.RERANK_PATHS
    ),
    (
        calls.MODERATIONS_PATH,
        "Whether texts are harmful.",
        {JSON: shapes.ModerationAnswer},
        bodies_text.ModerationBody,
    ),
    (
        calls.TOKENIZE_PATH,
        "The tokens of a prompt or of messages.",
        {JSON: shapes.TokenizeAnswer},
        bodies_text.TokenizeBody,
    ),
    (
        calls.DETOKENIZE_PATH,
        "The text of tokens.",
        {JSON: shapes.DetokenizeAnswer},
        bodies_text.DetokenizeBody,
    ),
    (
        calls.IMAGES_PATH,
        "Images, inside the answer.",
        {JSON: shapes.ImagesAnswer},
        bodies_media.ImagesBody,
    ),
    (calls.SPEECH_PATH, "Speech: the audio itself.", SOUND, bodies_media.SpeechBody),
    (calls.TRANSCRIPTIONS_PATH, "What audio says.", TRANSCRIPT, UPLOAD),
    (calls.TRANSLATIONS_PATH, "What audio says, in English.", TRANSCRIPT, UPLOAD),
)
STREAMED = frozenset(
    {
        *(calls.CHAT_PATH, calls.COMPLETIONS_PATH, "/v1/responses", MESSAGES_PATH),
        *(calls.SPEECH_PATH, calls.TRANSCRIPTIONS_PATH),
    }
)
"""Paths that also answer with events, if the request wants them."""


def asked_operations() -> list[Operation]:
    """Everything that is asked of models."""
    return [
        Operation(
            "post",
            path,
            summary,
            answers | {EVENTS: None} if path in STREAMED else answers,
            asked,
            is_anthropic=path.startswith(MESSAGES_PATH),
        )
        for path, summary, answers, asked in ASKED
    ]


def read_operations() -> list[Operation]:
    """Everything that is read."""
    open_pages: tuple[tuple[str, str, Mapping[str, type[msgspec.Struct] | None]], ...] = (
        ("/health", "Is it there, and what is in it?", {JSON: shapes.Status}),
        ("/livez", "Does the process answer?", {JSON: shapes.Status}),
        ("/readyz", "Can requests be served?", {JSON: shapes.Status}),
        ("/version", "The release.", {JSON: shapes.Version}),
        ("/metrics", "Prometheus text.", {"text/plain": None}),
        ("/openapi.json", "This document.", {JSON: None}),
    )
    return [
        Operation(
            "get",
            "/v1/models",
            "All models.",
            {JSON: shapes.ModelList},
            parameters=("limit", "after_id", "before_id"),
            has_key=False,
        ),
        Operation(
            "get",
            "/v1/models/{id}",
            "One model; its id may hold slashes.",
            {JSON: shapes.Model},
            has_key=False,
        ),
        Operation(
            "get",
            "/v1/receipts/{id}",
            "The signed record of an answer.",
            {JSON: shapes.ReceiptAnswer},
            has_key=False,
        ),
        Operation("get", "/v1/balance", "What an account has left.", {JSON: shapes.BalanceAnswer}),
        *(
            Operation("get", path, summary, answers, has_key=False)
            for path, summary, answers in open_pages
        ),
    ]


def document(version: str) -> Schema:
    """The whole document."""
    operations = [*asked_operations(), *read_operations()]
    paths: dict[str, Schema] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method] = _operation(operation)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Penstock gateway",
            "version": version,
            "description": "OpenAI's API, and Anthropic's, over an open market of miners. Every error "
            "is the envelope of its dialect with a stable code.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": _components(operations),
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
        },
    }


def _operation(operation: Operation) -> Schema:
    shown: Schema = {
        "operationId": _operation_id(operation),
        "summary": operation.summary,
        "responses": _responses(operation),
        "security": [{"bearer": []}, {"key": []}] if operation.has_key else [],
    }
    parameters: list[Schema] = [
        {"name": name, "in": "query", "schema": {"type": "string"}}
        if name != "limit"
        else {
            "name": name,
            "in": "query",
            "schema": {"type": "integer", "minimum": 1, "maximum": 1000},
        }
        for name in operation.parameters
    ]
    if "{id}" in operation.path:
        text = {"type": "string", "minLength": 1}
        parameters.append({"name": "id", "in": "path", "required": True, "schema": text})
    if parameters:
        shown["parameters"] = parameters
    if operation.asked is not None:
        kind = FORM if isinstance(operation.asked, dict) else JSON
        content = {kind: {"schema": _schema_of(operation.asked)}}
        shown["requestBody"] = {"required": True, "content": content}
    return shown


def _responses(operation: Operation) -> Schema:
    envelope = shapes.AnthropicError if operation.is_anthropic else shapes.Error
    refusals = {JSON: {"schema": _schema_of(envelope)}}
    good = {
        media: {"schema": _schema_of(kind)} if kind is not None else {}
        for media, kind in operation.answers.items()
    }
    shown: Schema = {"200": {"description": "The answer.", "content": good}}
    statuses: dict[str, str] = {}
    if operation.asked is not None:
        statuses = {
            "400": "The request does not fit; `param` names the field.",
            "402": "The account cannot cover what this may cost.",
            "413": "The body is too large.",
            "429": "Too many requests, or all instances are busy; see retry-after.",
            "502": "Every miner that was tried failed; nothing was charged.",
            "503": "Nobody serves the model now, or the ledger is away; see retry-after.",
        }
    if operation.has_key:
        statuses["401"] = "There is no key, or an unknown one."
    if operation.asked is not None or "{id}" in operation.path:
        statuses["404"] = "There is no such thing; for a model the message names those there are."
    for status in sorted(statuses):
        shown[status] = {"description": statuses[status], "content": refusals}
    shown["default"] = {"description": "Any other refusal.", "content": refusals}
    return shown


def _operation_id(operation: Operation) -> str:
    words = operation.path.replace("{id}", "one").replace(".", "/").strip("/").split("/")
    return "_".join((operation.method, *words)).replace("-", "_")


def _schema_of(kind: type[msgspec.Struct] | Schema) -> Schema:
    if isinstance(kind, dict):
        return kind
    return {"$ref": REFERENCE.format(name=kind.__name__)}


def _components(operations: list[Operation]) -> Schema:
    kinds: dict[str, type] = {"Error": shapes.Error, "AnthropicError": shapes.AnthropicError}
    for operation in operations:
        for kind in (operation.asked, *operation.answers.values()):
            if isinstance(kind, type):
                kinds[kind.__name__] = kind if not _has_raw(kind) else _readable(kind)
    _, components = msgspec.json.schema_components(kinds.values(), ref_template=REFERENCE)
    return dict(sorted(components.items()))


def _has_raw(kind: type[msgspec.Struct]) -> bool:
    types = [one.type for one in msgspec.structs.fields(kind)]
    return any(msgspec.Raw in (one, getattr(one, "__origin__", None)) for one in types)


def _readable(kind: type[msgspec.Struct]) -> type:
    """The Struct with schemas in place of raw JSON, which has none of its own."""
    fields: list[tuple[str, Any, Any]] = []
    for one in msgspec.structs.fields(kind):
        shown: Any = one.type
        default = msgspec.NODEFAULT if one.required else one.default
        if get_origin(shown) is Annotated and shown.__origin__ is msgspec.Raw:
            shown = Annotated[Any, *shown.__metadata__]
        elif shown is msgspec.Raw:
            shown = Annotated[Any, calls.shown(**RAW[one.name])]
        if one.type is not shown:
            default = default if one.required else msgspec.UNSET
        fields.append((one.encode_name, shown, default))
    return msgspec.defstruct(
        kind.__name__, fields, kw_only=True, namespace={"__doc__": kind.__doc__}
    )
