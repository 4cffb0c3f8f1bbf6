"""Whatever a client sends, it gets a chat body or a precise 400, never an error of another kind."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.stations.gateway.dialects.chat_streams import COUNT, MESSAGES, RESPONSES, Json

from penstock.gateway.bodies import CHAT_PATH, parse_body
from penstock.gateway.dialects import DIALECTS
from penstock.gateway.errors import BadJson, BadRequest

ALL = pytest.mark.parametrize("path", [MESSAGES, COUNT, RESPONSES])
NESTED = b'{"model":"m","max_tokens":1,"messages":%b,"input":%b}'
FULL: Json = {
    "model": "m",
    "max_tokens": 9,
    "max_output_tokens": 9,
    "system": [{"type": "text", "text": "s"}],
    "instructions": "i",
    "messages": [
        {"role": "user", "content": [{"type": "text", "text": "x"}]},
        {
            "role": "assistant",
            "content": [{"type": "tool_use", "id": "t", "name": "f", "input": {}}],
        },
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "r"}]},
    ],
    "input": [
        {"role": "user", "content": [{"type": "input_text", "text": "x"}]},
        {"type": "function_call", "call_id": "t", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "t", "output": "r"},
    ],
    "thinking": {"type": "enabled", "budget_tokens": 2000},
    "reasoning": {"effort": "low"},
    "metadata": {"user_id": "u"},
    "text": {"format": {"type": "json_schema", "name": "n", "schema": {}}},
    "output_config": {"format": {"type": "json_schema", "schema": {}}},
    "chat_template_kwargs": {"a": 1},
    "stream": True,
}
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(10**40), 10**40)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(["", "text", "image", "function", "\x00", "\ud800", "x" * 200])
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["type", "text", "content", "source", "name", "x"]), inner, max_size=3
        )
    ),
    max_leaves=6,
)


def outcome(path: str, body: bytes) -> Any:
    """The chat body, or the refusal."""
    try:
        by = DIALECTS[path](body, request_id="r", now_s=lambda: 0)
    except (BadRequest, BadJson) as error:
        assert error.status == 400
        assert error.text()
        return error
    return json.loads(by.chat_body)


def places(value: Any, way: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a JSON value."""
    found = [way] if way else []
    items = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    return found + [one for name, inner in items for one in places(inner, (*way, name))]


PLACES = places(FULL)


@given(
    st.sampled_from([MESSAGES, COUNT, RESPONSES]),
    st.lists(st.tuples(st.sampled_from(PLACES), VALUES), max_size=2),
)
def test_a_body_with_anything_anywhere_is_translated_or_refused(
    path: str, changes: list[tuple[tuple[Any, ...], Any]]
) -> None:
    body = json.loads(json.dumps(FULL))
    for (*way, last), value in changes:
        inner = body
        for name in way:
            inner = (
                inner[name]
                if isinstance(inner, list | dict)
                and name in (inner if isinstance(inner, dict) else range(len(inner)))
                else {}
            )
        if isinstance(inner, dict) or (
            isinstance(inner, list) and isinstance(last, int) and last < len(inner)
        ):
            inner[last] = value
    answer = outcome(path, json.dumps(body).encode())
    if isinstance(answer, dict) and path != COUNT:
        assert answer["messages"]
        assert answer.get("n") is None


@given(st.sampled_from([MESSAGES, COUNT, RESPONSES]), st.binary(max_size=60))
def test_bytes_that_are_no_json_are_refused(path: str, body: bytes) -> None:
    assert isinstance(outcome(path, body), BadRequest | BadJson)


@ALL
@pytest.mark.parametrize(
    "body", [b"", b"null", b"[]", b"5", b'"x"', b"{}", b'{"model": 1}', b"\xef\xbb\xbf{}"]
)
def test_what_is_no_request_is_refused(path: str, body: bytes) -> None:
    assert isinstance(outcome(path, body), BadRequest | BadJson)


@ALL
@pytest.mark.parametrize("depth", [400, 100_000])
def test_a_body_nested_without_end_is_refused_in_words(path: str, depth: int) -> None:
    for opening, closing in (
        (b"[", b"]"),
        (b'{"a":', b"}"),
        (b'[{"type":"tool_result","content":', b"}]"),
    ):
        deep = opening * depth + b"1" + closing * depth
        assert isinstance(outcome(path, NESTED % (deep, deep)), BadRequest | BadJson)


@ALL
def test_an_unknown_field_nested_without_end_is_refused_too(path: str) -> None:
    body = json.dumps(FULL)[:-1].encode() + b',"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    assert isinstance(outcome(path, body), BadJson)


@ALL
def test_bytes_that_are_no_utf8_are_refused_even_in_a_field_nobody_reads(path: str) -> None:
    body = json.dumps(FULL)[:-1].encode() + b',"x":"\xff"}'
    assert isinstance(outcome(path, body), BadJson)


@pytest.mark.parametrize("path", [MESSAGES, RESPONSES])
def test_a_translated_body_is_one_that_the_gateway_takes(path: str) -> None:
    body = {**FULL, "tools": None, "metadata": {"user_id": "u"}}
    by = DIALECTS[path](json.dumps(body).encode(), request_id="r", now_s=lambda: 0)
    call = parse_body(CHAT_PATH, by.chat_body)
    assert (call.tokens_max, call.stream) == (9, True)
