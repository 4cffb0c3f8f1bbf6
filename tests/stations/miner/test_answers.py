"""Engines differ; what their clients get does not."""

import base64
from array import array
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.makers import MANIFEST
from tests.stations.miner.answer import steps_of

from penstock.kit.engine import Capability
from penstock.miner.answers import Whole, whole_answer
from penstock.miner.normalise import COUNT_MAX, Counts, StreamReader, heard_ms, legacy_logprobs
from penstock.miner.paths import PATHS
from penstock.miner.rewrite import Prepared

LLAMA_LOGPROBS = {
    "content": [
        {"token": "a", "logprob": -0.5, "top_logprobs": [{"token": "a", "logprob": -0.5}]},
        {"token": "bc", "logprob": -1.5, "top_logprobs": []},
    ]
}


def answer(
    path: str, told: object, *, content_type: str = "application/json", **asked: Any
) -> Whole | None:
    data = told if isinstance(told, bytes) else msgspec.json.encode(told)
    prepared = Prepared(b"", path=path, asked=asked)
    return whole_answer(data, content_type, prepared=prepared, manifest=MANIFEST)


def fields_of(whole: Whole | None) -> dict[str, Any]:
    assert whole is not None
    fields: dict[str, Any] = msgspec.json.decode(whole.body)
    return fields


def test_the_models_name_is_the_chutes_and_unknown_fields_stay() -> None:
    told = {"model": "engine", "choices": [], "x_new": 1}
    assert fields_of(answer("/v1/chat/completions", told)) == {
        "model": MANIFEST.name,
        "choices": [],
        "x_new": 1,
        "system_fingerprint": None,
    }


def test_an_engines_own_fingerprint_stays_and_a_completion_gets_none() -> None:
    told = {"model": "engine", "choices": [], "system_fingerprint": "b1"}
    assert fields_of(answer("/v1/chat/completions", told))["system_fingerprint"] == "b1"
    assert "system_fingerprint" not in fields_of(answer("/v1/completions", {"choices": []}))


def test_a_completions_id_begins_as_openais_do() -> None:
    told = {"id": "chatcmpl-7", "choices": []}
    assert fields_of(answer("/v1/completions", told))["id"] == "cmpl-7"
    assert fields_of(answer("/v1/chat/completions", told))["id"] == "chatcmpl-7"
    assert fields_of(answer("/v1/completions", {"id": "own-7", "choices": []}))["id"] == "own-7"
    reader = StreamReader.of("m", Prepared(b"", path="/v1/completions"))
    (step,) = steps_of(reader, b"data: %b\n\n" % msgspec.json.encode(told))
    assert msgspec.json.decode(step.data[6:])["id"] == "cmpl-7"


def test_log_probabilities_of_a_completion_come_in_the_legacy_arrays() -> None:
    told = {
        "choices": [{"text": "abc", "logprobs": LLAMA_LOGPROBS}, {"text": "", "logprobs": None}]
    }
    first, second = fields_of(answer("/v1/completions", told))["choices"]
    assert first["logprobs"] == {
        "tokens": ["a", "bc"],
        "token_logprobs": [-0.5, -1.5],
        "top_logprobs": [{"a": -0.5}, {}],
        "text_offset": [0, 1],
    }
    assert second["logprobs"] is None


def test_legacy_arrays_stay_as_they_are() -> None:
    arrays = {"tokens": ["a"], "token_logprobs": [-1], "top_logprobs": None, "text_offset": [0]}
    assert legacy_logprobs(arrays, offset=9) is arrays


def test_offsets_go_on_over_the_events_of_each_choice() -> None:
    reader = StreamReader.of("m", Prepared(b"", path="/v1/completions"))
    seen = []
    for index, text in ((0, "ab"), (1, "x"), (0, "c")):
        content = [{"token": text, "logprob": -1}]
        choice = {"index": index, "text": text, "logprobs": {"content": content}}
        (step,) = steps_of(reader, b"data: %b\n\n" % msgspec.json.encode({"choices": [choice]}))
        seen.append(msgspec.json.decode(step.data[6:])["choices"][0]["logprobs"]["text_offset"])
    assert seen == [[0], [0], [2]]


