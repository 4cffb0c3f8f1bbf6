"""The ledger over HTTP: shapes in, shapes out; every rule is in the service."""

import hashlib
from typing import Any, TypeVar

import msgspec

from penstock.kit.ports import StoreDown
from penstock.kit.wire.http import Handler, Request, Response, Stream, json_response
from penstock.kit.wire.problem import Refusal, problem
from penstock.kit.wire.routes import Routes
from penstock.ledger.claims import CLAIMS_MAX
from penstock.ledger.errors import AccountConflict, Rejected
from penstock.ledger.service import Ledger
from penstock.spec.errors import BadSignature, SpecError
from penstock.spec.keys import Signed, check_identity, parse_signed

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
FILE_TYPES = {
    ".json": "application/json",
    ".parquet": "application/vnd.apache.parquet",
}
REPORT_STATUS = {"no_seat": 403, "second_report": 409, "epoch_settled": 409, "epoch_open": 409}
VERDICT_STATUS = {"no_seat": 403, "unknown_order": 404}

T = TypeVar("T")


class _ClaimsBody(msgspec.Struct, forbid_unknown_fields=True):
    claims: list[dict[str, Any]]


def routes(ledger: Ledger) -> Routes:
    """All routes of docs/interfaces.md for this ledger."""
    pages = _Pages(ledger)
    table = Routes()
    table.add("POST", "/v1/accounts", _when_store_up(pages.open_account))
    table.add("GET", "/v1/balance", _when_store_up(pages.balance))
    table.add("GET", "/v1/receipts/{order_id}", _when_store_up(pages.receipt))
    table.add("POST", "/v1/claims", _when_store_up(pages.claims))
    table.add("POST", "/v1/reports", _when_store_up(pages.report))
    table.add("POST", "/v1/verdicts", _when_store_up(pages.verdict))
    table.add("GET", "/v1/epochs", _when_store_up(pages.epochs))
    table.add("GET", "/v1/earnings/{identity}", _when_store_up(pages.earnings))
    table.add("GET", "/files/{name...}", _when_store_up(pages.file))
    table.add("GET", "/health", _when_store_up(pages.health))
    table.add("GET", "/metrics", _when_store_up(pages.metrics))
    return table


