"""What is read of a body, and what is refused before anybody is asked to serve it."""

import gzip
import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.stations.gateway.world import chat

from penstock.gateway.bodies import (
    CHAT_PATH,
    CHOICES_MAX,
    COMPLETIONS_PATH,
    EMBEDDINGS_PATH,
    TOKENS_MAX,
    parse_body,
)
from penstock.gateway.errors import BadJson, BadRequest
from penstock.gateway.orders import ceilings
from penstock.spec.messages import Limits, Modality
from penstock.spec.pricing import prompt_units_max

LIMITS = Limits(context_tokens_max=1_000, output_tokens_max=100, parallel_max=1)


def raw(body: object) -> bytes:
    return json.dumps(body).encode()


def completion(**fields: Any) -> bytes:
    return raw({"model": "m", "prompt": "Once", **fields})


def test_a_chat_request_is_read() -> None:
    body = raw(chat(stream=True, max_tokens=7, n=2, seed=5, temperature=0.3, tools=[{"x": 1}]))
    call = parse_body(CHAT_PATH, body)
    assert call.modality is Modality.CHAT
    assert (call.model, call.stream, call.tokens_max, call.choices, call.seed) == (
        "tiny-chat",
        True,
        7,
        2,
        5,
    )
    assert call.body is body


@pytest.mark.parametrize("body", [b"", b"{", b"nonsense", b'{"a": \xff}'])
@pytest.mark.parametrize("path", [CHAT_PATH, COMPLETIONS_PATH, EMBEDDINGS_PATH])
def test_what_is_no_json_is_told_so(path: str, body: bytes) -> None:
    with pytest.raises(BadJson) as caught:
        parse_body(path, body)
    assert caught.value.code == "invalid_json"


BAD_CHATS: list[tuple[dict[str, Any], str | None]] = [
    ({"messages": None}, "messages"),
    ({"messages": []}, "messages"),
    ({"messages": "hi"}, "messages"),
    ({"messages": [{"content": "no role"}]}, "messages"),
    ({"model": 5}, "model"),
    ({"model": ""}, "model"),
    ({"model": "x" * 2_000}, "model"),
    ({"stream": "yes"}, "stream"),
    ({"stream_options": 5}, "stream_options"),
    ({"stream_options": {"include_usage": "x"}}, "stream_options"),
    ({"max_tokens": -1}, "max_tokens"),
    ({"max_tokens": -1}, "max_tokens"),
    ({"max_tokens": TOKENS_MAX + 1}, "max_tokens"),
    ({"max_tokens": "many"}, "max_tokens"),
    ({"max_tokens": 1.5}, "max_tokens"),
    ({"max_completion_tokens": -5}, "max_completion_tokens"),
    ({"n": 0}, "n"),
    ({"n": CHOICES_MAX + 1}, "n"),
    ({"n": 10**30}, "n"),
]


@pytest.mark.parametrize(("fields", "param"), BAD_CHATS)
def test_a_field_that_does_not_fit_is_named(fields: dict[str, Any], param: str | None) -> None:
    with pytest.raises(BadRequest) as caught:
        parse_body(CHAT_PATH, raw(chat(**fields)))
    assert caught.value.param_name() == param


@pytest.mark.parametrize("missing", ["model", "messages"])
def test_a_missing_field_is_named(missing: str) -> None:
    body = chat()
    del body[missing]
    with pytest.raises(BadRequest) as caught:
        parse_body(CHAT_PATH, raw(body))
    assert caught.value.param_name() == missing


def test_a_list_is_no_request() -> None:
    with pytest.raises(BadRequest):
        parse_body(CHAT_PATH, b"[]")


def test_nulls_mean_the_default() -> None:
    fields = ("max_tokens", "n", "stream", "seed", "stream_options")
    body = {**chat(), **dict.fromkeys(fields)}
    call = parse_body(CHAT_PATH, raw(body))
    assert (call.tokens_max, call.choices, call.stream) == (None, 1, False)


@pytest.mark.parametrize(
    ("prompt", "count"),
    [("Once", 1), (["a", "b", "c"], 3), ([1, 2, 3], 1), ([[1, 2], [3]], 2)],
)
def test_a_batch_of_prompts_counts_as_so_many_answers(prompt: object, count: int) -> None:
    assert parse_body(COMPLETIONS_PATH, completion(prompt=prompt)).choices == count
    assert parse_body(COMPLETIONS_PATH, completion(prompt=prompt, n=2)).choices == 2 * count
    assert parse_body(COMPLETIONS_PATH, completion(prompt=prompt, best_of=5)).choices == 5 * count


