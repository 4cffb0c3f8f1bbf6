"""Responses requests as chat's: items as turns, functions as tools, nothing stored."""

from typing import Any

import pytest
from tests.stations.gateway.dialects.chat_streams import RESPONSES, Json, chat_body, translation

from penstock.gateway.bodies import CHAT_PATH, parse_body
from penstock.gateway.errors import BadRequest

SCHEMA = {"type": "object", "properties": {}}


def function(name: str) -> Json:
    return {"type": "function", "name": name, "parameters": SCHEMA}


def turns(*items: Json) -> list[Json]:
    messages: list[Json] = chat_body(RESPONSES, input=list(items))["messages"]
    return messages


def refusal(**fields: Any) -> BadRequest:
    with pytest.raises(BadRequest) as caught:
        chat_body(RESPONSES, **fields)
    return caught.value


def test_the_chat_body_is_one_that_the_gateway_parses() -> None:
    by = translation(RESPONSES, {"model": "m", "input": "x", "max_output_tokens": 9})
    call = parse_body(CHAT_PATH, by.chat_body)
    assert by.path == CHAT_PATH
    assert (call.model, call.stream, call.tokens_max, call.choices) == ("m", False, 9, 1)


def test_instructions_and_developers_speak_as_the_system() -> None:
    body = chat_body(
        RESPONSES, instructions="One.", input=[{"role": "developer", "content": "Two."}]
    )
    assert body["messages"] == [{"role": "system", "content": "One.\nTwo."}]


def test_a_text_is_the_users_turn() -> None:
    assert chat_body(RESPONSES, input="hi")["messages"] == [{"role": "user", "content": "hi"}]


def test_reasoning_words_and_calls_in_a_row_are_one_turn_of_the_assistant() -> None:
    messages = turns(
        {"role": "user", "content": "x"},
        {
            "type": "reasoning",
            "id": "r",
            "summary": [],
            "content": [{"type": "reasoning_text", "text": "hm"}],
        },
        {
            "type": "message",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "Wait."}],
        },
        {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
        {"type": "function_call", "call_id": "c2", "name": "f", "arguments": ""},
        {"type": "function_call_output", "call_id": "c1", "output": "1"},
        {
            "type": "function_call_output",
            "call_id": "c2",
            "output": [{"type": "input_text", "text": "2"}],
        },
    )
    assert [one["role"] for one in messages] == ["user", "assistant", "tool", "tool"]
    assert messages[1]["reasoning_content"] == "hm"
    assert messages[1]["content"] == "Wait."
    assert [one["function"]["arguments"] for one in messages[1]["tool_calls"]] == ["{}", "{}"]
    assert [one["content"] for one in messages[2:]] == ["1", "2"]


def test_a_summary_stands_for_reasoning_that_is_not_told() -> None:
    item = {"type": "reasoning", "id": "r", "summary": [{"type": "summary_text", "text": "short"}]}
    messages = turns(item, {"role": "assistant", "content": "x"})
    assert messages[0]["reasoning_content"] == "short"


