"""Pulling from a JetStream consumer: messages one by one, as they come, until the line breaks.

nats-py's own fetch() waits for a full batch or its timeout. Here a request grants credit for a
batch and each message is handed on at once. The server sends a heartbeat every second of silence;
when those stop, or the connection is lost, the iteration ends and the caller starts anew.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator

import msgspec
from nats.aio.msg import Msg

from penstock.adapters.nats_link import NatsLink
from penstock.kit.ports import BusDown

BATCH_MAX = 64
QUEUE_MAX = 4 * BATCH_MAX
EXPIRES_NS = 30_000_000_000
HEARTBEAT_NS = 1_000_000_000
SILENCE_MS = 4_000
STATUS_HEADER = "Status"
HEARTBEAT = "100"
REQUEST_ENDED = frozenset({"404", "408"})


async def pull(link: NatsLink, stream: str, consumer: str) -> AsyncGenerator[Msg, None]:
    """Messages of an existing consumer; ends when it must be built or checked anew.

    Raises BusDown when nothing can be sent.
    """
    queue: asyncio.Queue[Msg | None] = asyncio.Queue(maxsize=QUEUE_MAX)

    async def receive(message: Msg) -> None:
        _enqueue(queue, message)

    def lose() -> None:
        _enqueue(queue, None)

    generation = link.generation
    inbox = link.inbox()
    forget = link.on_lost(lose)
    subscription = await link.subscribe(inbox, receive)
    try:
        credit = 0
        while True:
            if credit == 0:
                if link.generation != generation:
                    return
                await _ask_for_batch(link, stream, consumer=consumer, inbox=inbox)
                credit = BATCH_MAX
            message = await _next(queue)
            status = status_of(message)
            if message is None or (status not in (HEARTBEAT, "") and status not in REQUEST_ENDED):
                return
            if status in REQUEST_ENDED:
                credit = 0
            elif status == "":
                credit -= 1
                yield message
    finally:
        forget()
        await link.unsubscribe(subscription)
        await _hand_back(link, queue)


def status_of(message: Msg | None) -> str:
    """The status of a control message; "" for a message with content."""
    if message is None or message.headers is None or message.data:
        return ""
    return message.headers.get(STATUS_HEADER, "")


async def _ask_for_batch(link: NatsLink, stream: str, *, consumer: str, inbox: str) -> None:
    wish = {"batch": BATCH_MAX, "expires": EXPIRES_NS, "idle_heartbeat": HEARTBEAT_NS}
    subject = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"
    await link.send(subject, msgspec.json.encode(wish), reply=inbox)


async def _hand_back(link: NatsLink, queue: asyncio.Queue[Msg | None]) -> None:
    """Refuse what was sent ahead and never read, so that the next consumer need not wait for it."""
    while not queue.empty():
        message = queue.get_nowait()
        if message is not None and message.reply and status_of(message) == "":
            with contextlib.suppress(BusDown):
                await link.send(message.reply, b"-NAK")


def _enqueue(queue: asyncio.Queue[Msg | None], message: Msg | None) -> None:
    """A reader that is behind needs no heartbeats, and they must not fill its queue. There is never
    more credit than room; what would not fit comes again after ack_wait.
    """
    idle = status_of(message) == HEARTBEAT and not queue.empty()
    if not idle and not queue.full():
        queue.put_nowait(message)


async def _next(queue: asyncio.Queue[Msg | None]) -> Msg | None:
    if not queue.empty():
        return queue.get_nowait()
    try:
        async with asyncio.timeout(SILENCE_MS / 1000):
            return await queue.get()
    except TimeoutError:
        return None
