"""HTTP to files: an upload is read while it arrives, everything else is small or a stream."""

from contextlib import aclosing, suppress
from typing import Any, TypeVar
from urllib.parse import quote

from penstock.gateway.batches_desk import Host
from penstock.gateway.errors import BadRequest, GatewayError, RateLimited, UnsupportedValue
from penstock.gateway.files import (
    LIFE_S_MAX,
    LIFE_S_MIN,
    LIFE_S_USUAL,
    PURPOSES,
    FileCard,
    Files,
    NewFile,
)
from penstock.gateway.files_errors import FileTooLarge
from penstock.gateway.files_owner import Owner, owner_of
from penstock.kit.multipart import BadMultipart
from penstock.kit.multipart_stream import FormReader
from penstock.kit.wire.exchange import Exchange
from penstock.kit.wire.http import Headers, Request, Response, Stream, json_response
from penstock.kit.wire.upload import Upload

FILES_PATH = "/v1/files"
FORM_BYTES_MAX = 1 << 20
"""Of an upload beside its file."""
FILES_LISTED_MAX = 10_000
ANCHOR = "expires_after[anchor]"
SECONDS = "expires_after[seconds]"
SLOT_WAIT_US = 2_000_000

T = TypeVar("T")


class FilePages:
    """What `/v1/files` answers."""

    def __init__(self, gateway: Host, files: Files) -> None:
        self._gateway = gateway
        self._files = files
        self._uploads: dict[str, int] = {}

    async def take(self, exchange: Exchange) -> Response:
        """`POST /v1/files`. Raises BadKey, BadRequest, FileTooLarge, AccountFull, StorageFull,
        BooksBehind, RateLimited, UploadLost.
        """
        owner = await owner_of(self._gateway, exchange.request)
        bounds, upload = self._gateway.store_bounds, exchange.upload
        length = len(exchange.request.body) if upload is None else upload.length
        if length is not None and length > bounds.file_bytes_max + FORM_BYTES_MAX:
            raise FileTooLarge(bytes_max=bounds.file_bytes_max)
        mine = self._uploads.get(owner.shelf, 0)
        if mine >= bounds.account_uploads_max or sum(self._uploads.values()) >= bounds.uploads_max:
            raise RateLimited(
                who="This account",
                what="uploads at once",
                limit=bounds.account_uploads_max,
                wait_us=SLOT_WAIT_US,
            )
        self._uploads[owner.shelf] = mine + 1
        try:
            form = FormReader(_Body(exchange.request.body, upload).next)
            card = await self._read(owner, form)
        except BadMultipart as error:
            raise BadRequest(reason=f"The body is no form: {error.reason}.") from error
        finally:
            self._uploads[owner.shelf] -= 1
            if not self._uploads[owner.shelf]:
                del self._uploads[owner.shelf]
        self._gateway.metrics.count("gateway_file_bytes_total", card.bytes, way="in")
        return json_response(200, card.shown())

    async def list(self, request: Request) -> Response:
        """`GET /v1/files`, by `after`, `limit`, `order` and `purpose`. Raises BadRequest."""
        owner = await owner_of(self._gateway, request)
        cards = await self._files.list(owner.shelf)
        purpose = request.query_value("purpose")
        order = request.query_value("order") or "desc"
        if order not in {"asc", "desc"}:
            raise BadRequest(reason="order must be asc or desc.", param="order")
        if order == "asc":
            cards.reverse()
        if purpose:
            cards = [card for card in cards if card.purpose == purpose]
        page = page_after(
            [(card.id, card) for card in cards],
            request,
            limit=limit_of(request, usual=FILES_LISTED_MAX, most=FILES_LISTED_MAX),
        )
        return json_response(200, listed([card.shown() for card in page[0]], has_more=page[1]))

    async def one(self, request: Request) -> Response:
        """`GET /v1/files/{id}`. Raises FileUnknown."""
        return json_response(200, (await self._card(request))[1].shown())

    async def content(self, request: Request) -> Stream:
        """`GET /v1/files/{id}/content`. Raises FileUnknown."""
        owner, card = await self._card(request)
        self._gateway.metrics.count("gateway_file_bytes_total", card.bytes, way="out")
        headers: Headers = (
            ("content-type", "application/octet-stream"),
            ("content-disposition", f"attachment; filename*=UTF-8''{quote(card.filename)}"),
            ("x-content-type-options", "nosniff"),
        )
        chunks = self._files.content(owner.shelf, card.id)
        return Stream(200, headers, chunks, length=card.bytes)

    async def remove(self, request: Request) -> Response:
        """`DELETE /v1/files/{id}`. Raises FileUnknown."""
        owner = await owner_of(self._gateway, request)
        file_id = request.params["id"]
        await self._files.remove(owner.shelf, file_id)
        return json_response(200, {"id": file_id, "object": "file", "deleted": True})

    async def _card(self, request: Request) -> tuple[Owner, FileCard]:
        owner = await owner_of(self._gateway, request)
        return owner, await self._files.card(owner.shelf, request.params["id"])

    async def _read(self, owner: Owner, form: FormReader) -> FileCard:
        """The form's fields, then its file. What comes behind the file may only repeat the usual."""
        fields: dict[str, str] = {}
        card: FileCard | None = None
        kept: list[str] = []
        is_good = False
        try:
            while (part := await form.part()) is not None:
                if part.name == "file" and part.filename is not None:
                    if card is not None:
                        raise BadRequest(reason="There are two files. Send one.", param="file")
                    new = NewFile(part.filename, fields.get("purpose", ""), life_of(fields))
                    async with aclosing(form.data()) as data:
                        card = await self._files.add(owner.shelf, new, data)
                    kept.append(card.id)
                else:
                    fields[part.name] = await form.text()
            if card is None:
                raise BadRequest(reason="There is no file. Send one as `file`.", param="file")
            card = await self._settled(owner, card, fields)
            is_good = True
        finally:
            if not is_good and kept:
                with suppress(GatewayError):  # its time ends by itself
                    await self._files.remove(owner.shelf, kept[0])
        return card

    async def _settled(self, owner: Owner, card: FileCard, fields: dict[str, str]) -> FileCard:
        """The card once all fields are known. Raises BadRequest."""
        purpose = fields.get("purpose", "")
        if purpose not in PURPOSES:
            raise UnsupportedValue(
                reason=f"purpose must be one of {', '.join(PURPOSES)}.", param="purpose"
            )
        if life_of(fields) != card.expires_at - card.created_at:
            raise BadRequest(
                reason="expires_after must stand before the file in the form.",
                param="expires_after",
            )
        if card.purpose != purpose:
            card = await self._files.renamed(owner.shelf, card, purpose)
        return card


