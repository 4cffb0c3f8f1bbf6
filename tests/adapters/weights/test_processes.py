"""Several processes at one cache, and kill -9 in the middle of a download."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from tests.adapters.weights.hub_server import Hub, gguf, ranged, running, sha
from tests.adapters.weights.makers import hub_file, make_weights, weights_of

from penstock.adapters.weights.errors import FetchBusy
from penstock.adapters.weights.fetch import Places
from penstock.adapters.weights.locks import Locks
from penstock.adapters.weights.patience import Patience
from penstock.adapters.weights.store import model_lock
from penstock.kit.wire.http import Request, Response, Stream

MODEL = gguf(6 << 20)
NAME = hub_file("a.gguf")
FETCHER = Path(__file__).with_name("fetcher.py")
WAIT_S = 60


Start = Callable[[Path, Hub], Awaitable[asyncio.subprocess.Process]]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Starts fetchers; none outlives its test."""
    children: list[asyncio.subprocess.Process] = []

    async def start_one(root: Path, hub: Hub) -> asyncio.subprocess.Process:
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, str(FETCHER), str(root), hub.url, NAME, sha(MODEL)),
            stdout=asyncio.subprocess.PIPE,
        )
        children.append(child)
        return child

    yield start_one
    for child in children:
        if child.returncode is None:
            child.kill()
        await child.communicate()


async def lines(process: asyncio.subprocess.Process) -> AsyncIterator[str]:
    assert process.stdout is not None
    async with asyncio.timeout(WAIT_S):
        while line := await process.stdout.readline():
            yield line.decode().strip()


async def begun(root: Path) -> Path:
    """Wait until a process has written 2 MiB; the part."""
    part = root / "partial" / sha(MODEL)
    async with asyncio.timeout(WAIT_S):
        while not part.exists() or part.stat().st_size < 2 << 20:
            await asyncio.sleep(0.01)
    return part


class Held(Hub):
    """Gives the first `after` bytes of a file at once and the rest when `gate` opens."""

    def __init__(self, after: int) -> None:
        super().__init__({"a.gguf": MODEL})
        self.gate = asyncio.Event()

        async def hold(request: Request, data: bytes) -> Response | Stream | None:
            if request.header("range"):
                return ranged(request, data)

            async def body() -> AsyncIterator[bytes]:
                yield data[:after]
                await self.gate.wait()
                yield data[after:]

            return Stream(200, (), body(), length=len(data))

        self.fault = hold


async def test_kill_9_in_mid_download_costs_only_what_was_not_written(
    start: Start, tmp_path: Path
) -> None:
    async with running(Held(after=4 << 20)) as hub:
        child = await start(tmp_path, hub)
        part = await begun(tmp_path)
        os.kill(child.pid, signal.SIGKILL)
        await child.communicate()
        kept = part.stat().st_size
        assert 2 << 20 <= kept <= 4 << 20
        weights = weights_of(tmp_path, hub)
        path = await weights.fetch(NAME, sha(MODEL))
        assert path.read_bytes() == MODEL
        assert hub.gets("/cdn/") == ["", f"bytes={kept}-"]


async def test_bytes_that_a_crash_spoiled_are_found_and_fetched_anew(tmp_path: Path) -> None:
    async with running(Hub({"a.gguf": MODEL})) as hub:
        weights = weights_of(tmp_path, hub)
        weights.store.partial(sha(MODEL)).write_bytes(MODEL[:1000] + bytes(1_000_000))
        path = await weights.fetch(NAME, sha(MODEL))
        assert path.read_bytes() == MODEL
        assert hub.gets("/cdn/") == ["bytes=1001000-", ""]


async def test_a_part_that_was_whole_when_the_crash_came_is_only_proven(tmp_path: Path) -> None:
    async with running(Hub({"a.gguf": MODEL})) as hub:
        weights = weights_of(tmp_path, hub)
        weights.store.partial(sha(MODEL)).write_bytes(MODEL)
        await weights.fetch(NAME, sha(MODEL))
        assert not hub.gets("/cdn/")


async def test_two_processes_that_want_the_same_make_one_download(
    start: Start, tmp_path: Path
) -> None:
    hub = Held(after=3 << 20)
    async with running(hub):
        first = await start(tmp_path, hub)
        await begun(tmp_path)
        second = await start(tmp_path, hub)
        async for line in lines(second):
            if line.startswith("waits "):
                break
        hub.gate.set()
        ends = [[line async for line in lines(child)][-1] for child in (first, second)]
        assert ends == [f"path {tmp_path}/models/{sha(MODEL)}/a.gguf"] * 2
        assert await first.wait() == await second.wait() == 0
        assert hub.gets("/cdn/") == [""]


async def test_if_the_one_that_fetches_is_killed_the_one_that_waits_goes_on(
    start: Start, tmp_path: Path
) -> None:
    async with running(Held(after=3 << 20)) as hub:
        first = await start(tmp_path, hub)
        await begun(tmp_path)
        second = await start(tmp_path, hub)
        async for line in lines(second):
            if line.startswith("waits "):
                break
        first.kill()
        ends = [line async for line in lines(second)]
        assert ends[-1].startswith("path ")
        assert await second.wait() == 0
        assert Path(ends[-1][5:]).read_bytes() == MODEL


async def test_a_holder_that_gets_nowhere_is_named(tmp_path: Path) -> None:
    async with running(Hub({"a.gguf": MODEL})) as hub:
        weights = make_weights(tmp_path, Places(hub=hub.url), trusted=(hub.url,))
        weights._patience = Patience(busy_ms=0)
        async with weights.store.locks.held(model_lock(sha(MODEL)), still=lambda: None):
            with pytest.raises(FetchBusy, match=rf"ps -p {os.getpid()}"):
                await weights.fetch(NAME, sha(MODEL))


async def test_a_lock_is_one_holders_and_goes_with_it(tmp_path: Path) -> None:
    locks = Locks(tmp_path)
    looked = []
    async with locks.held("x", still=lambda: None):
        assert locks.is_held("x")
        assert locks.holder("x") == str(os.getpid())

        def give_up() -> None:
            looked.append(1)
            raise TimeoutError

        with pytest.raises(TimeoutError):
            async with locks.held("x", still=give_up):
                raise AssertionError("two hold one lock")
    assert looked
    assert not locks.is_held("x")
    with locks.at_once("x"):
        assert locks.is_held("x")
    assert locks.holder("never") == ""
