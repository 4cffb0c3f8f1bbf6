"""Bodies that hold texts and want no text back: rerank, moderation, tokens.

Rerank takes the shapes of Cohere (v1 and v2), Jina and vLLM at each of its paths; tokenize and
detokenize take vLLM's.
"""

from typing import Annotated

import msgspec

from penstock.gateway.calls import (
    INPUTS_MAX,
    NO_RAW,
    Call,
    ModelName,
    Positive,
    count_inputs,
    decoded,
    plain_call,
    shown,
)
from penstock.gateway.errors import BadRequest

DOCUMENTS_MAX = 1_024
MODERATION_MODEL = "omni-moderation-latest"
"""What OpenAI's clients mean when they name no model; an alias can make it any chute."""


MODERATED: dict[str, object] = {
    "oneOf": [
        {"type": "string"},
        {
            "type": "array",
            "minItems": 1,
            "maxItems": INPUTS_MAX,
            "items": {
                "oneOf": [
                    {"type": "string"},
                    {
                        "type": "object",
                        "required": ["type"],
                        "properties": {"type": {"type": "string"}},
                    },
                ]
            },
        },
    ]
}


class Part(msgspec.Struct):
    """A text or an image of a message that is judged as a whole."""

    type: str


class Document(msgspec.Struct):
    """A document that is an object: Cohere's v1 and Jina's shape."""

    text: str


class RerankBody(msgspec.Struct, kw_only=True):
    """`POST /v1/rerank` and its other names."""

    model: ModelName
    query: Annotated[str, msgspec.Meta(min_length=1)]
    documents: Annotated[list[str | Document], msgspec.Meta(min_length=1, max_length=DOCUMENTS_MAX)]
    top_n: Positive | None = None
    return_documents: bool | None = None
    provider: msgspec.Raw = NO_RAW


class ModerationBody(msgspec.Struct, kw_only=True):
    """`POST /v1/moderations`."""

    input: Annotated[msgspec.Raw, shown(**MODERATED)]
    model: ModelName | None = None
    provider: msgspec.Raw = NO_RAW


class TokenizeBody(msgspec.Struct, kw_only=True):
    """`POST /tokenize`: a prompt as it is, or messages under the model's template."""

    model: ModelName
    prompt: str | None = None
    messages: msgspec.Raw = NO_RAW
    add_special_tokens: bool | None = None
    add_generation_prompt: bool | None = None
    return_token_strs: bool | None = None


class DetokenizeBody(msgspec.Struct, kw_only=True):
    """`POST /detokenize`."""

    model: ModelName
    tokens: list[Annotated[int, msgspec.Meta(ge=0)]]


class Turn(msgspec.Struct):
    """A message, as far as it must be one."""

    role: str


_rerank = msgspec.json.Decoder(RerankBody)
_moderation = msgspec.json.Decoder(ModerationBody)
_judged = msgspec.json.Decoder(str | list[str | Part])
_tokenize = msgspec.json.Decoder(TokenizeBody)
_detokenize = msgspec.json.Decoder(DetokenizeBody)
_turns = msgspec.json.Decoder(list[Turn])


def read_rerank(path: str, body: bytes) -> Call:
    """Raises BadJson, BadRequest."""
    asked = decoded(_rerank, body)
    return plain_call(path, asked.model, body, provider=asked.provider)


def read_moderation(path: str, body: bytes) -> Call:
    """Raises BadJson, BadRequest."""
    asked = decoded(_moderation, body)
    count_inputs("input", asked.input)
    decoded(_judged, asked.input, param="input")
    model = MODERATION_MODEL if asked.model is None else asked.model
    return plain_call(path, model, body, provider=asked.provider)


def read_tokenize(path: str, body: bytes) -> Call:
    """Raises BadJson, BadRequest."""
    asked = decoded(_tokenize, body)
    if (asked.prompt is None) is not bool(asked.messages):
        raise BadRequest(reason="Send either prompt or messages.", param="prompt")
    if asked.messages and not decoded(_turns, asked.messages, param="messages"):
        raise BadRequest(reason="messages is empty. Send at least one message.", param="messages")
    return plain_call(path, asked.model, body)


def read_detokenize(path: str, body: bytes) -> Call:
    """Raises BadJson, BadRequest."""
    return plain_call(path, decoded(_detokenize, body).model, body)
