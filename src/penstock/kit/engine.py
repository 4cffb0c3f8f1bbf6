"""The engine port: one running inference server, as the miner sees it.

An engine is a process (ours or attached) that speaks the OpenAI dialect over plain HTTP at
`address`. The port manages its life only; requests go to `address` directly, from the miner's
front, so that streamed bytes pass one place. What an engine can do is measured by a probe at
start, never declared.
"""

from dataclasses import dataclass
from enum import Enum, StrEnum
from pathlib import Path
from typing import Protocol

Headers = tuple[tuple[str, str], ...]


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
    N = "n"
    """Several answers to one chat, each of its own."""
    STOP = "stop"
    """An answer ends before a text that the request names."""
    PROMPT_LOGPROBS = "prompt_logprobs"
    """Log-probabilities of a chat's own prompt, by vLLM's name."""
    CACHE_SALT = "cache_salt"
    """What one salt left in the prefix cache is not found under another."""
    CACHE_SLOTS = "cache_slots"
    """llama.cpp's slots: a request may name its slot, and forgo what is cached there."""
    LORA = "lora"
    """Adapters are loaded and unloaded while it runs."""
    SUSPEND = "suspend"
    """It gives its accelerator's memory back and takes it again without a new start."""


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """What one engine may use: requests at once, tokens a request (prompt and answer), threads, and
    the cards that are its own (none: the processor).
    """

    slots_max: int = 4
    context_tokens_max: int = 1024
    threads: int = 1
    gpu_uuids: tuple[str, ...] = ()
    gpu_share_ppm: int = 900_000
    """How much of each card's memory is its own."""
    nodes: int = 1
    memory_bytes: int = 0
    """Of the machine; 0 sets no bound."""

    def __post_init__(self) -> None:
        if min(self.slots_max, self.context_tokens_max, self.threads, self.nodes) < 1:
            raise ValueError(f"every engine limit is at least 1, got {self}")
        if not 0 < self.gpu_share_ppm <= 1_000_000:
            raise ValueError(f"gpu_share_ppm is in 1..1000000, got {self.gpu_share_ppm}")


@dataclass(frozen=True, slots=True)
class EngineStats:
    """Requests in work, requests queued inside the engine, and does it answer at all?

    The rest is 0 where the engine does not tell. `kv_used_ppm` is how full its fullest cache is; the
    tokens are totals since it started, `prompt_tokens` with those that were found in the cache
    (`cached_tokens`); `preempted` counts requests that had to begin anew for want of cache.
    """

    running: int
    waiting: int
    ready: bool
    kv_used_ppm: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    preempted: int = 0
    is_suspended: bool = False


class Sleep(Enum):
    """How deep an engine sleeps: where its weights are meanwhile."""

    LIGHT = 1
    """In the machine's memory: it wakes in seconds."""
    DEEP = 2
    """Nowhere: they are read again from the disk."""


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


class AlwaysOn:
    """What an engine inherits that has no key, never sleeps and takes no adapters."""

    @property
    def headers(self) -> Headers:
        return ()

    async def suspend(self, level: Sleep) -> None:
        raise AssertionError(f"suspend({level}) of an engine without {Capability.SUSPEND}")

    async def resume(self) -> None:
        raise AssertionError(f"resume of an engine without {Capability.SUSPEND}")

    async def load_adapter(self, name: str, folder: Path) -> None:
        raise AssertionError(f"{name} ({folder}) for an engine without {Capability.LORA}")

    async def unload_adapter(self, name: str) -> None:
        raise AssertionError(f"{name} of an engine without {Capability.LORA}")


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
    def headers(self) -> Headers:
        """What every request to it must carry: the key of an engine that has one."""
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

    async def suspend(self, level: Sleep) -> None:
        """Give the accelerator's memory back. Only an idle engine with SUSPEND is asked to.

        Raises EngineFailed.
        """
        ...

    async def resume(self) -> None:
        """Take the memory again; returns once it answers. Raises EngineFailed."""
        ...

    async def load_adapter(self, name: str, folder: Path) -> None:
        """Serve a LoRA adapter as the model `name`. Only an engine with LORA is asked to.

        Raises EngineFailed.
        """
        ...

    async def unload_adapter(self, name: str) -> None:
        """Forget it. Raises EngineFailed."""
        ...

    async def stop(self, *, deadline_ms: int) -> None:
        """Let running requests end within the deadline, then end the process. Twice is harmless.

        The caller has stopped sending requests before; an attached server is left running.
        """
        ...
