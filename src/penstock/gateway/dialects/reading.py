"""Reading a client's body in another dialect: typed, and every fault is a BadJson or a BadRequest.

A body is decoded twice at C speed: once into the dialect's Struct, once into its raw top-level
fields, so that what the dialect does not know goes to the engine byte for byte.
"""

import re
from typing import TypeVar

import msgspec

from penstock.gateway.bodies import TOKENS_MAX
from penstock.gateway.errors import BadJson, BadRequest

NO_RAW = msgspec.Raw(b"")
"""The default of a raw field that is not there."""

T = TypeVar("T")

_raw_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])
_PLACE = re.compile(r" - at `\$\.?([^`]*)`")
_MISSING = re.compile(r"missing required field `([^`]+)`")


def read_body(decoder: "msgspec.json.Decoder[T]", body: bytes) -> tuple[T, dict[str, msgspec.Raw]]:
    """(the body as the decoder's type, its top-level fields as they came)."""
    try:
        body.decode()  # raw fields are not looked into, so their encoding is checked here
        return decoder.decode(body), _raw_fields.decode(body)
    except msgspec.ValidationError as error:
        text = str(error)
        raise BadRequest(reason=f"The body does not fit: {text}.", param=_param(text)) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadJson(reason=str(error)) from error
    except RecursionError as error:
        raise BadJson(reason="it is nested too deeply") from error


def raw_object(raw: msgspec.Raw, param: str) -> msgspec.Raw:
    """`raw` if it is a JSON object. Raises BadRequest."""
    if not bytes(raw).startswith(b"{"):
        raise BadRequest(reason=f"{param} must be an object.", param=param)
    return raw


def is_given(raw: msgspec.Raw | None) -> bool:
    """Is the field there, and not null?"""
    return raw is not None and bytes(raw) not in {b"", b"null"}


def checked_tokens(value: int, param: str) -> int:
    """A bound on an answer's tokens. Raises BadRequest."""
    if not 1 <= value <= TOKENS_MAX:
        raise BadRequest(reason=f"{param} must be from 1 to {TOKENS_MAX}.", param=param)
    return value


def _param(text: str) -> str | None:
    """The field a validation error is about, as `messages[0].content[1].type`."""
    place = _PLACE.search(text)
    missing = _MISSING.search(text)
    names = [place[1] if place else "", missing[1] if missing else ""]
    return ".".join(name for name in names if name) or None
