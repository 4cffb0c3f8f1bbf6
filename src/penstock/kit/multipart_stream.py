"""A form (`multipart/form-data`) read while it arrives, so that an uploaded file is never held whole.

The same rules as in multipart.py: the boundary is the body's own first line, nothing stands before
it, and the parts and their heads are bounded.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable

from penstock.kit.multipart import (
    BOUNDARY_BYTES_MAX,
    PART_HEAD_BYTES_MAX,
    PARTS_MAX,
    BadMultipart,
    Part,
    boundary_of,
    part_of,
)

HEAD_END = b"\r\n\r\n"
LINE_BYTES_MAX = BOUNDARY_BYTES_MAX + 4
"""The first line: two dashes, the boundary, a line end."""
TEXT_BYTES_MAX = 65_536

Next = Callable[[], Awaitable[bytes]]
"""The next bytes of the body; b"" at its end."""


class FormReader:
    """`while (part := await form.part()) is not None:` and for each `form.data()` or `form.text()`."""

    def __init__(self, next_bytes: Next) -> None:
        self._next = next_bytes
        self._held = bytearray()
        self._between = b""
        self._count = 0
        self._is_inside = False
        self._is_over = False

    async def part(self) -> Part | None:
        """The head of the next part, its `data` still to come; None behind the last one. What was
        left unread of the former is passed over. Raises BadMultipart.
        """
        if not self._between:
            await self._open()
        elif self._is_inside:
            async for _ in self.data():
                pass
        if self._is_over:
            return None
        self._count += 1
        if self._count > PARTS_MAX:
            raise BadMultipart(f"it has more than {PARTS_MAX} parts")
        head = await self._head()
        self._is_inside = True
        return part_of(head)

    async def data(self) -> AsyncGenerator[bytes, None]:
        """The bytes of the present part. Raises BadMultipart."""
        assert self._is_inside, "ask for a part first"
        between = self._between
        while (at := self._held.find(between)) < 0:
            safe = len(self._held) - len(between) + 1
            if safe > 0:
                piece = bytes(self._held[:safe])
                del self._held[:safe]
                yield piece
            if not await self._more():
                raise BadMultipart("its last boundary is missing")
        rest = bytes(self._held[:at])
        del self._held[: at + len(between)]
        self._is_inside = False
        await self._read_line_end()
        if rest:
            yield rest

    async def text(self) -> str:
        """The present part as a plain value. Raises BadMultipart."""
        whole = bytearray()
        async for piece in self.data():
            whole += piece
            if len(whole) > TEXT_BYTES_MAX:
                raise BadMultipart(f"a plain field is longer than {TEXT_BYTES_MAX} bytes")
        try:
            return whole.decode()
        except UnicodeDecodeError as error:
            raise BadMultipart("a plain field is not UTF-8") from error

    async def _head(self) -> bytes:
        """The headers of a part."""
        while (end := self._held.find(HEAD_END)) < 0:
            if len(self._held) > PART_HEAD_BYTES_MAX or not await self._more():
                raise BadMultipart("a part has no headers, or too long ones")
        # A boundary may not begin before the head's end, nor inside it.
        first = end + 2 + len(self._between)
        while len(self._held) < first:
            if not await self._more():
                raise BadMultipart("its last boundary is missing")
        if (
            end > PART_HEAD_BYTES_MAX - len(HEAD_END)
            or self._held.find(self._between, 0, first) >= 0
        ):
            raise BadMultipart("a part has no headers, or too long ones")
        head = bytes(self._held[:end])
        del self._held[: end + len(HEAD_END)]
        return head

    async def _open(self) -> None:
        """The first line, which is the boundary."""
        while b"\r\n" not in self._held:
            if len(self._held) > LINE_BYTES_MAX or not await self._more():
                raise BadMultipart("it does not start with a boundary line")
        boundary, end = boundary_of(bytes(self._held[:LINE_BYTES_MAX]))
        self._between = b"\r\n--" + boundary
        del self._held[:end]

    async def _read_line_end(self) -> None:
        """What follows a boundary: a line end, or the two dashes behind the last part."""
        while len(self._held) < 2:
            if not await self._more():
                raise BadMultipart("it ends inside a boundary line")
        mark = bytes(self._held[:2])
        del self._held[:2]
        if mark == b"--":
            self._is_over = True
        elif mark != b"\r\n":
            raise BadMultipart("a boundary line goes on behind the boundary")

    async def _more(self) -> bool:
        piece = await self._next()
        self._held += piece
        return bool(piece)
