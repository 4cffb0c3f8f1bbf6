"""Makers for the tests of engines: worlds, and requests in OpenAI's dialect."""

import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
from training.tiny_chat.restore import restore

from penstock.adapters.child_process import ChildProcess
from penstock.adapters.engines.catalogue import EngineWorld, build_engine
from penstock.adapters.engines.model_files import gguf_path
from penstock.adapters.engines.served import ServedEngine
from penstock.adapters.runtimes.child import ChildRuntime
from penstock.kit.engine import Engine, EngineLimits
from penstock.kit.sse import EventSplitter, event_data
from penstock.kit.wire.client import HttpClient, Reply
from penstock.kit.wire.http import JSON_HEADERS
from penstock.kit.wire.sockets import Sockets

DEADLINE_MS = 60_000
VLLM_PYTHON = os.environ.get("PENSTOCK_VLLM_PYTHON", "")
"""The Python that has vLLM's build for processors; `make nightly` makes one."""


def make_world(home: Path) -> EngineWorld:
    """Real sockets; the worker processes get nothing of this process's environment but PATH, and HOME,
    where packages that were fetched are kept.
    """
    return EngineWorld(
        network=Sockets(),
        entropy=os.urandom,
        home=home,
        env={"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "HOME": str(Path.home())},
    )


def make_vllm(home: Path, **options: str) -> ServedEngine:
    """The shipped model under vLLM on this processor, from a folder made of its GGUF."""
    folder = home / "tiny-chat"
    if not folder.exists():
        restore(gguf_path("builtin:tiny-chat"), folder)
    env = {
        "PATH": f"{Path(VLLM_PYTHON).parent}:/usr/bin:/bin",
        "PENSTOCK_VLLM_PYTHON": VLLM_PYTHON,
        "PENSTOCK_ENGINE_REACH": "host",
        "PENSTOCK_ENGINE_EAGER": "1",
        **options,
    }
    world = replace(make_world(home), env=env, key=b"k" * 32)
    limits = EngineLimits(slots_max=4, context_tokens_max=1024)
    engine = build_engine("vllm", f"file:{folder}", limits, world=world)
    assert isinstance(engine, ServedEngine)
    return engine


@dataclass(slots=True)
class Caller:
    """Sends requests to one engine. Each call dials anew, as other users would."""

    engine: Engine

    async def post(self, path: str, body: dict[str, Any] | bytes) -> Reply:
        client = HttpClient(Sockets())
        try:
            return await client.call(
                "POST",
                self.engine.address + path,
                headers=(*JSON_HEADERS, *self.engine.headers),
                body=self.filled(body),
                deadline_ms=DEADLINE_MS,
            )
        finally:
            await client.close()

    async def get(self, path: str) -> Reply:
        client = HttpClient(Sockets())
        try:
            url, headers = self.engine.address + path, self.engine.headers
            return await client.call("GET", url, headers=headers, deadline_ms=DEADLINE_MS)
        finally:
            await client.close()

    async def chat(self, question: str, **fields: Any) -> dict[str, Any]:
        """The whole answer to one question, greedy."""
        reply = await self.post("/v1/chat/completions", chat_body(question, **fields))
        assert reply.status == 200, reply.body
        answer: dict[str, Any] = msgspec.json.decode(reply.body)
        return answer

    async def first_event(self, question: str, **fields: Any) -> bytes:
        """Reads one chunk of a streamed answer, then hangs up."""
        client = HttpClient(Sockets())
        body = self.filled(chat_body(question, stream=True, **fields))
        url = f"{self.engine.address}/v1/chat/completions"
        async with client.open_stream(
            "POST",
            url,
            headers=(*JSON_HEADERS, *self.engine.headers),
            body=body,
            head_deadline_ms=DEADLINE_MS,
        ) as reply:
            assert reply.status == 200
            async for chunk in reply.chunks(idle_deadline_ms=DEADLINE_MS):
                return chunk
        raise AssertionError("the stream was empty")

    def filled(self, body: dict[str, Any] | bytes) -> bytes:
        if isinstance(body, bytes):
            return body
        return msgspec.json.encode({"model": self.engine.model, **body})


def child_of(engine: ServedEngine) -> ChildProcess:
    """The process of an engine whose runtime keeps its tasks as our children."""
    assert isinstance(engine._runtime, ChildRuntime)
    return engine._runtime._lives[engine.name].child


def chat_body(question: str, **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}], "temperature": 0, **fields}


def text_of(answer: dict[str, Any]) -> str:
    content = answer["choices"][0]["message"]["content"]
    assert isinstance(content, str)
    return content


def data_events(body: bytes) -> list[bytes]:
    """The data of each event of a streamed body, which must end with a complete event."""
    splitter = EventSplitter()
    events = [event_data(event) for event in splitter.feed(body)]
    assert splitter.finish() == b""
    return events
