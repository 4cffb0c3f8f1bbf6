"""Answers that lack something, make no sense or never end, in both dialects."""

import json

import pytest
from tests.stations.gateway.dialects.chat_streams import (
    DONE,
    MESSAGES,
    RESPONSES,
    Json,
    asked,
    chunk,
    read_events,
    told,
    types,
    whole,
)

from penstock.gateway.dialects import stream as streams
from penstock.gateway.dialects.errors import AnswerUnreadable
from penstock.kit.sse import EVENT_BYTES_MAX

BOTH = pytest.mark.parametrize("path", [MESSAGES, RESPONSES])


@BOTH
def test_usage_that_is_missing_is_zero(path: str) -> None:
    events = read_events(told(asked(path), [chunk(content="a"), chunk("stop"), DONE]))
    end = events[-2]["usage"] if path == MESSAGES else events[-1]["response"]["usage"]
    assert (end["input_tokens"], end["output_tokens"]) == (0, 0)


def test_counts_that_make_no_sense_are_put_right() -> None:
    odd = {
        "prompt_tokens": 5,
        "completion_tokens": -2,
        "prompt_tokens_details": {"cached_tokens": 9},
        "completion_tokens_details": None,
    }
    usage_ = json.loads(asked(MESSAGES).whole(whole({"content": "a"}, counts=odd)))["usage"]
    assert (usage_["input_tokens"], usage_["cache_read_input_tokens"]) == (0, 5)
    assert usage_["output_tokens"] == 0


@pytest.mark.parametrize(
    ("arguments", "given"),
    [
        ('{"a": 9007199254740993123}', {"a": 9007199254740993123}),
        ("", {}),
        ("  ", {}),
        ('{"a": ', {"partial_json": '{"a": '}),
        ("[1]", {"partial_json": "[1]"}),
    ],
)
def test_arguments_are_an_object_or_are_handed_on_as_they_are(arguments: str, given: Json) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": arguments}}
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    content = json.loads(asked(MESSAGES).whole(whole(message)))["content"]
    assert content == [{"type": "tool_use", "id": "c", "name": "f", "input": given}]


@BOTH
@pytest.mark.parametrize(
    "answer",
    [b"", b"[]", b"{}", b'{"choices": []}', b'{"choices": [{"index": 1}]}', b"\xff", b"[" * 99_999],
)
def test_an_answer_that_is_none_is_the_miners_fault(path: str, answer: bytes) -> None:
    with pytest.raises(AnswerUnreadable) as caught:
        asked(path).whole(answer)
    assert caught.value.status == 502
    assert "miner" in caught.value.text()


@BOTH
def test_an_event_beyond_the_bound_ends_the_stream(path: str) -> None:
    by = asked(path)
    by.feed(chunk(content="a"))
    ended = types(by.feed(b"data: " + b"x" * (EVENT_BYTES_MAX + 1)))
    assert ended[-1] in {"error", "response.failed"}
    assert by.end() == b""


@BOTH
def test_an_answer_beyond_the_bound_ends_the_stream(path: str) -> None:
    by = asked(path)
    piece = chunk(content="x" * (EVENT_BYTES_MAX - 1000))
    count = streams.ANSWER_BYTES_MAX // len(piece) + 2
    last = [by.feed(piece) for _ in range(count)][-2:]
    assert b"longer than" in b"".join(last)
    assert by.end() == b""
