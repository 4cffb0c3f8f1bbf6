"""What answers look like, for the OpenAPI document: the least that every answer has.

Answers may hold more: an engine's own fields go through. The tests read real answers with these
shapes, so that the document stays true.
"""

from typing import Annotated, Any, Literal

import msgspec

from penstock.gateway import batches, files
from penstock.gateway.calls import ModelName, shown


class Problem(msgspec.Struct):
    """Inside of the error envelope. `code` is stable; see docs/errors.md."""

    message: str
    type: str
    param: str | None
    code: str
    request_id: str


class Error(msgspec.Struct):
    """OpenAI's error envelope."""

    error: Problem


class AnthropicProblem(msgspec.Struct):
    type: str
    message: str


class AnthropicError(msgspec.Struct):
    """Anthropic's error envelope, at `/v1/messages` and below."""

    type: Literal["error"]
    error: AnthropicProblem
    request_id: str


class Usage(msgspec.Struct):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ChatChoice(msgspec.Struct):
    index: int
    message: dict[str, Any]
    finish_reason: str | None


class ChatAnswer(msgspec.Struct):
    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage


class CompletionChoice(msgspec.Struct):
    index: int
    text: str
    finish_reason: str | None
    logprobs: dict[str, Any] | None = None


class CompletionAnswer(msgspec.Struct):
    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage


class Embedding(msgspec.Struct):
    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingsAnswer(msgspec.Struct):
    object: Literal["list"]
    model: str
    data: list[Embedding]
    usage: dict[str, Any]


class Ranked(msgspec.Struct):
    index: int
    relevance_score: float
    document: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET


class RerankAnswer(msgspec.Struct):
    """Best first. One shape for Cohere's, Jina's and vLLM's clients."""

    id: str
    model: str
    results: list[Ranked]
    usage: dict[str, Any]
    meta: dict[str, Any]


class Image(msgspec.Struct):
    b64_json: str


class ImagesAnswer(msgspec.Struct):
    created: int
    data: list[Image]


class TranscriptAnswer(msgspec.Struct):
    text: str


class ModerationResult(msgspec.Struct):
    flagged: bool
    categories: dict[str, bool]
    category_scores: dict[str, float]


class ModerationAnswer(msgspec.Struct):
    id: str
    model: str
    results: list[ModerationResult]


class TokenizeAnswer(msgspec.Struct):
    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None = None


class DetokenizeAnswer(msgspec.Struct):
    prompt: str


class MessagesAnswer(msgspec.Struct):
    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[dict[str, Any]]
    stop_reason: str | None
    usage: dict[str, Any]


class CountAnswer(msgspec.Struct):
    input_tokens: int


class ResponsesAnswer(msgspec.Struct):
    id: str
    object: Literal["response"]
    created_at: float
    status: str
    model: str
    output: list[dict[str, Any]]


class Model(msgspec.Struct):
    """One model, for OpenAI's, Anthropic's and OpenRouter's clients at once."""

    id: str
    object: Literal["model"]
    type: Literal["model"]
    created: int
    created_at: str
    owned_by: str
    name: str
    display_name: str
    context_length: int
    architecture: dict[str, Any]
    pricing: dict[str, str]
    top_provider: dict[str, Any]
    supported_parameters: list[str]
    chute: str
    modality: str
    instances: int


class ModelList(msgspec.Struct):
    object: Literal["list"]
    data: list[Model]
    has_more: bool
    first_id: str | None
    last_id: str | None
    total_count: int


class ReceiptAnswer(msgspec.Struct):
    """The record with its place in the public log; `seq` is -1 until the ledger has it."""

    record: dict[str, Any]
    seq: int
    checkpoint: str
    size: int
    proof: list[str]


class BalanceAnswer(msgspec.Struct):
    account: str
    available_nano: int
    held_nano: int


class Status(msgspec.Struct):
    status: Literal["ok"]


class Version(msgspec.Struct):
    """`commit` is "" where the installer does not know it. `is_compiled`: inner loops run in C."""

    version: str
    commit: str
    is_compiled: bool


class Turn(msgspec.Struct):
    """A message; its content is a text or a list of parts."""

    role: Literal["user", "assistant", "system"]
    content: str | list[dict[str, Any]]


class MessagesAsked(msgspec.Struct):
    """Anthropic's request, as far as it must be one."""

    model: ModelName
    max_tokens: Annotated[int, msgspec.Meta(ge=1)]
    messages: Annotated[list[Turn], msgspec.Meta(min_length=1)]
    system: str | list[dict[str, Any]] | None = None
    stream: bool | None = None


class CountAsked(msgspec.Struct):
    model: ModelName
    messages: Annotated[list[Turn], msgspec.Meta(min_length=1)]
    system: str | list[dict[str, Any]] | None = None


class ResponsesAsked(msgspec.Struct):
    """OpenAI's stateless Responses request, as far as it must be one."""

    model: ModelName
    input: str | list[dict[str, Any]]
    instructions: str | None = None
    stream: bool | None = None


class FileAnswer(msgspec.Struct):
    """OpenAI's file. Times in seconds since 1970."""

    id: str
    object: Literal["file"]
    bytes: int
    created_at: int
    expires_at: int
    filename: str
    purpose: str
    status: Literal["processed"]
    status_details: None


class FileList(msgspec.Struct):
    object: Literal["list"]
    data: list[FileAnswer]
    first_id: str | None
    last_id: str | None
    has_more: bool


class FileGone(msgspec.Struct):
    id: str
    object: Literal["file"]
    deleted: Literal[True]


class LineErrors(msgspec.Struct):
    object: Literal["list"]
    data: list[batches.LineError]


class BatchAnswer(msgspec.Struct):
    """OpenAI's batch. Times in seconds since 1970; `usage` is of all answers together."""

    id: str
    object: Literal["batch"]
    endpoint: str
    model: str | None
    errors: LineErrors | None
    input_file_id: str
    completion_window: str
    status: str
    output_file_id: str | None
    error_file_id: str | None
    created_at: int
    in_progress_at: int | None
    expires_at: int
    finalizing_at: int | None
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None
    request_counts: batches.Counts
    usage: dict[str, Any]
    metadata: dict[str, str] | None


class BatchList(msgspec.Struct):
    object: Literal["list"]
    data: list[BatchAnswer]
    first_id: str | None
    last_id: str | None
    has_more: bool


MetadataKey = Annotated[str, msgspec.Meta(max_length=batches.METADATA_KEY_CHARS_MAX)]
MetadataValue = Annotated[str, msgspec.Meta(max_length=batches.METADATA_VALUE_CHARS_MAX)]
Metadata = Annotated[
    dict[MetadataKey, MetadataValue], msgspec.Meta(max_length=batches.METADATA_MAX)
]


class Expiry(msgspec.Struct):
    """How long the files with the results are kept."""

    anchor: Literal["created_at"]
    seconds: Annotated[int, msgspec.Meta(ge=files.LIFE_S_MIN, le=files.LIFE_S_MAX)]


class BatchAsked(msgspec.Struct):
    """A file of requests to be run. See docs/batch.md."""

    input_file_id: str
    endpoint: Annotated[str, shown(enum=list(batches.ENDPOINTS))]
    completion_window: Annotated[str, shown(enum=[batches.WINDOW])]
    metadata: Metadata | None = None
    output_expires_after: Expiry | None = None
