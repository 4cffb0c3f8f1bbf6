"""A route table: method and path pattern to handler, with 404 and 405 as problem bodies.

Patterns are literal segments, `{name}` for one segment, and a final `{name...}` for the rest.
Literal beats `{name}` beats `{name...}`, segment by segment. HEAD is served by GET's handler.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import msgspec

from penstock.kit.wire.http import Handler, Request, Response, Stream, decoded
from penstock.kit.wire.problem import problem

_SEGMENTS_MAX = 64


@dataclass(slots=True)
class _Node:
    literal: "dict[str, _Node]" = field(default_factory=dict)
    one: "_Node | None" = None
    rest: "_Node | None" = None
    names: tuple[str, ...] = ()
    handlers: dict[str, Handler] = field(default_factory=dict)


class Routes:
    """Itself a `Handler`: give it to a `Server`.

    routes = Routes()
    routes.add("GET", "/v1/receipts/{id}", receipt)      # request.params["id"]
    routes.add("GET", "/log/{path...}", segment)         # request.params["path"] may hold "/"
    """

    def __init__(self, *, reword: Callable[[Response, str, str], Response] | None = None) -> None:
        self.reword = reword
        """How the server's own refusals are said (see server.Reword)."""
        self._root = _Node()
        self._static: dict[str, _Node] = {}

    def add(self, method: str, pattern: str, handler: Handler) -> None:
        """Register a handler. Raises ValueError for a bad pattern or a second registration."""
        if not pattern.startswith("/"):
            raise ValueError(f"a pattern starts with a slash: {pattern!r}")
        node = self._root
        names: list[str] = []
        segments = pattern[1:].split("/")
        for place, segment in enumerate(segments):
            if not segment.startswith("{"):
                node = node.literal.setdefault(segment, _Node())
            elif segment.endswith("...}") and place == len(segments) - 1:
                names.append(segment[1:-4])
                node.rest = node = node.rest or _Node()
            elif segment.endswith("}") and not segment.endswith("...}"):
                names.append(segment[1:-1])
                node.one = node = node.one or _Node()
            else:
                raise ValueError(f"bad segment {segment!r} in {pattern!r}")
        if method in node.handlers or (node.handlers and node.names != tuple(names)):
            raise ValueError(f"{method} {pattern} is taken")
        node.names = tuple(names)
        node.handlers[method] = handler
        if not names:
            self._static[pattern] = node

    def knows(self, path: str) -> bool:
        """Is there a handler for the path, whatever the method?"""
        return path in self._static or self._match(path, []) is not None

    def __call__(self, request: Request) -> Awaitable[Response | Stream]:
        """The answer of the handler that the request's method and path choose."""
        node = self._static.get(request.path)
        if node is None:
            values: list[str] = []
            node = self._match(request.path, values)
            if node is None:
                return _not_found(request)
            if values:
                request = msgspec.structs.replace(
                    request, params=dict(zip(node.names, values, strict=True))
                )
        handler = node.handlers.get(request.method)
        if handler is None and request.method == "HEAD":
            handler = node.handlers.get("GET")
        if handler is None:
            return _not_allowed(request, tuple(node.handlers))
        return handler(request)

    def _match(self, path: str, values: list[str]) -> _Node | None:
        if not path.startswith("/"):  # the other form is `OPTIONS *`
            return None
        return _find(self._root, path[1:].split("/", _SEGMENTS_MAX), values)


def _find(node: _Node, segments: list[str], values: list[str]) -> _Node | None:
    """The node for the segments; leaves the decoded parameters in `values`."""
    if not segments:
        return node if node.handlers else None
    first, others = segments[0], segments[1:]
    if first in node.literal:
        found = _find(node.literal[first], others, values)
        if found is not None:
            return found
    if node.one is not None and first:
        values.append(decoded(first))
        found = _find(node.one, others, values)
        if found is not None:
            return found
        values.pop()
    if node.rest is not None:
        values.append("/".join(decoded(segment) for segment in segments))
        return node.rest
    return None


async def _not_found(request: Request) -> Response:
    return problem(
        404,
        "route_unknown",
        f"There is no {request.path[:200]} here. Check the path and the base URL.",
        request_id=request.request_id,
    )


async def _not_allowed(request: Request, methods: tuple[str, ...]) -> Response:
    allowed = ", ".join(sorted(methods))
    return problem(
        405,
        "method_not_allowed",
        f"{request.method} is not served at {request.path[:200]}. Use {allowed}.",
        request_id=request.request_id,
        headers=(("allow", allowed),),
    )