@pytest.mark.parametrize("prompt", [None, 5, {}, [], ["x"] * (CHOICES_MAX + 1)])
def test_a_prompt_that_is_none_is_refused(prompt: object) -> None:
    with pytest.raises(BadRequest):
        parse_body(COMPLETIONS_PATH, completion(prompt=prompt))


@pytest.mark.parametrize("given_input", [None, 5, {}])
def test_an_embedding_needs_text(given_input: object) -> None:
    with pytest.raises(BadRequest):
        parse_body(EMBEDDINGS_PATH, raw({"model": "m", "input": given_input}))


def test_an_embedding_has_no_completion() -> None:
    call = parse_body(EMBEDDINGS_PATH, raw({"model": "m", "input": ["a", "b"], "stream": True}))
    assert call.modality is Modality.EMBEDDINGS
    assert not call.stream
    assert ceilings(call, LIMITS).completion_max == 0


@pytest.mark.parametrize("seed", [-1, 2**31, 2**62])
def test_a_seed_that_engines_do_not_take_is_left_to_the_engine(seed: int) -> None:
    assert parse_body(CHAT_PATH, raw(chat(seed=seed))).seed is None


@pytest.mark.parametrize(
    ("fields", "completion_max"),
    [
        ({"max_tokens": 7}, 7),
        ({"max_tokens": 7, "max_completion_tokens": 9}, 9),
        ({"max_tokens": 1_000}, 100),
        ({"max_tokens": None}, 100),
        ({"max_tokens": 7, "n": 3}, 21),
    ],
)
def test_the_ceiling_is_the_lower_of_wish_and_limit_times_answers(
    fields: dict[str, Any], completion_max: int
) -> None:
    body = raw(chat(**fields))
    bounds = ceilings(parse_body(CHAT_PATH, body), LIMITS)
    assert bounds.completion_max == completion_max
    assert bounds.prompt_max == prompt_units_max(len(body))


@pytest.mark.parametrize("path", [CHAT_PATH, COMPLETIONS_PATH, EMBEDDINGS_PATH])
def test_what_is_not_utf8_is_refused_also_where_nothing_is_read(path: str) -> None:
    fields = {"model": "m", "messages": [{"role": "u", "content": "é#"}], "prompt": "é#"}
    good = json.dumps({**fields, "input": "é#"}, ensure_ascii=False).encode()
    assert parse_body(path, good).body is good
    with pytest.raises(BadJson) as caught:
        parse_body(path, good.replace(b"#", b"\xff"))
    assert caught.value.reason == f"byte {good.index(b'#')} is not UTF-8"


def test_a_compressed_body_is_said_to_be_one() -> None:
    with pytest.raises(BadJson) as caught:
        parse_body(CHAT_PATH, gzip.compress(raw(chat())))
    assert "compressed" in caught.value.reason


def test_a_deep_nest_is_refused_not_crashed_on() -> None:
    deep = b'{"model":"m","messages":[{"role":"u","x":' + b"[" * 100_000 + b"]" * 100_000 + b"}]}"
    with pytest.raises((BadJson, BadRequest)):
        parse_body(CHAT_PATH, deep)


@given(st.binary(max_size=200))
def test_no_bytes_at_all_make_it_fail_in_another_way(body: bytes) -> None:
    for path in (CHAT_PATH, COMPLETIONS_PATH, EMBEDDINGS_PATH):
        with pytest.raises((BadJson, BadRequest)):
            parse_body(path, body)


@pytest.mark.parametrize(
    ("prompt", "choices"),
    [("[ \n 7, 8]", 1), ("[-1]", 1), ('[ "a", "b"]', 2), ("[[1,2], [3]]", 2), ('["a", 1]', 2)],
)
def test_prompts_are_counted_without_taking_tokens_apart(prompt: str, choices: int) -> None:
    body = f'{{"model": "m", "prompt": {prompt}}}'.encode()
    assert parse_body("/v1/completions", body).choices == choices


def test_a_prompt_of_a_million_tokens_costs_no_more_memory_than_its_bytes() -> None:
    body = b'{"model":"m","prompt":[' + b"1," * 1_000_000 + b"1]}"
    tracemalloc.start()
    try:
        assert parse_body("/v1/completions", body).choices == 1
        assert tracemalloc.get_traced_memory()[1] < 3 * len(body)
    finally:
        tracemalloc.stop()
