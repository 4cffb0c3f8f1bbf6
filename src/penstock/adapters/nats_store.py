"""NatsStore: the Stores port on NATS JetStream: cells as a key-value bucket, blobs as an object store.

Both have the layouts of NATS' own (ADR-8, ADR-20), so `nats kv` and `nats object` read them. A journal
is the chunks of an object that has no description yet. Everything carries its time to live, after
which the server itself removes it; a full store refuses what is new and keeps what it has.

Reads go message by message to the stream's leader: nothing on the server waits for a slow reader, and
who has read a cell has read its newest value.
"""

import base64
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from penstock.adapters.nats import MIB, escape_key, unescape_key
from penstock.adapters.nats_link import NatsLink, Refused, read_reply, until_answered
from penstock.adapters.nats_objects import (
    ABOUT_PREFIX,
    BLOBS_BUCKET,
    CHUNK_BYTES,
    CHUNKS_PREFIX,
    About,
    Found,
    about_subject,
    chunked,
    journal_subject,
    ttl,
)
from penstock.adapters.nats_pull import pull
from penstock.adapters.nats_streams import ATTEMPT_DEADLINE_MS, NANO, ensure_stream
from penstock.adapters.opened import Opened
from penstock.kit.bus_names import check_message, check_prefix, check_subject
from penstock.kit.ports import BlobMissing, BusDown, Cell, Conflict, DiskFull, Entropy

CELLS_STREAM = "KV_PENSTOCK_CELLS"
CELLS_PREFIX = "$KV.PENSTOCK_CELLS."
BLOBS_STREAM = f"OBJ_{BLOBS_BUCKET}"
ID_BYTES = 16
REMOVED_KEPT_S = 3600
LISTING_FORGOTTEN_S = 30
PART_HEADER = "Penstock-Part"
UNFINISHED_MAX = 64
"""Entries of one journal whose last part has not been read yet; the oldest is given up."""

# err_codes of JetStream.
NO_MESSAGE = 10037
WRONG_REVISION = frozenset({10071, 10164})
FULL = frozenset({10077, 10023, 10047})

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class StoreLimits:
    """Bounds of the stores and deadlines of the calls. Streams that exist keep their bounds."""

    blobs_bytes_max: int = 1024 * MIB
    cells_bytes_max: int = 64 * MIB
    open_deadline_ms: int = 15_000
    call_deadline_ms: int = 5_000


