"""Vectors of the dialects: a request in, chat's body out; chat's answer in, the dialect's out.

Not law, but what clients of three APIs rely on: another gateway that translates must agree. A
refusal is an output here (`refused`), because it is the gateway's and not the law's.
"""

import json
from typing import Any

from penstock.gateway.dialects import DIALECTS, Translation, error_answer
from penstock.gateway.errors import GatewayError

REQUEST_ID = "00c0ffee"
CREATED_S = 1_700_000_000


def made(given: Any) -> Translation:
    body = json.dumps(given["request"]).encode()
    return DIALECTS[given["path"]](body, request_id=REQUEST_ID, now_s=lambda: CREATED_S)


def run_request(given: Any) -> Any:
    try:
        by = made(given)
    except GatewayError as error:
        refused = {"status": error.status, "code": error.code, "param": error.param_name()}
        return {"refused": {**refused, "message": error.text()}}
    return {"path": by.path, "chat_body": json.loads(by.chat_body)}


def run_whole(given: Any) -> Any:
    return json.loads(made(given).whole(json.dumps(given["answer"]).encode()))


def run_stream(given: Any) -> Any:
    """Each event that comes in, and what goes out for it; last, what closes the stream."""
    by = made(given)
    told = [by.feed(event.encode()).decode() for event in given["events"]]
    return {"told": told, "end": by.end().decode()}


def run_error(given: Any) -> Any:
    envelope = given["envelope"]
    status, body = error_answer(
        given["path"], given["status"], envelope=envelope, request_id=REQUEST_ID
    )
    return {"status": status, "body": json.loads(body)}


MESSAGES = "/v1/messages"
COUNT = "/v1/messages/count_tokens"
RESPONSES = "/v1/responses"

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
PNG = "iVBORw0KGgo="
HELLO = [{"role": "user", "content": "Hello"}]
USAGE = {
    "prompt_tokens": 20,
    "completion_tokens": 7,
    "total_tokens": 27,
    "prompt_tokens_details": {"cached_tokens": 12},
    "completion_tokens_details": {"reasoning_tokens": 3},
}


def messages(**fields: Any) -> Any:
    return {
        "path": MESSAGES,
        "request": {"model": "m", "max_tokens": 64, "messages": HELLO, **fields},
    }


def responses(**fields: Any) -> Any:
    return {"path": RESPONSES, "request": {"model": "m", "input": "Hello", **fields}}


def chunk(finish: str | None = None, **delta: Any) -> str:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    body = {"id": "c", "object": "chat.completion.chunk", "model": "acme/m", "choices": [choice]}
    return f"data: {json.dumps(body)}\n\n"


def call(index: int, arguments: str, **first: str) -> Any:
    name = {"name": first["name"]} if first else {}
    piece = {"index": index, "function": {**name, "arguments": arguments}}
    return {**piece, "id": first["id"], "type": "function"} if first else piece


def answer(message: Any, *, finish: str = "stop", **choice: Any) -> Any:
    choices = [{"index": 0, "message": message, "finish_reason": finish, **choice}]
    return {"object": "chat.completion", "model": "acme/m", "choices": choices, "usage": USAGE}


COUNTED = f"data: {json.dumps({'model': 'acme/m', 'choices': [], 'usage': USAGE})}\n\n"
DONE = "data: [DONE]\n\n"
RECEIPT = ': penstock-receipt {"body":{}}\n\n'
EVERYTHING = [
    ": keep-alive\n\n",
    chunk(role="assistant", content=""),
    chunk(reasoning_content="They want "),
    chunk(reasoning_content="weather."),
    chunk(content="One "),
    ": keep-alive\n\n",
    chunk(content="moment."),
    chunk(tool_calls=[call(0, "", id="call_a", name="weather")]),
    chunk(tool_calls=[call(0, '{"city":')]),
    chunk(tool_calls=[call(0, ' "Rome"}')]),
    chunk(tool_calls=[call(1, '{"city": "Oslo"}', id="call_b", name="weather")]),
    chunk("tool_calls"),
    COUNTED,
    DONE,
    RECEIPT,
]
INTERLEAVED = [
    chunk(tool_calls=[call(0, '{"a"', id="call_a", name="f")]),
    chunk(tool_calls=[call(1, '{"b"', id="call_b", name="g")]),
    chunk(tool_calls=[call(0, ": 1}"), call(1, ": 2}")]),
    chunk(content="Both."),
    chunk("tool_calls"),
    DONE,
]
CUT = [chunk(content="Half an ans")]
LENGTH = [chunk(content="Too long"), chunk("length"), COUNTED, DONE]
FAILED = [
    chunk(content="Half"),
    'data: {"error": {"message": "The engine stopped.", "type": "server_error", "code": "miner_failed"}}\n\n',
    DONE,
    RECEIPT,
]
REFUSED = [chunk(refusal="I will not."), chunk("content_filter"), COUNTED, DONE]
STREAMS = {
    "everything": EVERYTHING,
    "interleaved_calls": INTERLEAVED,
    "cut": CUT,
    "length": LENGTH,
    "engine_error": FAILED,
    "refusal": REFUSED,
    "nothing_said": [chunk("stop"), DONE],
    "several_events_at_once": ["".join(EVERYTHING)],
}
SPOKEN = {
    "role": "assistant",
    "reasoning_content": "They want weather.",
    "content": "One moment.",
    "tool_calls": [
        {
            "id": "call_a",
            "type": "function",
            "function": {"name": "weather", "arguments": '{"city": "Rome"}'},
        }
    ],
}
ANSWERS = {
    "everything": answer(SPOKEN, finish="tool_calls"),
    "length": answer({"role": "assistant", "content": "Too long"}, finish="length"),
    "empty": answer({"role": "assistant", "content": None}),
    "refusal": answer({"role": "assistant", "refusal": "I will not."}, finish="content_filter"),
    "stop_sequence": answer({"role": "assistant", "content": "a"}, stop_reason="END"),
    "no_usage": {**answer({"role": "assistant", "content": "a"}), "usage": None},
}

