"""The SDKs themselves read what we write: strictly, in whole and in streams, errors too."""

import json
from typing import Any

import anthropic
import httpx2
import openai
import pytest
from anthropic.types import Message, MessageTokensCount, RawMessageStreamEvent
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter
from tests.stations.gateway.dialects.chat_streams import (
    COUNT,
    MESSAGES,
    RESPONSES,
    Json,
    asked,
    call_piece,
    chunk,
    event,
    read_events,
    stream_of,
    told,
    translation,
    whole,
)

from penstock.gateway.dialects import DIALECTS, error_answer
from penstock.gateway.dialects.errors import AnswerUnreadable

WEATHER: dict[str, object] = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
}
CALL = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "weather", "arguments": '{"city": "Rome"}'},
}
SPOKEN: Json = {
    "role": "assistant",
    "reasoning_content": "They want weather.",
    "content": "One moment.",
    "tool_calls": [CALL],
}
LOGPROBS = {
    "content": [
        {
            "token": "hi",
            "logprob": -0.5,
            "bytes": None,
            "top_logprobs": [{"token": "ho", "logprob": -2.0}],
        }
    ]
}
STREAM = stream_of(
    chunk(reasoning_content="They want"),
    chunk(reasoning_content=" weather."),
    chunk(content="One "),
    b": keep-alive\n\n",
    chunk(content="moment."),
    chunk(tool_calls=[call_piece(0, "", call="call_1", name="weather")]),
    chunk(tool_calls=[call_piece(0, '{"city":')]),
    chunk(tool_calls=[call_piece(0, ' "Rome"}')]),
    finish="tool_calls",
)


class Gateway:
    """Answers a client's request as the gateway would, with one chat answer."""

    def __init__(self, answer: bytes, events: list[bytes], status: int = 200) -> None:
        self.answer = answer
        self.events = events
        self.status = status
        self.chat: Json = {}

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        path, body = request.url.path, request.read()
        if self.status != 200:
            envelope = {
                "error": {"message": "It is full.", "type": "server_error", "code": "engine_full"}
            }
            status, text = error_answer(path, self.status, envelope=envelope, request_id="req7")
            return httpx2.Response(status, content=text)
        by = DIALECTS[path](body, request_id="req7", now_s=lambda: 5)
        self.chat = json.loads(by.chat_body)
        if self.chat.get("stream"):
            kind = {"content-type": "text/event-stream"}
            return httpx2.Response(200, headers=kind, content=told(by, self.events))
        kind = {"content-type": "application/json"}
        return httpx2.Response(200, headers=kind, content=by.whole(self.answer))

    def anthropic(self) -> anthropic.Anthropic:
        http = httpx2.Client(transport=httpx2.MockTransport(self))
        return anthropic.Anthropic(
            api_key="k",
            base_url="http://gw",
            http_client=http,
            max_retries=0,
            _strict_response_validation=True,
        )

    def openai(self) -> openai.OpenAI:
        http = httpx2.Client(transport=httpx2.MockTransport(self))
        return openai.OpenAI(
            api_key="k",
            base_url="http://gw/v1",
            http_client=http,
            max_retries=0,
            _strict_response_validation=True,
        )


def test_anthropics_client_reads_a_whole_message() -> None:
    with Gateway(whole(SPOKEN, finish="tool_calls"), []).anthropic() as client:
        message = client.messages.create(
            model="tiny",
            max_tokens=50,
            messages=[{"role": "user", "content": "Weather in Rome?"}],
            tools=[{"name": "weather", "input_schema": WEATHER}],
        )
    thinking, text, call = message.content
    assert thinking.type == "thinking"
    assert thinking.thinking == "They want weather."
    assert text.type == "text"
    assert text.text == "One moment."
    assert call.type == "tool_use"
    assert call.input == {"city": "Rome"}
    assert (message.id, message.stop_reason) == ("msg_req7", "tool_use")
    assert (message.usage.input_tokens, message.usage.cache_read_input_tokens) == (8, 12)
    assert message.usage.output_tokens == 7


def test_anthropics_client_puts_the_same_message_together_from_the_stream() -> None:
    gateway = Gateway(whole(SPOKEN, finish="tool_calls"), STREAM)
    with gateway.anthropic() as client:
        request: Any = {
            "model": "tiny",
            "max_tokens": 50,
            "messages": [{"role": "user", "content": "Weather in Rome?"}],
        }
        with client.messages.stream(**request) as stream:
            streamed = stream.get_final_message()
        said = client.messages.create(**request)
    assert gateway.chat["messages"] == request["messages"]
    assert streamed.to_dict() == said.to_dict()