class NatsStore(Opened):
    """`async with NatsStore(url, entropy=...) as store:`. The URL may name a token file; see NatsLink."""

    def __init__(
        self,
        url: str,
        *,
        entropy: Entropy,
        name: str = "penstock",
        limits: StoreLimits | None = None,
    ) -> None:
        self._link = NatsLink(url, name=name)
        self._entropy = entropy
        self._limits = limits or StoreLimits()

    async def open(self) -> None:
        """Connect and make the streams that are not there. Raises BusDown."""
        deadline_ms = self._limits.open_deadline_ms
        await self._link.open_with(self._ensure_streams, deadline_ms=deadline_ms)

    async def close(self) -> None:
        await self._link.close()

    # Cells.

    async def read(self, key: str) -> Cell | None:
        """The present value, or None. Raises BusDown."""
        found = await self._last(CELLS_STREAM, CELLS_PREFIX + escape_key(check_subject(key)))
        if found is None or not found.data:
            return None
        return Cell(key, found.content(), found.seq)

    async def swap(self, key: str, value: bytes, *, revision: int, keep_ms: int) -> int:
        """Compare and set; an empty value removes. Raises Conflict, DiskFull, BusDown."""
        wire = CELLS_PREFIX + escape_key(check_subject(key))
        check_message(value)
        headers = {"Nats-TTL": ttl(keep_ms)}
        if not value:
            headers = {
                "KV-Operation": "PURGE",
                "Nats-Rollup": "sub",
                "Nats-TTL": f"{REMOVED_KEPT_S}s",
            }
        # Under one id the server stores it once, however often a lost answer makes us send it.
        headers["Nats-Msg-Id"] = self._fresh_id()
        expected = revision
        while True:
            headers["Nats-Expected-Last-Subject-Sequence"] = str(expected)
            try:
                return await self._put(wire, value, headers)
            except Refused as error:
                if error.code not in WRONG_REVISION:
                    raise
                mark = await self._last(CELLS_STREAM, wire) if expected == 0 else None
                if mark is None or mark.data:
                    raise Conflict(key) from error
                expected = mark.seq  # what stands there is the mark of a removal

    async def under(self, prefix: str) -> list[Cell]:
        """All cells below `prefix`. Raises BusDown."""
        level = check_prefix(prefix)
        wire = CELLS_PREFIX + (escape_key(level) + "." if level else "") + ">"
        return await self._repeat(lambda: self._list(wire))

    # Blobs.

    async def store(self, name: str, parts: AsyncIterator[bytes], *, keep_ms: int) -> int:
        """All parts, or nothing. Raises DiskFull, BusDown, and what `parts` raises."""
        nuid = self._fresh_id()
        wire = CHUNKS_PREFIX + nuid
        size = count = 0
        digest = hashlib.sha256()
        is_whole = False
        try:
            async for chunk in chunked(parts):
                headers = {"Nats-Msg-Id": f"{nuid}-{count}", "Nats-TTL": ttl(keep_ms)}
                await self._put(wire, chunk, headers)
                digest.update(chunk)
                size, count = size + len(chunk), count + 1
            sha = base64.urlsafe_b64encode(digest.digest()).decode()
            about = About(name, BLOBS_BUCKET, nuid, size, count, f"SHA-256={sha}")
            headers = {"Nats-Rollup": "sub", "Nats-TTL": ttl(keep_ms)}
            former = await self._about(name)
            await self._put(about_subject(name), msgspec.json.encode(about), headers)
            is_whole = True
        finally:
            if not is_whole:
                # If this fails too, the chunks go when their time is over.
                with suppress(BusDown):
                    await self._purge(wire)
        if former is not None:
            await self._purge(CHUNKS_PREFIX + former.nuid)
        return size

    async def fetch(self, name: str) -> AsyncGenerator[bytes, None]:
        """The bytes in pieces. Raises BlobMissing, BusDown."""
        about = await self._about(name)
        if about is None:
            raise BlobMissing(name)
        left = about.size
        async with aclosing(self._messages(CHUNKS_PREFIX + about.nuid)) as messages:
            async for message in messages:
                chunk = message.content()
                left -= len(chunk)
                yield chunk
        if left:
            raise BlobMissing(name)  # dropped, or over, while it was read

    async def drop(self, name: str) -> None:
        """Remove the blob if it is there. Raises BusDown."""
        about = await self._about(name)
        if about is not None:
            await self._purge(about_subject(name))
            await self._purge(CHUNKS_PREFIX + about.nuid)

    # Journals.

    async def append(self, name: str, entry: bytes, *, keep_ms: int) -> None:
        """Return once the entry is on disk. Raises DiskFull, BusDown."""
        assert entry, "an entry is not empty"
        entry_id = self._fresh_id()
        pieces = [entry[at : at + CHUNK_BYTES] for at in range(0, len(entry), CHUNK_BYTES)]
        for place, piece in enumerate(pieces):
            headers = {
                "Nats-Msg-Id": f"{entry_id}-{place}",
                "Nats-TTL": ttl(keep_ms),
                PART_HEADER: f"{entry_id}/{place}/{len(pieces)}",
            }
            await self._put(journal_subject(name), piece, headers)

    async def replay(self, name: str) -> AsyncGenerator[bytes, None]:
        """The whole entries, in the order in which their last parts were stored. Raises BusDown."""
        unfinished: dict[str, list[bytes]] = {}
        async with aclosing(self._messages(journal_subject(name))) as messages:
            async for message in messages:
                entry_id, _, count = message.header(PART_HEADER).split("/")
                pieces = unfinished.setdefault(entry_id, [])
                pieces.append(message.content())
                if len(pieces) == int(count):
                    del unfinished[entry_id]
                    yield b"".join(pieces)
                elif len(unfinished) > UNFINISHED_MAX:
                    del unfinished[next(iter(unfinished))]

    async def forget(self, name: str) -> None:
        """Remove the journal if it is there. Raises BusDown."""
        await self._purge(journal_subject(name))

    # Inside.

    def _fresh_id(self) -> str:
        return self._entropy(ID_BYTES).hex()

    async def _put(self, wire: str, data: bytes, headers: dict[str, str]) -> int:
        """Send until stored; its sequence number. Raises Refused, DiskFull, BusDown."""

        async def attempt() -> int:
            reply = await self._link.request(
                wire, data, deadline_ms=ATTEMPT_DEADLINE_MS, headers=headers
            )
            return int(read_reply(reply)["seq"])

        try:
            return await self._repeat(attempt)
        except Refused as error:
            if error.code in FULL:
                raise DiskFull(str(error)) from error
            raise

    async def _repeat(self, attempt: Callable[[], Awaitable[T]]) -> T:
        return await until_answered(attempt, deadline_ms=self._limits.call_deadline_ms)

    async def _last(self, stream: str, wire: str) -> Found | None:
        """The last message of a subject."""
        return await self._find(stream, {"last_by_subj": wire})

    async def _find(self, stream: str, wish: dict[str, Any]) -> Found | None:
        async def attempt() -> Found | None:
            try:
                reply = await self._link.call(
                    f"STREAM.MSG.GET.{stream}", wish, deadline_ms=ATTEMPT_DEADLINE_MS
                )
            except Refused as error:
                if error.code == NO_MESSAGE:
                    return None
                raise
            return msgspec.convert(reply["message"], Found)

        return await self._repeat(attempt)

    async def _messages(self, wire: str) -> AsyncGenerator[Found, None]:
        """All messages of a subject of the blobs' stream, oldest first."""
        after = 0
        while True:
            wish = {"seq": after + 1, "next_by_subj": wire}
            found = await self._find(BLOBS_STREAM, wish)
            if found is None:
                return
            after = found.seq
            yield found

    async def _about(self, name: str) -> About | None:
        found = await self._last(BLOBS_STREAM, about_subject(name))
        return None if found is None else msgspec.json.decode(found.content(), type=About)

    async def _purge(self, wire: str) -> None:
        async def attempt() -> None:
            await self._link.call(
                f"STREAM.PURGE.{BLOBS_STREAM}", {"filter": wire}, deadline_ms=ATTEMPT_DEADLINE_MS
            )

        await self._repeat(attempt)

    async def _list(self, wire: str) -> list[Cell]:
        config = {
            "filter_subject": wire,
            "deliver_policy": "last_per_subject",
            "ack_policy": "none",
            "inactive_threshold": LISTING_FORGOTTEN_S * NANO,
            "mem_storage": True,
        }
        reply = await self._link.call(
            f"CONSUMER.CREATE.{CELLS_STREAM}",
            {"stream_name": CELLS_STREAM, "config": config},
            deadline_ms=ATTEMPT_DEADLINE_MS,
        )
        consumer, left = str(reply["name"]), int(reply["num_pending"])
        cells: list[Cell] = []
        if left:
            async with aclosing(pull(self._link, CELLS_STREAM, consumer)) as messages:
                async for message in messages:
                    key = unescape_key(message.subject.removeprefix(CELLS_PREFIX))
                    if message.data:
                        cells.append(Cell(key, message.data, message.metadata.sequence.stream))
                    left = message.metadata.num_pending
                    if not left:
                        break
        with suppress(BusDown):  # it is forgotten by itself a little later
            await self._link.call(
                f"CONSUMER.DELETE.{CELLS_STREAM}.{consumer}", {}, deadline_ms=ATTEMPT_DEADLINE_MS
            )
        if left:
            raise BusDown("the line broke while cells were listed")
        return sorted(cells, key=lambda cell: cell.key)

    async def _ensure_streams(self) -> None:
        cells = {
            "name": CELLS_STREAM,
            "subjects": [CELLS_PREFIX + ">"],
            "discard": "new",
            "max_bytes": self._limits.cells_bytes_max,
            "max_msgs_per_subject": 1,
            "allow_rollup_hdrs": True,
            "allow_direct": True,
            "allow_msg_ttl": True,
            "deny_delete": True,
        }
        blobs = {
            "name": BLOBS_STREAM,
            "subjects": [CHUNKS_PREFIX + ">", ABOUT_PREFIX + ">"],
            "discard": "new",
            "max_bytes": self._limits.blobs_bytes_max,
            "max_msgs_per_subject": -1,
            "allow_rollup_hdrs": True,
            "allow_direct": True,
            "allow_msg_ttl": True,
        }
        for own in (cells, blobs):
            await ensure_stream(self._link, own)
