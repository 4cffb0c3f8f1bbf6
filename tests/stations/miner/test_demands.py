"""A field that would be dropped is refused by its name."""

from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.makers import MANIFEST, make_order

from penstock.kit.engine import Capability
from penstock.miner.demands import (
    LLAMA_ID_MAX,
    PROMPT_CHARS_PER_TOKEN,
    TEXT_CHARS_MIN,
    TOKEN_IDS_MIN,
)
from penstock.miner.errors import RequestUnservable
from penstock.miner.paths import PATHS
from penstock.miner.rewrite import Prepared, prepare

ALL = frozenset(Capability)
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
EMBEDDINGS = "/v1/embeddings"
CONTEXT_MAX = MANIFEST.limits.context_tokens_max
LONGEST = "a" * (PROMPT_CHARS_PER_TOKEN * CONTEXT_MAX)
"""The longest text that may yet fit into a model whose tokens are long."""


def turn(content: object) -> dict[str, object]:
    return {"role": "user", "content": content}


SCHEMA = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}}

ADD = {"type": "function", "function": {"name": "add"}}


def prepared(
    path: str, fields: dict[str, Any], capabilities: frozenset[Capability] = ALL
) -> Prepared:
    return prepare(
        msgspec.json.encode(fields),
        make_order(path=path, stream=False),
        manifest=replace(MANIFEST, engine="llamacpp"),
        model="m",
        capabilities=capabilities,
    )


def refusal(
    path: str, fields: dict[str, Any], capabilities: frozenset[Capability] = ALL
) -> RequestUnservable:
    with pytest.raises(RequestUnservable) as caught:
        prepared(path, fields, capabilities)
    return caught.value


@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        (COMPLETIONS, {"best_of": 3}, "best_of"),
        (COMPLETIONS, {"best_of": 3, "n": 2}, "best_of"),
        (CHAT, {"functions": [{"name": "f"}]}, "functions"),
        (CHAT, {"function_call": "auto"}, "function_call"),
        (CHAT, {"modalities": ["text", "audio"]}, "modalities"),
    ],
)
def test_what_no_engine_does_is_refused(path: str, fields: dict[str, Any], param: str) -> None:
    error = refusal(path, fields)
    assert (error.code, error.param) == ("unsupported_parameter", param)


@pytest.mark.parametrize(
    ("path", "fields", "param", "missing"),
    [
        (COMPLETIONS, {"suffix": "end"}, "suffix", Capability.SUFFIX),
        (COMPLETIONS, {"response_format": SCHEMA}, "response_format", Capability.COMPLETION_FORMAT),
        (
            COMPLETIONS,
            {"response_format": {"type": "json_object"}},
            "response_format",
            Capability.COMPLETION_FORMAT,
        ),
        (
            CHAT,
            {"tools": [ADD], "tool_choice": "required"},
            "tool_choice",
            Capability.TOOL_CHOICE,
        ),
        (CHAT, {"tools": [ADD], "tool_choice": ADD}, "tool_choice", Capability.TOOL_CHOICE),
    ],
)
def test_what_the_engine_was_not_seen_to_do_is_refused(
    path: str, fields: dict[str, Any], param: str, missing: Capability
) -> None:
    prepared(path, fields)
    error = refusal(path, fields, ALL - {missing})
    assert (error.code, error.param) == ("unsupported_parameter", param)


@pytest.mark.parametrize(
    "wanted",
    [
        *("x", 5, [], {}, {"type": 5}),
        {"type": "json_schema"},
        {"type": "json_schema", "json_schema": {"name": "a"}},
        {"type": "json_schema", "json_schema": {"schema": "x"}},
    ],
)
@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
def test_a_format_of_the_wrong_shape_is_refused(path: str, wanted: object) -> None:
    error = refusal(path, {"response_format": wanted})
    assert (error.code, error.param) == ("invalid_request", "response_format")


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        (COMPLETIONS, {"best_of": 1, "suffix": "", "response_format": {"type": "text"}}),
        (COMPLETIONS, {"best_of": 2, "n": 2}),
        (CHAT, {"response_format": None, "modalities": ["text"], "functions": []}),
        (CHAT, {"functions": [{"name": "add"}], "function_call": "none", "tools": [ADD]}),
        (CHAT, {"response_format": SCHEMA}),
        (CHAT, {"tool_choice": "auto"}),
        (CHAT, {"tool_choice": "none"}),
        (
            CHAT,
            {
                "tools": [ADD],
                "tool_choice": {
                    "type": "allowed_tools",
                    "allowed_tools": {"mode": "auto", "tools": [ADD]},
                },
            },
        ),
    ],
)
def test_what_asks_for_nothing_more_is_served(path: str, fields: dict[str, Any]) -> None:
    needless = {Capability.SUFFIX, Capability.COMPLETION_FORMAT, Capability.TOOL_CHOICE}
    assert prepared(path, fields, ALL - needless).body


