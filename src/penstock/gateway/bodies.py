"""What the gateway must know of a request's body: read once, in part; the bytes go on untouched.

Only the fields that decide money, routing or framing are read. Everything else is between the
client and the engine, whose 4xx is passed back.
"""

import re
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from penstock.gateway.errors import BadJson, BadRequest
from penstock.spec.messages import Modality

CHAT_PATH = "/v1/chat/completions"
COMPLETIONS_PATH = "/v1/completions"
EMBEDDINGS_PATH = "/v1/embeddings"

MODALITIES = {
    CHAT_PATH: Modality.CHAT,
    COMPLETIONS_PATH: Modality.CHAT,
    EMBEDDINGS_PATH: Modality.EMBEDDINGS,
}
"""Which modality a chute must have to be asked at a path."""

TOKENS_MAX = 1 << 31
CHOICES_MAX = 128
SEED_MAX = (1 << 31) - 1
MODEL_CHARS_MAX = 160

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Call:
    """One request, as far as the gateway reads it.

    `tokens_max` is what the client allows per choice (None: the chute's limit); `choices` counts
    answers (`n`, `best_of`, a batch of prompts). `seed` is the client's, if it is one an engine takes.
    """

    path: str
    modality: Modality
    model: str
    stream: bool
    tokens_max: int | None
    choices: int
    seed: int | None
    body: bytes


class StreamOptions(msgspec.Struct):
    """Checked for its type only: the miner decides what to meter and what to show."""

    include_usage: bool | None = None


class Message(msgspec.Struct):
    """One turn. Its content is the engine's business."""

    role: str


class GenerationBody(msgspec.Struct, kw_only=True):
    """The shared fields of chat and completions."""

    model: str
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    n: int | None = None
    seed: int | None = None


class ChatBody(GenerationBody, kw_only=True):
    """`POST /v1/chat/completions`."""

    messages: list[Message]


class CompletionBody(GenerationBody, kw_only=True):
    """`POST /v1/completions`. A batch of prompts is so many choices."""

    prompt: msgspec.Raw
    best_of: int | None = None


class EmbeddingBody(msgspec.Struct, kw_only=True):
    """`POST /v1/embeddings`."""

    model: str
    input: msgspec.Raw


_chat = msgspec.json.Decoder(ChatBody)
_completion = msgspec.json.Decoder(CompletionBody)
_embedding = msgspec.json.Decoder(EmbeddingBody)
_parts = msgspec.json.Decoder(list[msgspec.Raw])

_ITEM = re.compile(rb"[ \t\n\r]*[^ \t\n\r\]]")
_PLACE = re.compile(r"(?:at `\$\.|field `)([A-Za-z_]+)")


def parse_body(path: str, body: bytes) -> Call:
    """The Call at one of MODALITIES' paths. Raises BadJson or BadRequest."""
    if path == CHAT_PATH:
        chat = _decoded(_chat, body)
        if not chat.messages:
            raise BadRequest(
                reason="messages is empty. Send at least one message.", param="messages"
            )
        return _generation(path, chat, body, answers=_count("n", chat.n))
    if path == COMPLETIONS_PATH:
        completion = _decoded(_completion, body)
        choices = max(_count("n", completion.n), _count("best_of", completion.best_of))
        return _generation(path, completion, body, answers=choices * _prompts(completion.prompt))
    embedding = _decoded(_embedding, body)
    first = bytes(embedding.input)[:1]
    if first not in {b'"', b"["}:
        raise BadRequest(reason="input must be a string or a list.", param="input")
    return Call(
        path=path,
        modality=Modality.EMBEDDINGS,
        model=_model(embedding.model),
        stream=False,
        tokens_max=0,
        choices=1,
        seed=None,
        body=body,
    )


def _decoded(decoder: "msgspec.json.Decoder[T]", body: bytes) -> T:
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        place = _PLACE.search(str(error))
        param = place.group(1) if place else None
        raise BadRequest(reason=f"The body does not fit: {error}.", param=param) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadJson(reason=str(error)) from error
    except RecursionError as error:
        raise BadJson(reason="it is nested too deeply") from error


def _generation(path: str, body: GenerationBody, raw: bytes, *, answers: int) -> Call:
    if answers > CHOICES_MAX:
        raise BadRequest(
            reason=f"More than {CHOICES_MAX} answers are asked for at once.", param="n"
        )
    asked = [
        _tokens(name, value)
        for name, value in (
            ("max_tokens", body.max_tokens),
            ("max_completion_tokens", body.max_completion_tokens),
        )
        if value is not None
    ]
    seed = body.seed
    return Call(
        path=path,
        modality=MODALITIES[path],
        model=_model(body.model),
        stream=bool(body.stream),
        tokens_max=max(asked, default=None),
        choices=answers,
        seed=seed if seed is not None and 0 <= seed <= SEED_MAX else None,
        body=raw,
    )


def _model(model: str) -> str:
    if not 0 < len(model) <= MODEL_CHARS_MAX:
        raise BadRequest(
            reason=f"model must have 1 to {MODEL_CHARS_MAX} characters. See GET /v1/models.",
            param="model",
        )
    return model


def _tokens(name: str, value: int) -> int:
    """Engines differ on which of the two fields wins, so the caller takes the larger one."""
    if not 1 <= value <= TOKENS_MAX:
        raise BadRequest(reason=f"{name} must be from 1 to {TOKENS_MAX}.", param=name)
    return value


def _count(name: str, value: int | None) -> int:
    if value is None:
        return 1
    if not 1 <= value <= CHOICES_MAX:
        raise BadRequest(reason=f"{name} must be from 1 to {CHOICES_MAX}.", param=name)
    return value


def _prompts(prompt: msgspec.Raw) -> int:
    """How many prompts there are: a list of numbers is one prompt in tokens."""
    text = bytes(prompt)
    if text[:1] == b'"':
        return 1
    if text[:1] != b"[":
        raise BadRequest(reason="prompt must be a string or a list.", param="prompt")
    start = _ITEM.match(text, 1)
    if start is None:
        raise BadRequest(reason="prompt is empty. Send at least one prompt.", param="prompt")
    # Millions of tokens are not taken apart only to see that they are one prompt.
    return len(_parts.decode(text)) if start[0][-1:] in {b'"', b"["} else 1