def test_anthropics_client_can_send_its_message_back_with_the_tools_result() -> None:
    gateway = Gateway(whole(SPOKEN, finish="tool_calls"), [])
    with gateway.anthropic() as client:
        first = client.messages.create(
            model="tiny", max_tokens=50, messages=[{"role": "user", "content": "Weather?"}]
        )
        client.messages.create(
            model="tiny",
            max_tokens=50,
            messages=[
                {"role": "user", "content": "Weather?"},
                first.to_param(),
                {
                    "role": "user",
                    "content": [
                        {"type": "tool_result", "tool_use_id": "call_1", "content": "18 C"}
                    ],
                },
            ],
        )
    user, assistant, tool = gateway.chat["messages"]
    assert user == {"role": "user", "content": "Weather?"}
    assert assistant["reasoning_content"] == "They want weather."
    assert assistant["content"] == "One moment."
    assert json.loads(assistant["tool_calls"][0]["function"]["arguments"]) == {"city": "Rome"}
    assert tool == {"role": "tool", "tool_call_id": "call_1", "content": "18 C"}


def test_anthropics_client_counts_tokens() -> None:
    with Gateway(b'{"count": 11, "max_model_len": 4096, "tokens": []}', []).anthropic() as client:
        counted = client.messages.count_tokens(
            model="tiny", messages=[{"role": "user", "content": "hi"}]
        )
    assert counted == MessageTokensCount(input_tokens=11)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, anthropic.BadRequestError),
        (401, anthropic.AuthenticationError),
        (402, anthropic.PaymentRequiredError),
        (403, anthropic.PermissionDeniedError),
        (404, anthropic.NotFoundError),
        (413, anthropic.ContentTooLargeError),
        (429, anthropic.RateLimitError),
        (500, anthropic.InternalServerError),
        (503, anthropic.OverloadedError),
    ],
)
def test_anthropics_client_raises_its_own_error_by_status(
    status: int, kind: type[anthropic.APIStatusError]
) -> None:
    with Gateway(b"", [], status).anthropic() as client, pytest.raises(kind) as caught:
        client.messages.create(model="m", max_tokens=1, messages=[{"role": "user", "content": "x"}])
    body = caught.value.body
    assert isinstance(body, dict)
    assert body["type"] == "error"
    assert body["error"]["message"] == "It is full."
    assert body["request_id"] == "req7"


def test_anthropics_client_raises_when_the_stream_breaks() -> None:
    events = [chunk(content="Hal"), event({"error": {"message": "gone", "type": "server_error"}})]
    with Gateway(b"", events).anthropic() as client:
        stream = client.messages.create(
            model="m", max_tokens=1, messages=[{"role": "user", "content": "x"}], stream=True
        )
        with pytest.raises(anthropic.APIStatusError, match="gone"):
            list(stream)


def test_openais_client_reads_a_whole_response() -> None:
    with Gateway(whole(SPOKEN, finish="tool_calls"), []).openai() as client:
        tool: Any = {"type": "function", "name": "weather", "parameters": WEATHER, "strict": True}
        response = client.responses.create(
            model="tiny",
            input="Weather in Rome?",
            instructions="Be short.",
            tools=[tool],
            tool_choice="required",
            metadata={"a": "b"},
            store=True,
        )
    reasoning, message, call = response.output
    assert reasoning.type == "reasoning"
    assert message.type == "message"
    assert response.output_text == "One moment."
    assert call.type == "function_call"
    assert (call.call_id, json.loads(call.arguments)) == ("call_1", {"city": "Rome"})
    assert response.status == "completed"
    assert response.usage is not None
    assert response.usage.input_tokens_details.cached_tokens == 12
    assert response.usage.output_tokens_details.reasoning_tokens == 3
    assert response.metadata == {"a": "b"}
    assert response.to_dict()["store"] is False


@pytest.mark.parametrize("summary", [None, "auto"])
def test_openais_client_puts_the_same_response_together_from_the_stream(summary: Any) -> None:
    gateway = Gateway(whole(SPOKEN, finish="tool_calls"), STREAM)
    reasoning: Any = {"effort": "low", "summary": summary}
    with gateway.openai() as client:
        with client.responses.stream(model="tiny", input="Rome?", reasoning=reasoning) as stream:
            deltas = [one.delta for one in stream if one.type == "response.output_text.delta"]
            streamed = stream.get_final_response()
        said = client.responses.create(model="tiny", input="Rome?", reasoning=reasoning)
    assert "".join(deltas) == said.output_text == "One moment."
    assert gateway.chat["reasoning_effort"] == "low"
    assert [one.type for one in streamed.output] == [one.type for one in said.output]
    assert streamed.usage == said.usage
    assert streamed.id == said.id == "resp_req7"


