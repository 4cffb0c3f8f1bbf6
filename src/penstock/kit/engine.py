"""The engine port: one running inference server, as the miner sees it.

An engine is a process (ours or attached) that speaks the OpenAI dialect over plain HTTP at
`address`. The port manages its life only; requests go to `address` directly, from the miner's
front, so that streamed bytes pass one place. What an engine can do is measured by a probe at
start, never declared.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


class Capability(StrEnum):
    """What a probe at start has seen an engine do. A field outside these is never forwarded."""

    CHAT = "chat"
    COMPLETIONS = "completions"
    EMBEDDINGS = "embeddings"
    DIMENSIONS = "dimensions"
    """Shorter embedding vectors on demand."""
    RERANK = "rerank"
    IMAGES = "images"
    SPEECH = "speech"
    SPEECH_STREAM = "speech_stream"
    """Speech as server-sent events."""
    TRANSCRIPTION = "transcription"
    TRANSCRIPTION_STREAM = "transcription_stream"
    TRANSLATION = "translation"
    MODERATION = "moderation"
    TOKENIZE = "tokenize"
    TEMPLATE = "template"
    """The tokens of messages under the model's template, not only those of a prompt."""
    ECHO = "echo"
    """The prompt at the head of a completion, with its log-probabilities where they are asked for."""
    SUFFIX = "suffix"
    """A completion that leads to the text behind it."""
    COMPLETION_FORMAT = "completion_format"
    """A completion, not only a chat's answer, that keeps to a schema."""
    STREAM = "stream"
    LOGPROBS = "logprobs"
    JSON_SCHEMA = "json_schema"
    TOOLS = "tools"
    TOOL_CHOICE = "tool_choice"
    """A call where one is demanded and none is due."""
    SEED = "seed"


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """What one engine may use: requests at once, tokens a request (prompt and answer), threads."""

    slots_max: int = 4
    context_tokens_max: int = 1024
    threads: int = 1

    def __post_init__(self) -> None:
        if min(self.slots_max, self.context_tokens_max, self.threads) < 1:
            raise ValueError(f"every engine limit is at least 1, got {self}")


@dataclass(frozen=True, slots=True)
class EngineStats:
    """Requests in work, requests queued inside the engine, and does it answer at all?"""

    running: int
    waiting: int
    ready: bool


@dataclass(frozen=True, slots=True)
class EngineExit:
    """How an engine ended. `wanted` is true after `stop`; the rest is for the operator to read."""

    wanted: bool
    reason: str
    log_tail: str
    remedy: str


class EngineFailed(Exception):
    """The engine did not start, or a question to it cannot be answered.

    reason: what happened. log_tail: the last lines it wrote, maybe none. remedy: what to do next.
    """

    def __init__(self, *, reason: str, log_tail: str, remedy: str) -> None:
        super().__init__(reason, log_tail, remedy)
        self.reason = reason
        self.log_tail = log_tail
        self.remedy = remedy

    def __str__(self) -> str:
        log = f"\nIts last words:\n{self.log_tail}" if self.log_tail else ""
        return f"{self.reason} {self.remedy}{log}"


class Engine(Protocol):
    """One inference server. `address`, `model` and `capabilities` are known after `start`."""

    @property
    def address(self) -> str:
        """Base URL without a final slash, such as `http://127.0.0.1:40123`; append `/v1/...`."""
        ...

    @property
    def model(self) -> str:
        """The name to put into the `model` field of requests."""
        ...

    @property
    def capabilities(self) -> frozenset[Capability]:
        """Measured at start. Empty before."""
        ...

    async def start(self, *, deadline_ms: int) -> None:
        """Return once a canary was answered. Raises EngineFailed and leaves nothing running."""
        ...

    async def stats(self) -> EngineStats:
        """Counts as the engine reports them. Never raises: an engine that is gone is not ready."""
        ...

    async def wait_exit(self) -> EngineExit:
        """Wait until the engine has ended, for any reason. The caller decides about a restart."""
        ...

    async def stop(self, *, deadline_ms: int) -> None:
        """Let running requests end within the deadline, then end the process. Twice is harmless.

        The caller has stopped sending requests before; an attached server is left running.
        """
        ...
