"""The frame of our worker processes: queue, errors, streams, metrics, and how a worker ends."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
from tests.engine_makers import DEADLINE_MS

from penstock.adapters.engines.gauges import Gauges, parse_gauges
from penstock.adapters.engines.worker import (
    Frame,
    FrameSettings,
    Made,
    Skills,
    json_made,
    refused,
    understood,
)
from penstock.adapters.engines.worker_engine import Worker, WorkerEngine
from penstock.adapters.engines.worker_pipe import WorkerReady
from penstock.adapters.runtimes.child import ChildRuntime
from penstock.kit.clock import SystemClock
from penstock.kit.engine import EngineFailed
from penstock.kit.wire.client import HttpClient, Reply
from penstock.kit.wire.problem import Refusal
from penstock.kit.wire.server import Server
from penstock.kit.wire.sockets import Sockets

WAIT_S = DEADLINE_MS / 1000
SETTINGS = FrameSettings(model="m", slots_max=1, queue_max=1)
PROGRAM = """
import time
from penstock.adapters.engines.worker import FrameSettings, Loaded, Made, run_worker

def load(settings):
    if settings.model == "absent":
        raise OSError("there is no such model")
    return Loaded({"/v1/slow": slow}, "7.1")

def slow(body):
    print("a word on stdout")
    time.sleep(float(body or b"0"))
    return Made(b"done", "text/plain")

run_worker(FrameSettings, load)
"""


class Desk:
    """A frame on a real port, and a client."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.client = HttpClient(Sockets())

    async def post(self, path: str, body: bytes = b"") -> Reply:
        url = self.address + path
        return await self.client.call("POST", url, body=body, deadline_ms=DEADLINE_MS)

    async def get(self, path: str) -> Reply:
        return await self.client.call("GET", self.address + path, deadline_ms=DEADLINE_MS)

    async def gauges(self) -> Gauges:
        return parse_gauges((await self.get("/metrics")).body.decode())

    async def become(self, running: int, waiting: int) -> None:
        async with asyncio.timeout(WAIT_S):
            while True:
                now = await self.gauges()
                if (now.running, now.waiting) == (running, waiting):
                    return
                await asyncio.sleep(0.01)


@asynccontextmanager
async def framed(skills: Skills) -> AsyncIterator[Desk]:
    server = Server(Sockets(), Frame(SETTINGS, skills).routes(), entropy=os.urandom)
    port = await server.start("127.0.0.1", 0)
    desk = Desk(f"http://127.0.0.1:{port}")
    try:
        yield desk
    finally:
        await desk.client.close()
        await server.close(0)


class Gate:
    """A skill that works until it is let go."""

    def __init__(self) -> None:
        self.open = threading.Event()

    def __call__(self, _body: bytes) -> Made:
        assert self.open.wait(WAIT_S)
        return Made(b"{}", units={"prompt_tokens": 3})


async def test_health_models_and_metrics_answer_while_a_skill_works() -> None:
    gate = Gate()
    async with framed({"/v1/work": gate}) as desk:
        working = asyncio.ensure_future(desk.post("/v1/work"))
        await desk.become(running=1, waiting=0)
        assert (await desk.get("/health")).status == 200
        listed = msgspec.json.decode((await desk.get("/v1/models")).body)
        assert [one["id"] for one in listed["data"]] == ["m"]
        gate.open.set()
        assert (await working).status == 200
        page = (await desk.get("/metrics")).body
        assert b'penstock_engine_units_total{unit="prompt_tokens"} 3\n' in page


async def test_the_queue_is_bounded_and_who_comes_too_late_is_told_so() -> None:
    gate = Gate()
    async with framed({"/v1/work": gate}) as desk:
        first, second = (asyncio.ensure_future(desk.post("/v1/work")) for _ in range(2))
        await desk.become(running=1, waiting=1)
        third = await desk.post("/v1/work")
        assert third.status == 429
        assert msgspec.json.decode(third.body)["error"]["code"] == "engine_full"
        gate.open.set()
        assert [(await one).status for one in (first, second)] == [200, 200]
        await desk.become(running=0, waiting=0)


async def test_a_slot_is_free_only_when_the_thread_of_a_lost_request_is() -> None:
    gate = Gate()
    async with framed({"/v1/work": gate}) as desk:
        lost = asyncio.ensure_future(desk.post("/v1/work"))
        await desk.become(running=1, waiting=0)
        lost.cancel()
        await asyncio.gather(lost, return_exceptions=True)
        await asyncio.sleep(0.05)
        assert await desk.gauges() == Gauges(running=1, waiting=0)
        gate.open.set()
        await desk.become(running=0, waiting=0)


def stumble(body: bytes) -> Made:
    if body == b"value":
        raise refused("Only small ones.", "size")
    raise KeyError(body)


async def test_refusals_and_crashes_are_errors_in_openais_envelope_and_free_the_slot() -> None:
    async with framed({"/v1/work": stumble}) as desk:
        told = await desk.post("/v1/work", b"value")
        assert told.status == 400
        assert msgspec.json.decode(told.body)["error"]["param"] == "size"
        crashed = await desk.post("/v1/work", b"other")
        assert crashed.status == 500
        assert msgspec.json.decode(crashed.body)["error"]["type"] == "server_error"
        assert await desk.gauges() == Gauges(running=0, waiting=0)


