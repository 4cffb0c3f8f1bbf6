"""openai-python, both majors: typed results, streams, tools, every modality, errors."""

import asyncio
import io
import json
import time

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel

HELLO = [{"role": "user", "content": "Water turns the wheel"}]
BATCH_DEADLINE_S = 90


class City(BaseModel):
    city: str
    people: int


@pytest.fixture(scope="module")
def client(gateway):
    with OpenAI(base_url=gateway.v1, api_key=gateway.key, max_retries=0) as client:
        yield client


def test_chat(client, gateway):
    answer = client.chat.completions.create(model=gateway.chat, messages=HELLO)
    assert answer.choices[0].message.content == "Water turns the wheel"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer._request_id


def test_chat_on_the_real_engine(client, gateway):
    answer = client.chat.completions.create(
        model=gateway.real_chat, messages=HELLO, max_completion_tokens=8, temperature=0, seed=1
    )
    assert answer.choices[0].message.content
    assert answer.choices[0].finish_reason in {"stop", "length"}
    assert 0 < answer.usage.completion_tokens <= 8


@pytest.mark.parametrize("model", ["chat", "real_chat"])
def test_a_stream_says_what_the_whole_answer_says(client, gateway, model):
    asked = {
        "model": getattr(gateway, model),
        "messages": HELLO,
        "max_tokens": 8,
        "temperature": 0,
        "seed": 1,
    }
    whole = client.chat.completions.create(**asked).choices[0].message.content
    chunks = list(
        client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True})
    )
    assert chunks[0].choices[0].delta.role == "assistant"
    said = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert said == whole
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens > 0


def test_a_stream_without_usage_has_none(client, gateway):
    stream = client.chat.completions.create(model=gateway.chat, messages=HELLO, stream=True)
    assert all(chunk.usage is None and chunk.choices for chunk in stream)


def test_the_stream_helper_collects_the_answer(client, gateway):
    with client.chat.completions.stream(model=gateway.chat, messages=HELLO) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_completion()
    assert {"chunk", "content.delta", "content.done"} <= kinds
    assert final.choices[0].message.content == "Water turns the wheel"


def test_several_choices_and_logprobs(client, gateway):
    answer = client.chat.completions.create(
        model=gateway.chat, messages=HELLO, n=2, logprobs=True, top_logprobs=2
    )
    assert [choice.index for choice in answer.choices] == [0, 1]
    first = answer.choices[0].logprobs.content[0]
    assert first.token == "Water"
    assert len(first.top_logprobs) == 2


@pytest.mark.parametrize("stream", [False, True])
def test_a_tool_call_and_its_answer(client, gateway, tool, stream):
    asked = {
        "model": gateway.chat,
        "messages": HELLO,
        "tools": [{"type": "function", "function": tool}],
        "tool_choice": {"type": "function", "function": {"name": tool["name"]}},
    }
    if stream:
        with client.chat.completions.stream(**asked) as events:
            choice = events.get_final_completion().choices[0]
    else:
        choice = client.chat.completions.create(**asked).choices[0]
    assert choice.finish_reason == "tool_calls"
    call = choice.message.tool_calls[0]
    assert call.function.name == tool["name"]
    assert isinstance(json.loads(call.function.arguments)["city"], str)
    turns = [
        *HELLO,
        choice.message.model_dump(exclude_none=True, exclude={"parsed"}),
        {"role": "tool", "tool_call_id": call.id, "content": "sunny"},
        {"role": "user", "content": "Thanks"},
    ]
    for one in turns[1]["tool_calls"]:
        one["function"].pop("parsed_arguments", None)
    answer = client.chat.completions.create(
        model=gateway.chat, messages=turns, tools=asked["tools"], tool_choice="none"
    )
    assert answer.choices[0].message.content == "Thanks"


def test_structured_output_is_parsed(client, gateway):
    answer = client.chat.completions.parse(model=gateway.chat, messages=HELLO, response_format=City)
    assert isinstance(answer.choices[0].message.parsed, City)


def test_completions_of_texts_and_token_ids(client, gateway):
    answer = client.completions.create(
        model=gateway.chat, prompt=["one two", "three"], echo=True, logprobs=1, max_tokens=1
    )
    assert [choice.index for choice in answer.choices] == [0, 1]
    marks = answer.choices[0].logprobs
    assert marks.text_offset[0] == 0
    assert len(marks.tokens) == len(marks.token_logprobs)
    by_ids = client.completions.create(model=gateway.real_chat, prompt=[5, 6, 7], max_tokens=2)
    assert by_ids.usage.prompt_tokens >= 3
    streamed = client.completions.create(model=gateway.chat, prompt="one two", stream=True)
    assert "".join(chunk.choices[0].text for chunk in streamed if chunk.choices) == "one two"


