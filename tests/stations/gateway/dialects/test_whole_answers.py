"""Whole answers field by field: what a strict client looks at besides the text."""

import json
from typing import Any

import pytest
from tests.stations.gateway.dialects.chat_streams import (
    DONE,
    MESSAGES,
    RESPONSES,
    USAGE,
    Json,
    asked,
    chunk,
    read_events,
    whole,
)

from penstock.gateway.dialects import DIALECTS

HELLO = {"role": "assistant", "content": "Hello."}
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}
SCHEMA = {"type": "object", "properties": {"x": {"type": "integer"}}}


def message(said: Json, *, finish: str | None = "stop", **choice: Any) -> Json:
    """The Message for what an engine said."""
    answer: Json = json.loads(asked(MESSAGES).whole(whole(said, finish=finish, **choice)))
    return answer


def response(said: Json, *, finish: str | None = "stop", **fields: Any) -> Json:
    """The Response for what an engine said, to a request with these fields."""
    answer: Json = json.loads(asked(RESPONSES, **fields).whole(whole(said, finish=finish)))
    return answer


@pytest.mark.parametrize(("finish", "at"), [("stop", 1_012), ("length", None)])
def test_a_response_tells_when_it_was_completed(finish: str, at: int | None) -> None:
    now = iter([1_000, 1_012])
    body = json.dumps({"model": "tiny", "input": "hi"}).encode()
    by = DIALECTS[RESPONSES](body, request_id="r", now_s=lambda: next(now))
    answer = json.loads(by.whole(whole(HELLO, finish=finish)))
    assert (answer["created_at"], answer["completed_at"]) == (1_000, at)


def test_a_streamed_response_tells_it_only_at_its_end() -> None:
    by = asked(RESPONSES)
    events = read_events(by.feed(chunk(content="Hello") + chunk("stop") + DONE))
    told = [event["response"]["completed_at"] for event in events if "response" in event]
    assert told == [None, None, 1_700_000_000]


def test_a_message_has_every_field_that_anthropics_have() -> None:
    assert message(HELLO) == {
        "id": "msg_req7",
        "type": "message",
        "role": "assistant",
        "model": "tiny",
        "content": [{"type": "text", "text": "Hello."}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "stop_details": None,
        "usage": {
            "input_tokens": 8,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 12,
            "output_tokens": 7,
            "output_tokens_details": {"thinking_tokens": 3},
        },
    }


@pytest.mark.parametrize("said", [{}, {"content": None}, {"content": ""}, {"tool_calls": []}])
def test_an_answer_without_words_has_no_blocks(said: Json) -> None:
    assert message(said)["content"] == []
    assert response(said)["output"] == []


def test_blocks_stand_in_the_order_in_which_models_think_speak_and_act() -> None:
    said = {"tool_calls": [CALL], "content": "a", "reasoning": "b"}
    assert [one["type"] for one in message(said)["content"]] == ["thinking", "text", "tool_use"]
    kinds = [one["type"] for one in response(said)["output"]]
    assert kinds == ["reasoning", "message", "function_call"]


def test_a_call_without_an_id_gets_one_of_the_requests_own() -> None:
    nameless = {"function": {"name": "f", "arguments": "{}"}}
    said = {"content": "a", "tool_calls": [nameless, nameless]}
    ids = [one["id"] for one in message(said)["content"][1:]]
    assert ids == ["call_req7_1", "call_req7_2"]
    assert [one["call_id"] for one in response(said)["output"][1:]] == ids


def test_an_answer_that_names_no_finish_reason_ended_by_itself() -> None:
    assert message(HELLO, finish=None)["stop_reason"] == "end_turn"
    assert response(HELLO, finish=None)["status"] == "completed"


def test_the_model_is_the_one_that_answered() -> None:
    answer = json.loads(whole(HELLO))
    answer["model"] = "acme/other"
    for path in (MESSAGES, RESPONSES):
        assert json.loads(asked(path).whole(json.dumps(answer).encode()))["model"] == "acme/other"
    answer.pop("model")
    for path in (MESSAGES, RESPONSES):
        assert json.loads(asked(path).whole(json.dumps(answer).encode()))["model"] == "tiny"


def test_only_the_first_choice_is_told_wherever_it_stands() -> None:
    answer = json.loads(whole(HELLO))
    other = {"index": 1, "message": {"content": "Other."}, "finish_reason": "length"}
    answer["choices"].insert(0, other)
    told = json.loads(asked(MESSAGES).whole(json.dumps(answer).encode()))
    assert told["content"] == [{"type": "text", "text": "Hello."}]
    assert told["stop_reason"] == "end_turn"


def test_a_response_says_what_was_asked() -> None:
    answer = response(
        HELLO,
        instructions="Be short.",
        max_output_tokens=50,
        max_tool_calls=3,
        metadata={"k": "v"},
        parallel_tool_calls=False,
        prompt_cache_key="p",
        reasoning={"effort": "low", "summary": "auto"},
        safety_identifier="s",
        temperature=0.25,
        top_p=0.5,
        top_logprobs=2,
        user="u",
        store=True,
        text={"verbosity": "low"},
    )
    said = {
        "instructions": "Be short.",
        "max_output_tokens": 50,
        "max_tool_calls": 3,
        "metadata": {"k": "v"},
        "parallel_tool_calls": False,
        "prompt_cache_key": "p",
        "reasoning": {"effort": "low", "summary": "auto"},
        "safety_identifier": "s",
        "temperature": 0.25,
        "top_p": 0.5,
        "top_logprobs": 2,
        "user": "u",
        "text": {"format": {"type": "text"}, "verbosity": "low"},
    }
    assert {name: answer[name] for name in said} == said
    assert answer["store"] is False


def test_a_response_to_a_bare_request_has_openais_defaults() -> None:
    answer = response(HELLO)
    defaults = {
        "id": "resp_req7",
        "object": "response",
        "created_at": 1_700_000_000,
        "status": "completed",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "metadata": {},
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "service_tier": "default",
        "temperature": 1,
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1,
        "truncation": "disabled",
    }
    assert {name: answer[name] for name in defaults} == defaults


def test_a_response_shows_the_functions_and_not_the_tools_it_ignored() -> None:
    function = {"type": "function", "name": "f", "parameters": SCHEMA, "strict": True}
    bare = {"type": "function", "name": "g"}
    answer = response(HELLO, tools=[function, {"type": "web_search"}, bare])
    assert answer["tools"] == [
        {**function, "description": None},
        {**bare, "description": None, "parameters": None, "strict": None},
    ]


@pytest.mark.parametrize(
    "choice",
    [
        "required",
        {"type": "function", "name": "f"},
        {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "f"}]},
    ],
)
def test_a_response_shows_the_tool_choice_as_it_was_asked(choice: Any) -> None:
    tools = [{"type": "function", "name": "f", "parameters": SCHEMA}]
    assert response(HELLO, tools=tools, tool_choice=choice)["tool_choice"] == choice