MESSAGES_REQUESTS = {
    "plain": messages(),
    "system_blocks": messages(
        system=[
            {"type": "text", "text": "x-anthropic-billing-header: cch=1;"},
            {"type": "text", "text": "Be short.", "cache_control": {"type": "ephemeral"}},
        ]
    ),
    "every_option": messages(
        stream=True,
        temperature=0.5,
        top_p=0.9,
        top_k=40,
        stop_sequences=["END"],
        metadata={"user_id": "u1"},
        thinking={"type": "enabled", "budget_tokens": 8000},
        output_config={"format": {"type": "json_schema", "schema": SCHEMA}},
        service_tier="auto",
        container="c",
        provider={"sort": "latency"},
        repetition_penalty=1.1,
        n=4,
    ),
    "thinking_disabled": messages(thinking={"type": "disabled"}, chat_template_kwargs={"x": 1}),
    "tools": messages(
        tools=[
            {"name": "weather", "description": "d", "input_schema": SCHEMA, "strict": True},
            {"type": "web_search_20250305", "name": "web_search", "max_uses": 5},
        ],
        tool_choice={"type": "any", "disable_parallel_tool_use": True},
    ),
    "tool_by_name": messages(
        tools=[{"type": "custom", "name": "weather", "input_schema": SCHEMA}],
        tool_choice={"type": "tool", "name": "weather"},
    ),
    "tool_loop": messages(
        messages=[
            {"role": "user", "content": [{"type": "text", "text": "Weather?"}]},
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "Ask.", "signature": "s"},
                    {"type": "redacted_thinking", "data": "zzz"},
                    {"type": "text", "text": "Asking."},
                    {"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "Rome"}},
                    {"type": "tool_use", "id": "t2", "name": "photo", "input": {}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {
                        "type": "tool_result",
                        "tool_use_id": "t1",
                        "content": "no net",
                        "is_error": True,
                    },
                    {
                        "type": "tool_result",
                        "tool_use_id": "t2",
                        "content": [
                            {"type": "text", "text": "a photo"},
                            {
                                "type": "image",
                                "source": {
                                    "type": "base64",
                                    "media_type": "image/png",
                                    "data": PNG,
                                },
                            },
                        ],
                    },
                    {"type": "text", "text": "And now?"},
                ],
            },
        ]
    ),
    "images_and_documents": messages(
        messages=[
            {
                "role": "user",
                "content": [
                    {"type": "image", "source": {"type": "url", "url": "https://a/b.png"}},
                    {
                        "type": "document",
                        "title": "Notes",
                        "source": {"type": "text", "media_type": "text/plain", "data": "plain"},
                    },
                    {
                        "type": "document",
                        "source": {"type": "base64", "media_type": "application/pdf", "data": PNG},
                    },
                    {
                        "type": "search_result",
                        "title": "T",
                        "source": "https://s",
                        "content": [{"type": "text", "text": "found"}],
                    },
                ],
            }
        ]
    ),
    "begun_answer": messages(messages=[*HELLO, {"role": "assistant", "content": "It is ("}]),
    "roles_in_a_row": messages(
        messages=[
            *HELLO,
            {"role": "user", "content": "again"},
            {"role": "system", "content": "Now."},
        ]
    ),
    "no_max_tokens": {"path": MESSAGES, "request": {"model": "m", "messages": HELLO}},
    "no_messages": messages(messages=[]),
    "tool_without_schema": messages(tools=[{"type": "computer_20250124", "name": "computer"}]),
    "forced_server_tool": messages(
        tools=[{"type": "web_search_20250305", "name": "web_search"}],
        tool_choice={"type": "tool", "name": "web_search"},
    ),
    "file_source": messages(
        messages=[
            {
                "role": "user",
                "content": [{"type": "image", "source": {"type": "file", "file_id": "f"}}],
            }
        ]
    ),
    "unknown_block": messages(
        messages=[{"role": "user", "content": [{"type": "container_upload", "file_id": "f"}]}]
    ),
}
RESPONSES_REQUESTS = {
    "plain": responses(),
    "every_option": responses(
        instructions="Be short.",
        stream=True,
        max_output_tokens=99,
        temperature=0.5,
        top_p=0.9,
        top_logprobs=2,
        include=["message.output_text.logprobs", "reasoning.encrypted_content"],
        reasoning={"effort": "high", "summary": "auto"},
        text={"format": {"type": "json_schema", "name": "n", "schema": SCHEMA, "strict": True}},
        metadata={"k": "v"},
        store=True,
        user="u1",
        prompt_cache_key="p",
        client_metadata={"a": "b"},
        provider={"sort": "price"},
        top_k=3,
    ),
    "tools": responses(
        tools=[
            {"type": "function", "name": "weather", "parameters": SCHEMA, "strict": False},
            {"type": "web_search"},
            {"type": "namespace", "name": "ns", "tools": []},
        ],
        tool_choice={"type": "function", "name": "weather"},
        parallel_tool_calls=False,
    ),
    "allowed_tools": responses(
        tools=[
            {"type": "function", "name": "a", "parameters": None},
            {"type": "function", "name": "b", "parameters": SCHEMA},
        ],
        tool_choice={
            "type": "allowed_tools",
            "mode": "required",
            "tools": [{"type": "function", "name": "b"}],
        },
    ),
    "only_unknown_tools": responses(tools=[{"type": "custom", "name": "x"}], tool_choice="auto"),
    "items": responses(
        instructions="One.",
        input=[
            {"role": "developer", "content": "Two."},
            {"role": "user", "content": [{"type": "input_text", "text": "Weather?"}]},
            {
                "type": "reasoning",
                "id": "rs_1",
                "summary": [{"type": "summary_text", "text": "Ask."}],
            },
            {
                "type": "message",
                "role": "assistant",
                "id": "msg_1",
                "status": "completed",
                "content": [{"type": "output_text", "text": "Asking.", "annotations": []}],
            },
            {
                "type": "function_call",
                "call_id": "c1",
                "name": "weather",
                "arguments": '{"city":"Rome"}',
            },
            {"type": "function_call", "call_id": "c2", "name": "photo", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c1", "output": "18 C"},
            {
                "type": "function_call_output",
                "call_id": "c2",
                "output": [
                    {"type": "input_image", "image_url": "https://a/b.png", "detail": "low"}
                ],
            },
            {"role": "user", "content": "And now?"},
        ],
    ),
    "no_reasoning": responses(reasoning={"effort": "none"}),
    "json_object": responses(text={"format": {"type": "json_object"}, "verbosity": "low"}),
    "previous_response": responses(previous_response_id="resp_1"),
    "conversation": responses(conversation={"id": "conv_1"}),
    "background": responses(background=True),
    "item_reference": responses(input=[{"type": "item_reference", "id": "msg_1"}]),
    "unknown_item": responses(input=[{"type": "computer_call", "call_id": "c"}]),
    "file_id": responses(
        input=[{"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}]
    ),
    "no_input": {"path": RESPONSES, "request": {"model": "m"}},
    "forced_web_search": responses(
        tools=[{"type": "web_search"}], tool_choice={"type": "web_search"}
    ),
}
COUNT_REQUESTS = {
    "everything": {
        "path": COUNT,
        "request": {
            "model": "m",
            "system": "Be short.",
            "messages": HELLO,
            "tools": [{"name": "weather", "input_schema": SCHEMA}],
            "thinking": {"type": "disabled"},
        },
    },
    "no_model": {"path": COUNT, "request": {"messages": HELLO}},
}
ENVELOPE = {
    "error": {
        "message": "No miner serves it.",
        "type": "server_error",
        "param": "model",
        "code": "no_capacity",
        "request_id": "r1",
    }
}

FUNCTIONS = {
    "messages_request": (run_request, MESSAGES_REQUESTS),
    "messages_whole": (
        run_whole,
        {
            name: {**messages(stop_sequences=["END"]), "answer": one}
            for name, one in ANSWERS.items()
        },
    ),
    "messages_stream": (
        run_stream,
        {name: {**messages(stream=True), "events": events} for name, events in STREAMS.items()},
    ),
    "count_request": (run_request, COUNT_REQUESTS),
    "count_whole": (
        run_whole,
        {"counted": {**COUNT_REQUESTS["everything"], "answer": {"count": 31, "tokens": []}}},
    ),
    "responses_request": (run_request, RESPONSES_REQUESTS),
    "responses_whole": (
        run_whole,
        {name: {**responses(metadata={"k": "v"}), "answer": one} for name, one in ANSWERS.items()},
    ),
    "responses_stream": (
        run_stream,
        {
            **{
                name: {**responses(stream=True), "events": events}
                for name, events in STREAMS.items()
            },
            "summary": {
                **responses(stream=True, reasoning={"summary": "auto"}),
                "events": EVERYTHING,
            },
        },
    ),
    "error": (
        run_error,
        {
            f"{path.rpartition('/')[2]}_{status}": {
                "path": path,
                "status": status,
                "envelope": ENVELOPE,
            }
            for path in (MESSAGES, RESPONSES)
            for status in (400, 401, 402, 403, 404, 413, 429, 500, 503)
        },
    ),
}
