"""How things lie in NATS' object store (ADR-20): subjects, chunks, descriptions, lives."""

import base64
from collections.abc import AsyncIterator

import msgspec

BLOBS_BUCKET = "PENSTOCK_BLOBS"
CHUNKS_PREFIX = f"$O.{BLOBS_BUCKET}.C."
ABOUT_PREFIX = f"$O.{BLOBS_BUCKET}.M."
CHUNK_BYTES = 256 * 1024


class Found(msgspec.Struct):
    """A stored message, as STREAM.MSG.GET tells it."""

    subject: str
    seq: int
    data: str = ""
    hdrs: str = ""

    def content(self) -> bytes:
        return base64.b64decode(self.data)

    def header(self, name: str) -> str:
        """The value of a header, or ""."""
        lines = base64.b64decode(self.hdrs).decode(errors="replace").split("\r\n")
        pairs = (line.partition(":") for line in lines)
        return next((value.strip() for key, _, value in pairs if key == name), "")


class About(msgspec.Struct):
    """What an object store writes of an object (ADR-20)."""

    name: str
    bucket: str
    nuid: str
    size: int
    chunks: int
    digest: str


async def chunked(parts: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The same bytes in pieces of CHUNK_BYTES, the last one shorter."""
    held = bytearray()
    async for part in parts:
        held += part
        while len(held) >= CHUNK_BYTES:
            yield bytes(held[:CHUNK_BYTES])
            del held[:CHUNK_BYTES]
    if held:
        yield bytes(held)


def about_subject(name: str) -> str:
    return ABOUT_PREFIX + base64.urlsafe_b64encode(name.encode()).decode()


def journal_subject(name: str) -> str:
    """Apart from all chunks of blobs: those have hex names."""
    return f"{CHUNKS_PREFIX}journal-{base64.urlsafe_b64encode(name.encode()).decode()}"


def ttl(keep_ms: int) -> str:
    """NATS counts lives in whole seconds, and knows none shorter."""
    return f"{max(1, -(-keep_ms // 1000))}s"