class _Pages:
    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    async def open_account(self, request: Request) -> Response:
        signed = _signed(request)
        refused = "ledger_openings_refused_total"
        try:
            account, available_nano = await self._ledger.open_account(signed)
        except BadSignature as error:
            self._ledger.metrics.count(refused, code="not_the_operator")
            raise _refusal(request, 403, code="not_the_operator", message=str(error)) from error
        except SpecError as error:
            self._ledger.metrics.count(refused, code="bad_opening")
            raise _refusal(request, 400, code="bad_opening", message=str(error)) from error
        except AccountConflict as error:
            self._ledger.metrics.count(refused, code=error.code)
            raise _refusal(request, 409, code=error.code, message=error.message) from error
        return json_response(200, {"account": account, "available_nano": available_nano})

    async def balance(self, request: Request) -> Response:
        token = request.bearer()
        key_hash = hashlib.sha256(token.encode()).hexdigest()
        # The key is found by its hash: an attacker learns nothing from how long it takes.
        account = await self._ledger.account_of(key_hash) if token else None
        if account is None:
            words = "This API key is not known here. Check the key and the base URL."
            raise _refusal(request, 401, code="invalid_api_key", message=words)
        balance = await self._ledger.balance(account)
        return json_response(
            200,
            {
                "account": account,
                "available_nano": balance.free_nano,
                "held_nano": balance.held_nano,
            },
        )

    async def receipt(self, request: Request) -> Response:
        order_id = request.params["order_id"]
        found = await self._ledger.receipt(order_id)
        if found is None:
            words = f"No record of {order_id[:80]} is in the log. It is logged within seconds of "
            words += "the answer; if it stays away, the gateway or the miner failed."
            raise _refusal(request, 404, code="receipt_not_found", message=words)
        return json_response(200, found)

    async def claims(self, request: Request) -> Response:
        claims = _decoded(request, _ClaimsBody).claims
        if len(claims) > CLAIMS_MAX:
            words = f"At most {CLAIMS_MAX} claims in one request; this has {len(claims)}."
            raise _refusal(request, 422, code="too_many_claims", message=words)
        answers = await self._ledger.take_claims(claims)
        return json_response(200, {"claims": answers})

    async def report(self, request: Request) -> Response:
        signed = _signed(request)
        try:
            await self._ledger.take_report(signed)
        except Rejected as error:
            raise self._rejection(request, error, what="report") from error
        return json_response(200, {"accepted": True})

    async def verdict(self, request: Request) -> Response:
        signed = _signed(request)
        try:
            await self._ledger.take_verdict(signed)
        except Rejected as error:
            raise self._rejection(request, error, what="verdict") from error
        return json_response(200, {"accepted": True})

    def _rejection(self, request: Request, error: Rejected, *, what: str) -> Refusal:
        self._ledger.metrics.count("ledger_rejected_total", reason=error.reason)
        status = {**REPORT_STATUS, **VERDICT_STATUS}.get(error.reason, 400)
        words = f"The {what} was not accepted: {error.detail or error.reason}."
        return _refusal(request, status, code=error.reason, message=words)

    async def epochs(self, request: Request) -> Response:  # noqa: ARG002 - a handler's shape
        return json_response(200, await self._ledger.epochs())

    async def earnings(self, request: Request) -> Response:
        identity = request.params["identity"]
        try:
            check_identity(identity)
            earned_nano = await self._ledger.earned_nano(identity)
        except SpecError as error:
            words = "An identity is <scheme>:<public key in lower-case hex>."
            raise _refusal(request, 400, code="bad_identity", message=words) from error
        return json_response(200, {"identity": identity, "earned_nano": earned_nano})

    async def file(self, request: Request) -> Response:
        name = request.params["name"]
        try:
            data = self._ledger.files.read(name)
        except (FileNotFoundError, ValueError) as error:
            words = f"There is no published file {name[:200]}. `/v1/epochs` says what is there."
            raise _refusal(request, 404, code="file_not_found", message=words) from error
        suffix = name[name.rfind(".") :] if "." in name else ""
        return Response(
            200, data, (("content-type", FILE_TYPES.get(suffix, "text/plain; charset=utf-8")),)
        )

    async def health(self, request: Request) -> Response:  # noqa: ARG002 - a handler's shape
        return json_response(200, self._ledger.health())

    async def metrics(self, request: Request) -> Response:  # noqa: ARG002 - a handler's shape
        return Response(200, self._ledger.metrics.render(), (("content-type", METRICS_TYPE),))


def _decoded(request: Request, shape: type[T]) -> T:
    try:
        return msgspec.json.decode(request.body, type=shape)
    except msgspec.ValidationError as error:
        raise _refusal(request, 422, code="invalid_request", message=str(error)) from error
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise _refusal(
            request, 400, code="invalid_json", message="The body is not JSON."
        ) from error


def _signed(request: Request) -> Signed:
    value = _decoded(request, dict[str, Any])
    try:
        return parse_signed(value)
    except SpecError as error:
        words = "The body is a signed message: kind, body, signer, signature."
        raise _refusal(request, 422, code="invalid_request", message=words) from error


def _refusal(request: Request, status: int, *, code: str, message: str) -> Refusal:
    return Refusal(problem(status, code, message, request_id=request.request_id))


def _when_store_up(page: Handler) -> Handler:
    """The page, or 503 while the database does not answer."""

    async def serve(request: Request) -> Response | Stream:
        try:
            return await page(request)
        except StoreDown as error:
            words = "The ledger's database does not answer. Nothing is lost; try again in a few "
            words += "seconds."
            raise Refusal(
                problem(
                    503,
                    "store_down",
                    words,
                    request_id=request.request_id,
                    headers=(("retry-after", "2"),),
                )
            ) from error

    return serve
