"""HTTP data: requests, responses, heads."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.kit.wire.http import (
    Request,
    answer_head,
    encode_fields,
    has_body,
    json_response,
    split_target,
)
from penstock.kit.wire.problem import Refusal, problem, problem_type


def test_a_request_gives_its_headers_as_text() -> None:
    request = Request("GET", "/", headers={b"x-a": b"caf\xe9"})
    assert (request.header("X-A"), request.header("x-b")) == ("caf\u00e9", "")


@pytest.mark.parametrize(
    ("query", "value"),
    [("", ""), ("a=1", "1"), ("b=2&a=%20x&a=y", " x"), ("a", ""), ("&".join("ab"), "")],
)
def test_a_query_value_is_the_first_decoded(query: str, value: str) -> None:
    assert Request("GET", "/", query=query).query_value("a") == value


def test_a_query_with_too_many_fields_has_no_values() -> None:
    assert Request("GET", "/", query="a=1&" * 1_000).query_value("a") == ""


@pytest.mark.parametrize(
    ("header", "token"),
    [
        (b"Bearer pk_1", "pk_1"),
        (b"bearer  pk_1 ", "pk_1"),
        (b"Basic pk_1", ""),
        (b"Bearer", ""),
        (b"", ""),
    ],
)
def test_the_bearer_token_is_read_whatever_the_case(header: bytes, token: str) -> None:
    assert Request("GET", "/", headers={b"authorization": header}).bearer() == token


def head_of(status: int, headers: tuple[tuple[str, str], ...], framing: str = "") -> bytes:
    return answer_head(status, encode_fields(headers), request_id="r", framing=framing)


def test_a_head_has_the_servers_framing_first_and_once() -> None:
    head = head_of(200, (("Content-Length", "7"), ("a", "b")), "content-length: 0\r\n")
    assert head == b"HTTP/1.1 200 OK\r\nx-request-id: r\r\ncontent-length: 0\r\na: b\r\n\r\n"


@given(st.text(), st.text())
def test_no_header_can_end_its_line(name: str, value: str) -> None:
    try:
        head = head_of(200, ((f"x{name}", value),))
    except ValueError:
        return
    assert head.count(b"\n") == 4
    assert head.count(b"\r") == 4
    assert b"\0" not in head


def test_an_unknown_status_still_has_a_reason() -> None:
    assert head_of(599, ()).startswith(b"HTTP/1.1 599 Status\r\n")


@pytest.mark.parametrize(
    ("target", "parts"),
    [
        ("/", ("/", "")),
        ("/a?b?c", ("/a", "b?c")),
        ("https://h", ("/", "")),
        ("http://h:1/x?y", ("/x", "y")),
    ],
)
def test_a_target_is_split_into_path_and_query(target: str, parts: tuple[str, str]) -> None:
    assert split_target(target) == parts


@pytest.mark.parametrize("target", ["", "x", "*", "h:80", "/a#b"])
def test_a_target_that_is_no_path_is_refused(target: str) -> None:
    with pytest.raises(ValueError):
        split_target(target)


def test_bodiless_statuses() -> None:
    assert [status for status in (100, 200, 204, 206, 304, 404) if not has_body(status)] == [
        100,
        204,
        304,
    ]


def test_a_json_response_says_so() -> None:
    response = json_response(201, {"a": [1, None]}, headers=(("x", "y"),))
    assert response.body == b'{"a":[1,null]}'
    assert response.headers == (("content-type", "application/json"), ("x", "y"))


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (402, "insufficient_quota"),
        (403, "permission_error"),
        (404, "not_found_error"),
        (409, "invalid_request_error"),
        (413, "invalid_request_error"),
        (429, "rate_limit_error"),
        (500, "server_error"),
        (503, "server_error"),
    ],
)
def test_a_problem_has_openais_type_for_its_status(status: int, kind: str) -> None:
    assert problem_type(status) == kind


def test_a_problem_has_openais_envelope() -> None:
    response = problem(429, "rate", "Slow down.", param="n", request_id="r", headers=(("a", "b"),))
    assert response.status == 429
    assert response.body == (
        b'{"error":{"message":"Slow down.","type":"rate_limit_error","param":"n",'
        b'"code":"rate","request_id":"r"}}'
    )
    assert ("a", "b") in response.headers
    assert Refusal(response).response is response
