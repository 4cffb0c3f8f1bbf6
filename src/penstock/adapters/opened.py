"""Opened: what connects when it is entered and lets go when it is left: `async with thing:`."""

from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self


class Opened(ABC):
    """A thing with a connection."""

    @abstractmethod
    async def open(self) -> None:
        """Connect; what it raises, it leaves nothing open."""

    @abstractmethod
    async def close(self) -> None:
        """Let go. Twice is harmless."""

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()
