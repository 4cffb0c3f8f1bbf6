"""The lines of a batch: taken out of the input file, checked, and what becomes of each."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import msgspec

from penstock.gateway.batches import Batch, LineError, Usage
from penstock.kit.wire.http import Response

CUSTOM_ID_CHARS_MAX = 512
ORDER_HEADER = "x-penstock-order"
CHARGE_HEADER = "x-penstock-charge"
BOM = b"\xef\xbb\xbf"
NULL = msgspec.Raw(b"null")
NESTING_SPARE = 64
"""So many levels deeper than an answer must be readable for it to be kept."""

_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])
_text = msgspec.json.Decoder(str)
_raw = msgspec.json.Decoder(list[msgspec.Raw])
_encode = msgspec.json.Encoder().encode


class AskedBody(msgspec.Struct):
    """Of a line's body what a batch must know; the rest is checked when it is asked."""

    model: str
    stream: bool | None = None


class Details(msgspec.Struct):
    """How chat, completions and responses name what is inside a count."""

    cached_tokens: int | None = None
    reasoning_tokens: int | None = None


class Told(msgspec.Struct):
    """An answer's `usage`, in either of OpenAI's spellings."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    prompt_tokens_details: Details | None = None
    completion_tokens_details: Details | None = None
    input_tokens_details: Details | None = None
    output_tokens_details: Details | None = None


class Answered(msgspec.Struct):
    """An answer as far as it is read."""

    usage: Told | None = None


_asked = msgspec.json.Decoder(AskedBody)
_answered = msgspec.json.Decoder(Answered)


@dataclass(frozen=True, slots=True)
class Line:
    """One request of a batch. `number` counts the file's lines from 1."""

    number: int
    custom_id: str
    model: str
    body: bytes


class Outcome(msgspec.Struct, frozen=True):
    """A line that has ended, as the journal keeps it. `result` is its line of the output."""

    line: int
    is_good: bool
    usage: Usage
    result: msgspec.Raw


_outcome = msgspec.json.Decoder(Outcome)


class BadLine(Exception):
    """A line that cannot be run."""

    def __init__(self, error: LineError) -> None:
        super().__init__(error.message)
        self.error = error


async def split_lines(
    parts: AsyncIterator[bytes], *, line_bytes_max: int
) -> AsyncIterator[tuple[int, bytes]]:
    """(number, bytes) of each line that is not blank. Raises BadLine for one that is too long."""
    held, number = bytearray(), 0
    async for part in parts:
        held += part
        *whole, held = held.split(b"\n")
        for raw in whole:
            number += 1
            line = _stripped(raw, number, line_bytes_max)
            if line:
                yield number, line
        _stripped(held, number + 1, line_bytes_max)
    line = _stripped(held, number + 1, line_bytes_max)
    if line:
        yield number + 1, line


def read_line(number: int, raw: bytes, endpoint: str) -> Line:
    """The request in a line. Raises BadLine with the code and param that OpenAI gives."""
    try:
        fields = _fields.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise _bad(
            number, "invalid_json_line", "This line is not parseable as valid JSON."
        ) from error
    for name in ("custom_id", "method", "url", "body"):
        if name not in fields:
            text = f"Missing required parameter: '{name}'."
            raise _bad(number, "missing_required_parameter", text, param=name)
    custom_id = _text_of(fields["custom_id"])
    if not 0 < len(custom_id) <= CUSTOM_ID_CHARS_MAX:
        text = f"custom_id must be a string of 1 to {CUSTOM_ID_CHARS_MAX} characters."
        raise _bad(number, "invalid_custom_id", text, param="custom_id")
    if _text_of(fields["method"]) != "POST":
        raise _bad(number, "invalid_method", "The method must be POST.", param="method")
    if _text_of(fields["url"]) != endpoint:
        text = f"The url must be {endpoint}, the endpoint of the batch."
        raise _bad(number, "invalid_url", text, param="url")
    body = bytes(fields["body"])
    try:
        asked = _asked.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        text = f"The body does not fit: {error}."
        raise _bad(number, "invalid_body", text, param="body") from error
    if not asked.model:
        text = "The model is empty."
        raise _bad(number, "missing_required_parameter", text, param="body.model")
    if asked.stream:
        raise _bad(number, "invalid_body", "A batch has no streams.", param="body.stream")
    return Line(number=number, custom_id=custom_id, model=asked.model, body=body)


