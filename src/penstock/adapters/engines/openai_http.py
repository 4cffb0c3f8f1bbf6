"""Any OpenAI-compatible server that somebody else runs: vLLM, SGLang, a llama.cpp of one's own.

Only attached, never launched: `start` waits until it serves the model, `stop` leaves it running.
"""

import asyncio
from dataclasses import dataclass
from urllib.parse import urldefrag

from penstock.adapters.engines.asker import dig, parsed
from penstock.adapters.engines.gauges import engine_stats
from penstock.adapters.engines.probe import FRESH_LINKS, NothingServed, Probe
from penstock.kit.engine import AlwaysOn, Capability, EngineExit, EngineFailed, EngineStats
from penstock.kit.errors import WireError
from penstock.kit.ports import Network
from penstock.kit.wire.client import HttpClient

CALL_DEADLINE_MS = 10_000
RETRY_MS = 250
WATCH_EVERY_MS = 5_000
MISSES_MAX = 3


@dataclass(frozen=True, slots=True)
class Attachment:
    """Where the server is and which of its models is meant ("" for the first it names)."""

    address: str
    model: str


def parse_source(url: str) -> Attachment:
    """`http://host:port[/v1][#model]`. Raises ValueError for anything but http(s)."""
    plain, model = urldefrag(url)
    if not plain.startswith(("http://", "https://")):
        raise ValueError(f"an engine's address starts with http:// or https://, not {url!r}")
    return Attachment(plain.rstrip("/").removesuffix("/v1"), model)


class OpenaiHttp(AlwaysOn):
    """Implements `kit.engine.Engine` for a server at a URL."""

    def __init__(
        self, source: str, *, network: Network, watch_every_ms: int = WATCH_EVERY_MS
    ) -> None:
        attachment = parse_source(source)
        self._address = attachment.address
        self._wanted = attachment.model
        self._model = attachment.model
        self._watch_every_ms = watch_every_ms
        self._client = HttpClient(network, FRESH_LINKS)
        self._capabilities: frozenset[Capability] = frozenset()
        self._stopped = asyncio.Event()
        self._why_not = "nothing answered"

    @property
    def address(self) -> str:
        return self._address

    @property
    def model(self) -> str:
        return self._model

    @property
    def capabilities(self) -> frozenset[Capability]:
        return self._capabilities

    async def start(self, *, deadline_ms: int) -> None:
        self._stopped.clear()
        try:
            async with asyncio.timeout(deadline_ms / 1000):
                while not await self._is_serving():  # noqa: ASYNC110 - a remote server, no event
                    await asyncio.sleep(RETRY_MS / 1000)
                probe = Probe(self._client, self._address, self._model)
                self._capabilities = await probe.capabilities()
        except TimeoutError as error:
            raise self._failed(f"was not ready after {deadline_ms} ms: {self._why_not}") from error
        except WireError as error:
            raise self._failed(f"broke off during the test requests: {error}") from error
        except NothingServed as error:
            raise self._failed(f"answered no test request: {error.why}") from error

    async def stats(self) -> EngineStats:
        """Gauges where the server has /metrics; otherwise ready or not is all that is known."""
        ready = await self._is_serving()
        try:
            reply = await self._client.call(
                "GET", f"{self._address}/metrics", deadline_ms=CALL_DEADLINE_MS
            )
        except WireError:
            return EngineStats(running=0, waiting=0, ready=ready)
        page = reply.body.decode(errors="replace") if reply.status == 200 else ""
        return engine_stats(page, ready=ready)

    async def wait_exit(self) -> EngineExit:
        """Ends after `stop`, or when the server missed three checks in a row."""
        misses = 0
        while misses < MISSES_MAX:
            try:
                async with asyncio.timeout(self._watch_every_ms / 1000):
                    await self._stopped.wait()
            except TimeoutError:
                misses = 0 if await self._is_serving() else misses + 1
            else:
                return EngineExit(wanted=True, reason="stopped", log_tail="", remedy="")
        return EngineExit(
            wanted=False,
            reason=f"The server at {self._address} stopped serving {self.model}: {self._why_not}.",
            log_tail="",
            remedy=self._remedy(),
        )

    async def stop(self, *, deadline_ms: int) -> None:  # noqa: ARG002 - the port names it
        """Detach. The server is not ours to end, and it drains its own requests."""
        self._stopped.set()
        await self._client.close()

    async def _is_serving(self) -> bool:
        """Does /v1/models name our model? Settles the name if none was wanted."""
        try:
            reply = await self._client.call(
                "GET", f"{self._address}/v1/models", deadline_ms=CALL_DEADLINE_MS
            )
        except WireError as error:
            self._why_not = str(error)
            return False
        listed = dig(parsed(reply.body), "data")
        names = [dig(entry, "id") for entry in listed] if isinstance(listed, list) else []
        if reply.status == 200 and names and self._wanted in {"", *names}:
            self._model = self._wanted or str(names[0])
            return True
        self._why_not = f"/v1/models answered {reply.status} and names {names[:5]}"
        return False

    def _failed(self, what: str) -> EngineFailed:
        return EngineFailed(
            reason=f"The server at {self._address} {what}.",
            log_tail="",
            remedy=self._remedy(),
        )

    def _remedy(self) -> str:
        return f"Look at it: curl {self._address}/v1/models"
