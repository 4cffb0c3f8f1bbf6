"""A wide schema costs llama.cpp minutes and its sender nothing, so it does not get there."""

from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.makers import MANIFEST, make_order

from penstock.kit.engine import Capability
from penstock.miner.errors import RequestUnservable
from penstock.miner.grammars import BIASES_MAX, PROPERTIES_MAX, SCHEMA_CHARS_MAX, check_grammars
from penstock.miner.rewrite import prepare

CHAT = "/v1/chat/completions"


def wide(count: int) -> dict[str, Any]:
    return {"type": "object", "properties": {f"k{number}": {} for number in range(count)}}


def formatted(schema: object) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}


def tool(schema: object) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "f", "parameters": schema}}


TOO_WIDE = [
    ("response_format", formatted(wide(PROPERTIES_MAX + 1))),
    ("response_format", formatted({"type": "array", "items": wide(PROPERTIES_MAX + 1)})),
    ("response_format", formatted({"anyOf": [{}, wide(PROPERTIES_MAX + 1)]})),
    ("response_format", formatted({"enum": ["a" * SCHEMA_CHARS_MAX]})),
    ("response_format", {"type": "json_object", "schema": wide(PROPERTIES_MAX + 1)}),
    ("json_schema", wide(PROPERTIES_MAX + 1)),
    ("tools", [tool({}), tool(wide(PROPERTIES_MAX + 1))]),
    ("grammar", "a" * (SCHEMA_CHARS_MAX + 1)),
    ("logit_bias", {str(token): 1 for token in range(BIASES_MAX + 1)}),
    ("logit_bias", [[token, 1] for token in range(BIASES_MAX + 1)]),
]


@pytest.mark.parametrize(("name", "value"), TOO_WIDE)
def test_what_is_too_wide_is_refused_by_its_name(name: str, value: object) -> None:
    with pytest.raises(RequestUnservable) as caught:
        check_grammars({name: value})
    assert (caught.value.code, caught.value.param) == ("invalid_request", name)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("response_format", formatted(wide(PROPERTIES_MAX))),
        ("response_format", formatted({"anyOf": [wide(PROPERTIES_MAX)] * 3})),
        ("tools", [tool(wide(PROPERTIES_MAX))] * 20),
        ("grammar", "a" * SCHEMA_CHARS_MAX),
        ("logit_bias", {str(token): 1 for token in range(BIASES_MAX)}),
        ("logit_bias", None),
    ],
)
def test_what_is_as_wide_as_may_be_goes_on(name: str, value: object) -> None:
    check_grammars({name: value})


@pytest.mark.parametrize(("name", "value"), TOO_WIDE)
@pytest.mark.parametrize("engine", ["llamacpp", "vllm"])
def test_only_llama_cpp_is_kept_from_it(engine: str, name: str, value: object) -> None:
    fields = {"messages": [{"role": "user", "content": "a"}], name: value}
    limits = replace(MANIFEST.limits, context_tokens_max=SCHEMA_CHARS_MAX)

    def prepared() -> bytes:
        return prepare(
            msgspec.json.encode(fields),
            make_order(path=CHAT, stream=False),
            manifest=replace(MANIFEST, engine=engine, limits=limits),
            model="m",
            capabilities=frozenset(Capability),
        ).body

    if engine == "vllm":
        assert prepared()
        return
    with pytest.raises(RequestUnservable):
        prepared()


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["properties", "items", "a"]), inner, max_size=3)
    ),
)


@given(st.sampled_from([name for name, _ in TOO_WIDE]), values)
def test_any_small_value_is_left_to_the_engine(name: str, value: object) -> None:
    check_grammars({name: value})