def outcome_of(batch: Batch, line: Line, answer: Response, *, bytes_max: int) -> Outcome:
    """What an answer makes of its line: a result, or an error with the answer in it."""
    headers = dict(answer.headers)
    if len(answer.body) > bytes_max:
        text = f"The answer has more than the {bytes_max} bytes that are kept of one."
        return failure(batch, line, code="answer_too_large", message=text, headers=headers)
    try:
        body = msgspec.json.format(answer.body, indent=-1)  # a result is one line
        _check_readable(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        text = "The answer is no JSON, or nested too deeply."
        return failure(batch, line, code="answer_unreadable", message=text, headers=headers)
    response = {
        "status_code": answer.status,
        "request_id": batch.request_id(line.number),
        "body": msgspec.Raw(body),
        "penstock": _penstock(headers),
    }
    is_good = 200 <= answer.status < 300
    usage = _usage_of(body) if is_good else Usage()
    return Outcome(line.number, is_good, usage, _result(batch, line, response=response))


def _check_readable(body: bytes) -> None:
    """A miner's bytes go into the journal, and whoever takes the batch over reads that, perhaps in a
    deeper call. Raises UnicodeDecodeError, RecursionError.
    """
    body.decode()
    _raw.decode(b"[" * NESTING_SPARE + body + b"]" * NESTING_SPARE)


def failure(
    batch: Batch, line: Line, *, code: str, message: str, headers: dict[str, str] | None = None
) -> Outcome:
    """A line without an answer."""
    error: dict[str, Any] = {"code": code, "message": message}
    if headers:
        error["penstock"] = _penstock(headers)
    return Outcome(line.number, False, Usage(), _result(batch, line, error=error))


def spell_outcome(outcome: Outcome) -> bytes:
    """One line of a journal's entry."""
    return _encode(outcome)


def read_outcomes(entry: bytes) -> list[Outcome]:
    """All of an entry."""
    return [_outcome.decode(one) for one in entry.split(b"\n")]


def _result(
    batch: Batch, line: Line, *, response: object = None, error: object = None
) -> msgspec.Raw:
    return msgspec.Raw(
        _encode(
            {
                "id": batch.request_id(line.number),
                "custom_id": line.custom_id,
                "response": response,
                "error": error,
            }
        )
    )


def _penstock(headers: dict[str, str]) -> dict[str, Any]:
    charge = headers.get(CHARGE_HEADER, "")
    return {
        "order_id": headers.get(ORDER_HEADER) or None,
        "charge_nano": int(charge) if charge.isdigit() else 0,
    }


def _usage_of(body: bytes) -> Usage:
    try:
        told = _answered.decode(body).usage
    except msgspec.ValidationError:
        return Usage()
    if told is None:
        return Usage()
    inside = told.prompt_tokens_details or told.input_tokens_details or Details()
    outside = told.completion_tokens_details or told.output_tokens_details or Details()
    return Usage(
        input=told.prompt_tokens or told.input_tokens or 0,
        output=told.completion_tokens or told.output_tokens or 0,
        cached=inside.cached_tokens or 0,
        reasoning=outside.reasoning_tokens or 0,
    )


def _text_of(raw: msgspec.Raw) -> str:
    try:
        return _text.decode(raw)
    except msgspec.ValidationError:
        return ""


def _stripped(raw: bytearray, number: int, bytes_max: int) -> bytes:
    if len(raw) > bytes_max:
        raise _bad(number, "line_too_long", f"A line may have {bytes_max} bytes.")
    line = bytes(raw)
    return (line.removeprefix(BOM) if number == 1 else line).strip()


def _bad(number: int, code: str, message: str, *, param: str | None = None) -> BadLine:
    return BadLine(LineError(code=code, message=message, line=number, param=param))
