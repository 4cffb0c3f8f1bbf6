"""NatsLink: one connection to NATS that heals itself and speaks only our errors.

nats-py reconnects for ever with small waits. The link counts how often it was lost
(`generation`), so that a loop which sits on server state knows when to build it anew.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qs, urlsplit, urlunsplit

import msgspec
import nats
import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from penstock.adapters.secret_file import read_secret
from penstock.kit.log import events
from penstock.kit.ports import BusDown

log = events("nats")

RECONNECT_WAIT_MS = 100
CONNECT_DEADLINE_MS = 2_000
PING_EVERY_S = 5
PINGS_LOST_MAX = 2
RETRY_WAIT_MS = 50
CLOSE_DEADLINE_MS = 2_000

T = TypeVar("T")
Receive = Callable[[Msg], Awaitable[None]]


class NobodyThere(BusDown):
    """No one serves the subject right now: nothing was delivered, so asking again is safe."""


class Refused(BusDown):
    """JetStream answered with an error."""

    def __init__(self, code: int, description: str) -> None:
        super().__init__(f"{description} ({code})")
        self.code = code


class NatsLink:
    """url: nats://host:port, several separated by commas; `?token_file=/path` names a 0600 file
    with the token, so that the secret is in no URL.
    """

    def __init__(self, url: str, *, name: str) -> None:
        self._servers, self._token_file = split_url(url)
        self._name = name
        self._client: Client | None = None
        self._up = asyncio.Event()
        self._lost: set[Callable[[], None]] = set()
        self._last_error = ""
        self.generation = 0
        self.errors_count = 0

    async def open(self, *, deadline_ms: int) -> None:
        """Connect. Raises BusDown when the deadline passes first, FileExposed."""
        token = None if self._token_file is None else read_secret(self._token_file).decode().strip()
        client = Client()
        try:
            async with asyncio.timeout(deadline_ms / 1000):
                await client.connect(
                    servers=self._servers,
                    name=self._name,
                    token=token,
                    error_cb=self._on_error,
                    disconnected_cb=self._on_lost,
                    reconnected_cb=self._on_back,
                    max_reconnect_attempts=-1,
                    reconnect_time_wait=RECONNECT_WAIT_MS / 1000,  # type: ignore[arg-type] # seconds, any number
                    connect_timeout=CONNECT_DEADLINE_MS // 1000,
                    ping_interval=PING_EVERY_S,
                    max_outstanding_pings=PINGS_LOST_MAX,
                )
        except (nats.errors.Error, OSError, TimeoutError) as error:
            await client.close()
            raise BusDown(f"no connection to NATS: {self._last_error or error!r}") from error
        self._client = client
        self._up.set()

    async def open_with(self, prepare: Callable[[], Awaitable[None]], *, deadline_ms: int) -> None:
        """Connect and prepare the server, each within the deadline; closed again if it fails.
        Raises BusDown, Refused, FileExposed.
        """
        await self.open(deadline_ms=deadline_ms)
        try:
            await until_answered(prepare, deadline_ms=deadline_ms)
        except BusDown:
            await self.close()
            raise

    async def close(self) -> None:
        if self._client is None:
            return
        client, self._client = self._client, None
        self._up.clear()
        try:
            async with asyncio.timeout(CLOSE_DEADLINE_MS / 1000):
                if client.is_connected:
                    await client.flush()
                await client.close()
        except (nats.errors.Error, OSError, TimeoutError):
            await client.close()

    async def wait_up(self) -> None:
        """Wait, for ever if need be, until connected."""
        await self._up.wait()

    async def request(
        self, subject: str, data: bytes, *, deadline_ms: int, headers: dict[str, str] | None = None
    ) -> Msg:
        """One question, one answer. Raises NobodyThere, BusDown. Never asks twice."""
        loop = asyncio.get_running_loop()
        end_s = loop.time() + deadline_ms / 1000
        try:
            async with asyncio.timeout_at(end_s):
                await self._up.wait()
                return await self._opened().request(
                    subject, data, timeout=max(end_s - loop.time(), 0.001), headers=headers
                )
        except nats.errors.NoRespondersError as error:
            raise NobodyThere(f"nobody serves {subject}") from error
        except (nats.errors.Error, OSError, TimeoutError) as error:
            raise BusDown(f"no answer on {subject} in {deadline_ms} ms") from error

    async def call(self, subject: str, body: dict[str, Any], *, deadline_ms: int) -> dict[str, Any]:
        """A JetStream management call. Raises Refused, NobodyThere, BusDown."""
        data = msgspec.json.encode(body)
        return read_reply(await self.request(f"$JS.API.{subject}", data, deadline_ms=deadline_ms))

    async def send(self, subject: str, data: bytes, *, reply: str = "") -> None:
        """Send without an answer; kept in a bounded buffer while disconnected. Raises BusDown."""
        try:
            await self._opened().publish(subject, data, reply=reply)
        except (nats.errors.Error, OSError) as error:
            raise BusDown(f"could not send on {subject}") from error

    async def subscribe(self, subject: str, receive: Receive, *, queue: str = "") -> Subscription:
        """Hear `subject`; survives reconnects. Raises BusDown when the link is closed."""
        try:
            return await self._opened().subscribe(subject, queue=queue, cb=receive)
        except (nats.errors.Error, OSError) as error:
            raise BusDown(f"could not subscribe to {subject}") from error

    async def unsubscribe(self, subscription: Subscription) -> None:
        # When the connection is gone, the subscription went with it.
        with contextlib.suppress(nats.errors.Error, OSError):
            await subscription.unsubscribe()

    def inbox(self) -> str:
        return self._opened().new_inbox()

    def on_lost(self, call: Callable[[], None]) -> Callable[[], None]:
        """Have `call` run whenever the connection is lost; returns how to stop that."""
        self._lost.add(call)
        return lambda: self._lost.discard(call)

    def _opened(self) -> Client:
        if self._client is None:
            raise BusDown("the bus is closed")
        return self._client

    async def _on_error(self, error: Exception) -> None:
        self.errors_count += 1
        self._last_error = f"{type(error).__name__}: {error}"
        log.debug("nats.error", reason=self._last_error)

    async def _on_lost(self) -> None:
        self._up.clear()
        self.generation += 1
        for call in tuple(self._lost):
            call()

    async def _on_back(self) -> None:
        self._up.set()
        log.info("nats.reconnected", losses_count=self.generation)


async def until_answered(attempt: Callable[[], Awaitable[T]], *, deadline_ms: int) -> T:
    """The attempt's result; again and again while the bus is down. Raises Refused, BusDown."""
    try:
        async with asyncio.timeout(deadline_ms / 1000):
            while True:
                try:
                    return await attempt()
                except Refused:
                    raise
                except BusDown:
                    await asyncio.sleep(RETRY_WAIT_MS / 1000)
    except TimeoutError as error:
        reason = f"JetStream did not answer within {deadline_ms} ms; is it enabled on the server?"
        raise BusDown(reason) from error


def split_url(url: str) -> tuple[list[str], Path | None]:
    """The server addresses and the token file that a URL (or several) names."""
    servers, token_file = [], None
    for part in url.split(","):
        split = urlsplit(part.strip())
        for named in parse_qs(split.query).get("token_file", []):
            token_file = Path(named)
        servers.append(urlunsplit((split.scheme, split.netloc, "", "", "")))
    return servers, token_file


def read_reply(message: Msg) -> dict[str, Any]:
    """The JSON of a JetStream answer. Raises Refused, BusDown."""
    try:
        reply = msgspec.json.decode(message.data, type=dict[str, Any])
    except msgspec.MsgspecError as error:
        raise BusDown("JetStream answered something that is not JSON") from error
    if "error" in reply:
        refusal = reply["error"]
        code = refusal.get("err_code", refusal.get("code", 0))
        raise Refused(code, refusal.get("description", ""))
    return reply
