"""Bodies of every other kind: what is read of them, and what is refused by the name of its field."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.gateway.bodies import COMPLETIONS_PATH, EMBEDDINGS_PATH, MODALITIES, parse_body
from penstock.gateway.bodies_media import AUDIO_MS_MAX, IMAGE_MODEL, IMAGES_MAX
from penstock.gateway.bodies_text import MODERATION_MODEL
from penstock.gateway.calls import CHAT_PATH, INPUTS_MAX, RERANK_PATHS
from penstock.gateway.errors import BadRequest, GatewayError
from penstock.gateway.orders import ceilings
from penstock.kit.multipart import file_part, form_of, text_part
from penstock.spec.messages import Limits, Modality

LIMITS = Limits(context_tokens_max=1_000, output_tokens_max=100, parallel_max=1)
IMAGES = "/v1/images/generations"
SPEECH = "/v1/audio/speech"
TRANSCRIPTIONS = "/v1/audio/transcriptions"
TRANSLATIONS = "/v1/audio/translations"
MODERATIONS = "/v1/moderations"

GOOD: dict[str, dict[str, Any]] = {
    CHAT_PATH: {"messages": [{"role": "user", "content": "Hi"}]},
    COMPLETIONS_PATH: {"prompt": "Once"},
    EMBEDDINGS_PATH: {"input": "Once"},
    **{path: {"query": "q", "documents": ["a", {"text": "b"}]} for path in RERANK_PATHS},
    IMAGES: {"prompt": "a cat"},
    SPEECH: {"input": "Hello", "voice": "alloy"},
    MODERATIONS: {"input": "Hello"},
    "/tokenize": {"prompt": "Hello"},
    "/detokenize": {"tokens": [1, 2]},
}


def raw(path: str, **fields: Any) -> bytes:
    return json.dumps({"model": "m", **GOOD[path], **fields}).encode()


def form(*, file: bytes = b"RIFF", **texts: str) -> bytes:
    sound = file_part("file", "a.wav", file, content_type="audio/wav")
    return form_of([sound, *(text_part(name, value) for name, value in texts.items())]).body()


@pytest.mark.parametrize("path", sorted(GOOD))
def test_a_good_body_is_a_call_of_its_modality(path: str) -> None:
    call = parse_body(path, raw(path, x_unknown={"deep": 1}))
    assert (call.path, call.model, call.modality) == (path, "m", MODALITIES[path])
    assert not call.stream
    generates = path in {CHAT_PATH, COMPLETIONS_PATH}
    assert ceilings(call, LIMITS).completion_max == (100 if generates else 0)


def test_every_modality_has_a_path() -> None:
    assert set(MODALITIES.values()) == set(Modality)


BAD: list[tuple[str, dict[str, Any], str]] = [
    (CHAT_PATH, {"temperature": 2.1}, "temperature"),
    (CHAT_PATH, {"temperature": -0.1}, "temperature"),
    (CHAT_PATH, {"top_p": 1.5}, "top_p"),
    (CHAT_PATH, {"presence_penalty": 3}, "presence_penalty"),
    (CHAT_PATH, {"frequency_penalty": -3}, "frequency_penalty"),
    (CHAT_PATH, {"logprobs": 3}, "logprobs"),
    (CHAT_PATH, {"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    (CHAT_PATH, {"top_logprobs": 2}, "top_logprobs"),
    (CHAT_PATH, {"stop": ["x"] * 17}, "stop"),
    (CHAT_PATH, {"stop": [1]}, "stop"),
    (CHAT_PATH, {"n": 129}, "n"),
    (CHAT_PATH, {"max_tokens": -1}, "max_tokens"),
    (COMPLETIONS_PATH, {"logprobs": 21}, "logprobs"),
    (COMPLETIONS_PATH, {"echo": "yes"}, "echo"),
    (COMPLETIONS_PATH, {"prompt": []}, "prompt"),
    (COMPLETIONS_PATH, {"prompt": 7}, "prompt"),
    (EMBEDDINGS_PATH, {"input": []}, "input"),
    (EMBEDDINGS_PATH, {"input": ["a"] * (INPUTS_MAX + 1)}, "input"),
    (EMBEDDINGS_PATH, {"encoding_format": "hex"}, "encoding_format"),
    (EMBEDDINGS_PATH, {"dimensions": 0}, "dimensions"),
    ("/v1/rerank", {"documents": []}, "documents"),
    ("/v1/rerank", {"documents": [1]}, "documents"),
    ("/v1/rerank", {"documents": [{"title": "no text"}]}, "documents"),
    ("/v1/rerank", {"top_n": 0}, "top_n"),
    ("/v1/rerank", {"query": ""}, "query"),
    (IMAGES, {"n": IMAGES_MAX + 1}, "n"),
    (IMAGES, {"size": "large"}, "size"),
    (IMAGES, {"size": "1x1"}, "size"),
    (IMAGES, {"prompt": ""}, "prompt"),
    (IMAGES, {"response_format": "url"}, "response_format"),
    (IMAGES, {"stream": True}, "stream"),
    (SPEECH, {"input": ""}, "input"),
    (SPEECH, {"response_format": "midi"}, "response_format"),
    (SPEECH, {"speed": 5}, "speed"),
    (SPEECH, {"stream_format": "ws"}, "stream_format"),
    (MODERATIONS, {"input": {}}, "input"),
    (MODERATIONS, {"input": []}, "input"),
    (MODERATIONS, {"input": [{}]}, "input"),
    (MODERATIONS, {"input": ["a", 1]}, "input"),
    (COMPLETIONS_PATH, {"best_of": -1}, "best_of"),
    ("/tokenize", {"messages": [{"role": "user"}]}, "prompt"),
    ("/tokenize", {"prompt": None}, "prompt"),
    ("/tokenize", {"prompt": None, "messages": [{}]}, "messages"),
    ("/tokenize", {"prompt": None, "messages": []}, "messages"),
    ("/detokenize", {"tokens": "1"}, "tokens"),
    ("/detokenize", {"tokens": [-1]}, "tokens"),
    *((path, {"model": ""}, "model") for path in GOOD),
    *((path, {"model": 5}, "model") for path in GOOD),
]


@pytest.mark.parametrize(("path", "fields", "param"), BAD)
def test_a_value_that_cannot_be_served_is_refused_by_its_name(
    path: str, fields: dict[str, Any], param: str
) -> None:
    with pytest.raises(BadRequest) as caught:
        parse_body(path, raw(path, **fields))
    assert caught.value.status == 400
    assert caught.value.param_name() == param


@pytest.mark.parametrize(
    ("prompt", "choices"),
    [("a", 1), (["a", "b"], 2), ([1, 2, 3], 1), ([[1], [2, 3]], 2)],
)
def test_prompts_are_counted_whether_texts_or_tokens(prompt: object, choices: int) -> None:
    assert parse_body(COMPLETIONS_PATH, raw(COMPLETIONS_PATH, prompt=prompt)).choices == choices


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
def test_no_tokens_at_all_are_read_as_one_and_no_best_of_as_one_answer(field: str) -> None:
    assert parse_body(CHAT_PATH, raw(CHAT_PATH, **{field: 0})).tokens_max == 1
    call = parse_body(COMPLETIONS_PATH, raw(COMPLETIONS_PATH, best_of=0, **{field: 0}))
    assert (call.choices, call.tokens_max) == (1, 1)


@pytest.mark.parametrize("value", ["a", ["a", {"type": "text", "text": "b"}], [{"type": "x"}]])
def test_a_moderation_takes_texts_and_parts(value: object) -> None:
    assert parse_body(MODERATIONS, raw(MODERATIONS, input=value)).choices == 1


@pytest.mark.parametrize("value", ["a", ["a", "b"], [1, 2, 3] * INPUTS_MAX, [[1], [2, 3]]])
def test_inputs_may_be_texts_or_tokens(value: object) -> None:
    assert parse_body(EMBEDDINGS_PATH, raw(EMBEDDINGS_PATH, input=value)).choices == 1


def test_images_are_bounded_by_their_number() -> None:
    assert parse_body(IMAGES, raw(IMAGES)).images_max == 1
    call = parse_body(IMAGES, raw(IMAGES, n=4, size="auto", response_format="b64_json"))
    assert ceilings(call, LIMITS).images_max == 4


def test_models_that_may_be_left_out_have_their_usual_names() -> None:
    assert parse_body(IMAGES, json.dumps(GOOD[IMAGES]).encode()).model == IMAGE_MODEL
    body = json.dumps(GOOD[MODERATIONS]).encode()
    assert parse_body(MODERATIONS, body).model == MODERATION_MODEL


def test_speech_is_bounded_by_what_is_to_be_said_and_how_slowly() -> None:
    usual = parse_body(SPEECH, raw(SPEECH, input="x" * 100)).audio_ms_max
    assert usual == 100 * 200 + 1_000
    assert parse_body(SPEECH, raw(SPEECH, input="x" * 100, speed=4)).audio_ms_max == usual
    slow = parse_body(SPEECH, raw(SPEECH, input="x" * 100, speed=0.25))
    assert ceilings(slow, LIMITS).audio_ms_max == 4 * 100 * 200 + 1_000
    assert parse_body(SPEECH, raw(SPEECH, input="x" * 16_000, speed=0.25)).audio_ms_max <= (
        AUDIO_MS_MAX
    )


def test_speech_is_a_stream_only_as_events() -> None:
    assert parse_body(SPEECH, raw(SPEECH, stream_format="sse")).stream
    assert not parse_body(SPEECH, raw(SPEECH, stream_format="audio")).stream


def test_an_upload_is_bounded_by_its_bytes() -> None:
    body = form(model="m", stream="true", response_format="vtt", temperature="0.2")
    call = parse_body(TRANSCRIPTIONS, body)
    assert (call.model, call.stream, call.audio_ms_max) == ("m", True, 2 * len(body))
    assert not parse_body(TRANSLATIONS, body).stream
    long = form(file=bytes(AUDIO_MS_MAX), model="m")
    assert parse_body(TRANSCRIPTIONS, long).audio_ms_max == AUDIO_MS_MAX


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"", "file"),
        (b'{"model": "m"}', "file"),
        (form(), "model"),
        (form(model=""), "model"),
        (form(file=b"", model="m"), "file"),
        (form_of([text_part("model", "m")]).body(), "file"),
        (form(model="m", response_format="docx"), "response_format"),
        (form(model="m", temperature="hot"), "temperature"),
        (form(model="m", temperature="7"), "temperature"),
        (form(model="m", stream="perhaps"), "stream"),
    ],
)
def test_an_upload_that_does_not_fit_is_refused_by_its_field(body: bytes, param: str) -> None:
    with pytest.raises(BadRequest) as caught:
        parse_body(TRANSCRIPTIONS, body)
    assert caught.value.param_name() == param


def test_the_wishes_of_a_router_are_cut_out_of_every_body() -> None:
    for path in (set(GOOD) - {"/tokenize", "/detokenize"}) | {CHAT_PATH}:
        call = parse_body(path, raw(path, provider={"only": ["a"]}))
        assert json.loads(call.provider) == {"only": ["a"]}


@given(st.sampled_from(sorted(MODALITIES)), st.binary(max_size=80))
def test_any_bytes_are_a_call_or_a_refusal(path: str, body: bytes) -> None:
    try:
        parse_body(path, body)
    except GatewayError as error:
        assert error.status == 400


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)


@given(st.sampled_from(sorted(GOOD)), st.data())
def test_any_values_are_a_call_or_a_refusal(path: str, data: st.DataObject) -> None:
    fields = dict(GOOD[path])
    name = data.draw(st.sampled_from([*fields, "model", "n", "stream", "temperature", "size"]))
    try:
        parse_body(path, raw(path, **{name: data.draw(json_values)}))
    except GatewayError as error:
        assert error.status == 400
