"""An engine server on a fake machine: what it does and says is for a test to choose."""

import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from penstock.adapters.engines.dialect import Adapters, Ask, Dialect, Launch, Naps
from penstock.adapters.engines.served import ServedEngine
from penstock.kit.clock import SystemClock
from penstock.kit.runtime import Task
from penstock.kit.wire.http import Request, Response, json_response
from penstock.kit.wire.problem import problem
from penstock.kit.wire.server import Server
from penstock.kit.wire.sockets import Sockets
from penstock.sim.runtime import FakeMachine, FakeRuntime, Stage

PROGRAM = "engine"
MODEL = "demo"
NAPS = Naps(
    suspend=lambda level: (Ask(f"/sleep?level={level.value}"),),
    resume=lambda level: (Ask(f"/wake_up?from={level.value}"),),
)
ADAPTERS = Adapters(
    load=lambda name, folder: Ask("/v1/load_lora_adapter", {"name": name, "path": str(folder)}),
    unload=lambda name: Ask("/v1/unload_lora_adapter", {"name": name}),
)


@dataclass(slots=True)
class Script:
    """What the server does. `page` is its metrics; `listed` its models; `log` what it writes first."""

    page: str = "vllm:num_requests_running 0\n"
    listed: tuple[str, ...] = (MODEL,)
    health: int = 200
    log: str = ""
    status: int | None = None
    """Set: it ends with it instead of serving."""
    routes: frozenset[str] = frozenset()
    refused: frozenset[str] = frozenset()
    """Control routes that answer 500."""
    seen: list[tuple[str, str, str]] = field(default_factory=list)
    """(method, path, key) of each request."""
    bodies: list[Any] = field(default_factory=list)
    starts: int = 0

    @property
    def paths(self) -> list[str]:
        return [path for _, path, _ in self.seen]


async def serve(stage: Stage, script: Script) -> int:
    script.starts += 1
    if script.log:
        stage.say(script.log)
    if script.status is not None:
        return script.status

    async def handle(request: Request) -> Response:
        target = request.path + (f"?{request.query}" if request.query else "")
        script.seen.append((request.method, target, request.header("authorization")))
        return answer(script, request)

    server = Server(Sockets(), handle, entropy=os.urandom)
    port = await server.start("127.0.0.1", 0)
    stage.announce(f"http://127.0.0.1:{port}")
    try:
        await stage.stopping.wait()
    finally:
        await server.close(0)
    return 0


def answer(script: Script, request: Request) -> Response:
    message = {"role": "assistant", "content": "Good morning to you."}
    models = {"data": [{"id": name} for name in script.listed]}
    fixed = {
        "/health": json_response(script.health, {}),
        "/metrics": Response(200, script.page.encode()),
        "/v1/models": json_response(200, models),
        "/v1/chat/completions": json_response(200, {"choices": [{"index": 0, "message": message}]}),
    }
    if request.path in script.refused:
        return problem(500, "broken", "out of order")
    if request.path in script.routes:
        script.bodies.append(msgspec.json.decode(request.body))
        return json_response(200, {"lora": "done"})
    return fixed.get(request.path) or json_response(404, {"detail": "Not Found"})


def make_machine(script: Script) -> FakeMachine:
    return FakeMachine({PROGRAM: lambda stage: serve(stage, script)}, clock=SystemClock())


def make_dialect(prepare: Callable[[], object] = lambda: None, **fields: Any) -> Dialect:
    start_ms = fields.pop("start_ms", 0)

    def launch(name: str) -> Launch:
        prepare()
        return Launch(Task(name=name, argv=(PROGRAM,), env={}, announces=True), start_ms)

    given: dict[str, Any] = {"title": "Stage", "model": MODEL, "remedy": "Look at the stage."}
    return Dialect(launch=launch, **{**given, **fields})


def make_engine(machine: FakeMachine, *, name: str = "one", **fields: Any) -> ServedEngine:
    """As an agent makes it; another one made alike is the next agent's."""
    return ServedEngine(
        make_dialect(**fields), runtime=FakeRuntime(machine), network=Sockets(), name=name
    )


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not is_so():
            await asyncio.sleep(0.01)
