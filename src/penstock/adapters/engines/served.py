"""An engine as a task of a runtime: launched or taken over, made ready, watched, drained, stopped.

Whether it is llama.cpp in a worker of ours or vLLM on eight cards makes no difference here: a `Dialect`
says how they differ. Nothing is restarted here.

Ready is what answers its health path, names our model, and has done what the probe asked. A task that
runs already (the agent was killed and is back) is taken over without a new start: it is only probed.
"""

import asyncio
import itertools
from dataclasses import replace
from pathlib import Path

import msgspec

from penstock.adapters.engines.asker import chat_body, decoded, dig, parsed
from penstock.adapters.engines.dialect import Ask, Dialect, Launch
from penstock.adapters.engines.fatal import find_fatal
from penstock.adapters.engines.gauges import engine_stats
from penstock.adapters.engines.probe import FRESH_LINKS, NothingServed, Probe
from penstock.adapters.engines.task_name import task_name
from penstock.kit.engine import (
    Capability,
    EngineExit,
    EngineFailed,
    EngineStats,
    Headers,
    Sleep,
)
from penstock.kit.errors import WireError
from penstock.kit.ports import Network
from penstock.kit.runtime import Ending, Runtime, TaskFailed
from penstock.kit.tasks import Scope
from penstock.kit.wire.client import HttpClient, Reply
from penstock.kit.wire.http import JSON_HEADERS

STATS_DEADLINE_MS = 5_000
CONTROL_DEADLINE_MS = 300_000
DRAIN_CHECK_MS = 50
READY_CHECK_MS = 50
LOG_CHECK_MS = 1_000
LOG_BYTES_MAX = 64 << 10
TERMINATE_DEADLINE_MS = 10_000
TAIL_CHARS_MAX = 4096
ADAPTER = "lora"
GONE = EngineStats(running=0, waiting=0, ready=False)

_serial = itertools.count(1)