@pytest.mark.parametrize("prompt", [["a", 5], [5, "a"], [[1], 5]])
def test_a_prompt_of_texts_and_ids_at_once_is_refused(prompt: list[object]) -> None:
    assert refusal(COMPLETIONS, {"prompt": prompt}).param == "prompt"


def test_a_text_to_tokenize_has_a_bound() -> None:
    prepared("/tokenize", {"prompt": "a" * TEXT_CHARS_MIN})
    error = refusal("/tokenize", {"prompt": "a" * (TEXT_CHARS_MIN + 1)})
    assert (error.code, error.param) == ("invalid_request", "prompt")
    assert f"{TEXT_CHARS_MIN:,}" in error.message


def test_the_bound_of_a_larger_model_is_larger() -> None:
    limits = replace(MANIFEST.limits, context_tokens_max=TEXT_CHARS_MIN)
    prepare(
        msgspec.json.encode({"prompt": "a" * (TEXT_CHARS_MIN + 1)}),
        make_order(path="/tokenize", stream=False),
        manifest=replace(MANIFEST, limits=limits),
        model="m",
        capabilities=ALL,
    )


@pytest.mark.parametrize("name", ["messages", "tools"])
def test_messages_to_tokenize_have_the_same_bound_over_all_of_them(name: str) -> None:
    half = "a" * (TEXT_CHARS_MIN // 2)
    many = [{"role": "user", "content": [{"type": "text", "text": half}]} for _ in range(3)]
    turns = {"messages": many[:1]}
    prepared("/tokenize", turns)
    assert refusal("/tokenize", {**turns, name: many}).param == name


def test_many_empty_values_are_bounded_too() -> None:
    assert refusal("/tokenize", {"messages": [""] * (TEXT_CHARS_MIN + 1)}).param == "messages"


@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        (CHAT, {"messages": [turn(LONGEST)]}, "messages"),
        (CHAT, {"messages": [turn([{"type": "text", "text": LONGEST}])]}, "messages"),
        (CHAT, {"messages": [turn("")] * (CONTEXT_MAX + 1)}, "messages"),
        (CHAT, {"messages": [turn("a")], "tools": [{**ADD, "description": LONGEST}]}, "tools"),
        (COMPLETIONS, {"prompt": LONGEST + "a"}, "prompt"),
        (COMPLETIONS, {"prompt": ["a", LONGEST + "a"]}, "prompt"),
        (EMBEDDINGS, {"input": LONGEST + "a"}, "input"),
        (EMBEDDINGS, {"input": ["a", LONGEST + "a"]}, "input"),
    ],
)
def test_what_cannot_fit_into_the_context_does_not_reach_the_engine(
    path: str, fields: dict[str, Any], param: str
) -> None:
    error = refusal(path, fields)
    assert (error.code, error.param) == ("context_length_exceeded", param)
    assert f"{CONTEXT_MAX:,}" in error.message


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        (CHAT, {"messages": [turn([{"type": "image_url", "image_url": {"url": LONGEST * 2}}])]}),
        (CHAT, {"messages": [turn("a" * (len(LONGEST) // 2))]}),
        (COMPLETIONS, {"prompt": LONGEST}),
        (COMPLETIONS, {"prompt": [1] * CONTEXT_MAX}),
        (EMBEDDINGS, {"input": [LONGEST, LONGEST]}),
        (EMBEDDINGS, {"input": [[1], [2]]}),
    ],
)
def test_what_may_fit_is_left_to_the_engine(path: str, fields: dict[str, Any]) -> None:
    assert prepared(path, fields).body


@pytest.mark.parametrize(
    "tokens", [None, "a", [-1], [1.5], ["a"], [True], [LLAMA_ID_MAX + 1], [1] * (TOKEN_IDS_MIN + 1)]
)
def test_ids_to_detokenize_are_bounded_in_number_and_size(tokens: object) -> None:
    error = refusal("/detokenize", {"tokens": tokens})
    assert (error.code, error.param) == ("invalid_request", "tokens")
    prepared("/detokenize", {"tokens": [0, LLAMA_ID_MAX]})


values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["type", "a"]), inner)
    ),
    max_leaves=6,
)
names = ("best_of", "n", "suffix", "response_format", "tool_choice", "tools", "prompt", "tokens")


@given(st.sampled_from(sorted(PATHS)), st.dictionaries(st.sampled_from(names), values))
def test_any_body_is_prepared_or_refused(path: str, fields: dict[str, Any]) -> None:
    try:
        assert prepared(path, fields).body
    except RequestUnservable as error:
        assert error.message