def test_responses_whole_and_streamed(client, gateway):
    answer = client.responses.create(model=gateway.chat, input="Water turns", instructions="Say it")
    assert answer.status == "completed"
    assert answer.output_text == "Water turns"
    assert answer.usage.total_tokens > 0
    events = list(client.responses.create(model=gateway.chat, input="Water turns", stream=True))
    assert events[0].type == "response.created"
    assert events[-1].type == "response.completed"
    assert events[-1].response.output_text == "Water turns"
    assert [event.sequence_number for event in events] == list(range(len(events)))


def test_responses_with_a_function(client, gateway, tool):
    answer = client.responses.create(
        model=gateway.chat,
        input="Water",
        tools=[{"type": "function", "strict": True, **tool}, {"type": "web_search"}],
        tool_choice={"type": "function", "name": tool["name"]},
    )
    call = next(item for item in answer.output if item.type == "function_call")
    assert call.name == tool["name"]
    assert isinstance(json.loads(call.arguments), dict)


def test_responses_that_are_stored_are_refused(client, gateway):
    with pytest.raises(openai.BadRequestError):
        client.responses.create(model=gateway.chat, input="x", previous_response_id="resp_1")


@pytest.mark.parametrize("model", ["embeddings", "real_embeddings"])
def test_embeddings_in_both_encodings_are_the_same(client, gateway, model):
    asked = {"model": getattr(gateway, model), "input": ["a cat", "a kitten"]}
    packed = client.embeddings.create(**asked)
    plain = client.embeddings.create(**asked, encoding_format="float")
    assert [one.index for one in packed.data] == [0, 1]
    for one, other in zip(packed.data, plain.data, strict=True):
        assert one.embedding == pytest.approx(other.embedding, abs=1e-5)
        assert sum(x * x for x in one.embedding) == pytest.approx(1, abs=1e-3)
    assert packed.usage.prompt_tokens > 0


def test_embeddings_of_token_ids_and_of_another_size(client, gateway):
    by_ids = client.embeddings.create(model=gateway.real_embeddings, input=[[101, 102], [103]])
    assert len(by_ids.data) == 2
    short = client.embeddings.create(model=gateway.embeddings, input="a cat", dimensions=8)
    assert len(short.data[0].embedding) == 8


def test_models(client, gateway):
    listed = {model.id for model in client.models.list()}
    assert {gateway.chat, gateway.real_chat, gateway.embeddings} <= listed
    assert client.models.retrieve(gateway.chat).id == gateway.chat


def test_moderations(client):
    mild, harsh = client.moderations.create(input=["a fine day", "I will kill you"]).results
    assert not mild.flagged
    assert harsh.flagged
    assert harsh.categories.violence
    assert harsh.category_scores.violence > mild.category_scores.violence


def test_speech_and_back(client):
    said = client.audio.speech.create(
        model="tts-1", voice="alloy", input="Water turns the wheel.", response_format="wav"
    ).read()
    assert said[:4] == b"RIFF"
    upload = ("speech.wav", io.BytesIO(said), "audio/wav")
    heard = client.audio.transcriptions.create(model="whisper-1", file=upload)
    assert heard.text == "Water turns the wheel."
    upload = ("speech.wav", io.BytesIO(said), "audio/wav")
    verbose = client.audio.transcriptions.create(
        model="whisper-1", file=upload, response_format="verbose_json"
    )
    assert verbose.segments[0].text
    upload = ("speech.wav", io.BytesIO(said), "audio/wav")
    events = list(client.audio.transcriptions.create(model="whisper-1", file=upload, stream=True))
    assert events[-1].type == "transcript.text.done"
    assert events[-1].text == heard.text


def test_images(client):
    answer = client.images.generate(model="gpt-image-1", prompt="a wheel", n=2, size="256x256")
    assert len(answer.data) == 2
    assert answer.data[0].b64_json


