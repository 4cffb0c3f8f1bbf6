"""Every bound of an HTTP server in one place, so that a station's configuration can name them."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class IntakeLimits:
    """Bounds of what one connection may make us hold."""

    head_bytes_max: int = 65_536
    headers_max: int = 128
    body_bytes_max: int = 8 << 20
    upload_bytes_max: int = 1 << 30
    """Of a body that is read while it arrives; whoever reads it sets the tighter bound."""


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """Every bound of a server. A deadline that passes closes the connection.

    `pipeline_max` is where reading stops while requests wait; what one read had already brought
    is kept, so that a connection holds at most that many requests plus one read's worth.
    """

    intake: IntakeLimits = field(default_factory=IntakeLimits)
    connections_max: int = 16_384
    bodies_bytes_max: int = 1 << 30
    """Of all connections together: bodies that arrive, wait, or are being answered."""
    pipeline_max: int = 16
    head_deadline_ms: int = 10_000
    body_deadline_ms: int = 60_000
    idle_deadline_ms: int = 75_000
    stall_deadline_ms: int = 60_000
    linger_ms: int = 1_000
    drain_idle_ms: int = 0
    """In a drain: how long a kept connection may still ask once more; the answer closes it. A client
    whose request meets the close cannot know whether it was heard.
    """
    write_bytes_high: int = 256 * 1024
    cancel_deadline_ms: int = 5_000
