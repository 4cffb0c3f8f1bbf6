"""Anthropic's requests as chat's: what is kept, what is turned, what is refused and by which words."""

import json
from typing import Any

import pytest
from tests.stations.gateway.dialects.chat_streams import (
    COUNT,
    MESSAGES,
    Json,
    chat_body,
    translation,
)

from penstock.gateway.bodies import CHAT_PATH, parse_body
from penstock.gateway.dialects import DIALECTS
from penstock.gateway.dialects.conversation import Conversation
from penstock.gateway.errors import BadRequest

SCHEMA = {"type": "object", "properties": {"x": {"type": "integer"}}}
TOOL = {"name": "f", "input_schema": SCHEMA}


def turns(*content: tuple[str, Any]) -> list[Json]:
    """The chat messages of some turns."""
    said = [{"role": role, "content": blocks} for role, blocks in content]
    messages: list[Json] = chat_body(MESSAGES, messages=said)["messages"]
    return messages


def refusal(**fields: Any) -> BadRequest:
    with pytest.raises(BadRequest) as caught:
        chat_body(MESSAGES, **fields)
    return caught.value


def test_the_chat_body_is_one_that_the_gateway_parses() -> None:
    body = {
        "model": "m",
        "max_tokens": 9,
        "stream": True,
        "messages": [{"role": "user", "content": "x"}],
    }
    by = translation(MESSAGES, body)
    call = parse_body(CHAT_PATH, by.chat_body)
    assert by.path == CHAT_PATH
    assert (call.model, call.stream, call.tokens_max, call.choices) == ("m", True, 9, 1)


def test_a_stream_always_asks_for_its_usage() -> None:
    assert chat_body(MESSAGES, stream_options={})["stream_options"] == {"include_usage": True}
    assert "stream_options" not in chat_body(MESSAGES, stream=False)


def test_unknown_fields_go_to_the_engine_byte_for_byte() -> None:
    raw = (
        b'{"model":"m","max_tokens":1,"messages":[{"role":"user","content":"x"}],'
        b'"min_p": 1e-7,"logit_bias":{"5" : 1.50}}'
    )
    body = DIALECTS[MESSAGES](raw, request_id="r", now_s=lambda: 0).chat_body
    assert b'"min_p":1e-7' in body
    assert b'"logit_bias":{"5" : 1.50}' in body


@pytest.mark.parametrize("name", ["n", "best_of", "max_completion_tokens", "functions"])
def test_fields_that_change_the_framing_do_not_get_through(name: str) -> None:
    assert name not in chat_body(MESSAGES, **{name: 5})


@pytest.mark.parametrize(
    "name", ["cache_control", "container", "service_tier", "speed", "metadata"]
)
def test_fields_about_anthropics_service_are_dropped(name: str) -> None:
    assert name not in chat_body(MESSAGES, **{name: {} if name == "metadata" else "auto"})


def test_the_system_text_comes_first() -> None:
    messages = chat_body(MESSAGES, system="Be short.")["messages"]
    assert messages[0] == {"role": "system", "content": "Be short."}


def test_a_billing_note_in_the_system_blocks_is_not_for_the_model() -> None:
    note = {"type": "text", "text": "x-anthropic-billing-header: cc_version=2; cch=8f1;"}
    rest = {"type": "text", "text": "Be short."}
    assert chat_body(MESSAGES, system=[note, rest])["messages"][0]["content"] == "Be short."
    assert chat_body(MESSAGES, system=[note])["messages"][0]["role"] == "user"


def test_turns_of_one_role_become_one_message() -> None:
    text = [{"type": "text", "text": "b"}, {"type": "text", "text": "c"}]
    assert turns(("user", "a"), ("user", text)) == [{"role": "user", "content": "a\nb\nc"}]


def test_text_beside_an_image_stays_in_parts() -> None:
    image = {
        "type": "image",
        "source": {"type": "base64", "media_type": "image/png", "data": "AA=="},
    }
    (message,) = turns(("user", [{"type": "text", "text": "see"}, image]))
    assert message["content"] == [
        {"type": "text", "text": "see"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}},
    ]


def test_results_stand_right_behind_the_calls_and_what_they_show_comes_after() -> None:
    image = {"type": "image", "source": {"type": "url", "url": "https://a/b"}}
    calls = [{"type": "tool_use", "id": f"t{n}", "name": "f", "input": {"x": n}} for n in range(2)]
    results = [
        {
            "type": "tool_result",
            "tool_use_id": "t0",
            "content": [image, {"type": "text", "text": "one"}],
        },
        {"type": "tool_result", "tool_use_id": "t1", "content": "two"},
        {"type": "text", "text": "go on"},
    ]
    messages = turns(("user", "x"), ("assistant", calls), ("user", results))
    assert [one["role"] for one in messages] == ["user", "assistant", "tool", "tool", "user"]
    assert messages[1]["content"] is None
    assert [one["id"] for one in messages[1]["tool_calls"]] == ["t0", "t1"]
    assert (messages[2]["tool_call_id"], messages[2]["content"]) == ("t0", "one")
    assert [part["type"] for part in messages[4]["content"]] == ["image_url", "text"]


