"""A request as far as the gateway reads it, and the checks that every kind of body shares."""

import re
from typing import Annotated, TypeVar

import msgspec

from penstock.gateway.errors import BadJson, BadRequest
from penstock.spec.messages import Modality

CHAT_PATH = "/v1/chat/completions"
COMPLETIONS_PATH = "/v1/completions"
EMBEDDINGS_PATH = "/v1/embeddings"
RERANK_PATH = "/v1/rerank"
RERANK_PATHS = (RERANK_PATH, "/v2/rerank", "/rerank")
IMAGES_PATH = "/v1/images/generations"
SPEECH_PATH = "/v1/audio/speech"
TRANSCRIPTIONS_PATH = "/v1/audio/transcriptions"
TRANSLATIONS_PATH = "/v1/audio/translations"
MODERATIONS_PATH = "/v1/moderations"
TOKENIZE_PATH = "/tokenize"
DETOKENIZE_PATH = "/detokenize"

MODALITIES = {
    CHAT_PATH: Modality.CHAT,
    COMPLETIONS_PATH: Modality.CHAT,
    EMBEDDINGS_PATH: Modality.EMBEDDINGS,
    **dict.fromkeys(RERANK_PATHS, Modality.RERANK),
    IMAGES_PATH: Modality.IMAGES,
    SPEECH_PATH: Modality.SPEECH,
    TRANSCRIPTIONS_PATH: Modality.TRANSCRIPTION,
    TRANSLATIONS_PATH: Modality.TRANSCRIPTION,
    MODERATIONS_PATH: Modality.MODERATION,
    TOKENIZE_PATH: Modality.CHAT,
    DETOKENIZE_PATH: Modality.CHAT,
}
"""Which modality a chute must have to be asked at a path."""

TOKENS_MAX = 1 << 31
CHOICES_MAX = 128
SEED_MAX = (1 << 31) - 1
MODEL_CHARS_MAX = 1_024
"""Room for a list of models to fall back on, some of them pinned by digest."""
INPUTS_MAX = 2_048
"""Texts in one request for embeddings or moderation: OpenAI's bound."""

GZIP = b"\x1f\x8b"

NO_RAW = msgspec.Raw(b"")

T = TypeVar("T")
Temperature = Annotated[float, msgspec.Meta(ge=0, le=2)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Penalty = Annotated[float, msgspec.Meta(ge=-2, le=2)]
Positive = Annotated[int, msgspec.Meta(ge=1)]
Count = Annotated[int, msgspec.Meta(ge=1, le=CHOICES_MAX)]
Tokens = Annotated[int, msgspec.Meta(ge=0, le=TOKENS_MAX)]
ModelName = Annotated[str, msgspec.Meta(min_length=1, max_length=MODEL_CHARS_MAX)]


class Call(msgspec.Struct):
    """One request, as far as the gateway reads it.

    `tokens_max` is what the client allows per choice (None: the chute's limit); `choices` counts
    answers (`n`, `best_of`, a batch of prompts). `seed` is the client's, if it is one an engine takes.
    `images_max` and `audio_ms_max` bound what the answer may hold of them.
    """

    path: str
    modality: Modality
    model: str
    stream: bool
    tokens_max: int | None
    choices: int
    seed: int | None
    body: bytes
    provider: bytes = b""
    """The raw `provider` object of OpenRouter's dialect, b"" if there is none (see wants.py)."""
    prompt: bytes = b""
    """The raw messages, prompt or input: what a cache of prefixes goes by."""
    images_max: int = 0
    audio_ms_max: int = 0


def for_model(call: Call, model: str) -> Call:
    """The same request, for another model."""
    return msgspec.structs.replace(call, model=model)


def shown(**schema: object) -> msgspec.Meta:
    """What the OpenAPI document says of a field that is checked by hand."""
    return msgspec.Meta(extra_json_schema=schema)


def plain_call(
    path: str,
    model: str,
    body: bytes,
    *,
    prompt: msgspec.Raw = NO_RAW,
    provider: msgspec.Raw = NO_RAW,
) -> Call:
    """A request whose answer comes whole and holds no completion."""
    return Call(
        path=path,
        modality=MODALITIES[path],
        model=model,
        stream=False,
        tokens_max=0,
        choices=1,
        seed=None,
        body=body,
        provider=bytes(provider),
        prompt=bytes(prompt),
    )


_PLACE = re.compile(r"at `\$\.([A-Za-z_]+)")
_FIELD = re.compile(r"field `([A-Za-z_]+)")
_ITEM = re.compile(rb"[ \t\n\r]*[^ \t\n\r\]]")
_parts = msgspec.json.Decoder(list[msgspec.Raw])


def decoded(decoder: "msgspec.json.Decoder[T]", body: bytes | msgspec.Raw, *, param: str = "") -> T:
    """The body by its decoder; `param` names the field when only that is decoded.

    Raises BadJson, BadRequest.
    """
    try:
        # What is not read of a body is not looked at either, and no engine could read it.
        if not param and isinstance(body, bytes) and not body.isascii():
            body.decode()
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        told = str(error)
        place = None if param else _PLACE.search(told) or _FIELD.search(told)
        named = place.group(1) if place else param or None
        what = f"{param} does" if param else "The body does"
        raise BadRequest(reason=f"{what} not fit: {error}.", param=named) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadJson(reason=_unreadable(bytes(body), error)) from error
    except RecursionError as error:
        raise BadJson(reason="it is nested too deeply") from error


def _unreadable(body: bytes, error: Exception) -> str:
    """Why a body is no JSON."""
    if body.startswith(GZIP):
        return "it is compressed, which is not taken here"
    if isinstance(error, UnicodeDecodeError):
        return f"byte {error.start} is not UTF-8"
    return str(error)


def count_items(name: str, value: msgspec.Raw) -> int:
    """How many inputs there are: a text, or a list of numbers, is one. Raises BadRequest."""
    text = bytes(value)
    if text[:1] == b'"':
        return 1
    if text[:1] != b"[":
        raise BadRequest(reason=f"{name} must be a string or a list.", param=name)
    start = _ITEM.match(text, 1)
    if start is None:
        raise BadRequest(reason=f"{name} is empty. Send at least one.", param=name)
    # Millions of tokens are not taken apart only to see that they are one prompt.
    return len(_parts.decode(text)) if start[0][-1:] in {b'"', b"[", b"{"} else 1


def count_inputs(name: str, value: msgspec.Raw) -> int:
    """`count_items`, and no more than INPUTS_MAX of them. Raises BadRequest."""
    count = count_items(name, value)
    if count > INPUTS_MAX:
        raise BadRequest(
            reason=f"{name} holds {count} inputs and may hold {INPUTS_MAX}. Send them in parts.",
            param=name,
        )
    return count
