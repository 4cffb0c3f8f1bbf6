"""Every operation of the OpenAPI document: what is asked of models, what is kept, what is read."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from penstock.gateway import bodies, bodies_media, bodies_text, calls, files
from penstock.gateway import openapi_shapes as shapes

Schema = dict[str, Any]

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
FILE_UPLOAD: Schema = {
    "type": "object",
    "required": ["purpose", "file"],
    "properties": {
        "purpose": {"type": "string", "enum": list(files.PURPOSES)},
        "expires_after[anchor]": {"type": "string", "enum": ["created_at"]},
        "expires_after[seconds]": {
            "type": "integer",
            "minimum": files.LIFE_S_MIN,
            "maximum": files.LIFE_S_MAX,
        },
        "file": {"type": "string", "contentMediaType": "application/octet-stream"},
    },
    "dependentRequired": {
        "expires_after[anchor]": ["expires_after[seconds]"],
        "expires_after[seconds]": ["expires_after[anchor]"],
    },
}
LIMITS_MAX = {"/v1/models": 1_000, "/v1/files": 10_000, "/v1/batches": 100}
"""How much of each list one page may hold."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One thing that can be asked. `asked` is the request's Struct, or FORM's schema for an upload;
    `answers` are the media types of a 200 with their Struct (None: bytes or text). `is_kept`: it is
    about what the gateway keeps for its caller and asks no model.
    """

    method: str
    path: str
    summary: str
    answers: Mapping[str, type[msgspec.Struct] | None]
    asked: type[msgspec.Struct] | Schema | None = None
    parameters: tuple[str, ...] = ()
    has_key: bool = True
    is_anthropic: bool = False
    is_kept: bool = False


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


def kept_operations() -> list[Operation]:
    """Files and batches: what a gateway with a store keeps for its callers."""
    file: ANSWERS = {JSON: shapes.FileAnswer}
    batch: ANSWERS = {JSON: shapes.BatchAnswer}
    content: ANSWERS = {"application/octet-stream": None}
    pages, sorted_pages = ("after", "limit"), ("after", "limit", "order", "purpose")
    listed: ANSWERS = {JSON: shapes.FileList}
    rows: tuple[tuple[str, str, str, ANSWERS, type[msgspec.Struct] | Schema | None], ...] = (
        ("post", "/v1/files", "Keep a file: first the fields, then it.", file, FILE_UPLOAD),
        ("get", "/v1/files", "The account's files.", listed, None),
        ("get", "/v1/files/{id}", "One file's card.", file, None),
        ("delete", "/v1/files/{id}", "Forget a file.", {JSON: shapes.FileGone}, None),
        ("get", "/v1/files/{id}/content", "One file's bytes.", content, None),
        ("post", "/v1/batches", "Run a file of requests.", batch, shapes.BatchAsked),
        ("get", "/v1/batches", "The account's batches.", {JSON: shapes.BatchList}, None),
        ("get", "/v1/batches/{id}", "How far a batch is.", batch, None),
        ("post", "/v1/batches/{id}/cancel", "Begin no further line.", batch, None),
    )
    parameters = {("get", "/v1/files"): sorted_pages, ("get", "/v1/batches"): pages}
    return [
        Operation(
            method,
            path,
            summary,
            answers,
            asked,
            parameters=parameters.get((method, path), ()),
            is_kept=True,
        )
        for method, path, summary, answers, asked in rows
    ]
