"""What the gateway says to a client: header lines, whole answers, refusals in the caller's dialect."""

from functools import lru_cache
from typing import Any

import msgspec

from penstock.gateway.admit import Key
from penstock.gateway.attempts import JSON_TYPE, Attempt
from penstock.gateway.dialects import DIALECTS, Translation, error_answer
from penstock.gateway.dialects.messages import MESSAGES_PATH
from penstock.gateway.errors import BUSY_WAIT_US, GatewayError, answer_of, retry_headers
from penstock.gateway.inside import Asker
from penstock.gateway.parts import Parts
from penstock.gateway.relay import lost_envelope
from penstock.kit.wire.http import Request, Response, encode_fields

DECISION_LINE = b"x-penstock-decision: "
LINE_END = b"\r\n"
SERVED_BY_MAX = 4_096
ERROR_BYTES_MAX = 65_536

_envelope = msgspec.json.Decoder(dict[str, Any])


def served_fields(attempt: Attempt, *, since_us: int, decision: bytes) -> bytes:
    """Header lines of ours: who served, by which order, how long it took, and, if asked for, why."""
    offer = attempt.instance.offer
    route_us = attempt.started_us - since_us
    first_us = attempt.first_us - attempt.started_us
    own = (
        f"x-penstock-order: {attempt.placed.order_id}\r\n"
        f"server-timing: route;dur={route_us // 1000}.{route_us % 1000:03d}, "
        f"miner;dur={first_us // 1000}.{first_us % 1000:03d}\r\n"
    ).encode()
    fields = _served_by(offer.miner, offer.instance, offer.chute) + own
    return fields + DECISION_LINE + decision + LINE_END if decision else fields


@lru_cache(maxsize=SERVED_BY_MAX)  # the same instances answer all day
def _served_by(miner: str, instance: str, chute: str) -> bytes:
    return encode_fields(
        (
            ("x-penstock-miner", miner),
            ("x-penstock-instance", instance),
            ("x-penstock-chute", chute),
        )
    )


def limit_fields(
    gateway: Parts, key: Key | None, request: Request, *, is_refusal: bool = False
) -> bytes:
    """Header lines that tell a caller its key's limits, in the words of the path's dialect."""
    is_anthropic = request.path.startswith(MESSAGES_PATH)
    if key is None:
        return f"request-id: {request.request_id}\r\n".encode() if is_anthropic else b""
    if is_anthropic:
        return key.meter.anthropic_fields(gateway.clock, request.request_id)
    now_us = gateway.clock.mono_us()
    return key.meter.fresh_fields(now_us) if is_refusal else key.meter.fields(now_us)


def answer_whole(
    exchange: Asker,
    attempt: Attempt,
    *,
    charge_nano: int,
    fields: bytes,
    translation: Translation | None,
) -> None:
    """The miner's answer in one piece, also an engine's refusal of the request itself.

    Raises AnswerUnreadable when there is nothing to translate in it.
    """
    status, body, content_type = attempt.status, attempt.body, attempt.content_type
    if translation is not None:
        content_type = JSON_TYPE
        if status >= 400:
            body = translation.error(status, envelope_of(body))
            status = translation.status(status)
        else:
            body = translation.whole(body)
    fields = b"content-type: %b\r\nx-penstock-charge: %d\r\n%b" % (
        content_type,
        charge_nano,
        fields,
    )
    exchange.respond_encoded(status, fields, body)


def refusal(error: GatewayError, request: Request) -> Response:
    """No answer but this, in the dialect of the path."""
    answer = answer_of(error, request.request_id)
    if request.path not in DIALECTS:
        return answer
    envelope = msgspec.json.decode(answer.body, type=dict[str, Any])
    status, body = error_answer(
        request.path, answer.status, envelope=envelope, request_id=request.request_id
    )
    return Response(status, body, answer.headers)


def reworded(response: Response, path: str, request_id: str) -> Response:
    """What the server itself refuses (too large, too slow, malformed), in the dialect of the path."""
    envelope = envelope_of(response.body)
    error = envelope.get("error")
    if isinstance(error, dict):
        error["request_id"] = request_id
    status, body = error_answer(path, response.status, envelope=envelope, request_id=request_id)
    headers = response.headers
    if path.startswith(MESSAGES_PATH):
        headers += (("request-id", request_id),)
    if response.status == 503:
        headers += retry_headers(BUSY_WAIT_US)
    return Response(status, body, headers)


def envelope_of(body: bytes) -> dict[str, Any]:
    """The error envelope in a miner's answer, or one that says that there was none."""
    try:
        return _envelope.decode(body[:ERROR_BYTES_MAX])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return lost_envelope("its answer was no JSON", "")