@pytest.mark.parametrize(
    "form",
    [
        {"type": "json_object"},
        {"type": "json_schema", "name": "n", "schema": SCHEMA, "strict": True, "description": "d"},
    ],
)
def test_a_response_shows_the_format_as_it_was_asked(form: Json) -> None:
    assert response(HELLO, text={"format": form})["text"]["format"] == form


def test_a_response_counts_everything_once() -> None:
    assert response(HELLO)["usage"] == {
        "input_tokens": USAGE["prompt_tokens"],
        "input_tokens_details": {"cached_tokens": 12, "cache_write_tokens": 0},
        "output_tokens": USAGE["completion_tokens"],
        "output_tokens_details": {"reasoning_tokens": 3},
        "total_tokens": USAGE["total_tokens"],
    }


def test_every_item_of_a_response_has_an_id_of_its_own() -> None:
    said = {"reasoning_content": "b", "content": "a", "tool_calls": [CALL, CALL]}
    ids = [one["id"] for one in response(said)["output"]]
    assert ids == ["rs_req7_0", "msg_req7_1", "fc_req7_2", "fc_req7_3"]


def test_only_the_last_item_of_a_cut_response_is_incomplete() -> None:
    answer = response({"content": "a", "tool_calls": [CALL]}, finish="length")
    assert [one["status"] for one in answer["output"]] == ["completed", "incomplete"]


def test_a_refusal_is_a_part_of_its_own_kind() -> None:
    (item,) = response({"refusal": "No."})["output"]
    assert item["content"] == [{"type": "refusal", "refusal": "No."}]
    assert message({"refusal": "No."})["content"] == [{"type": "text", "text": "No."}]


@pytest.mark.parametrize(
    ("summary", "told"),
    [
        (None, {"summary": [], "content": [{"type": "reasoning_text", "text": "b"}]}),
        ("auto", {"summary": [{"type": "summary_text", "text": "b"}], "content": []}),
    ],
)
def test_reasoning_stands_in_the_place_that_was_asked_for(summary: Any, told: Json) -> None:
    (item,) = response({"reasoning": "b"}, reasoning={"summary": summary})["output"]
    assert {name: item[name] for name in told} == told