class _Body:
    """The bytes of an upload, whether they are here already or still come."""

    def __init__(self, whole: bytes, upload: Upload | None) -> None:
        self._whole = whole
        self._upload = upload

    async def next(self) -> bytes:
        if self._upload is not None:
            return await self._upload.next()
        whole, self._whole = self._whole, b""
        return whole


def life_of(fields: dict[str, str]) -> int:
    """Seconds. Raises BadRequest."""
    if ANCHOR not in fields and SECONDS not in fields:
        return LIFE_S_USUAL
    seconds = fields.get(SECONDS, "")
    life_s = int(seconds) if seconds.isascii() and seconds.isdigit() and len(seconds) < 10 else 0
    return check_life(fields.get(ANCHOR, ""), life_s)


def check_life(anchor: str, life_s: int) -> int:
    """OpenAI's `expires_after`. Raises BadRequest."""
    if anchor != "created_at" or not LIFE_S_MIN <= life_s <= LIFE_S_MAX:
        raise BadRequest(
            reason="expires_after needs anchor `created_at` and seconds from "
            f"{LIFE_S_MIN} to {LIFE_S_MAX}.",
            param="expires_after",
        )
    return life_s


def limit_of(request: Request, *, usual: int, most: int) -> int:
    """The `limit` of a list. Raises BadRequest."""
    text = request.query_value("limit")
    if not text:
        return usual
    if not (text.isascii() and text.isdigit() and len(text) < 9 and 1 <= int(text) <= most):
        raise BadRequest(reason=f"limit must be a number from 1 to {most}.", param="limit")
    return int(text)


def page_after(
    items: "list[tuple[str, T]]", request: Request, *, limit: int
) -> "tuple[list[T], bool]":
    """Those behind `after`, and whether there are more. Raises BadRequest."""
    after = request.query_value("after")
    start = 0
    if after:
        places = [place for place, (item_id, _) in enumerate(items) if item_id == after]
        if not places:
            raise BadRequest(reason=f"after names nothing here: {after[:80]!r}.", param="after")
        start = places[0] + 1
    return [item for _, item in items[start : start + limit]], len(items) > start + limit


def listed(shown: list[dict[str, Any]], *, has_more: bool) -> dict[str, Any]:
    """OpenAI's list object."""
    return {
        "object": "list",
        "data": shown,
        "first_id": shown[0]["id"] if shown else None,
        "last_id": shown[-1]["id"] if shown else None,
        "has_more": has_more,
    }