def counted(body: bytes) -> Made:
    units: dict[str, int] = {}

    def pieces() -> Iterator[bytes]:
        for number in range(int(body)):
            yield b"%d," % number
            units["audio_ms"] = number + 1

    return Made(pieces(), "text/plain", units)


async def test_a_stream_is_made_piece_by_piece_and_its_units_count_at_its_end() -> None:
    async with framed({"/v1/work": counted}) as desk:
        reply = await desk.post("/v1/work", b"5")
        assert reply.body == b"0,1,2,3,4,"
        assert reply.header("content-type") == "text/plain"
        page = (await desk.get("/metrics")).body
        assert b'penstock_engine_units_total{unit="audio_ms"} 5\n' in page


async def test_a_stream_that_is_hung_up_frees_its_slot() -> None:
    async with framed({"/v1/work": counted}) as desk:
        stream = desk.client.open_stream(
            "POST", f"{desk.address}/v1/work", body=b"100000000", head_deadline_ms=DEADLINE_MS
        )
        async with stream as reply:
            async for _ in reply.chunks(idle_deadline_ms=DEADLINE_MS):
                break
        await desk.become(running=0, waiting=0)


class Question(msgspec.Struct):
    text: str


def test_a_body_is_understood_or_refused() -> None:
    assert understood(b'{"text": "a", "more": 1}', Question) == Question("a")
    for body in (b"{", b"{}", b"\xff", b"[" * 100_000):
        with pytest.raises(Refusal) as refusal:
            understood(body, Question)
        assert refusal.value.response.status == 400
    assert json_made({"a": 1}, images=2) == Made(b'{"a":1}', units={"images": 2})


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "slow_worker.py"
    path.write_text(PROGRAM)
    return path


def open_worker(program: Path, settings: FrameSettings) -> subprocess.Popen[bytes]:
    worker = subprocess.Popen(
        (sys.executable, str(program)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert worker.stdin is not None
    worker.stdin.write(msgspec.json.encode(settings) + b"\n")
    worker.stdin.flush()
    return worker


def read_line(worker: subprocess.Popen[bytes]) -> WorkerReady:
    assert worker.stdout is not None
    return msgspec.json.decode(worker.stdout.readline(), type=WorkerReady)


async def test_sigterm_ends_an_idle_worker_at_once_and_a_busy_one_after_its_answer(
    program: Path,
) -> None:
    worker = open_worker(program, SETTINGS)
    ready = read_line(worker)
    assert ready.version == "7.1"
    desk = Desk(ready.address)
    running = asyncio.ensure_future(desk.post("/v1/slow", b"1"))
    await desk.become(running=1, waiting=0)
    worker.send_signal(signal.SIGTERM)
    reply = await running
    await desk.client.close()
    rest, _ = await asyncio.to_thread(worker.communicate, timeout=WAIT_S)
    assert (reply.status, reply.body) == (200, b"done")
    assert worker.returncode == 0
    assert rest == b""  # what a skill prints is not mistaken for our line
    idle = open_worker(program, SETTINGS)
    read_line(idle)
    idle.send_signal(signal.SIGTERM)
    idle.wait(timeout=WAIT_S)
    idle.communicate()
    assert idle.returncode == 0


def test_a_tethered_worker_ends_with_its_stdin_and_another_does_not(program: Path) -> None:
    tethered = open_worker(program, SETTINGS)
    free = open_worker(program, msgspec.structs.replace(SETTINGS, tethered=False))
    read_line(tethered)
    read_line(free)
    assert tethered.stdin is not None
    assert free.stdin is not None
    free.stdin.close()
    tethered.stdin.close()
    assert tethered.wait(timeout=WAIT_S) == 0
    assert free.poll() is None
    free.kill()
    free.wait(timeout=WAIT_S)
    for one in (tethered, free):
        assert one.stdout is not None
        one.stdout.close()


def test_a_worker_that_cannot_load_says_why(program: Path) -> None:
    worker = open_worker(program, msgspec.structs.replace(SETTINGS, model="absent"))
    line = read_line(worker)
    worker.communicate(timeout=WAIT_S)
    assert "there is no such model" in line.error
    assert worker.returncode == 1


def engine_of(worker: Worker, home: Path, *, env: dict[str, str]) -> WorkerEngine:
    runtime = ChildRuntime(home, clock=SystemClock())
    return WorkerEngine(worker, runtime=runtime, network=Sockets(), env=env)


async def test_what_cannot_be_prepared_fails_before_anything_starts(tmp_path: Path) -> None:
    def prepare() -> FrameSettings:
        raise EngineFailed(reason="No weights.", log_tail="", remedy="Fetch them.")

    worker = Worker("t", "m", "penstock.absent", prepare, "Do this.")
    engine = engine_of(worker, tmp_path, env={})
    with pytest.raises(EngineFailed, match="No weights"):
        await engine.start(deadline_ms=DEADLINE_MS)
    await engine.stop(deadline_ms=DEADLINE_MS)
    assert not (await engine.stats()).ready


async def test_a_module_that_is_no_worker_fails_with_its_last_words(tmp_path: Path) -> None:
    worker = Worker("speech", "m", "penstock.absent", lambda: SETTINGS, "Do this.")
    env = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"}
    engine = engine_of(worker, tmp_path, env=env)
    with pytest.raises(EngineFailed) as failed:
        await engine.start(deadline_ms=DEADLINE_MS)
    assert "penstock.absent" in failed.value.log_tail
    assert failed.value.remedy == "Do this."