def test_a_null_that_opens_a_batch_of_prompts_is_nothing() -> None:
    assert StreamReader.of("m", Prepared(b"")).feed(b"data: null\n\n") == []


@pytest.mark.parametrize("wanted", ["base64", "float", None])
@pytest.mark.parametrize("is_packed", [True, False])
def test_vectors_are_turned_into_the_wanted_form(wanted: str | None, *, is_packed: bool) -> None:
    vector = [0.5, -0.25]
    packed = base64.b64encode(array("f", vector).tobytes()).decode()
    told = {"data": [{"embedding": packed if is_packed else vector}], "usage": {"total_tokens": 4}}
    whole = answer("/v1/embeddings", told, **({"encoding_format": wanted} if wanted else {}))
    (item,) = fields_of(whole)["data"]
    assert item["embedding"] == (packed if wanted == "base64" else vector)
    assert whole is not None
    assert whole.counts == Counts(4, 0, 0), "an engine that only reads may tell the sum alone"


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("/v1/embeddings", {"data": 5}),
        ("/v1/embeddings", {"data": [{"embedding": "no base64!"}]}),
        ("/v1/embeddings", {"data": [5]}),
        ("/v1/rerank", {"results": None}),
        ("/v1/rerank", {"results": [{"index": 7, "relevance_score": 1}]}),
        ("/v1/rerank", {"results": [{"index": 0, "relevance_score": "high"}]}),
        ("/v1/images/generations", {"data": []}),
        ("/v1/images/generations", {"data": [{"url": "http://x"}]}),
        ("/tokenize", {"tokens": ["a"]}),
        ("/tokenize", {}),
        ("/detokenize", {"prompt": 5}),
        ("/v1/audio/transcriptions", {"text": None}),
        ("/v1/audio/transcriptions", b"words"),
        ("/v1/audio/speech", b""),
        ("/v1/audio/speech", {"error": {}}),
        ("/v1/moderations", {"error": {"message": "no"}}),
        ("/v1/chat/completions", b"\xff"),
    ],
)
def test_what_is_no_answer_to_the_question_is_the_engines_failure(path: str, told: object) -> None:
    assert answer(path, told, documents=["a", "b"]) is None


def test_images_keep_their_bytes_and_lose_their_urls() -> None:
    told = {"data": [{"b64_json": "aa", "url": "http://x"}, {"b64_json": "bb"}], "created": 3}
    whole = answer("/v1/images/generations", told, n=1)
    assert fields_of(whole) == {"created": 3, "data": [{"b64_json": "aa"}]}
    assert whole is not None
    assert whole.counts == Counts(0, 0, 0, images=1)


def test_equal_scores_keep_the_order_of_the_documents() -> None:
    results = [{"index": 1, "score": 0.5}, {"index": 0, "score": 0.5}, {"index": 2, "score": 0.9}]
    ranked = fields_of(answer("/v1/rerank", {"results": results}, documents=["a", "b", "c"]))
    assert [one["index"] for one in ranked["results"]] == [2, 0, 1]
    assert ranked["meta"]["billed_units"] == {"search_units": 1}
    assert "document" not in ranked["results"][0]


def test_llamas_tokens_come_in_the_shape_of_vllm() -> None:
    told = {"tokens": [{"id": 5, "piece": "He"}, {"id": 6, "piece": [195]}]}
    shown = fields_of(answer("/tokenize", told, return_token_strs=True))
    assert shown == {
        "count": 2,
        "max_model_len": MANIFEST.limits.context_tokens_max,
        "tokens": [5, 6],
        "token_strs": ["He", "\ufffd"],
    }
    assert fields_of(answer("/detokenize", {"content": "Hi"})) == {"prompt": "Hi"}