def test_a_batch_from_upload_to_output(client, gateway):
    asked = {"model": gateway.chat, "messages": HELLO}
    lines = [
        {"custom_id": name, "method": "POST", "url": "/v1/chat/completions", "body": asked}
        for name in ("first", "second")
    ]
    data = "\n".join(json.dumps(line) for line in lines).encode()
    file = client.files.create(file=("batch.jsonl", data), purpose="batch")
    assert client.files.retrieve(file.id).bytes == len(data)
    assert client.files.content(file.id).read() == data
    assert file.id in {one.id for one in client.files.list(purpose="batch")}
    batch = client.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
    )
    end_s = time.monotonic() + BATCH_DEADLINE_S
    while batch.status not in {"completed", "failed", "expired"} and time.monotonic() < end_s:
        time.sleep(0.5)
        batch = client.batches.retrieve(batch.id)
    assert batch.status == "completed"
    assert batch.request_counts.completed == 2
    output = client.files.content(batch.output_file_id).text.splitlines()
    assert {json.loads(line)["custom_id"] for line in output} == {"first", "second"}
    for line in output:
        answer = json.loads(line)["response"]["body"]
        assert answer["choices"][0]["message"]["content"] == "Water turns the wheel"
    assert client.files.delete(file.id).deleted


def test_async(gateway):
    async def ask():
        async with AsyncOpenAI(base_url=gateway.v1, api_key=gateway.key) as client:
            asked = {"model": gateway.chat, "messages": HELLO}
            answers = await asyncio.gather(
                *(client.chat.completions.create(**asked) for _ in range(4))
            )
            stream = await client.chat.completions.create(**asked, stream=True)
            said = [c.choices[0].delta.content or "" async for c in stream if c.choices]
            return [answer.choices[0].message.content for answer in answers], "".join(said)

    whole, streamed = asyncio.run(ask())
    assert set(whole) == {streamed} == {"Water turns the wheel"}


def test_a_stream_that_is_left_does_no_harm(client, gateway):
    stream = client.chat.completions.create(model=gateway.real_chat, messages=HELLO, stream=True)
    next(iter(stream))
    stream.close()
    assert client.chat.completions.create(model=gateway.chat, messages=HELLO).choices


def test_a_bad_key(gateway):
    bad = OpenAI(base_url=gateway.v1, api_key="sk-penstock-wrong", max_retries=0)
    with pytest.raises(openai.AuthenticationError) as caught:
        bad.chat.completions.create(model=gateway.chat, messages=HELLO)
    assert caught.value.code == "invalid_api_key"
    assert caught.value.request_id


@pytest.mark.parametrize("stream", [False, True])
def test_an_unknown_model(client, stream):
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="no-such-model", messages=HELLO, stream=stream)
    assert caught.value.code == "model_not_found"


@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        ({"messages": []}, "messages"),
        ({"temperature": 9}, "temperature"),
        ({"n": 0}, "n"),
        ({"max_tokens": "many"}, "max_tokens"),
        ({"stream": "yes"}, "stream"),
    ],
)
def test_a_bad_body(client, gateway, wrong, param):
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(**{"model": gateway.chat, "messages": HELLO, **wrong})
    assert caught.value.param == param
    assert caught.value.type == "invalid_request_error"


def test_the_wrong_kind_of_model(client, gateway):
    with pytest.raises(openai.BadRequestError) as caught:
        client.embeddings.create(model=gateway.chat, input="x")
    assert caught.value.param == "model"


def test_what_is_not_served_is_refused_once(gateway):
    """501 with `x-should-retry: false`: a client does not try again what will never be."""
    asked = []
    http = http_client(lambda request: asked.append(request.url.path))
    client = OpenAI(base_url=gateway.v1, api_key=gateway.key, max_retries=2, http_client=http)
    with pytest.raises(openai.InternalServerError) as caught:
        client.fine_tuning.jobs.list()
    assert caught.value.code == "unsupported_endpoint"
    assert asked == ["/v1/fine_tuning/jobs"]


def http_client(on_request):
    """The HTTP library of this major of the client, which tells of each request."""
    hooks = {"request": [on_request]}
    try:
        return openai.DefaultHttpx2Client(event_hooks=hooks)
    except AttributeError:
        return openai.DefaultHttpxClient(event_hooks=hooks)


def test_unknown_fields_go_through(client, gateway):
    answer = client.chat.completions.create(
        model=gateway.chat, messages=HELLO, extra_body={"top_k": 5, "min_p": 0.1, "foo": {"a": 1}}
    )
    assert answer.choices[0].message.content
