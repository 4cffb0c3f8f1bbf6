"""An engine's refusal reaches the caller; what its programming language says does not."""

import msgspec
import pytest

from penstock.miner.verdicts import passed_on


def shown(message: str, *, path: str = "/v1/chat/completions", status: int = 500) -> dict[str, str]:
    body = msgspec.json.encode({"error": {"message": message, "param": "own"}})
    answer = passed_on(status, body, request_id="r", path=path)
    assert answer.status == 400
    error: dict[str, str] = msgspec.json.decode(answer.body)["error"]
    return error


@pytest.mark.parametrize(
    "message",
    [
        "vector::_M_range_check: __n (which is 18446744073709551615) >= this->size()",
        "[json.exception.type_error.302] type must be string, but is number",
        "Failed to parse messages: [json.exception.type_error.302] type must be string",
        "basic_string::at: __n (which is 9) >= this->size() (which is 3)",
        "std::bad_alloc",
        "stoi",
        "GGML_ASSERT(n < m) failed",
    ],
)
@pytest.mark.parametrize("path", ["/tokenize", "/detokenize", "/v1/chat/completions"])
def test_the_words_of_an_engines_own_language_are_kept_from_callers(
    message: str, path: str
) -> None:
    error = shown(message, path=path)
    assert error["code"] == "invalid_request"
    assert message not in error["message"]
    assert error["param"] == ("tokens" if path == "/detokenize" else None)


def test_an_id_outside_the_vocabulary_is_said_to_be_one() -> None:
    error = shown("vector::_M_range_check: __n", path="/detokenize")
    assert "vocabulary" in error["message"]


@pytest.mark.parametrize(
    ("message", "told"),
    [
        (
            "image input is not supported - hint: you may need to provide the mmproj",
            "image input is not supported",
        ),
        (
            "request (9 tokens) exceeds the available context size (8 tokens), try increasing it",
            "request (9 tokens) exceeds the available context size (8 tokens)",
        ),
        (
            "input (9 tokens) is too large to process. increase the physical batch size (current: 8)",
            "input (9 tokens) is too large to process",
        ),
    ],
)
def test_advice_for_who_runs_the_engine_is_kept_from_callers(message: str, told: str) -> None:
    assert shown(message)["message"] == told


@pytest.mark.parametrize(
    "message",
    [
        "image input is not supported",
        "Invalid tool_choice: bogus",
        "a story of maps and vectors, stop: a map",
        "request (5000 tokens) exceeds the available context size (1024 tokens)",
    ],
)
def test_an_engines_plain_words_stay(message: str) -> None:
    assert shown(message) == {**shown("x"), "message": message}
    assert shown(message, path="/detokenize", status=400)["param"] == "own"
