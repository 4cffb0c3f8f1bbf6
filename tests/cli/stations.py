"""Stand-ins for a market's stations on loopback, and a home that believes they run.

They speak the HTTP of docs/interfaces.md from a table of answers, in a thread with a loop of its
own, because the commands under test run loops of theirs.
"""

import asyncio
import json
import os
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from penstock.cli.home import Home
from penstock.cli.main import main
from penstock.client.testing import FakeMarket
from penstock.kit.sse import EventSplitter
from penstock.kit.wire.http import SSE_HEADERS, Request, Response, Stream, json_response
from penstock.kit.wire.server import Server
from penstock.kit.wire.sockets import Sockets

API_KEY = "sk-penstock-test"
START_DEADLINE_S = 30

Answering = Callable[[Request], Awaitable[Response | Stream]]


@dataclass
class Stations:
    """Answers by (method, path): a (status, JSON value), raw bytes, or a function of the request."""

    answers: dict[tuple[str, str], tuple[int, Any] | bytes | Answering] = field(
        default_factory=dict
    )
    asked: list[Request] = field(default_factory=list)
    url: str = ""

    async def __call__(self, request: Request) -> Response | Stream:
        self.asked.append(request)
        found = self.answers.get((request.method, request.path))
        if found is None:
            return json_response(404, {"error": {"code": "not_found", "message": "Not here."}})
        if isinstance(found, bytes):
            return Response(200, found)
        if isinstance(found, tuple):
            return json_response(*found)
        return await found(request)

    def says(self, path: str, value: Any, *, method: str = "GET", status: int = 200) -> None:
        self.answers[method, path] = (status, value)

    def bodies(self, path: str) -> list[Any]:
        """The decoded bodies that were posted to `path`."""
        return [json.loads(one.body) for one in self.asked if one.path == path]


@contextmanager
def serving(stations: Stations) -> Iterator[Stations]:
    """The stations listen on a free port of loopback; all of them at the same address."""
    started, stop = threading.Event(), threading.Event()

    async def serve() -> None:
        server = Server(Sockets(), stations, entropy=os.urandom)
        stations.url = f"http://127.0.0.1:{await server.start('127.0.0.1', 0)}"
        started.set()
        await asyncio.to_thread(stop.wait)
        await server.close(drain_ms=1_000)

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        assert started.wait(START_DEADLINE_S)
        yield stations
    finally:
        stop.set()
        thread.join()


@contextmanager
def running_home(path: Path, stations: Stations, **state: Any) -> Iterator[Home]:
    """A home whose lock is held and whose state names these stations."""
    home = Home.at(str(path))
    home.make()
    home.api_key_file.write_text(API_KEY + "\n")
    names = ("gateway", "market", "ledger")
    lock = home.lock()
    assert lock is not None
    home.write_state(
        {
            "ready": True,
            "supervisor_pid": os.getpid(),
            "gateway_url": stations.url,
            "urls": dict.fromkeys(names, stations.url),
            "stations": [
                {"name": name, "pid": 100 + index, "state": "ready", "restarts": 0}
                for index, name in enumerate(names)
            ],
            "problem": "",
            **state,
        }
    )
    try:
        yield home
    finally:
        os.close(lock)


def invoke(*arguments: str, **options: Any) -> Result:
    """Run `penstock ARGUMENTS`; anything but words and an exit code is a failure of the test."""
    result = CliRunner().invoke(main, list(arguments), **options)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def chat_answers(market: FakeMarket) -> Answering:
    """The fake market's answers over real HTTP, an event at a time."""

    async def answer(request: Request) -> Response | Stream:
        async with market.open_stream(
            request.method,
            f"http://fake{request.path}",
            headers=(("authorization", request.header("authorization")),),
            body=request.body,
            head_deadline_ms=1,
        ) as reply:
            headers = tuple(reply.headers.items())
            if request.body and reply.status < 400 and json.loads(request.body).get("stream"):
                return Stream(200, (*SSE_HEADERS, *headers), _events(reply.body))
            return Response(reply.status, reply.body, headers)

    return answer


async def _events(body: bytes) -> Any:
    for event in EventSplitter().feed(body):
        yield event
