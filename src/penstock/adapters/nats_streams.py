"""Streams of JetStream: made when they are not there, and left as their operator tuned them."""

from typing import Any

from penstock.adapters.nats_link import NatsLink, Refused

NANO = 1_000_000_000
DUPLICATE_WINDOW_S = 120
ATTEMPT_DEADLINE_MS = 2_000
# err_code of JetStream.
STREAM_MISSING = 10059


async def ensure_stream(link: NatsLink, own: dict[str, Any]) -> None:
    """Make the stream unless it is there. Raises Refused, BusDown."""
    name = own["name"]
    if await _is_stream(link, name):
        return
    config = {
        "retention": "limits",
        "storage": "file",
        "num_replicas": 1,
        "duplicate_window": DUPLICATE_WINDOW_S * NANO,
        **own,
    }
    try:
        await link.call(f"STREAM.CREATE.{name}", config, deadline_ms=ATTEMPT_DEADLINE_MS)
    except Refused:
        # Another station may have made it meanwhile.
        if not await _is_stream(link, name):
            raise


async def _is_stream(link: NatsLink, name: str) -> bool:
    try:
        await link.call(f"STREAM.INFO.{name}", {}, deadline_ms=ATTEMPT_DEADLINE_MS)
    except Refused as error:
        if error.code != STREAM_MISSING:
            raise
        return False
    return True
