"""The echo engine's pictures, sounds and words: made from the question alone, and true to form."""

import base64
import struct
import zlib
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.adapters.engines.echo_answers import embeddings_answer, read_chat, read_completion
from penstock.adapters.engines.echo_media import (
    beeps,
    heard_text,
    images_answer,
    mp3,
    picture,
    speech_answer,
    transcript_answer,
    wav,
)
from penstock.adapters.engines.echo_schema import instance, tool_called
from penstock.adapters.engines.echo_words import (
    ids_of,
    moderation_answer,
    rerank_answer,
    text_of,
    texts_of,
    tokenize_answer,
)
from penstock.kit.audio import audio_kind, audio_ms
from penstock.kit.multipart import file_part, form_of, text_part
from penstock.kit.wire.problem import Refusal

SAFE_ID_MAX = 2**53


def raw(body: object) -> bytes:
    return msgspec.json.encode(body)


def refusal_of(error: Refusal) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.json.decode(error.response.body)["error"]
    return found


@given(st.text(max_size=200))
def test_every_text_comes_back_from_its_ids(text: str) -> None:
    ids = ids_of(text)
    assert text_of(ids) == text
    assert all(0 < number < SAFE_ID_MAX for number in ids), "JavaScript keeps them exact"


def test_ids_that_are_not_ours_are_shown_as_words() -> None:
    assert texts_of([104, 105]) == [" #104 #105"]
    assert texts_of(["a", [5], 6]) == ["a", " #5", " #6"]


@given(st.text(st.characters(codec="utf-8"), min_size=1, max_size=60))
def test_what_is_said_is_heard_again(text: str) -> None:
    for sound in (wav(text), mp3(text), beeps(text)):
        assert heard_text(sound) == text
        assert audio_ms(sound, is_pcm=True) <= 200 * len(text) + 1_000, "within an order's ceiling"


def test_other_audio_is_told_by_its_length() -> None:
    noise = wav("x")[:44] + bytes(48_000)
    sound = file_part("file", "a.wav", noise, content_type="audio/wav")
    heard = transcript_answer(form_of([sound]).body(), task="transcribe")
    assert heard.text == f"{heard.length_ms} milliseconds of audio"


@pytest.mark.parametrize("wanted", ["json", "text", "srt", "vtt", "verbose_json"])
def test_a_transcript_comes_in_every_format(wanted: str) -> None:
    sound = file_part("file", "a.wav", wav("Hi. There."), content_type="audio/wav")
    body = form_of([sound, text_part("response_format", wanted)]).body()
    content_type, answer = transcript_answer(body, task="translate").whole()
    assert b"Hi. There." in answer
    assert ("json" in content_type) is ("json" in wanted)
    if wanted == "srt":
        assert b"00:00:00,000 --> 00:00:00,096" in answer


def test_a_form_without_audio_is_refused() -> None:
    for body in (b"", form_of([text_part("model", "m")]).body()):
        with pytest.raises(Refusal):
            transcript_answer(body, task="transcribe")


@given(st.integers(1, 64), st.integers(1, 64), st.text(max_size=10))
def test_a_picture_is_a_png_of_that_size(width: int, height: int, prompt: str) -> None:
    png = picture(prompt, 0, width=width, height=height)
    assert png == picture(prompt, 0, width=width, height=height)
    assert struct.unpack(">II", png[16:24]) == (width, height)
    start = png.index(b"IDAT") + 4
    size = int.from_bytes(png[start - 8 : start - 4], "big")
    assert len(zlib.decompress(png[start : start + size])) == height * (width + 1)


def test_pictures_of_one_prompt_differ_and_their_number_and_size_are_bounded() -> None:
    answer = images_answer(raw({"prompt": "a cat", "n": 2, "size": "16x16"}))
    first, second = (base64.b64decode(one["b64_json"]) for one in answer["data"])
    assert first != second
    for fields in ({"n": 99}, {"size": "9999x1"}, {"size": "big"}, {"response_format": "url"}):
        with pytest.raises(Refusal):
            images_answer(raw({"prompt": "a cat", **fields}))


def test_a_format_it_cannot_speak_is_named() -> None:
    with pytest.raises(Refusal) as refused:
        speech_answer(raw({"input": "a", "response_format": "opus"}))
    told = refusal_of(refused.value)
    assert told["param"] == "response_format"
    assert "wav, pcm, mp3" in told["message"]


@pytest.mark.parametrize(
    ("wanted", "content_type", "kind"),
    [
        ({}, "audio/mpeg", "mp3"),
        ({"response_format": None}, "audio/mpeg", "mp3"),
        ({"response_format": "mp3"}, "audio/mpeg", "mp3"),
        ({"response_format": "wav"}, "audio/wav", "wav"),
        ({"response_format": "pcm"}, "audio/pcm", ""),
    ],
)
def test_the_bytes_are_what_the_content_type_says_and_who_asks_for_nothing_gets_mp3(
    wanted: dict[str, object], content_type: str, kind: str
) -> None:
    sound = speech_answer(raw({"input": "a", **wanted}))
    assert sound.content_type == content_type
    assert audio_kind(sound.data) == kind