def test_a_result_without_content_is_empty_text_and_an_error_says_so() -> None:
    call = {"type": "tool_use", "id": "t", "name": "f", "input": {}}
    for fields, text in (({}, ""), ({"content": "no", "is_error": True}, "Error: no")):
        result = {"type": "tool_result", "tool_use_id": "t", **fields}
        assert turns(("assistant", [call]), ("user", [result]))[-1]["content"] == text


def test_thoughts_belong_to_the_words_that_follow_them() -> None:
    blocks = [
        {"type": "thinking", "thinking": "hm", "signature": "s"},
        {"type": "redacted_thinking", "data": "x"},
        {"type": "text", "text": "Yes."},
    ]
    messages = turns(("user", "x"), ("assistant", blocks), ("user", "y"))
    assert messages[1] == {"role": "assistant", "content": "Yes.", "reasoning_content": "hm"}


def test_thoughts_without_words_are_left_out() -> None:
    only = [{"type": "thinking", "thinking": "hm", "signature": "s"}]
    messages = turns(("user", "x"), ("assistant", only), ("user", "y"))
    assert messages == [{"role": "user", "content": "x\ny"}]


def test_a_begun_answer_is_continued() -> None:
    said = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "It is"}]
    body = chat_body(MESSAGES, messages=said)
    assert (body["continue_final_message"], body["add_generation_prompt"]) == (True, False)
    assert "continue_final_message" not in chat_body(MESSAGES)


@pytest.mark.parametrize(
    ("thinking", "template"),
    [
        ({"type": "disabled"}, {"enable_thinking": False}),
        ({"type": "enabled", "budget_tokens": 1024}, {"enable_thinking": True}),
        ({"type": "adaptive"}, None),
        ({"type": "between_tools"}, None),
        (None, None),
    ],
)
def test_thinking_is_told_to_the_chat_template(thinking: Any, template: Any) -> None:
    assert chat_body(MESSAGES, thinking=thinking).get("chat_template_kwargs") == template


def test_what_the_client_says_to_the_template_wins() -> None:
    own = {"enable_thinking": True, "k": [1]}
    body = chat_body(MESSAGES, thinking={"type": "disabled"}, chat_template_kwargs=own)
    assert body["chat_template_kwargs"] == own
    fault = refusal(thinking={"type": "disabled"}, chat_template_kwargs=[1])
    assert fault.param == "chat_template_kwargs"


@pytest.mark.parametrize(
    ("budget", "effort"), [(1024, "low"), (4096, "medium"), (16383, "medium"), (16384, "high")]
)
def test_a_budget_of_thinking_becomes_an_effort(budget: int, effort: str) -> None:
    thinking = {"type": "enabled", "budget_tokens": budget}
    assert chat_body(MESSAGES, thinking=thinking)["reasoning_effort"] == effort


@pytest.mark.parametrize(("asked", "effort"), [("low", "low"), ("xhigh", "high"), ("max", "high")])
def test_an_effort_beyond_the_engines_is_their_highest(asked: str, effort: str) -> None:
    assert chat_body(MESSAGES, output_config={"effort": asked})["reasoning_effort"] == effort


@pytest.mark.parametrize(
    ("choice", "chat"),
    [
        ({"type": "auto"}, "auto"),
        ({"type": "any"}, "required"),
        ({"type": "none"}, "none"),
        ({"type": "tool", "name": "f"}, {"type": "function", "function": {"name": "f"}}),
    ],
)
def test_each_tool_choice_has_its_word_in_chat(choice: Any, chat: Any) -> None:
    body = chat_body(MESSAGES, tools=[TOOL], tool_choice=choice)
    assert body["tool_choice"] == chat
    assert body["tools"][0]["function"] == {"name": "f", "parameters": SCHEMA}
    assert "parallel_tool_calls" not in body


def test_parallel_calls_can_be_switched_off() -> None:
    choice = {"type": "auto", "disable_parallel_tool_use": True}
    assert chat_body(MESSAGES, tools=[TOOL], tool_choice=choice)["parallel_tool_calls"] is False


