"""The engine gets the client's request with only the changes it needs."""

from dataclasses import replace
from typing import Any

import msgspec
import pytest
from tests.makers import MANIFEST, make_order

from penstock.kit.engine import Capability
from penstock.miner.errors import RequestUnservable
from penstock.miner.rewrite import EMBEDDINGS_PATH, Prepared, prepare
from penstock.spec.messages import Order

ALL = frozenset(Capability)
COMPLETIONS = "/v1/completions"


def prepared(
    fields: dict[str, Any],
    order: Order | None = None,
    *,
    engine: str = "echo",
    capabilities: frozenset[Capability] = ALL,
) -> Prepared:
    return prepare(
        msgspec.json.encode(fields),
        make_order(stream=bool(fields.get("stream"))) if order is None else order,
        manifest=replace(MANIFEST, engine=engine),
        model="engine-model",
        capabilities=capabilities,
    )


def body_of(fields: dict[str, Any], order: Order | None = None, **options: Any) -> dict[str, Any]:
    body: dict[str, Any] = msgspec.json.decode(prepared(fields, order, **options).body)
    return body


def test_unknown_fields_go_through_and_the_model_is_the_engines() -> None:
    body = body_of({"model": "tiny-chat", "min_p": 0.1, "x_new": {"deep": [1, None]}})
    assert body["model"] == "engine-model"
    assert body["min_p"] == 0.1
    assert body["x_new"] == {"deep": [1, None]}


@pytest.mark.parametrize(
    ("fields", "limit"),
    [
        ({}, 50),
        ({"max_tokens": 20}, 20),
        ({"max_tokens": 999}, 50),
        ({"max_completion_tokens": 9, "max_tokens": 20}, 9),
        ({"n_predict": -1}, 50),
        ({"n": 5}, 10),
        ({"n": 5, "max_tokens": 8}, 8),
        ({"n": 500}, 1),
        ({"prompt": ["a", "b"]}, 25),
        ({"prompt": [1, 2, 3]}, 50),
        ({"prompt": [[1], [2]], "best_of": 5}, 5),
    ],
)
def test_no_choice_grows_beyond_its_part_of_the_ceiling(fields: dict[str, Any], limit: int) -> None:
    body = body_of(fields, make_order(stream=False, completion_max=50, path=COMPLETIONS))
    named = {name: body[name] for name in ("max_completion_tokens", "n_predict") if name in fields}
    assert body["max_tokens"] == limit
    assert set(named.values()) <= {limit}


def test_the_seed_of_the_order_is_used_unless_the_client_chose_one() -> None:
    order = make_order(stream=False, seed=7)
    assert body_of({}, order)["seed"] == 7
    assert body_of({"seed": 9}, order)["seed"] == 9
    assert "seed" not in body_of({"seed": 9}, order, capabilities=ALL - {Capability.SEED})


def test_usage_is_always_asked_for_and_shown_only_to_who_asked() -> None:
    silent = prepared({"stream": True})
    asked = prepared({"stream": True, "stream_options": {"include_usage": True, "x": 1}})
    assert msgspec.json.decode(silent.body)["stream_options"] == {"include_usage": True}
    assert not silent.shows_usage
    assert msgspec.json.decode(asked.body)["stream_options"] == {"include_usage": True, "x": 1}
    assert asked.shows_usage


def test_counts_along_the_way_are_asked_for_where_the_engine_knows_them() -> None:
    llama = prepared({"stream": True}, engine="llamacpp")
    assert msgspec.json.decode(llama.body)["timings_per_token"] is True
    assert llama.hidden == {"timings"}
    own = prepared({"stream": True, "timings_per_token": True}, engine="llamacpp")
    assert own.hidden == frozenset()
    vllm = prepared({"stream": True}, engine="vllm")
    options = msgspec.json.decode(vllm.body)["stream_options"]
    assert options == {"include_usage": True, "continuous_usage_stats": True}
    assert vllm.hidden == {"usage"}
    assert "timings_per_token" not in body_of({"stream": False}, engine="llamacpp")


@pytest.mark.parametrize(
    ("fields", "missing"),
    [
        ({"logprobs": True}, Capability.LOGPROBS),
        ({"tools": [{"type": "function"}]}, Capability.TOOLS),
        ({"response_format": {"type": "json_schema"}}, Capability.JSON_SCHEMA),
        ({"stream": True}, Capability.STREAM),
        ({}, Capability.CHAT),
    ],
)
def test_what_the_engine_lacks_is_refused_and_not_dropped(
    fields: dict[str, Any], missing: Capability
) -> None:
    prepared(fields)
    with pytest.raises(RequestUnservable) as caught:
        prepared(fields, capabilities=ALL - {missing})
    assert caught.value.code == "unsupported_parameter"


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b"\xff", b"[" * 5_000])
def test_a_body_that_is_no_object_is_refused(data: bytes) -> None:
    with pytest.raises(RequestUnservable) as caught:
        prepare(data, make_order(), manifest=MANIFEST, model="m", capabilities=ALL)
    assert caught.value.code == "invalid_json"


def test_stream_must_be_what_the_order_says() -> None:
    with pytest.raises(RequestUnservable):
        prepared({"stream": True}, make_order(stream=False))
    with pytest.raises(RequestUnservable):
        prepared({}, make_order(stream=True))


def test_an_embedding_request_gets_only_the_model() -> None:
    order = make_order(path=EMBEDDINGS_PATH, stream=False, completion_max=0)
    body = body_of({"model": "x", "input": "a", "stream": True}, order)
    assert body == {"model": "engine-model", "input": "a", "stream": True}
