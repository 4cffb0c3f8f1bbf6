"""Canonical bytes: one message has one spelling, so that one digest and one signature fit it.

The form is RFC 8785 JSON restricted to integers of at most 2**53 - 1 in size, strings of valid
Unicode, booleans, null, lists, and objects. Fractions are refused: every number of the market is an
int. Keys are sorted by their UTF-16 code units, as RFC 8785 asks. `to_plain` and `from_plain` carry
frozen dataclasses to such values and back, strictly: a field too many, too few or of another type
is refused, and a default never fills a gap.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import lru_cache
from hashlib import sha256
from json import loads
from json.encoder import encode_basestring
from typing import Any, NoReturn, TypeVar, get_args, get_origin, get_type_hints

from penstock.spec.errors import NotCanonical

INT_MAX = 2**53 - 1
"""Beyond this a JavaScript reader loses digits, so RFC 8785 cannot carry it."""

DEPTH_MAX = 32
CANON_BYTES_MAX = 1 << 24

T = TypeVar("T")
Reader = Callable[[object], Any]
Writer = Callable[[Any], Any]

_KIND = re.compile(r"[a-z][a-z0-9-]{0,63}")


def canonical(value: object) -> bytes:
    """The one spelling of a plain value (see the module). Raises NotCanonical."""
    try:
        data = _spell(value, DEPTH_MAX).encode()
    except UnicodeEncodeError as error:
        raise NotCanonical(reason="a string holds half of a surrogate pair") from error
    if len(data) > CANON_BYTES_MAX:
        raise NotCanonical(reason=f"longer than {CANON_BYTES_MAX} bytes")
    return data


def parse(data: bytes) -> Any:
    """The plain value that these canonical bytes spell.

    Any other spelling of the same value (spaces, key order, a key twice, `-0`, `1.0`, an escape
    that is not needed) is refused. Raises NotCanonical.
    """
    if len(data) > CANON_BYTES_MAX:
        raise NotCanonical(reason=f"longer than {CANON_BYTES_MAX} bytes")
    try:
        value = loads(data.decode(), parse_float=_refuse_number, parse_constant=_refuse_number)
    except (ValueError, RecursionError) as error:
        raise NotCanonical(reason="not JSON in UTF-8") from error
    if canonical(value) != data:
        raise NotCanonical(reason="not the canonical spelling")
    return value


def digest(kind: str, value: object) -> bytes:
    """SHA-256 under the domain `penstock/<kind>/v1`: a digest of one kind never equals another's.

    `kind` is lower-case words joined by hyphens, at most 64 characters. Raises NotCanonical.
    """
    return digest_spelled(kind, canonical(value))


def digest_spelled(kind: str, data: bytes) -> bytes:
    """`digest` of a value whose canonical bytes are at hand already."""
    return sha256(_domain(kind) + data).digest()


def encode(message: object) -> bytes:
    """Canonical bytes of a message dataclass. Raises NotCanonical."""
    return canonical(to_plain(message))


def decode(cls: type[T], data: bytes) -> T:
    """The message dataclass that these canonical bytes spell. Raises NotCanonical."""
    return from_plain(cls, parse(data))


def to_plain(message: object) -> Any:
    """A dataclass as plain values: fields by name, tuples as lists, enums by value.

    `canonical` checks the result; a field that holds another type than it says is found there, or
    by the reader.
    """
    cls: Any = type(message)
    return _writer(cls)(message)


def from_plain(cls: type[T], value: object) -> T:
    """Build a dataclass strictly from plain values.

    Field types may be int, str, bool, a str-valued Enum, `tuple[X, ...]`, another dataclass,
    `dict[str, X]`, `X | None` or Any. Raises NotCanonical with the path of the field.
    """
    hint: Any = cls
    built: T = _reader(hint)(value)
    return built


@lru_cache(maxsize=256)
def _domain(kind: str) -> bytes:
    if not _KIND.fullmatch(kind):
        raise NotCanonical(reason="a kind is lower-case words joined by hyphens")
    return f"penstock/{kind}/v1\0".encode()


def _refuse_number(text: str) -> NoReturn:
    raise NotCanonical(reason=f"not an integer: {text[:40]}")


def _spell(value: object, depth: int) -> str:
    """Canonical text of one value, which may hold `depth` more levels."""
    if type(value) is str:
        return encode_basestring(value)
    if type(value) is int:
        if not -INT_MAX <= value <= INT_MAX:
            raise NotCanonical(reason="an integer is beyond 2**53 - 1")
        return str(value)
    if type(value) is bool:
        return "true" if value else "false"
    if value is None:
        return "null"
    if not depth:
        raise NotCanonical(reason=f"nested deeper than {DEPTH_MAX}")
    if isinstance(value, dict):
        return _spell_object(value, depth - 1)
    if isinstance(value, (list, tuple)):
        return f"[{','.join([_spell(item, depth - 1) for item in value])}]"
    raise NotCanonical(reason=f"{type(value).__name__} has no canonical form")


def _spell_object(value: Mapping[Any, object], depth: int) -> str:
    """Strings are most of every message, so they are quoted here without another call."""
    parts = []
    for key in _sorted_keys(value):
        item = value[key]
        text = encode_basestring(item) if type(item) is str else _spell(item, depth)
        parts.append(f"{encode_basestring(key)}:{text}")
    return f"{{{','.join(parts)}}}"


def _sorted_keys(value: Mapping[Any, object]) -> list[str]:
    try:
        is_ascii = "".join(value).isascii()
    except TypeError as error:
        raise NotCanonical(reason="a key is not a string") from error
    if is_ascii:
        return sorted(value)
    # Code points beyond U+FFFF sort before U+E000 in UTF-16, and after it in Python.
    return sorted(value, key=lambda key: key.encode("utf-16-be", "surrogatepass"))


# Plans: how to write and read one type, worked out once per type.


@lru_cache(maxsize=1024)
def _writer(cls: Any) -> Writer:
    if is_dataclass(cls):
        return _dataclass_writer(cls)
    if issubclass(cls, Enum):
        return lambda value: value.value
    if issubclass(cls, tuple | list):
        return lambda value: [to_plain(item) for item in value]
    if issubclass(cls, dict):
        return lambda value: {key: to_plain(item) for key, item in value.items()}
    return lambda value: value


def _dataclass_writer(cls: Any) -> Writer:
    """Fields that hold int, str or bool are passed on as they are; the rest are written by type."""
    hints = get_type_hints(cls)
    names = [field.name for field in fields(cls)]
    nested = [name for name in names if hints[name] not in {int, str, bool}]

    def write(message: object) -> dict[str, Any]:
        plain = {name: getattr(message, name) for name in names}
        for name in nested:
            plain[name] = to_plain(plain[name])
        return plain

    return write


@lru_cache(maxsize=1024)
def _reader(hint: Any) -> Reader:
    """How to read a value of this type. A type that messages cannot hold is a bug: TypeError."""
    while hasattr(hint, "__supertype__"):
        hint = hint.__supertype__
    if hint in _SCALARS:
        return _SCALARS[hint]
    arguments = get_args(hint)
    if type(None) in arguments and len(arguments) == 2:
        return _optional_reader(next(one for one in arguments if one is not type(None)))
    if get_origin(hint) is tuple and arguments[1:] == (...,):
        return _tuple_reader(arguments[0])
    if get_origin(hint) is dict and arguments[0] is str:
        return _dict_reader(arguments[1])
    if isinstance(hint, type) and issubclass(hint, Enum):
        return _enum_reader(hint)
    if isinstance(hint, type) and is_dataclass(hint):
        return _dataclass_reader(hint)
    raise TypeError(f"messages cannot hold {hint}")


def _read_int(value: object) -> int:
    if type(value) is not int or not -INT_MAX <= value <= INT_MAX:
        raise NotCanonical(reason="not an integer within 2**53 - 1")
    return value


def _read_str(value: object) -> str:
    if type(value) is not str:
        raise NotCanonical(reason="not a string")
    return value


def _read_bool(value: object) -> bool:
    if type(value) is not bool:
        raise NotCanonical(reason="not true or false")
    return value


_SCALARS: dict[Any, Reader] = {
    int: _read_int,
    str: _read_str,
    bool: _read_bool,
    Any: lambda value: value,
}


def _optional_reader(hint: Any) -> Reader:
    read = _reader(hint)
    return lambda value: None if value is None else read(value)


def _tuple_reader(hint: Any) -> Reader:
    read = _reader(hint)

    def read_tuple(value: object) -> tuple[Any, ...]:
        if not isinstance(value, list | tuple):
            raise NotCanonical(reason="not a list")
        items = []
        for index, item in enumerate(value):
            try:
                items.append(read(item))
            except NotCanonical as error:
                raise error.inside(f"[{index}]") from None
        return tuple(items)

    return read_tuple


def _dict_reader(hint: Any) -> Reader:
    read = _reader(hint)

    def read_dict(value: object) -> dict[str, Any]:
        if not isinstance(value, dict) or any(type(key) is not str for key in value):
            raise NotCanonical(reason="not an object")
        items = {}
        for key, item in value.items():
            try:
                items[key] = read(item)
            except NotCanonical as error:
                raise error.inside(key[:80]) from None
        return items

    return read_dict


def _enum_reader(cls: type[Enum]) -> Reader:
    members = {member.value: member for member in cls}
    assert all(type(value) is str for value in members), "messages hold str-valued enums only"

    def read_enum(value: object) -> Enum:
        member = members.get(value) if type(value) is str else None
        if member is None:
            raise NotCanonical(reason=f"not a {cls.__name__}")
        return member

    return read_enum


def _dataclass_reader(cls: type) -> Reader:
    hints = get_type_hints(cls)
    names = {field.name for field in fields(cls)}
    readers = [(name, _reader(hints[name])) for name in sorted(names)]

    def read_dataclass(value: object) -> object:
        if not isinstance(value, dict):
            raise NotCanonical(reason="not an object")
        if value.keys() != names:
            _refuse_fields(names, value)
        items = {}
        for name, read in readers:
            try:
                items[name] = read(value[name])
            except NotCanonical as error:
                raise error.inside(name) from None
        return cls(**items)

    return read_dataclass


def _refuse_fields(names: set[str], value: Mapping[Any, object]) -> NoReturn:
    missing = sorted(names - value.keys())
    if missing:
        raise NotCanonical(reason="this field is missing", path=missing[0])
    extra = sorted(str(key) for key in value.keys() - names)
    raise NotCanonical(reason="this field is not known", path=extra[0][:80])