@pytest.mark.parametrize(
    ("told", "upload_ms", "heard"),
    [
        ({"duration": 1.5}, 9, 1_500),
        ({"duration": "8.47"}, 9, 8_470),
        ({"duration": 2.007}, 9, 2_007),
        ({"usage": {"seconds": 2}}, 9, 9),
        ({"usage": {"seconds": 2}}, 0, 2_000),
        ({"duration": "long"}, 0, 0),
        ({"duration": -5}, 0, 0),
        ({"duration": float(COUNT_MAX)}, 0, 0),
        ({}, 9, 9),
    ],
)
def test_audio_is_as_long_as_the_best_witness_says(
    told: dict[str, Any], upload_ms: int, heard: int
) -> None:
    assert heard_ms(told, upload_ms) == heard


def test_text_is_taken_out_of_json_where_only_text_is_wanted() -> None:
    whole = answer("/v1/audio/transcriptions", {"text": "Hi"}, response_format="text")
    assert whole is not None
    assert (whole.body, whole.content_type) == (b"Hi\n", "text/plain; charset=utf-8")


@given(st.sampled_from(sorted(PATHS)), st.binary(max_size=60))
def test_an_engine_can_answer_anything_anywhere_without_a_crash(path: str, data: bytes) -> None:
    whole = answer(path, data, documents=["a"])
    assert whole is None or isinstance(whole.body, bytes)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)
named_values = st.dictionaries(
    st.sampled_from(
        ["data", "results", "tokens", "usage", "choices", "text", "prompt", "duration"]
    ),
    json_values,
)


@given(st.sampled_from(sorted(PATHS)), named_values)
def test_any_json_object_is_an_answer_or_a_failure(path: str, told: dict[str, Any]) -> None:
    whole = answer(path, told, documents=["a"])
    assert whole is None or isinstance(whole.body, bytes)


@given(named_values, st.sampled_from(["speech.audio.delta", "transcript.text.done", "x"]))
def test_any_typed_event_is_a_step(told: dict[str, Any], kind: str) -> None:
    for path in ("/v1/audio/speech", "/v1/audio/transcriptions"):
        reader = StreamReader.of("m", Prepared(b"", path=path))
        event = b"data: %b\n\n" % msgspec.json.encode({**told, "type": kind})
        (step,) = steps_of(reader, event)
        assert step.failed or step.data.startswith(b"data: {")


def test_a_speech_that_is_cut_is_billed_for_what_came() -> None:
    prepared = Prepared(b"", path="/v1/audio/speech", asked={"response_format": "pcm"})
    assert replace(prepared, path="/v2/rerank").kind is Capability.RERANK
    reader = StreamReader.of("m", prepared)
    piece = base64.b64encode(bytes(48_000)).decode()
    event = msgspec.json.encode({"type": "speech.audio.delta", "audio": piece})
    (step,) = steps_of(reader, b"data: %b\n\n" % event)
    assert step.counts == Counts(0, 0, 0, audio_ms=1_000)
    assert not reader.finished


@pytest.mark.parametrize("is_hidden", [True, False])
def test_every_choice_of_llamas_whole_chat_is_counted(is_hidden: bool) -> None:
    told = {
        "choices": [{"message": {}, "logprobs": LLAMA_LOGPROBS} for _ in range(3)],
        "usage": {"prompt_tokens": 4, "completion_tokens": 2, "total_tokens": 6},
    }
    hidden = frozenset({"logprobs"}) if is_hidden else frozenset[str]()
    prepared = Prepared(b"", hidden=hidden, asked={"n": 3})
    llama = replace(MANIFEST, engine="llamacpp")
    whole = whole_answer(msgspec.json.encode(told), "", prepared=prepared, manifest=llama)
    assert whole is not None
    assert whole.counts == Counts(4, 0, 6)
    fields = fields_of(whole)
    assert fields["usage"]["completion_tokens"] == 6
    assert fields["usage"]["total_tokens"] == 10
    assert all(("logprobs" not in choice) is is_hidden for choice in fields["choices"])


def test_an_engine_that_counts_all_choices_itself_is_believed() -> None:
    told = {
        "choices": [{"logprobs": LLAMA_LOGPROBS} for _ in range(3)],
        "usage": {"prompt_tokens": 4, "completion_tokens": 7},
    }
    whole = answer("/v1/chat/completions", told, n=3)
    assert whole is not None
    assert whole.counts == Counts(4, 0, 7)
