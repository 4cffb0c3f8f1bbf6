"""NatsBus: the Bus port on NATS JetStream (Events, Board) and core NATS (Ask).

Events are one stream on disk, with a durable pull consumer for each group: explicit
acknowledgement, redelivered after 10 s, without end. First deliveries come in order; one that was
not acknowledged comes again after newer ones. The board is a key-value bucket (`nats kv` reads it).
While the server is away publishes raise BusDown within their deadline, and the iterators wait and
go on by themselves when it is back: nothing acknowledged is lost, some things come twice.
"""

import asyncio
import hashlib
import re
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from nats.aio.msg import Msg

from penstock.adapters.nats_link import RETRY_WAIT_MS, NatsLink, NobodyThere, Refused, read_reply
from penstock.adapters.nats_pull import pull
from penstock.adapters.nats_streams import ATTEMPT_DEADLINE_MS, NANO, ensure_stream
from penstock.adapters.opened import Opened
from penstock.kit.bus_names import (
    check_group,
    check_message,
    check_pattern,
    check_prefix,
    check_subject,
)
from penstock.kit.ports import Answer, BusDown, Delivery, Progress
from penstock.kit.questions import Question, answering, question_queue

EVENTS_STREAM = "PENSTOCK_EVENTS"
BOARD_STREAM = "KV_PENSTOCK_BOARD"
EVENTS_PREFIX = "events."
BOARD_PREFIX = "$KV.PENSTOCK_BOARD."
ASK_PREFIX = "ask."
ANSWER_QUEUE = "answer"
MIB = 1024 * 1024
UNACKED_MAX = 256
# A removal stays visible this long for those who were away; later ones notice by comparing.
REMOVED_KEPT_S = 3600
WATCH_FORGOTTEN_S = 30
REMOVED_HEADERS = {
    "KV-Operation": "PURGE",
    "Nats-Rollup": "sub",
    "Nats-TTL": f"{REMOVED_KEPT_S}s",
}


@dataclass(frozen=True, slots=True)
class BusLimits:
    """Bounds of the stores and deadlines of the calls. Streams that exist keep their bounds."""

    events_bytes_max: int = 2048 * MIB
    events_age_max_s: int = 7 * 86_400
    board_bytes_max: int = 256 * MIB
    open_deadline_ms: int = 15_000
    publish_deadline_ms: int = 5_000
    ack_wait_ms: int = 10_000


