"""What a server and its connections know of each other."""

from typing import Protocol

from penstock.kit.tasks import Errands
from penstock.kit.wire.deadlines import Deadlines
from penstock.kit.wire.exchange import Exchange
from penstock.kit.wire.heads import Heads
from penstock.kit.wire.http import Response
from penstock.kit.wire.limits import ServerLimits


class Connection(Protocol):
    """What a server needs of a connection."""

    def finish(self) -> None:
        """Close as soon as the running exchange is answered."""
        ...

    def cut(self) -> None:
        """Close now; the client sees a broken connection."""
        ...


class Owner(Protocol):
    """What a connection needs of its server."""

    limits: ServerLimits
    errands: Errands
    heads: Heads
    deadlines: Deadlines
    draining: bool
    held_bytes: int

    def admit(self, connection: Connection) -> bool:
        """Take a new connection in, if there is room."""
        ...

    def forget(self, connection: Connection) -> None:
        """The connection is gone."""
        ...

    def refused(self, response: Response, path: str, *, request_id: str) -> Response:
        """A connection ends with an answer that no handler gave; how it is to be said."""
        ...

    def next_request_id(self) -> str:
        """A fresh id."""
        ...

    def is_streamed(self, method: str, path: str) -> bool:
        """Is the body of such a request handed on as it comes?"""
        ...

    def serve(self, exchange: Exchange) -> None:
        """Begin to answer."""
        ...
