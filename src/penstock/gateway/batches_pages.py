"""HTTP to batches."""

import msgspec

from penstock.gateway.batches import (
    ENDPOINTS,
    METADATA_KEY_CHARS_MAX,
    METADATA_MAX,
    METADATA_VALUE_CHARS_MAX,
    WINDOW,
    Batch,
)
from penstock.gateway.batches_desk import Host
from penstock.gateway.batches_keeper import Batches
from penstock.gateway.calls import decoded
from penstock.gateway.errors import BadRequest, UnsupportedValue
from penstock.gateway.files import BATCH_PURPOSE, ID_BYTES, LIFE_S_USUAL, Files
from penstock.gateway.files_errors import FileUnknown
from penstock.gateway.files_owner import owner_of
from penstock.gateway.files_pages import check_life, limit_of, listed, page_after
from penstock.kit.wire.http import Request, Response, json_response

BATCHES_PATH = "/v1/batches"
LISTED_USUAL = 20
LISTED_MAX = 100


class ExpiresAfter(msgspec.Struct):
    """How long the files with the results are kept."""

    anchor: str
    seconds: int


class BatchBody(msgspec.Struct, kw_only=True):
    """`POST /v1/batches`."""

    input_file_id: str
    endpoint: str
    completion_window: str
    metadata: dict[str, str] | None = None
    output_expires_after: ExpiresAfter | None = None


_body = msgspec.json.Decoder(BatchBody)


class BatchPages:
    """What `/v1/batches` answers."""

    def __init__(self, gateway: Host, files: Files, batches: Batches) -> None:
        self._gateway = gateway
        self._files = files
        self._batches = batches

    async def make(self, request: Request) -> Response:
        """`POST /v1/batches`. Raises BadRequest, FileUnknown, RateLimited, StorageFull, BooksBehind."""
        owner = await owner_of(self._gateway, request)
        body = decoded(_body, request.body)
        life_s = _checked(body)
        try:
            card = await self._files.card(owner.shelf, body.input_file_id)
        except FileUnknown as error:
            raise FileUnknown(file_id=error.file_id, param="input_file_id") from error
        if card.purpose != BATCH_PURPOSE:
            raise BadRequest(
                reason=f"The file {card.id} is for {card.purpose}. Upload it with purpose batch.",
                param="input_file_id",
            )
        now_s = self._gateway.clock.now_ms() // 1000
        batch = Batch(
            id=f"batch_{self._gateway.entropy(ID_BYTES).hex()}",
            shelf=owner.shelf,
            key_hash=owner.key_hash,
            endpoint=body.endpoint,
            input_file_id=card.id,
            created_at=now_s,
            expires_at=now_s + self._gateway.batch_bounds.window_s,
            output_life_s=life_s,
            metadata=body.metadata,
        )
        await self._batches.make(batch)
        return json_response(200, batch.shown())

    async def list(self, request: Request) -> Response:
        """`GET /v1/batches`, by `after` and `limit`. Raises BadRequest, BooksBehind."""
        owner = await owner_of(self._gateway, request)
        batches = await self._batches.all(owner.shelf)
        limit = limit_of(request, usual=LISTED_USUAL, most=LISTED_MAX)
        page, has_more = page_after([(one.id, one) for one in batches], request, limit=limit)
        return json_response(200, listed([one.shown() for one in page], has_more=has_more))

    async def one(self, request: Request) -> Response:
        """`GET /v1/batches/{id}`. Raises BatchUnknown, BooksBehind."""
        owner = await owner_of(self._gateway, request)
        batch = await self._batches.one(owner.shelf, request.params["id"])
        return json_response(200, batch.shown())

    async def cancel(self, request: Request) -> Response:
        """`POST /v1/batches/{id}/cancel`. Raises BatchUnknown, BatchEnded, BooksBehind."""
        owner = await owner_of(self._gateway, request)
        batch = await self._batches.cancel(owner.shelf, request.params["id"])
        return json_response(200, batch.shown())


def _checked(body: BatchBody) -> int:
    """How long the results are kept, in seconds. Raises BadRequest."""
    if body.endpoint not in ENDPOINTS:
        raise UnsupportedValue(
            reason=f"endpoint must be one of {', '.join(ENDPOINTS)}.", param="endpoint"
        )
    if body.completion_window != WINDOW:
        raise UnsupportedValue(
            reason=f"completion_window must be {WINDOW}.", param="completion_window"
        )
    metadata = body.metadata or {}
    if len(metadata) > METADATA_MAX or any(
        len(key) > METADATA_KEY_CHARS_MAX or len(value) > METADATA_VALUE_CHARS_MAX
        for key, value in metadata.items()
    ):
        raise BadRequest(
            reason=f"metadata holds at most {METADATA_MAX} keys of {METADATA_KEY_CHARS_MAX} "
            f"characters with values of {METADATA_VALUE_CHARS_MAX}.",
            param="metadata",
        )
    expires = body.output_expires_after
    return LIFE_S_USUAL if expires is None else check_life(expires.anchor, expires.seconds)
