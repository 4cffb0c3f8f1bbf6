"""What a dialect does for one request: it turns the request into chat's, and the answer back.

A translation is made from the body and lives as long as the request. It does no I/O and knows no
clock: ids come from the request's own, the time from an argument.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol


class Translation(Protocol):
    """One request in another dialect. Made by a `Dialect`, which raises BadJson and BadRequest."""

    @property
    def path(self) -> str:
        """Where `chat_body` belongs: the path of the order."""
        ...

    @property
    def chat_body(self) -> bytes:
        """The request as the market knows it; the order's digest is of these bytes."""
        ...

    def whole(self, answer: bytes) -> bytes:
        """A whole answer (status 200). Raises AnswerUnreadable."""
        ...

    def feed(self, events: bytes) -> bytes:
        """The dialect's events for whole SSE events of the chat stream; comments pass verbatim.

        Never raises: what cannot be read becomes the dialect's error event and ends the stream.
        """
        ...

    def end(self) -> bytes:
        """What closes the dialect's stream when no more comes: b"" if it is closed already."""
        ...

    def status(self, status: int) -> int:
        """The status of an error answer in the dialect."""
        ...

    def error(self, status: int, envelope: Mapping[str, Any]) -> bytes:
        """The body of an error answer. `status` and `envelope` are the OpenAI ones."""
        ...

    def error_event(self, envelope: Mapping[str, Any]) -> bytes:
        """An error in mid-stream, which ends the stream: b"" if it has ended already."""
        ...


Dialect = Callable[..., Translation]
"""Called as `dialect(body, request_id=..., now_s=...)`, where `now_s()` is the Unix time.

Raises BadJson and BadRequest.
"""