class NatsBus(Opened):
    """`async with NatsBus(url) as bus:`. The URL may name a token file; see NatsLink."""

    def __init__(
        self, url: str, *, name: str = "penstock", limits: BusLimits | None = None
    ) -> None:
        self._link = NatsLink(url, name=name)
        self._limits = limits or BusLimits()

    async def open(self) -> None:
        """Connect and make the streams that are not there. Raises BusDown."""
        deadline_ms = self._limits.open_deadline_ms
        await self._link.open_with(self._ensure_streams, deadline_ms=deadline_ms)

    async def close(self) -> None:
        await self._link.close()

    @property
    def losses_count(self) -> int:
        """How often the connection was lost so far."""
        return self._link.generation

    async def publish(self, subject: str, data: bytes, *, event_id: str) -> None:
        """Return once stored on disk. Raises BusDown (it may be stored all the same: repeat)."""
        wire = EVENTS_PREFIX + check_subject(subject)
        await self._store(wire, check_message(data), {"Nats-Msg-Id": event_id})

    async def consume(self, subject: str, *, group: str) -> AsyncGenerator[Delivery, None]:
        """Events for the durable `group`, from the oldest kept one when the group is new."""
        pattern = check_pattern(subject)
        consumer = durable_name(group, pattern)
        while True:
            await self._link.wait_up()
            try:
                await self._ensure_group(consumer, EVENTS_PREFIX + pattern)
                async with aclosing(pull(self._link, EVENTS_STREAM, consumer)) as messages:
                    async for message in messages:
                        yield self._delivery(message)
            except BusDown:
                await self._recover()

    async def progress(self, subject: str, *, group: str) -> Progress:
        """How far the group has come; the group is made if it is new. Raises BusDown."""
        pattern = check_pattern(subject)
        stream = await self._link.call(
            f"STREAM.INFO.{EVENTS_STREAM}", {}, deadline_ms=ATTEMPT_DEADLINE_MS
        )
        stored = int(stream["state"]["last_seq"])
        group_info = await self._ensure_group(durable_name(group, pattern), EVENTS_PREFIX + pattern)
        # Events beside the pattern are stored in the same stream and never acknowledged by this group.
        is_done = not group_info["num_pending"] and not group_info["num_ack_pending"]
        settled = stored if is_done else int(group_info["ack_floor"]["stream_seq"])
        return Progress(stored, min(stored, settled))

    async def put(self, key: str, value: bytes) -> None:
        """Set `key`; an empty value removes it. Raises BusDown."""
        wire = BOARD_PREFIX + escape_key(check_subject(key))
        await self._store(wire, check_message(value), {} if value else REMOVED_HEADERS)

    async def watch(self, prefix: str) -> AsyncGenerator[tuple[str, bytes], None]:
        """Keys strictly below the level `prefix`; after an outage all of them once more."""
        level = check_prefix(prefix)
        wire = BOARD_PREFIX + (escape_key(level) + "." if level else "") + ">"
        known: set[str] = set()
        while True:
            await self._link.wait_up()
            try:
                async with aclosing(self._watch_once(wire, known)) as changes:
                    async for change in changes:
                        yield change
            except BusDown:
                await self._recover()

    async def ask(self, subject: str, data: bytes, *, deadline_ms: int) -> bytes:
        """The answer. Asks again only while nobody is there to hear it. Raises BusDown."""
        wire = ASK_PREFIX + check_subject(subject)
        check_message(data)
        loop = asyncio.get_running_loop()
        end_s = loop.time() + deadline_ms / 1000
        while True:
            left_ms = int((end_s - loop.time()) * 1000)
            if left_ms <= 0:
                raise BusDown(f"nobody answered {subject} in {deadline_ms} ms")
            try:
                return (await self._link.request(wire, data, deadline_ms=left_ms)).data
            except NobodyThere:
                await asyncio.sleep(min(left_ms, RETRY_WAIT_MS) / 1000)

    @asynccontextmanager
    async def answer(self, subject: str, handler: Answer) -> AsyncIterator[None]:
        """Serve `subject` while open, several questions at a time; survives reconnects."""
        questions = question_queue()

        async def receive(message: Msg) -> None:
            async def reply(data: bytes) -> None:
                # If the answer is lost, the asker's deadline tells it.
                with suppress(BusDown):
                    await self._link.send(message.reply, check_message(data))

            if not questions.full():
                questions.put_nowait(Question(message.data, reply))

        wire = ASK_PREFIX + check_subject(subject)
        subscription = await self._link.subscribe(wire, receive, queue=ANSWER_QUEUE)
        try:
            async with answering(questions, handler):
                yield
        finally:
            await self._link.unsubscribe(subscription)

    async def _store(self, wire: str, data: bytes, headers: dict[str, str]) -> None:
        """Send until stored. Repeating is safe: events carry an id, a key keeps its last value."""
        deadline_ms = self._limits.publish_deadline_ms
        try:
            async with asyncio.timeout(deadline_ms / 1000):
                while True:
                    try:
                        read_reply(
                            await self._link.request(
                                wire, data, deadline_ms=ATTEMPT_DEADLINE_MS, headers=headers
                            )
                        )
                    except Refused:
                        raise
                    except BusDown:
                        await self._recover()
                    else:
                        return
        except TimeoutError as error:
            raise BusDown(f"not stored within {deadline_ms} ms") from error

    def _delivery(self, message: Msg) -> Delivery:
        async def ack() -> None:
            # If this is lost, the event is not acknowledged and comes once more.
            with suppress(BusDown):
                await self._link.send(message.reply, b"+ACK")

        return Delivery(
            subject=message.subject.removeprefix(EVENTS_PREFIX),
            data=message.data,
            attempt=message.metadata.num_delivered,
            ack=ack,
        )

    async def _watch_once(
        self, wire: str, known: set[str]
    ) -> AsyncGenerator[tuple[str, bytes], None]:
        """One listing and the changes after it, until the line breaks; keeps `known` up to date."""
        consumer, pending = await self._watch_consumer(wire)
        missing = set(known)
        if pending == 0:
            for change in _forget(known, missing):
                yield change
        listing = pending > 0
        async with aclosing(pull(self._link, BOARD_STREAM, consumer)) as messages:
            async for message in messages:
                key = unescape_key(message.subject.removeprefix(BOARD_PREFIX))
                missing.discard(key)
                if message.data:
                    known.add(key)
                    yield key, message.data
                elif key in known:
                    known.discard(key)
                    yield key, b""
                if listing and message.metadata.num_pending == 0:
                    listing = False
                    for change in _forget(known, missing):
                        yield change

    async def _ensure_group(self, consumer: str, wire: str) -> dict[str, Any]:
        """Make the durable consumer unless it is there; what the server says of it."""
        config = {
            "durable_name": consumer,
            "filter_subject": wire,
            "deliver_policy": "all",
            "ack_policy": "explicit",
            "ack_wait": self._limits.ack_wait_ms * 1_000_000,
            "max_deliver": -1,
            "max_ack_pending": UNACKED_MAX,
        }
        return await self._link.call(
            f"CONSUMER.DURABLE.CREATE.{EVENTS_STREAM}.{consumer}",
            {"stream_name": EVENTS_STREAM, "config": config},
            deadline_ms=ATTEMPT_DEADLINE_MS,
        )

    async def _watch_consumer(self, wire: str) -> tuple[str, int]:
        """A consumer that lists the last value of each key and goes on; (name, keys to list)."""
        config = {
            "filter_subject": wire,
            "deliver_policy": "last_per_subject",
            "ack_policy": "none",
            "inactive_threshold": WATCH_FORGOTTEN_S * NANO,
            "mem_storage": True,
        }
        reply = await self._link.call(
            f"CONSUMER.CREATE.{BOARD_STREAM}",
            {"stream_name": BOARD_STREAM, "config": config},
            deadline_ms=ATTEMPT_DEADLINE_MS,
        )
        return str(reply["name"]), int(reply["num_pending"])

    async def _recover(self) -> None:
        """After a failure: a short wait, and the streams again if the server lost its disk."""
        await asyncio.sleep(RETRY_WAIT_MS / 1000)
        # If that fails too, the caller's next try or its deadline will tell.
        with suppress(BusDown):
            await self._ensure_streams()

    async def _ensure_streams(self) -> None:
        events = {
            "name": EVENTS_STREAM,
            "subjects": [EVENTS_PREFIX + ">"],
            "discard": "old",
            "max_age": self._limits.events_age_max_s * NANO,
            "max_bytes": self._limits.events_bytes_max,
            "max_msgs_per_subject": -1,
        }
        board = {
            "name": BOARD_STREAM,
            "subjects": [BOARD_PREFIX + ">"],
            "discard": "new",
            "max_bytes": self._limits.board_bytes_max,
            "max_msgs_per_subject": 1,
            "allow_rollup_hdrs": True,
            "allow_direct": True,
            "allow_msg_ttl": True,
            "deny_delete": True,
        }
        for own in (events, board):
            await ensure_stream(self._link, own)


def durable_name(group: str, pattern: str) -> str:
    """A durable consumer's name: a group may consume several patterns."""
    digest = hashlib.sha256(pattern.encode()).hexdigest()[:12]
    return f"{check_group(group)}-{digest}"


def _forget(known: set[str], missing: set[str]) -> list[tuple[str, bytes]]:
    """Keys that went away while nobody looked: told as removals."""
    known -= missing
    return [(key, b"") for key in sorted(missing)]


def escape_key(key: str) -> str:
    """NATS keys have no ':', '+', '@', '~': those are written =XX, and '=' itself too."""
    return re.sub(r"[:+@~=]", lambda match: f"={ord(match[0]):02X}", key)


def unescape_key(key: str) -> str:
    return unquote(key.replace("=", "%"))
