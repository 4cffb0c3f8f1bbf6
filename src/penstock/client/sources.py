"""Where published files come from: a folder on this machine, or an operator's ledger over HTTP."""

from dataclasses import dataclass
from pathlib import Path

from penstock.client.errors import NotPublished, Unreachable
from penstock.kit.errors import WireError
from penstock.kit.wire.client import HttpClient

FILE_BYTES_MAX = 4 << 30
DEADLINE_MS = 120_000


@dataclass(frozen=True, slots=True)
class FolderSource:
    """A folder with the layout of docs/interfaces.md, such as HOME/public or a copy of it."""

    folder: Path

    async def get(self, name: str) -> bytes:
        try:
            return (self.folder / name).read_bytes()
        except (FileNotFoundError, NotADirectoryError) as error:
            raise NotPublished(name) from error
        except OSError as error:
            raise Unreachable(str(self.folder / name), str(error)) from error


@dataclass(frozen=True, slots=True)
class HttpSource:
    """An operator's ledger by URL."""

    client: HttpClient
    url: str
    file_bytes_max: int = FILE_BYTES_MAX

    async def get(self, name: str) -> bytes:
        url = f"{self.url.rstrip('/')}/files/{name}"
        try:
            reply = await self.client.call(
                "GET", url, deadline_ms=DEADLINE_MS, body_bytes_max=self.file_bytes_max
            )
        except (WireError, ValueError) as error:  # ValueError: it is no URL
            raise Unreachable(self.url, str(error)) from error
        if reply.status == 404:
            raise NotPublished(name)
        if reply.status != 200:
            raise Unreachable(url, f"status {reply.status}")
        return reply.body