def test_documents_score_by_the_words_they_share() -> None:
    documents = ["red fish", "red fish blue fish", "none"]
    results = rerank_answer(raw({"query": "red fish", "documents": documents}))["results"]
    scores = [one["relevance_score"] for one in results]
    assert scores[0] == 1 > scores[1] > scores[2] == 0


def test_moderation_judges_texts_one_by_one_and_parts_together() -> None:
    def flags(value: object) -> list[bool]:
        results = moderation_answer(raw({"input": value}))["results"]
        return [one["flagged"] for one in results]

    assert flags("They hate it!") == [True]
    assert flags(["fine", "a bomb."]) == [False, True]
    assert flags([{"type": "text", "text": "fine"}, {"type": "text", "text": "a bomb"}]) == [True]
    result = moderation_answer(raw({"input": "a bomb"}))["results"][0]
    assert [name for name, found in result["categories"].items() if found] == ["illicit/violent"]


def test_messages_have_the_tokens_of_their_texts() -> None:
    messages = [{"role": "user", "content": [{"type": "text", "text": "a b"}]}]
    assert tokenize_answer(raw({"messages": messages}))["tokens"] == ids_of("a b")


def test_choices_and_prompts_multiply() -> None:
    answer = read_completion(raw({"prompt": ["a", "b c"], "n": 2})).whole("x")
    assert [choice["text"] for choice in answer["choices"]] == ["a", "a", "b c", "b c"]
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]
    assert answer["usage"]["completion_tokens"] == 6


def test_log_probabilities_are_the_same_streamed_and_whole() -> None:
    answer = read_completion(raw({"prompt": "a b", "echo": True, "logprobs": 2, "max_tokens": 1}))
    (whole,) = answer.whole("x")["choices"]
    events = [*answer.opening("x"), *answer.deltas("x")]
    parts = [msgspec.json.decode(event[6:])["choices"][0] for event in events]
    assert "".join(part["text"] for part in parts) == whole["text"] == "a b a"
    for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
        assert [one for part in parts for one in part["logprobs"][name]] == whole["logprobs"][name]
    assert whole["logprobs"]["token_logprobs"][0] is None


def test_chat_tells_log_probabilities_when_asked() -> None:
    messages = [{"role": "user", "content": "a b"}]
    body = {"messages": messages, "logprobs": True, "top_logprobs": 2}
    (choice,) = read_chat(raw(body)).whole("x")["choices"]
    first = choice["logprobs"]["content"][0]
    assert first["token"] == "a"
    assert [top["token"] for top in first["top_logprobs"]] == ["a", "a~1"]
    assert -1 <= first["logprob"] < 0


def test_vectors_can_be_shorter_and_packed() -> None:
    body = {"input": [[1, 2], [3]], "dimensions": 4, "encoding_format": "base64"}
    data = embeddings_answer(raw(body))["data"]
    assert [len(base64.b64decode(one["embedding"])) for one in data] == [16, 16]


SCHEMA = {
    "type": "object",
    "required": ["name", "kind", "sizes", "inner", "maybe"],
    "properties": {
        "name": {"type": "string"},
        "kind": {"enum": ["b", "a"]},
        "sizes": {"type": "array", "items": {"type": "integer", "minimum": 3}, "minItems": 2},
        "inner": {"$ref": "#/$defs/Inner"},
        "maybe": {"anyOf": [{"type": "null"}, {"type": "string"}]},
        "left_out": {"type": "number"},
    },
    "$defs": {"Inner": {"type": "object", "required": ["x"], "properties": {"x": {"const": 7}}}},
}


def test_an_answer_by_a_schema_fits_it() -> None:
    assert instance(SCHEMA, SCHEMA) == {
        "name": "echo",
        "kind": "b",
        "sizes": [3, 3],
        "inner": {"x": 7},
        "maybe": None,
    }
    loop: dict[str, Any] = {"$ref": "#/$defs/A", "$defs": {"A": {"$ref": "#/$defs/A"}}}
    assert instance(loop, loop) is None
    wanted = {"type": "json_schema", "json_schema": {"schema": SCHEMA}}
    messages = [{"role": "user", "content": "go"}]
    answer = read_chat(raw({"messages": messages, "response_format": wanted})).whole("x")
    content = answer["choices"][0]["message"]["content"]
    assert msgspec.json.decode(content)["inner"] == {"x": 7}


def test_a_tool_is_called_only_on_demand() -> None:
    tools = [{"type": "function", "function": {"name": name}} for name in ("first", "second")]
    assert tool_called(tools, None) is None
    assert tool_called(tools, "auto") is None
    assert tool_called([], "required") is None
    called = tool_called(tools, "required")
    assert called is not None
    assert called["function"] == {"name": "first", "arguments": "{}"}
    named = tool_called(tools, {"type": "function", "function": {"name": "second"}})
    assert named is not None
    assert named["function"]["name"] == "second"
    body = {"messages": [{"role": "user", "content": "a"}], "tools": tools}
    answer = read_chat(raw({**body, "tool_choice": "required"}))
    (choice,) = answer.whole("x")["choices"]
    assert (choice["finish_reason"], choice["message"]["content"]) == ("tool_calls", None)
    assert b'"name":"first"' in b"".join(answer.opening("x"))
