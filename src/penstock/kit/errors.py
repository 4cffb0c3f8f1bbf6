"""What can go wrong between two stations, as classes with fields.

Callers of `kit.wire.client` catch `WireError` (or one of its children) and nothing else.
"""


class WireError(Exception):
    """An HTTP exchange did not come to its end."""


class ConnectFailed(WireError):
    """Nobody answered at (host, port), or the name or the certificate did not hold."""

    def __init__(self, host: str, port: int) -> None:
        super().__init__(f"cannot connect to {host}:{port}")
        self.host = host
        self.port = port


class DeadlinePassed(WireError):
    """The peer took longer than `deadline_ms` for `stage` ("call", "head" or "chunk")."""

    def __init__(self, stage: str, deadline_ms: int) -> None:
        super().__init__(f"no {stage} within {deadline_ms} ms")
        self.stage = stage
        self.deadline_ms = deadline_ms


class PeerClosed(WireError):
    """The connection ended before the reply did, `after_bytes` bytes into the reply.

    With `after_bytes == 0` the peer may or may not have acted on the request.
    """

    def __init__(self, after_bytes: int) -> None:
        super().__init__(f"the peer closed the connection after {after_bytes} bytes of its reply")
        self.after_bytes = after_bytes


class BadReply(WireError):
    """The peer's bytes are not an HTTP/1.1 reply that can be trusted."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the reply is not valid HTTP: {reason}")
        self.reason = reason


class BodyTooLarge(WireError):
    """The reply's body is larger than the caller allowed."""

    def __init__(self, bytes_max: int) -> None:
        super().__init__(f"the reply is larger than {bytes_max} bytes")
        self.bytes_max = bytes_max


class PortTaken(OSError):
    """Something else listens on (host, port) already."""

    def __init__(self, host: str, port: int) -> None:
        super().__init__(
            f"port {port} on {host} is in use by another process; stop it or choose another port"
        )
        self.host = host
        self.port = port


class EventTooLarge(ValueError):
    """A server-sent event grew past the bound without ending."""

    def __init__(self, bytes_max: int) -> None:
        super().__init__(f"a server-sent event is longer than {bytes_max} bytes")
        self.bytes_max = bytes_max
