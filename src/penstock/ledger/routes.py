"""The ledger over HTTP: shapes in, shapes out; every rule is in the service."""

import hashlib
from typing import Any, TypeVar

import msgspec

from penstock.kit.ports import StoreDown
from penstock.kit.problem import Refusal, problem
from penstock.kit.wire.http import Request, Response, json_response
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
    table.add("POST", "/v1/accounts", pages.open_account)
    table.add("GET", "/v1/balance", pages.balance)
    table.add("GET", "/v1/receipts/{order_id}", pages.receipt)
    table.add("POST", "/v1/claims", pages.claims)
    table.add("POST", "/v1/reports", pages.report)
    table.add("POST", "/v1/verdicts", pages.verdict)
    table.add("GET", "/v1/epochs", pages.epochs)
    table.add("GET", "/v1/earnings/{identity}", pages.earnings)
    table.add("GET", "/files/{name...}", pages.file)
    table.add("GET", "/health", pages.health)
    table.add("GET", "/metrics", pages.metrics)
    return table


class _Pages:
    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    async def open_account(self, request: Request) -> Response:
        signed = _signed(request)
        try:
            account, available_nano = await self._ledger.open_account(signed)
        except BadSignature as error:
            raise _refusal(request, 403, "not_the_operator", str(error)) from error
        except SpecError as error:
            raise _refusal(request, 400, "bad_opening", str(error)) from error
        except AccountConflict as error:
            raise _refusal(request, 409, error.code, error.message) from error
        except StoreDown as error:
            raise _store_down(request) from error
        return json_response(200, {"account": account, "available_nano": available_nano})

    async def balance(self, request: Request) -> Response:
        token = request.bearer()
        key_hash = hashlib.sha256(token.encode()).hexdigest()
        try:
            # The key is found by its hash: an attacker learns nothing from how long it takes.
            account = await self._ledger.account_of(key_hash) if token else None
            if account is None:
                words = "This API key is not known here. Check the key and the base URL."
                raise _refusal(request, 401, "invalid_api_key", words)
            balance = await self._ledger.balance(account)
        except StoreDown as error:
            raise _store_down(request) from error
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
        try:
            found = await self._ledger.receipt(order_id)
        except StoreDown as error:
            raise _store_down(request) from error
        if found is None:
            words = f"No record of {order_id[:80]} is in the log. It is logged within seconds of "
            words += "the answer; if it stays away, the gateway or the miner failed."
            raise _refusal(request, 404, "receipt_not_found", words)
        return json_response(200, found)

    async def claims(self, request: Request) -> Response:
        claims = _decoded(request, _ClaimsBody).claims
        if len(claims) > CLAIMS_MAX:
            words = f"At most {CLAIMS_MAX} claims in one request; this has {len(claims)}."
            raise _refusal(request, 422, "too_many_claims", words)
        try:
            answers = await self._ledger.take_claims(claims)
        except StoreDown as error:
            raise _store_down(request) from error
        return json_response(200, {"claims": answers})

    async def report(self, request: Request) -> Response:
        signed = _signed(request)
        try:
            await self._ledger.take_report(signed)
        except Rejected as error:
            raise self._rejection(request, error, what="report") from error
        except StoreDown as error:
            raise _store_down(request) from error
        return json_response(200, {"accepted": True})

    async def verdict(self, request: Request) -> Response:
        signed = _signed(request)
        try:
            await self._ledger.take_verdict(signed)
        except Rejected as error:
            raise self._rejection(request, error, what="verdict") from error
        except StoreDown as error:
            raise _store_down(request) from error
        return json_response(200, {"accepted": True})

    def _rejection(self, request: Request, error: Rejected, *, what: str) -> Refusal:
        self._ledger.metrics.count("ledger_rejected_total", reason=error.reason)
        status = {**REPORT_STATUS, **VERDICT_STATUS}.get(error.reason, 400)
        words = f"The {what} was not accepted: {error.detail or error.reason}."
        return _refusal(request, status, error.reason, words)

    async def epochs(self, request: Request) -> Response:
        try:
            return json_response(200, await self._ledger.epochs())
        except StoreDown as error:
            raise _store_down(request) from error

    async def earnings(self, request: Request) -> Response:
        identity = request.params["identity"]
        try:
            check_identity(identity)
            earned_nano = await self._ledger.earned_nano(identity)
        except SpecError as error:
            words = "An identity is <scheme>:<public key in lower-case hex>."
            raise _refusal(request, 400, "bad_identity", words) from error
        except StoreDown as error:
            raise _store_down(request) from error
        return json_response(200, {"identity": identity, "earned_nano": earned_nano})

    async def file(self, request: Request) -> Response:
        name = request.params["name"]
        try:
            data = self._ledger.files.read(name)
        except (FileNotFoundError, ValueError) as error:
            words = f"There is no published file {name[:200]}. `/v1/epochs` says what is there."
            raise _refusal(request, 404, "file_not_found", words) from error
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
        raise _refusal(request, 422, "invalid_request", str(error)) from error
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise _refusal(request, 400, "invalid_json", "The body is not JSON.") from error


def _signed(request: Request) -> Signed:
    value = _decoded(request, dict[str, Any])
    try:
        return parse_signed(value)
    except SpecError as error:
        words = "The body is a signed message: kind, body, signer, signature."
        raise _refusal(request, 422, "invalid_request", words) from error


def _refusal(request: Request, status: int, code: str, message: str) -> Refusal:
    return Refusal(problem(status, code, message, request_id=request.request_id))


def _store_down(request: Request) -> Refusal:
    words = "The ledger's database does not answer. Nothing is lost; try again in a few seconds."
    answer = problem(
        503, "store_down", words, request_id=request.request_id, headers=(("retry-after", "2"),)
    )
    return Refusal(answer)
