"""What the gateway must know of a request's body: read once, in part; the bytes go on untouched.

Only the fields that decide money, routing or framing are read, and those whose wrong values make
engines fail in unclear ways. Everything else is between the client and the engine, whose 4xx is
passed back. Chat, completions and embeddings are here; the other kinds in bodies_text.py and
bodies_media.py.
"""

from typing import Annotated

import msgspec

from penstock.gateway.bodies_media import read_form, read_images, read_speech
from penstock.gateway.bodies_text import (
    read_detokenize,
    read_moderation,
    read_rerank,
    read_tokenize,
)
from penstock.gateway.calls import (
    CHAT_PATH,
    CHOICES_MAX,
    COMPLETIONS_PATH,
    DETOKENIZE_PATH,
    EMBEDDINGS_PATH,
    IMAGES_PATH,
    INPUTS_MAX,
    MODALITIES,
    MODERATIONS_PATH,
    NO_RAW,
    RERANK_PATHS,
    SEED_MAX,
    SPEECH_PATH,
    TOKENIZE_PATH,
    TOKENS_MAX,
    TRANSCRIPTIONS_PATH,
    TRANSLATIONS_PATH,
    Call,
    Count,
    ModelName,
    Penalty,
    Positive,
    Share,
    Temperature,
    Tokens,
    count_inputs,
    count_items,
    decoded,
    plain_call,
    shown,
)
from penstock.gateway.errors import BadRequest, UnsupportedValue

__all__ = [
    "CHAT_PATH",
    "CHOICES_MAX",
    "COMPLETIONS_PATH",
    "EMBEDDINGS_PATH",
    "INPUTS_MAX",
    "MODALITIES",
    "SEED_MAX",
    "TOKENS_MAX",
    "Call",
    "parse_body",
]

STOPS_MAX = 16
LOGPROBS_MAX = 20
ENCODINGS = ("float", "base64")

Stops = str | Annotated[list[str], msgspec.Meta(max_length=STOPS_MAX)] | None
Choices = Annotated[int, msgspec.Meta(ge=0, le=CHOICES_MAX)]
"""`best_of` starts at 0, which says the same as leaving it out."""
TopLogprobs = Annotated[int, msgspec.Meta(ge=0, le=LOGPROBS_MAX)] | None


class StreamOptions(msgspec.Struct):
    """Checked for its type only: the miner decides what to meter and what to show."""

    include_usage: bool | None = None


class Message(msgspec.Struct):
    """One turn. Its content is the engine's business."""

    role: str


class GenerationBody(msgspec.Struct, kw_only=True):
    """The shared fields of chat and completions."""

    model: ModelName
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Tokens | None = None
    max_completion_tokens: Tokens | None = None
    n: Count | None = None
    seed: int | None = None
    temperature: Temperature | None = None
    top_p: Share | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    stop: Stops = None
    provider: msgspec.Raw = NO_RAW


class ChatBody(GenerationBody, kw_only=True):
    """`POST /v1/chat/completions`."""

    messages: msgspec.Raw
    logprobs: bool | None = None
    top_logprobs: TopLogprobs = None


class CompletionBody(GenerationBody, kw_only=True):
    """`POST /v1/completions`. A batch of prompts is so many choices."""

    prompt: msgspec.Raw
    best_of: Choices | None = None
    echo: bool | None = None
    logprobs: bool | TopLogprobs = None


class EmbeddingBody(msgspec.Struct, kw_only=True):
    """`POST /v1/embeddings`."""

    model: ModelName
    input: msgspec.Raw
    encoding_format: Annotated[str, shown(enum=list(ENCODINGS))] | None = None
    dimensions: Positive | None = None
    provider: msgspec.Raw = NO_RAW


_chat = msgspec.json.Decoder(ChatBody)
_completion = msgspec.json.Decoder(CompletionBody)
_embedding = msgspec.json.Decoder(EmbeddingBody)
_messages = msgspec.json.Decoder(list[Message])


def parse_body(path: str, body: bytes) -> Call:
    """The Call at one of MODALITIES' paths. Raises BadJson or BadRequest."""
    return _READERS[path](path, body)


def _read_chat(path: str, body: bytes) -> Call:
    chat = decoded(_chat, body)
    if not decoded(_messages, chat.messages, param="messages"):
        raise BadRequest(reason="messages is empty. Send at least one message.", param="messages")
    if chat.top_logprobs and not chat.logprobs:
        raise BadRequest(
            reason="top_logprobs needs `logprobs: true`. Set it, or leave top_logprobs out.",
            param="top_logprobs",
        )
    return _generation(path, chat, body, answers=chat.n or 1, prompt=chat.messages)


def _read_completion(path: str, body: bytes) -> Call:
    asked = decoded(_completion, body)
    choices = max(asked.n or 1, asked.best_of or 1)
    answers = choices * count_items("prompt", asked.prompt)
    return _generation(path, asked, body, answers=answers, prompt=asked.prompt)


def _read_embedding(path: str, body: bytes) -> Call:
    embedding = decoded(_embedding, body)
    count_inputs("input", embedding.input)
    if embedding.encoding_format not in {None, *ENCODINGS}:
        raise UnsupportedValue(
            reason=f"encoding_format must be one of {', '.join(ENCODINGS)}.",
            param="encoding_format",
        )
    return plain_call(
        path, embedding.model, body, prompt=embedding.input, provider=embedding.provider
    )


def _generation(
    path: str, body: GenerationBody, raw: bytes, *, answers: int, prompt: msgspec.Raw
) -> Call:
    if answers > CHOICES_MAX:
        raise BadRequest(
            reason=f"More than {CHOICES_MAX} answers are asked for at once.", param="n"
        )
    tokens, newer, seed = body.max_tokens, body.max_completion_tokens, body.seed
    # Engines differ on which of the two fields wins, so the larger one bounds what it may cost.
    if tokens is None or (newer is not None and newer > tokens):
        tokens = newer
    if tokens == 0:
        tokens = 1  # no engine says nothing: the least it can do, at the least it can cost
    return Call(
        path,
        MODALITIES[path],
        body.model,
        bool(body.stream),
        tokens,
        answers,
        seed if seed is not None and 0 <= seed <= SEED_MAX else None,
        raw,
        bytes(body.provider),
        bytes(prompt),
    )


_READERS = {
    CHAT_PATH: _read_chat,
    COMPLETIONS_PATH: _read_completion,
    EMBEDDINGS_PATH: _read_embedding,
    **dict.fromkeys(RERANK_PATHS, read_rerank),
    IMAGES_PATH: read_images,
    SPEECH_PATH: read_speech,
    TRANSCRIPTIONS_PATH: read_form,
    TRANSLATIONS_PATH: read_form,
    MODERATIONS_PATH: read_moderation,
    TOKENIZE_PATH: read_tokenize,
    DETOKENIZE_PATH: read_detokenize,
}
assert _READERS.keys() == MODALITIES.keys(), "every path has a reader"