def test_images_files_and_audio_keep_their_data() -> None:
    parts = [
        {"type": "input_text", "text": "see"},
        {"type": "input_image", "image_url": "data:image/png;base64,AA==", "detail": "low"},
        {
            "type": "input_file",
            "filename": "a.pdf",
            "file_data": "data:application/pdf;base64,AA==",
        },
        {"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}},
    ]
    (message,) = turns({"role": "user", "content": parts})
    assert [part["type"] for part in message["content"]] == [
        "text",
        "image_url",
        "file",
        "input_audio",
    ]
    assert message["content"][1]["image_url"]["detail"] == "low"
    assert message["content"][2]["file"]["filename"] == "a.pdf"


def test_what_a_tool_shows_comes_after_the_results() -> None:
    messages = turns(
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
        {
            "type": "function_call_output",
            "call_id": "c",
            "output": [{"type": "input_image", "image_url": "u"}],
        },
    )
    assert [one["role"] for one in messages] == ["assistant", "tool", "user"]


def test_tools_of_unknown_types_are_ignored() -> None:
    tools = [{"type": "web_search"}, function("f"), {"type": "namespace", "name": "n", "tools": []}]
    body = chat_body(RESPONSES, tools=tools)
    assert [tool["function"]["name"] for tool in body["tools"]] == ["f"]
    assert "tools" not in chat_body(
        RESPONSES, tools=[{"type": "custom", "name": "x"}], tool_choice="auto"
    )


@pytest.mark.parametrize(
    ("choice", "chat", "names"),
    [
        (None, None, ["f", "g"]),
        ("none", "none", ["f", "g"]),
        ("required", "required", ["f", "g"]),
        (
            {"type": "function", "name": "g"},
            {"type": "function", "function": {"name": "g"}},
            ["f", "g"],
        ),
        ({"type": "allowed_tools", "mode": "auto", "tools": [function("g")]}, "auto", ["g"]),
    ],
)
def test_each_tool_choice_has_its_word_in_chat(choice: Any, chat: Any, names: list[str]) -> None:
    body = chat_body(RESPONSES, tools=[function("f"), function("g")], tool_choice=choice)
    assert body.get("tool_choice") == chat
    assert [tool["function"]["name"] for tool in body["tools"]] == names


def test_log_probabilities_are_asked_for_in_two_ways() -> None:
    assert chat_body(RESPONSES, top_logprobs=3)["top_logprobs"] == 3
    body = chat_body(RESPONSES, include=["message.output_text.logprobs"])
    assert (body["logprobs"], body["top_logprobs"]) == (True, 0)
    assert "logprobs" not in chat_body(RESPONSES)


def test_effort_none_also_switches_the_template_off() -> None:
    body = chat_body(RESPONSES, reasoning={"effort": "none"})
    assert body["chat_template_kwargs"] == {"enable_thinking": False}
    assert "chat_template_kwargs" not in chat_body(RESPONSES, reasoning={"effort": "low"})


def test_fields_of_coding_agents_do_not_disturb() -> None:
    body = chat_body(
        RESPONSES,
        store=False,
        include=["reasoning.encrypted_content"],
        prompt_cache_key="k",
        client_metadata={"a": "b"},
        service_tier="auto",
        truncation="auto",
    )
    assert body["prompt_cache_key"] == "k"
    assert not {"store", "include", "client_metadata", "service_tier", "truncation"} & set(body)


def test_unknown_fields_go_to_the_engine() -> None:
    assert chat_body(RESPONSES, min_p=0.1, provider={"zdr": True})["provider"] == {"zdr": True}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"previous_response_id": "r"}, "previous_response_id"),
        ({"conversation": "c"}, "conversation"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"background": True}, "background"),
        ({"input": None}, "input"),
        ({"input": []}, "input"),
        ({"input": 5}, "input"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0]"),
        ({"input": [{"type": "computer_call"}]}, "input[0].type"),
        ({"input": [{"role": "robot", "content": "x"}]}, "input[0].role"),
        ({"input": [{"role": "user"}]}, "input[0].content"),
        ({"input": [{"role": "user", "content": [{"type": "video"}]}]}, "input[0].content[0].type"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}]},
            "input[0].content[0]",
        ),
        ({"input": [{"type": "function_call", "name": "f"}]}, "input[0].call_id"),
        ({"input": [{"type": "function_call", "call_id": "c"}]}, "input[0].name"),
        ({"input": [{"type": "function_call_output", "output": "x"}]}, "input[0].call_id"),
        ({"input": [{"type": "function_call_output", "call_id": "c"}]}, "input[0].output"),
        ({"tools": [{"type": "function"}]}, "tools[0].name"),
        ({"tools": [{"type": "function", "name": "f", "parameters": 1}]}, "tools[0].parameters"),
        ({"tool_choice": "sometimes"}, "tool_choice"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": {"type": "web_search"}}, "tool_choice"),
        ({"tool_choice": {"type": "function", "name": "z"}}, "tool_choice"),
        ({"tool_choice": {"type": "allowed_tools", "mode": "x"}}, "tool_choice.mode"),
        (
            {"tool_choice": {"type": "allowed_tools", "mode": "required", "tools": []}},
            "tool_choice",
        ),
        ({"text": {"format": {"type": "grammar"}}}, "text.format.type"),
        ({"text": {"format": {"type": "json_schema", "schema": {}}}}, "text.format.name"),
        ({"text": {"format": {"type": "json_schema", "name": "n"}}}, "text.format.schema"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"metadata": {"a": 1}}, "metadata[...]"),
    ],
)
def test_a_fault_is_told_with_its_place(fields: Json, param: str) -> None:
    fault = refusal(**fields)
    assert (fault.status, fault.param) == (400, param)
    assert fault.text()
