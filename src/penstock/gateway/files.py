"""Files that accounts keep at the market: a card (a cell) each, and a blob with the bytes.

A card stands under its account's shelf, so that nobody else's is ever read. A file's name is only
shown; where its bytes are kept is named by its id.
"""

import re
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import msgspec

from penstock.gateway.config import StoreBounds
from penstock.gateway.files_errors import AccountFull, FileTooLarge, FileUnknown, told
from penstock.kit.ports import BlobMissing, Clock, Conflict, Entropy, Stores

LIFE_S_MIN = 3_600
LIFE_S_MAX = 30 * 86_400
LIFE_S_USUAL = LIFE_S_MAX
ID_BYTES = 16
SHELF_HEX_CHARS = 32
FILENAME_CHARS_MAX = 255
BATCH_PURPOSE = "batch"
OUTPUT_PURPOSE = "batch_output"
PURPOSES = (BATCH_PURPOSE, "user_data", "assistants", "vision", "fine-tune", "evals")
"""What an upload may be for, as with OpenAI; only `batch` means something here."""

_ID = re.compile(r"[a-z]+[-_][0-9a-f]{32}").fullmatch
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_encode = msgspec.json.Encoder().encode


class FileCard(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of one file. Times in seconds."""

    id: str
    bytes: int
    created_at: int
    expires_at: int
    filename: str
    purpose: str

    def shown(self) -> dict[str, Any]:
        """OpenAI's file object."""
        plain = msgspec.structs.asdict(self)
        return {"object": "file", **plain, "status": "processed", "status_details": None}


_card = msgspec.json.Decoder(FileCard)


@dataclass(frozen=True, slots=True)
class NewFile:
    """What an upload says of itself."""

    filename: str
    purpose: str
    life_s: int = LIFE_S_USUAL


def shelf_of(account: str) -> str:
    """Where an account's things stand: its name may hold what no key may."""
    return sha256(b"penstock/shelf\0" + account.encode()).hexdigest()[:SHELF_HEX_CHARS]


def is_id(text: str) -> bool:
    """Could this be an id that we gave? Nothing else ever becomes part of a key."""
    return _ID(text) is not None


def safe_filename(filename: str) -> str:
    """The last part of a path, without characters that steer a terminal or a header."""
    name = _CONTROL.sub("", filename.replace("\\", "/").rpartition("/")[2])
    return name[:FILENAME_CHARS_MAX] if name.strip(". ") else "file"


class Files:
    """All files of all accounts, as far as `shelf` lets one see them."""

    def __init__(
        self, *, store: Stores, clock: Clock, entropy: Entropy, bounds: StoreBounds
    ) -> None:
        self._store = store
        self._clock = clock
        self._entropy = entropy
        self._bounds = bounds

    async def add(self, shelf: str, new: NewFile, parts: AsyncIterator[bytes]) -> FileCard:
        """Keep an upload while it arrives. Raises FileTooLarge, AccountFull, StorageFull, BooksBehind,
        and what `parts` raises.
        """
        cards = await self.list(shelf)
        if len(cards) >= self._bounds.account_files_max:
            raise AccountFull(limit=self._bounds.account_files_max, what="files")
        room = self._bounds.account_bytes_max - sum(card.bytes for card in cards)
        file_id = f"file-{self._entropy(ID_BYTES).hex()}"
        return await self.put(shelf, file_id, new=new, parts=self._bounded(parts, room))

    async def put(
        self, shelf: str, file_id: str, *, new: NewFile, parts: AsyncIterator[bytes]
    ) -> FileCard:
        """Keep a file under an id of the caller's; the same again takes its place."""
        created_at = self._clock.now_ms() // 1000
        keep_ms = new.life_s * 1000
        with told():
            size = await self._store.store(_blob(shelf, file_id), parts, keep_ms=keep_ms)
            card = FileCard(
                id=file_id,
                bytes=size,
                created_at=created_at,
                expires_at=created_at + new.life_s,
                filename=safe_filename(new.filename),
                purpose=new.purpose,
            )
            key = _key(shelf, file_id)
            former = await self._store.read(key)
            revision = 0 if former is None else former.revision
            await self._store.swap(key, _encode(card), revision=revision, keep_ms=keep_ms)
        return card

    async def list(self, shelf: str) -> list[FileCard]:
        """The account's files, newest first. Raises BooksBehind."""
        with told():
            cells = await self._store.under(f"files.{shelf}")
        cards = [_card.decode(cell.value) for cell in cells]
        live = [card for card in cards if self._is_live(card)]
        return sorted(live, key=lambda card: (card.created_at, card.id), reverse=True)

    async def card(self, shelf: str, file_id: str) -> FileCard:
        """Raises FileUnknown, BooksBehind."""
        if is_id(file_id):
            with told():
                cell = await self._store.read(_key(shelf, file_id))
            if cell is not None and self._is_live(card := _card.decode(cell.value)):
                return card
        raise FileUnknown(file_id=file_id)

    async def content(self, shelf: str, file_id: str) -> AsyncGenerator[bytes, None]:
        """The bytes in pieces. Raises FileUnknown, BooksBehind; also in the middle."""
        chunks = self._store.fetch(_blob(shelf, file_id))
        try:
            with told():
                async for chunk in chunks:
                    yield chunk
        except BlobMissing as error:
            raise FileUnknown(file_id=file_id) from error

    async def remove(self, shelf: str, file_id: str) -> None:
        """Card first: what is not listed any more is not read either. Raises FileUnknown, BooksBehind."""
        await self.card(shelf, file_id)
        key = _key(shelf, file_id)
        with told():
            cell = await self._store.read(key)
            if cell is not None:
                with suppress(Conflict):  # whoever was faster removes it too
                    await self._store.swap(key, b"", revision=cell.revision, keep_ms=0)
            await self._store.drop(_blob(shelf, file_id))

    async def renamed(self, shelf: str, card: FileCard, purpose: str) -> FileCard:
        """The card with the purpose that was told after the file. Raises FileUnknown, BooksBehind."""
        key, new = _key(shelf, card.id), msgspec.structs.replace(card, purpose=purpose)
        keep_ms = (card.expires_at - card.created_at) * 1000
        with told():
            cell = await self._store.read(key)
            if cell is None:
                raise FileUnknown(file_id=card.id)
            await self._store.swap(key, _encode(new), revision=cell.revision, keep_ms=keep_ms)
        return new

    async def _bounded(self, parts: AsyncIterator[bytes], room: int) -> AsyncIterator[bytes]:
        size = 0
        async for part in parts:
            size += len(part)
            if size > self._bounds.file_bytes_max:
                raise FileTooLarge(bytes_max=self._bounds.file_bytes_max)
            if size > room:
                raise AccountFull(limit=self._bounds.account_bytes_max, what="bytes")
            yield part

    def _is_live(self, card: FileCard) -> bool:
        return self._clock.now_ms() < card.expires_at * 1000


def _key(shelf: str, file_id: str) -> str:
    return f"files.{shelf}.{file_id}"


def _blob(shelf: str, file_id: str) -> str:
    return f"{shelf}/{file_id}"
