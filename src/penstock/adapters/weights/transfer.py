"""One file from one address into its part: resumed where it stopped, bounded by the size it must have."""

import asyncio
from dataclasses import dataclass

from penstock.adapters.weights.courier import (
    BEYOND,
    PIECE,
    WHOLE,
    Address,
    Courier,
    shown,
    whole_size,
)
from penstock.adapters.weights.errors import SourceRefused, Stalled
from penstock.adapters.weights.part import Part
from penstock.adapters.weights.progress import Meter
from penstock.kit.errors import DeadlinePassed
from penstock.kit.ports import Clock
from penstock.kit.wire.client import StreamReply

WRITE_BYTES = 1 << 20
US_PER_MS = 1_000


@dataclass(frozen=True, slots=True)
class Transfer:
    """`etag` is that of the same URL's earlier reply, "" if there was none."""

    courier: Courier
    clock: Clock
    meter: Meter

    async def run(self, part: Part, address: Address, *, size_bytes: int, etag: str = "") -> str:
        """Bring the part to `size_bytes`; returns the ETag of this reply.

        Raises SourceRefused, Stalled, WireError (what came stays in the part), OSError (the disk).
        """
        headers: list[tuple[str, str]] = []
        if part.size_bytes:
            headers.append(("range", f"bytes={part.size_bytes}-"))
            if etag:
                headers.append(("if-range", etag))
        async with self.courier.open(address, *headers) as reply:
            source = shown(address.url)
            check_reply(reply, source, offset=part.size_bytes, size_bytes=size_bytes)
            if reply.status == WHOLE and part.size_bytes:
                self.meter.found(-part.size_bytes)
                await asyncio.to_thread(part.restart)
            await self._body(reply, part, source, size_bytes=size_bytes)
            return strong(reply.header("etag"))

    async def _body(self, reply: StreamReply, part: Part, source: str, *, size_bytes: int) -> None:
        deadlines = self.courier.deadlines
        pace = Pace(self.clock, deadlines.stall_ms, deadlines.stall_bytes_min)
        held: list[bytes] = []
        held_bytes = 0
        try:
            async for chunk in reply.chunks(idle_deadline_ms=deadlines.idle_ms):
                held.append(chunk)
                held_bytes += len(chunk)
                self.meter.came(len(chunk))
                if part.size_bytes + held_bytes > size_bytes:
                    raise SourceRefused(
                        source, f"it sends more than the {size_bytes} bytes it should"
                    )
                if not pace.is_kept(len(chunk)):
                    raise Stalled(source, part.size_bytes + held_bytes, deadlines.stall_ms)
                if held_bytes >= WRITE_BYTES:
                    pieces, held, held_bytes = held, [], 0
                    await asyncio.to_thread(part.append, pieces)
        except DeadlinePassed as error:
            raise Stalled(source, part.size_bytes + held_bytes, error.deadline_ms) from error
        finally:
            if part.size_bytes + held_bytes <= size_bytes:
                await asyncio.to_thread(part.append, held)  # also when the line broke: it is good
        if part.size_bytes < size_bytes:
            raise SourceRefused(
                source, f"it ended after {part.size_bytes} of {size_bytes} bytes", is_lasting=False
            )


class Pace:
    """Does a stream bring so many bytes in every span? A drop now and then is as good as silence."""

    def __init__(self, clock: Clock, span_ms: int, bytes_min: int) -> None:
        self._clock = clock
        self._span_us = span_ms * US_PER_MS
        self._bytes_min = bytes_min
        self._since_us = clock.mono_us()
        self._came_bytes = 0

    def is_kept(self, came_bytes: int) -> bool:
        """Count them; False when a span is over and too little came in it."""
        self._came_bytes += came_bytes
        now_us = self._clock.mono_us()
        if now_us - self._since_us < self._span_us:
            return True
        enough = self._came_bytes >= self._bytes_min
        self._since_us, self._came_bytes = now_us, 0
        return enough


def check_reply(reply: StreamReply, source: str, *, offset: int, size_bytes: int) -> None:
    """The reply continues at `offset`, or begins anew, and is as long as it must be.

    Raises SourceRefused.
    """
    total = whole_size(reply)
    if reply.status == BEYOND:
        raise SourceRefused(source, f"it has no byte {offset} of {size_bytes}")
    if total is not None and total != size_bytes:
        raise SourceRefused(source, f"it says the file has {total} bytes, it has {size_bytes}")
    if reply.status == PIECE:
        begin = f"bytes {offset}-{size_bytes - 1}/{size_bytes}"
        if not offset or reply.header("content-range") != begin:
            raise SourceRefused(source, "it answers with another range than was asked for")


def strong(etag: str) -> str:
    """An ETag that names bytes; a weak one does not (RFC 9110 8.8.3)."""
    return etag if etag.startswith('"') and len(etag) < 200 else ""