class ServedEngine:
    """Implements `kit.engine.Engine`. One object may be started again after its task ended.

    name: of its task, and so what it is found by after the agent was killed; "" for one that nobody
    will look for.
    """

    def __init__(
        self, dialect: Dialect, *, runtime: Runtime, network: Network, name: str = ""
    ) -> None:
        self._dialect = dialect
        self._runtime = runtime
        self._client = HttpClient(network, FRESH_LINKS)
        self._name = task_name(name or f"{dialect.model}-{next(_serial)}")
        self._is_launched = False
        self._is_stopping = False
        self._asleep: Sleep | None = None
        self._address = ""
        self._capabilities: frozenset[Capability] = frozenset()

    @property
    def name(self) -> str:
        """Its task's name in the runtime."""
        return self._name

    @property
    def address(self) -> str:
        return self._address

    @property
    def model(self) -> str:
        return self._dialect.model

    @property
    def headers(self) -> Headers:
        return self._dialect.headers

    @property
    def capabilities(self) -> frozenset[Capability]:
        return self._capabilities

    async def start(self, *, deadline_ms: int) -> None:
        self._is_stopping = False
        started = False
        try:
            async with asyncio.timeout(deadline_ms / 1000) as scope:
                launch = await asyncio.to_thread(self._dialect.launch, self._name)
                deadline_ms = self._allowed(scope, launch, deadline_ms)
                self._is_launched = True
                running = await self._runtime.launch(launch.task, deadline_ms=deadline_ms)
                self._address = running.address.rstrip("/")
                await self._until_up()
                if self._dialect.naps is not None and (await self.stats()).is_suspended:
                    await self.resume()
                self._capabilities = await self._probed()
            started = True
        except TimeoutError as error:
            raise await self._failed(f"was not ready after {deadline_ms} ms") from error
        except TaskFailed as error:
            raise self._refused(error) from error
        except WireError as error:
            raise await self._failed(f"broke off during the test requests: {error}") from error
        except NothingServed as error:
            raise await self._failed(f"answered no test request: {error.why}") from error
        finally:
            if not started and self._is_launched:
                await self._runtime.stop(self._name, deadline_ms=0)

    async def stats(self) -> EngineStats:
        if not self._address:
            return GONE
        try:
            reply = await self._get("/metrics")
        except WireError:
            return GONE
        stats = engine_stats(reply.body.decode(errors="replace"), ready=reply.status == 200)
        is_suspended = stats.is_suspended or self._asleep is not None
        is_ready = stats.ready and not is_suspended
        return replace(stats, ready=is_ready, is_suspended=is_suspended)

    async def wait_exit(self) -> EngineExit:
        assert self._is_launched, "wait_exit before start"
        ending = await self._runtime.wait(self._name)
        self._address = ""
        if self._is_stopping:
            return EngineExit(wanted=True, reason="stopped", log_tail="", remedy="")
        return EngineExit(
            wanted=False,
            reason=f"{self._dialect.title} serving {self.model}: {ending.reason}.".replace(
                "..", "."
            ),
            log_tail=ending.log_tail,
            remedy=remedy_of(ending),
        )

    async def suspend(self, level: Sleep) -> None:
        naps = self._dialect.naps
        assert naps is not None, "an engine with SUSPEND has a way to sleep"
        for ask in naps.suspend(level):
            await self._control(ask)
        self._asleep = level

    async def resume(self) -> None:
        naps = self._dialect.naps
        assert naps is not None, "an engine with SUSPEND has a way to wake"
        # After a new life of the agent nobody knows how deep it sleeps; waking from deep is right for both.
        for ask in naps.resume(self._asleep or Sleep.DEEP):
            await self._control(ask)
        self._asleep = None

    async def load_adapter(self, name: str, folder: Path) -> None:
        assert self._dialect.adapters is not None, "an engine with LORA has a way to load"
        await self._control(self._dialect.adapters.load(name, folder))

    async def unload_adapter(self, name: str) -> None:
        assert self._dialect.adapters is not None, "an engine with LORA has a way to unload"
        await self._control(self._dialect.adapters.unload(name))

    async def stop(self, *, deadline_ms: int) -> None:
        if not self._is_launched:
            return
        self._is_stopping = True
        await self._drain(deadline_ms)
        await self._runtime.stop(self._name, deadline_ms=TERMINATE_DEADLINE_MS)
        await self._client.close()
        self._address = ""

    def _allowed(self, scope: asyncio.Timeout, launch: Launch, deadline_ms: int) -> int:
        """Big weights take their time, whatever the caller thought."""
        allowed_ms = max(deadline_ms, launch.start_ms)
        when = scope.when()
        assert when is not None, "a start has a deadline"
        scope.reschedule(when + (allowed_ms - deadline_ms) / 1000)
        return allowed_ms

    async def _until_up(self) -> None:
        """Wait until it is up, it ends, or its log says that it never will. Raises EngineFailed."""
        async with Scope() as scope:
            up = scope.start("up", self._listed())
            ended = scope.start("ended", self._runtime.wait(self._name))
            doomed = scope.start("doomed", self._doomed())
            await asyncio.wait({up, ended, doomed}, return_when=asyncio.FIRST_COMPLETED)
            outcome = "up" if up.done() else "ended" if ended.done() else "doomed"
            scope.cancel()
        if outcome != "up":
            what = "ended before it was ready" if outcome == "ended" else "cannot start"
            raise await self._failed(what)

    async def _listed(self) -> None:
        """Its health path answers, and it names our model."""
        while True:
            try:
                if await self._is_up():
                    return
            except WireError:
                pass  # It does not listen yet.
            await asyncio.sleep(READY_CHECK_MS / 1000)

    async def _is_up(self) -> bool:
        if self._dialect.health and (await self._get(self._dialect.health)).status != 200:
            return False
        reply = await self._get("/v1/models")
        listed = dig(parsed(reply.body), "data")
        names = [dig(entry, "id") for entry in listed] if isinstance(listed, list) else []
        return reply.status == 200 and self.model in names

    async def _doomed(self) -> None:
        while True:
            await asyncio.sleep(LOG_CHECK_MS / 1000)
            log = await self._runtime.logs(self._name, bytes_max=LOG_BYTES_MAX)
            if find_fatal(log, sure_only=True) is not None:
                return

    async def _probed(self) -> frozenset[Capability]:
        dialect = self._dialect
        probe = Probe(
            self._client,
            self._address,
            self.model,
            headers=dialect.headers,
            is_llama=dialect.is_llama,
        )
        seen = set(await probe.capabilities())
        if dialect.adapters is not None and await probe.answers(
            dialect.adapters.unload("no-such-adapter").path, ADAPTER
        ):
            seen.add(Capability.LORA)
        if dialect.naps is not None and await self._sleeps(probe):
            seen.add(Capability.SUSPEND)
        return frozenset(seen)

    async def _sleeps(self, probe: Probe) -> bool:
        """It was put to sleep, woke up, and still answers."""
        try:
            await self.suspend(Sleep.LIGHT)
        except EngineFailed:
            return False  # It has no such route here: vLLM has it for graphics cards alone.
        await self.resume()
        reply = await probe.post("/v1/chat/completions", chat_body("Hello!", max_tokens=1))
        return dig(decoded(reply), "choices", 0) is not None

    async def _control(self, ask: Ask) -> None:
        """One control call. Raises EngineFailed."""
        try:
            reply = await self._client.call(
                ask.method,
                self._address + ask.path,
                headers=(*JSON_HEADERS, *self.headers),
                body=msgspec.json.encode(ask.body),
                deadline_ms=CONTROL_DEADLINE_MS,
            )
        except WireError as error:
            raise await self._failed(f"did not answer {ask.path}: {error}") from error
        if reply.status != 200:
            said = reply.body[:300].decode(errors="replace")
            raise await self._failed(f"answered {ask.path} with {reply.status}: {said}")

    async def _drain(self, deadline_ms: int) -> None:
        """Wait until it is idle, at most the deadline. No engine drains by itself as we need it: vLLM
        keeps saying that it is well, SGLang takes new requests, llama.cpp cuts what runs.
        """
        try:
            async with asyncio.timeout(deadline_ms / 1000):
                while await self._is_busy():  # noqa: ASYNC110 - another process, no event
                    await asyncio.sleep(DRAIN_CHECK_MS / 1000)
        except TimeoutError:
            return  # What still runs is cut; the miner's front records it as its own failure.

    async def _is_busy(self) -> bool:
        now = await self.stats()
        return now.ready and now.running + now.waiting > 0

    async def _get(self, path: str) -> Reply:
        return await self._client.call(
            "GET",
            self._address + path,
            headers=self.headers,
            deadline_ms=STATS_DEADLINE_MS,
        )

    async def _failed(self, what: str) -> EngineFailed:
        log = await self._runtime.logs(self._name, bytes_max=LOG_BYTES_MAX)
        return self._explained(what, log, self._dialect.remedy)

    def _refused(self, error: TaskFailed) -> EngineFailed:
        remedy = error.remedy or self._dialect.remedy
        return self._explained(f"did not start: {error.reason}", error.log_tail, remedy)

    def _explained(self, what: str, log: str, remedy: str) -> EngineFailed:
        found = find_fatal(log, sure_only=False)
        why = f": {found.line}" if found is not None else ""
        return EngineFailed(
            reason=f"{self._dialect.title} serving {self.model} {what}{why}.".replace("..", "."),
            log_tail=log[-TAIL_CHARS_MAX:],
            remedy=found.meaning.remedy if found is not None else remedy,
        )


def remedy_of(ending: Ending) -> str:
    """What to do about an engine that ended by itself."""
    found = find_fatal(ending.log_tail, sure_only=False)
    if found is not None:
        return found.meaning.remedy
    if ending.status == -9:
        return "Something killed it, often the kernel for lack of memory: run dmesg | tail"
    return "Read the last lines of its log: penstock miner top shows them."
