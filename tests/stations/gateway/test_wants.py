"""The `provider` object: read strictly, by OpenRouter's names."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.makers import MANIFEST

from penstock.gateway.errors import BadRequest
from penstock.gateway.wants import NO_WANTS, Sort, Wants, quantization_of, wants_of
from penstock.spec.messages import PRICE_NANO_MAX, Tier


def read(tier: str = "", **fields: Any) -> Wants:
    return wants_of(json.dumps(fields).encode(), tier)


def test_no_conditions_are_one_and_the_same() -> None:
    assert wants_of(b"", "") is NO_WANTS
    assert wants_of(b"null", "") is NO_WANTS
    assert read() == NO_WANTS
    assert read(order=None, sort=None, max_price=None, zdr=False) == NO_WANTS


def test_all_names_are_read() -> None:
    wants = read(
        order=["a", "b"],
        only=["a"],
        ignore=["c"],
        sort="price",
        quantizations=["fp8", "unknown"],
        require_parameters=True,
        allow_fallbacks=False,
        data_collection="deny",
    )
    assert wants == Wants(
        order=("a", "b"),
        only=("a",),
        ignore=("c",),
        sort=Sort.PRICE,
        quantizations=("fp8", "unknown"),
        require_parameters=True,
        allow_fallbacks=False,
        tier=Tier.ATTESTED,
    )


def test_sort_may_be_an_object() -> None:
    assert read(sort={"by": "latency", "partition": "none"}).sort is Sort.LATENCY
    assert read(sort={}).sort is Sort.BALANCE


def test_prices_are_usd_per_million_exact_and_what_is_not_named_is_not_bounded() -> None:
    price = read(
        max_price={"prompt": "0.15", "completion": 0.6, "request": "0.000000001"}
    ).price_max
    assert price is not None
    assert (price.prompt, price.cached, price.completion) == (150_000_000, 150_000_000, 600_000_000)
    assert price.request == 1
    assert price.images == price.audio_ms == PRICE_NANO_MAX
    image = read(max_price={"image": "0.0001"}).price_max
    assert image is not None
    assert image.images == 100_000_000_000


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"sorted": "price"}, "provider.sorted"),
        ({"sort": "cheapest"}, "provider.sort"),
        ({"order": "alice"}, "provider.order"),
        ({"order": [""]}, "provider.order"),
        ({"only": ["x"] * 65}, "provider.only"),
        ({"ignore": [1]}, "provider.ignore"),
        ({"quantizations": ["q4"]}, "provider.quantizations"),
        ({"allow_fallbacks": "no"}, "provider.allow_fallbacks"),
        ({"data_collection": "never"}, "provider.data_collection"),
        ({"zdr": 1}, "provider.zdr"),
        ({"max_price": {"prompt": -1}}, "provider.max_price.prompt"),
        ({"max_price": {"prompt": "1e99"}}, "provider.max_price.prompt"),
        ({"max_price": {"prompt": "NaN"}}, "provider.max_price.prompt"),
        ({"max_price": {"input": 1}}, "provider.max_price.input"),
        ({"max_price": 3}, "provider.max_price"),
    ],
)
def test_what_is_wrong_is_named(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(BadRequest) as caught:
        read(**fields)
    assert caught.value.param == param
    assert caught.value.reason


@pytest.mark.parametrize(
    ("fields", "known"),
    [
        ({"sorted": "price"}, "quantizations"),
        ({"sort": "cheapest"}, "throughput"),
        ({"quantizations": ["q4"]}, "int4"),
        ({"data_collection": "never"}, "deny"),
        ({"max_price": {"input": 1}}, "completion"),
    ],
)
def test_what_may_stand_there_is_named_too(fields: dict[str, Any], known: str) -> None:
    with pytest.raises(BadRequest) as caught:
        read(**fields)
    assert known in caught.value.reason.partition("Known: ")[2]


@pytest.mark.parametrize("raw", [b"[]", b'"x"', b"7", b"{", b'{"order":', b"[" * 5_000])
def test_what_is_no_object_is_refused(raw: bytes) -> None:
    with pytest.raises(BadRequest):
        wants_of(raw, "")


@given(st.binary(max_size=60))
def test_nothing_else_comes_of_any_bytes(raw: bytes) -> None:
    try:
        assert isinstance(wants_of(raw, ""), Wants)
    except BadRequest as error:
        assert error.status == 400


def test_the_header_asks_for_a_tier_and_never_lowers_one() -> None:
    assert wants_of(b"", "attested").tier is Tier.ATTESTED
    assert wants_of(b"", " Measured ").tier is Tier.MEASURED
    assert read("open", zdr=True).tier is Tier.ATTESTED
    with pytest.raises(BadRequest, match="Known: open, measured, attested"):
        wants_of(b"", "gold")


@pytest.mark.parametrize(
    ("source", "name", "said"),
    [
        ("hf:org/Model-7B-Q4_K_M.gguf", "m", "int4"),
        ("hf:org/model-iq4_xs.gguf", "m", "int4"),
        ("hf:org/model-AWQ", "m", "int4"),
        ("hf:org/model.Q8_0.gguf", "m", "int8"),
        ("hf:org/model-FP8-dynamic", "m", "fp8"),
        ("hf:org/model-nvfp4", "m", "fp4"),
        ("hf:org/model-bf16", "m", "bf16"),
        ("hf:org/model-f16.gguf", "m", "fp16"),
        ("hf:org/model", "org/model-fp8", "fp8"),
        ("hf:org/fp80-club", "m", "unknown"),
        ("builtin:echo", "tiny-chat", "unknown"),
    ],
)
def test_a_quantization_is_read_off_the_source_or_the_name(
    source: str, name: str, said: str
) -> None:
    assert quantization_of(replace(MANIFEST, source=source, name=name)) == said