def test_tools_that_anthropic_runs_are_left_out() -> None:
    server = {"type": "web_search_20250305", "name": "web_search"}
    body = chat_body(MESSAGES, tools=[server], tool_choice={"type": "auto"})
    assert "tools" not in body
    assert "tool_choice" not in body
    assert refusal(tools=[server], tool_choice={"type": "any"}).param == "tool_choice"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 10**30}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"max_tokens": "9"}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": 1}]}]}, "messages[0].content[0].type"),
        ({"system": [{"type": "image"}]}, "system[0].type"),
        ({"tools": [{"name": "f"}]}, "tools[0].input_schema"),
        ({"tools": [{"input_schema": {}}]}, "tools[0].name"),
        ({"tools": [{"name": "f", "input_schema": [1]}]}, "tools[0].input_schema"),
        ({"tool_choice": {"type": "tool", "name": "g"}, "tools": [TOOL]}, "tool_choice.name"),
        ({"tool_choice": {"type": "some"}}, "tool_choice.type"),
        ({"thinking": {"type": "enabled", "budget_tokens": 0}}, "thinking.budget_tokens"),
        ({"stop_sequences": "END"}, "stop_sequences"),
        ({"temperature": "hot"}, "temperature"),
        (
            {"output_config": {"format": {"type": "json_schema", "schema": 1}}},
            "output_config.format.schema",
        ),
    ],
)
def test_a_fault_is_told_with_its_place(fields: Json, param: str) -> None:
    fault = refusal(**fields)
    assert (fault.status, fault.param) == (400, param)


@pytest.mark.parametrize(
    ("role", "block", "param"),
    [
        ("user", {"type": "tool_use", "id": "t", "name": "f", "input": {}}, "type"),
        ("user", {"type": "tool_result", "content": "x"}, "tool_use_id"),
        ("user", {"type": "image"}, "source"),
        ("user", {"type": "image", "source": {"type": "file", "file_id": "f"}}, "source.type"),
        ("user", {"type": "document", "source": {"type": "url", "url": "u"}}, "source.type"),
        ("assistant", {"type": "tool_use", "id": "t", "name": "f", "input": [1]}, "input"),
        ("assistant", {"type": "tool_use", "id": "t", "name": "f"}, "input"),
        ("assistant", {"type": "tool_use", "name": "f", "input": {}}, "id"),
        (
            "assistant",
            {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}},
            "type",
        ),
    ],
)
def test_a_block_that_cannot_be_sent_is_named(role: str, block: Json, param: str) -> None:
    fault = refusal(messages=[{"role": role, "content": [block]}])
    assert fault.param == f"messages[0].content[0].{param}"
    assert "messages[0].content[0]" in fault.text()


def test_a_document_of_blocks_is_their_text() -> None:
    inner = [{"type": "text", "text": "b"}]
    source = {"type": "content", "content": inner}
    block = {"type": "document", "title": "a", "source": source}
    assert turns(("user", [block]))[0]["content"] == "a\nb"


def test_counting_needs_no_max_tokens_and_ignores_the_choice() -> None:
    body = {
        "model": "m",
        "system": "s",
        "messages": [{"role": "user", "content": "x"}],
        "tools": [TOOL],
        "tool_choice": {"type": "any"},
    }
    counted = json.loads(translation(COUNT, body).chat_body)
    assert set(counted) == {"model", "messages", "tools", "add_generation_prompt"}
    assert [one["role"] for one in counted["messages"]] == ["system", "user"]


def test_a_conversation_of_results_alone_shows_them_at_the_end() -> None:
    conversation = Conversation()
    conversation.result("c", text="t", shown=[{"type": "image_url", "image_url": {"url": "u"}}])
    assert not conversation.ends_with_words()
    assert [one["role"] for one in conversation.messages()] == ["tool", "user"]


@pytest.mark.parametrize(
    ("block", "text"),
    [
        (
            {"type": "document", "source": {"type": "text", "data": "plain"}, "context": "c"},
            "c\nplain",
        ),
        ({"type": "document", "source": {"type": "content", "content": "c"}}, "c"),
        ({"type": "tool_reference", "tool_name": "f"}, "Tool: f"),
        (
            {
                "type": "search_result",
                "title": "T",
                "source": "u",
                "content": [{"type": "text", "text": "x"}],
            },
            "T (u)\nx",
        ),
    ],
)
def test_other_blocks_with_text_are_their_text(block: Json, text: str) -> None:
    assert turns(("user", [block]))[0]["content"] == text


def test_a_pdf_is_a_file() -> None:
    source = {"type": "base64", "media_type": "application/pdf", "data": "AA=="}
    (message,) = turns(("user", [{"type": "document", "title": "a.pdf", "source": source}]))
    assert message["content"][0]["file"] == {
        "filename": "a.pdf",
        "file_data": "data:application/pdf;base64,AA==",
    }


def test_a_system_turn_stays_in_its_place() -> None:
    said = turns(("user", "x"), ("system", "Now."), ("user", "y"))
    assert [one["role"] for one in said] == ["user", "system", "user"]
