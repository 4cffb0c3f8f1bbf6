"""anthropic-python: messages, streams, tools, token counts, models, errors in Anthropic's envelope."""

import anthropic
import pytest
from anthropic import Anthropic

HELLO = [{"role": "user", "content": "Water turns the wheel"}]


@pytest.fixture(scope="module")
def client(gateway):
    with Anthropic(base_url=gateway.url, api_key=gateway.key, max_retries=0) as client:
        yield client


def asked(gateway, **more):
    return {"model": gateway.chat, "max_tokens": 64, "messages": HELLO, **more}


def test_a_message(client, gateway):
    answer = client.messages.create(**asked(gateway, system="Say it."))
    assert answer.type == "message"
    assert answer.content[0].text == "Water turns the wheel"
    assert answer.stop_reason == "end_turn"
    assert answer.usage.output_tokens == 4
    assert answer._request_id


def test_a_message_of_the_real_engine(client, gateway):
    answer = client.messages.create(**asked(gateway, model=gateway.real_chat, max_tokens=8))
    assert answer.content[0].text
    assert answer.stop_reason in {"end_turn", "max_tokens"}


def test_the_raw_events_come_in_order(client, gateway):
    kinds = [event.type for event in client.messages.create(**asked(gateway, stream=True))]
    without_pings = [kind for kind in kinds if kind != "ping"]
    assert without_pings[:2] == ["message_start", "content_block_start"]
    assert without_pings[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert set(without_pings[2:-3]) == {"content_block_delta"}


def test_the_stream_helper_collects_the_message(client, gateway):
    with client.messages.stream(**asked(gateway)) as stream:
        said = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert said == final.content[0].text == "Water turns the wheel"
    assert final.usage.input_tokens > 0


@pytest.mark.parametrize("is_streamed", [False, True])
def test_a_tool_use_and_its_result(client, gateway, tool, is_streamed):
    tools = [
        {
            "name": tool["name"],
            "description": tool["description"],
            "input_schema": tool["parameters"],
        }
    ]
    more = asked(gateway, tools=tools, tool_choice={"type": "tool", "name": tool["name"]})
    if is_streamed:
        with client.messages.stream(**more) as stream:
            answer = stream.get_final_message()
    else:
        answer = client.messages.create(**more)
    assert answer.stop_reason == "tool_use"
    use = next(block for block in answer.content if block.type == "tool_use")
    assert use.name == tool["name"]
    assert isinstance(use.input["city"], str)
    turns = [
        *HELLO,
        {"role": "assistant", "content": [use.model_dump(include={"type", "id", "name", "input"})]},
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": use.id, "content": "sunny"},
                {"type": "text", "text": "Thanks"},
            ],
        },
    ]
    after = client.messages.create(
        **asked(gateway, messages=turns, tools=tools, tool_choice={"type": "none"})
    )
    assert after.content[0].text == "Thanks"


def test_tokens_are_counted(client, gateway):
    few = client.messages.count_tokens(model=gateway.real_chat, messages=HELLO)
    many = client.messages.count_tokens(model=gateway.real_chat, messages=HELLO * 3)
    assert 0 < few.input_tokens < many.input_tokens


def test_models_in_pages(client, gateway):
    assert gateway.chat in {model.id for model in client.models.list(limit=2)}
    assert client.models.retrieve(gateway.chat).display_name


def test_a_bearer_token_works_too(gateway):
    with Anthropic(base_url=gateway.url, auth_token=gateway.key, api_key=None) as client:
        assert client.messages.create(**asked(gateway)).content


def test_errors_are_anthropics(client, gateway):
    bad = Anthropic(base_url=gateway.url, api_key="sk-penstock-wrong", max_retries=0)
    with pytest.raises(anthropic.AuthenticationError) as caught:
        bad.messages.create(**asked(gateway))
    assert caught.value.body["type"] == "error"
    assert caught.value.body["error"]["type"] == "authentication_error"
    with pytest.raises(anthropic.NotFoundError) as caught:
        client.messages.create(**asked(gateway, model="no-such-model"))
    assert caught.value.body["error"]["type"] == "not_found_error"
    with pytest.raises(anthropic.BadRequestError) as caught:
        client.messages.create(**asked(gateway, messages=[]))
    assert caught.value.body["error"]["type"] == "invalid_request_error"
    assert caught.value.request_id
