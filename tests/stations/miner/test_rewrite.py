"""The engine gets the client's request with only the changes it needs."""

from dataclasses import replace
from typing import Any

import msgspec
import pytest
from tests.makers import MANIFEST, make_order

from penstock.kit.engine import Capability
from penstock.kit.multipart import file_part, form_of, parse_multipart, text_part
from penstock.miner.errors import RequestUnservable
from penstock.miner.paths import EMBEDDINGS_PATH, PATHS
from penstock.miner.rewrite import STEERING, Prepared, prepare
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
        ({"prompt": [[1], [2]], "n": 5, "best_of": 5}, 5),
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
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {}}}},
            Capability.JSON_SCHEMA,
        ),
        ({"stream": True}, Capability.STREAM),
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


@pytest.mark.parametrize("path", sorted(PATHS))
def test_a_path_that_the_engine_does_not_serve_is_refused_by_name(path: str) -> None:
    body = upload() if "audio/tr" in path else b'{"input": "a", "documents": []}'
    order = make_order(path=path, stream=False)
    capabilities = ALL - {PATHS[path]}
    with pytest.raises(RequestUnservable) as caught:
        prepare(body, order, manifest=MANIFEST, model="m", capabilities=capabilities)
    assert (caught.value.code, caught.value.param) == ("unsupported_operation", None)
    assert PATHS[path].value in caught.value.message


@pytest.mark.parametrize(
    ("path", "fields", "missing", "param"),
    [
        ("/v1/completions", {"echo": True}, Capability.ECHO, "echo"),
        ("/v1/completions", {"logprobs": 1}, Capability.LOGPROBS, "logprobs"),
        ("/v1/embeddings", {"dimensions": 8}, Capability.DIMENSIONS, "dimensions"),
        ("/tokenize", {"messages": [{}]}, Capability.TEMPLATE, "messages"),
    ],
)
def test_a_field_that_the_engine_would_drop_is_refused_by_name(
    path: str, fields: dict[str, Any], missing: Capability, param: str
) -> None:
    order = make_order(path=path, stream=False)
    prepared(fields, order)
    with pytest.raises(RequestUnservable) as caught:
        prepared(fields, order, capabilities=ALL - {missing})
    assert (caught.value.code, caught.value.param) == ("unsupported_parameter", param)


def test_speech_as_events_needs_an_engine_that_streams_it() -> None:
    order = make_order(path="/v1/audio/speech", stream=True)
    fields = {"input": "a", "stream_format": "sse"}
    assert prepared(fields, order).shows_usage
    with pytest.raises(RequestUnservable):
        prepared(fields, order, capabilities=ALL - {Capability.SPEECH_STREAM})
    with pytest.raises(RequestUnservable):
        prepared({"input": "a"}, order)


def test_fields_that_steer_the_engine_itself_do_not_reach_it() -> None:
    body = body_of({**dict.fromkeys(STEERING, 1), "user": "u"})
    assert not STEERING & body.keys()
    assert body["user"] == "u"


def test_documents_reach_the_engine_as_texts_at_one_path() -> None:
    order = make_order(path="/v2/rerank", stream=False)
    ready = prepared({"query": "q", "documents": ["a", {"text": "b"}]}, order)
    assert msgspec.json.decode(ready.body)["documents"] == ["a", "b"]
    assert ready.path == "/v1/rerank"
    assert ready.asked["documents"] == ["a", {"text": "b"}]


def test_a_picture_is_drawn_by_the_seed_of_the_order_unless_the_client_chose_one() -> None:
    order = make_order(path="/v1/images/generations", stream=False, seed=7)
    assert body_of({"prompt": "a star"}, order)["seed"] == 7
    assert body_of({"prompt": "a star", "seed": 9}, order)["seed"] == 9
    without = ALL - {Capability.SEED}
    assert "seed" not in body_of({"prompt": "a star", "seed": 9}, order, capabilities=without)


def test_images_are_asked_for_inside_the_answer() -> None:
    order = make_order(path="/v1/images/generations", stream=False)
    assert body_of({"prompt": "p"}, order)["response_format"] == "b64_json"


def test_llama_is_asked_for_tokens_in_its_own_words() -> None:
    order = make_order(path="/tokenize", stream=False)
    plain = prepared({"prompt": "Hi", "return_token_strs": True}, order, engine="llamacpp")
    asked = msgspec.json.decode(plain.body)
    assert (asked["content"], asked["with_pieces"], plain.template) == ("Hi", True, b"")
    turns = [{"role": "user", "content": "Hi"}]
    chat = prepared({"messages": turns, "secret": 1}, order, engine="llamacpp")
    assert msgspec.json.decode(chat.template) == {"messages": turns}
    filled = msgspec.json.decode(chat.filled("<user>Hi"))
    assert (filled["content"], filled["add_special"]) == ("<user>Hi", False)


def test_llama_has_no_more_choices_than_slots() -> None:
    most = MANIFEST.limits.parallel_max
    prepared({"n": most}, engine="llamacpp")
    with pytest.raises(RequestUnservable) as caught:
        prepared({"n": most + 1}, engine="llamacpp")
    assert caught.value.param == "n"
    prepared({"n": most + 1}, engine="vllm")


def upload(**texts: str) -> bytes:
    sound = file_part("file", "a.wav", b"RIFF", content_type="audio/wav")
    return form_of([sound, *(text_part(name, value) for name, value in texts.items())]).body()


@pytest.mark.parametrize("stream", ["", "true"])
def test_an_upload_gets_the_engines_model_and_keeps_the_rest(stream: str) -> None:
    body = upload(model="chute", stream=stream, language="de")
    order = make_order(path="/v1/audio/transcriptions", stream=bool(stream))
    ready = prepare(body, order, manifest=MANIFEST, model="engine", capabilities=ALL)
    form = parse_multipart(ready.body)
    wanted = {"model": "engine", "language": "de"}
    assert form.texts() == (wanted | {"stream": "true"} if stream else wanted)
    sound = form.file("file")
    assert sound is not None
    assert (sound.filename, sound.data) == ("a.wav", b"RIFF")
    assert ready.content_type == form.content_type()


@pytest.mark.parametrize("name", ["n_cmpl", "n_probs"])
def test_llamas_other_names_of_bounded_fields_do_not_reach_it(name: str) -> None:
    assert name not in body_of({name: 4, "max_tokens": 5}, engine="llamacpp")


def test_a_whole_chat_with_several_choices_is_asked_how_long_each_is() -> None:
    chat = prepared({"n": 2}, engine="llamacpp")
    assert msgspec.json.decode(chat.body)["logprobs"] is True
    assert msgspec.json.decode(chat.body)["top_logprobs"] == 1
    own = prepared({"n": 2, "logprobs": True, "top_logprobs": 3}, engine="llamacpp")
    assert msgspec.json.decode(own.body)["top_logprobs"] == 3
    assert own.hidden == frozenset()


@pytest.mark.parametrize("fields", [{}, {"n": 1}, {"n": 2, "stream": True}])
def test_nothing_more_is_asked_where_usage_says_it_all(fields: dict[str, Any]) -> None:
    assert "logprobs" not in body_of(fields, engine="llamacpp")
    assert "logprobs" not in body_of({"n": 2}, engine="vllm")
    without = ALL - {Capability.LOGPROBS}
    assert "logprobs" not in body_of({"n": 2}, engine="llamacpp", capabilities=without)