def test_openais_client_parses_structured_output() -> None:
    gateway = Gateway(whole({"role": "assistant", "content": '{"city": "Rome"}'}), [])
    format_: Any = {"type": "json_schema", "name": "place", "schema": WEATHER, "strict": True}
    with gateway.openai() as client:
        response = client.responses.create(model="tiny", input="x", text={"format": format_})
    assert gateway.chat["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "place", "schema": WEATHER, "strict": True},
    }
    assert response.text is not None
    assert response.text.format is not None
    assert response.text.format.type == "json_schema"


def test_openais_client_continues_a_conversation_by_sending_it_whole() -> None:
    gateway = Gateway(whole(SPOKEN, finish="tool_calls"), [])
    with gateway.openai() as client:
        first = client.responses.create(model="tiny", input="Weather?")
        items: Any = [
            {"role": "user", "content": "Weather?"},
            *(item.to_dict() for item in first.output),
            {"type": "function_call_output", "call_id": "call_1", "output": "18 C"},
        ]
        client.responses.create(model="tiny", input=items)
    user, assistant, tool = gateway.chat["messages"]
    assert user["content"] == "Weather?"
    assert assistant["reasoning_content"] == "They want weather."
    assert assistant["content"] == "One moment."
    assert assistant["tool_calls"] == [CALL]
    assert tool == {"role": "tool", "tool_call_id": "call_1", "content": "18 C"}


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, openai.BadRequestError),
        (429, openai.RateLimitError),
        (503, openai.InternalServerError),
    ],
)
def test_openais_client_raises_its_own_error_by_status(
    status: int, kind: type[openai.APIStatusError]
) -> None:
    with Gateway(b"", [], status).openai() as client, pytest.raises(kind, match="It is full"):
        client.responses.create(model="m", input="x")


@pytest.mark.parametrize("finish", ["stop", "length", "content_filter", "tool_calls"])
@pytest.mark.parametrize("path", [MESSAGES, RESPONSES])
def test_every_answer_fits_the_sdks_types(path: str, finish: str) -> None:
    by = asked(path, top_logprobs=2) if path == RESPONSES else asked(path)
    answer = by.whole(whole(SPOKEN, finish=finish, logprobs=LOGPROBS))
    kind: Any = Message if path == MESSAGES else Response
    TypeAdapter(kind).validate_python(json.loads(answer), strict=False)


@pytest.mark.parametrize(
    "events",
    [
        STREAM,
        stream_of(),
        stream_of(chunk(refusal="No."), finish="content_filter"),
        stream_of(chunk(content="hi", extra={"logprobs": LOGPROBS})),
        [chunk(content="cut")],
        [event({"error": "it broke"})],
        [],
    ],
    ids=["everything", "nothing", "refusal", "logprobs", "cut", "error", "empty"],
)
@pytest.mark.parametrize("path", [MESSAGES, RESPONSES])
def test_every_event_fits_the_sdks_types(path: str, events: list[bytes]) -> None:
    stream: Any = RawMessageStreamEvent if path == MESSAGES else ResponseStreamEvent
    adapter = TypeAdapter(stream)
    for one in read_events(told(asked(path), events)):
        if path == MESSAGES and one["type"] in {"ping", "error"}:
            continue  # the client takes these by their name alone
        adapter.validate_python(one)


def test_a_count_can_be_told_by_the_tokens_alone() -> None:
    by = translation(COUNT, {"model": "m", "messages": [{"role": "user", "content": "hi"}]})
    assert by.path == "/tokenize"
    assert json.loads(by.whole(b'{"tokens": [1, 2, 3]}')) == {"input_tokens": 3}
    assert by.feed(b": x\n\n") == b": x\n\n"
    assert by.end() == by.error_event({}) == b""


@pytest.mark.parametrize("answer", [b"", b"{}", b"[]", b'{"count": "x"}'])
def test_a_count_that_is_none_is_the_miners_fault(answer: bytes) -> None:
    by = translation(COUNT, {"model": "m", "messages": [{"role": "user", "content": "hi"}]})
    with pytest.raises(AnswerUnreadable):
        by.whole(answer)
