"""Errors in the dialect of the path, with and without a translation."""

import json

import pytest
from tests.stations.gateway.dialects.chat_streams import COUNT, MESSAGES, RESPONSES, asked

from penstock.gateway.dialects import DIALECTS, error_answer

ENVELOPE = {
    "error": {
        "message": "No key.",
        "type": "authentication_error",
        "param": None,
        "code": "invalid_api_key",
        "request_id": "r1",
    }
}


def test_there_is_a_dialect_for_each_path() -> None:
    assert set(DIALECTS) == {MESSAGES, COUNT, RESPONSES}


@pytest.mark.parametrize(
    ("status", "shown", "kind"),
    [
        (400, 400, "invalid_request_error"),
        (401, 401, "authentication_error"),
        (402, 402, "billing_error"),
        (403, 403, "permission_error"),
        (404, 404, "not_found_error"),
        (405, 405, "invalid_request_error"),
        (408, 408, "timeout_error"),
        (413, 413, "request_too_large"),
        (422, 422, "invalid_request_error"),
        (429, 429, "rate_limit_error"),
        (500, 500, "api_error"),
        (501, 501, "api_error"),
        (502, 502, "api_error"),
        (503, 529, "overloaded_error"),
        (504, 504, "timeout_error"),
    ],
)
def test_anthropics_error_type_follows_from_the_status(status: int, shown: int, kind: str) -> None:
    answered, body = error_answer(MESSAGES, status, envelope=ENVELOPE, request_id="r2")
    told = json.loads(body)
    assert answered == shown
    assert told["type"] == "error"
    assert told["error"] == {"type": kind, "message": "No key.", "code": "invalid_api_key"}
    assert told["request_id"] == "r1"
    by = asked(MESSAGES)
    assert (by.status(status), json.loads(by.error(status, ENVELOPE))) == (shown, told)


def told(path: str, param: str, message: str) -> tuple[str, str]:
    """(field, message) as a caller of the path reads them."""
    envelope = {"error": {"message": message, "type": "x", "param": param, "code": "c"}}
    _, body = error_answer(path, 400, envelope=envelope, request_id="req7")
    if path != COUNT:
        assert json.loads(asked(path).error(400, envelope)) == json.loads(body)
    error = json.loads(body)["error"]
    return error["param"], error["message"]


@pytest.mark.parametrize(
    ("path", "param", "own"),
    [
        (MESSAGES, "stop", "stop_sequences"),
        (MESSAGES, "stop[3]", "stop_sequences[3]"),
        (MESSAGES, "response_format", "output_config.format"),
        (MESSAGES, "max_tokens", "max_tokens"),
        (MESSAGES, "tools[0].function", "tools[0].function"),
        (COUNT, "chat_template_kwargs", "thinking"),
        (RESPONSES, "messages[1].role", "input[1].role"),
        (RESPONSES, "max_tokens", "max_output_tokens"),
        (RESPONSES, "response_format", "text.format"),
        (RESPONSES, "tool_choice", "tool_choice"),
    ],
)
def test_a_field_is_called_as_its_caller_called_it(path: str, param: str, own: str) -> None:
    assert told(path, param, f"The body does not fit: `$.{param}`.") == (
        own,
        f"The body does not fit: `$.{own}`.",
    )
    assert told(path, param, f"{param} is too much.") == (own, f"{own} is too much.")


def test_a_word_that_only_looks_like_a_field_stays() -> None:
    message = "The engines stop when the user says so: `$.stop` has 20 items."
    shown = "The engines stop when the user says so: `$.stop_sequences` has 20 items."
    assert told(MESSAGES, "stop", message) == ("stop_sequences", shown)


@pytest.mark.parametrize(
    "error", [{}, {"param": 5}, {"param": ""}, {"param": "stop"}, "stop", None]
)
def test_an_odd_envelope_is_renamed_without_a_crash(error: object) -> None:
    for path in (MESSAGES, RESPONSES):
        assert error_answer(path, 400, envelope={"error": error}, request_id="r")[1]


@pytest.mark.parametrize("path", [RESPONSES, "/v1/chat/completions", "/v1/embeddings"])
def test_elsewhere_the_envelope_stays_as_it_is(path: str) -> None:
    status, body = error_answer(path, 503, envelope=ENVELOPE, request_id="r2")
    assert (status, json.loads(body)) == (503, ENVELOPE)


def test_a_response_is_refused_in_openais_envelope() -> None:
    by = asked(RESPONSES)
    assert by.status(503) == 503
    assert json.loads(by.error(503, ENVELOPE)) == ENVELOPE


def test_an_error_without_a_request_id_gets_the_requests_own() -> None:
    _, body = error_answer(
        COUNT, 404, envelope={"error": {"message": "x", "param": "p"}}, request_id="r2"
    )
    told = json.loads(body)
    assert (told["request_id"], told["error"]["param"]) == ("r2", "p")
    assert "code" not in told["error"]


@pytest.mark.parametrize(
    "envelope", [{}, {"error": None}, {"error": "x"}, {"detail": [1]}, {"message": "x"}]
)
def test_a_miners_odd_envelope_still_gives_a_message(envelope: dict[str, object]) -> None:
    _, body = error_answer(MESSAGES, 500, envelope=envelope, request_id="r")
    assert json.loads(body)["error"]["message"]
