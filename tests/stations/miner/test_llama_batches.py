"""llama.cpp tells the counts of a batch of prompts only on its own route: all of them are billed."""

from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.makers import MANIFEST, make_order

from penstock.kit.engine import Capability
from penstock.miner.answers import Whole, whole_answer
from penstock.miner.normalise import Counts
from penstock.miner.rewrite import Prepared, prepare

LLAMA = replace(MANIFEST, engine="llamacpp")
ORDER = make_order(path="/v1/completions", stream=False, issued_ms=7_500)


def prepared(fields: dict[str, Any], *, stream: bool = False) -> Prepared:
    return prepare(
        msgspec.json.encode({**fields, "stream": stream}),
        replace(ORDER, stream=stream),
        manifest=LLAMA,
        model="engine-model",
        capabilities=frozenset(Capability),
    )


def result(index: int, *, prompt: int, cached: int = 0, completion: int = 2) -> dict[str, Any]:
    return {
        "index": index,
        "content": f"text {index}",
        "stop_type": "eos" if index else "limit",
        "tokens_evaluated": prompt,
        "timings": {"prompt_n": prompt - cached, "cache_n": cached, "predicted_n": completion},
        "completion_probabilities": [{"token": "a", "logprob": -0.5, "top_logprobs": []}],
    }


def joined(results: object, **asked: Any) -> Whole | None:
    data = msgspec.json.encode(results)
    return whole_answer(data, "application/json", prepared=prepared(asked), manifest=LLAMA)


@pytest.mark.parametrize("prompt", [["a", "b"], [[1, 2], [3]]])
def test_a_batch_of_prompts_goes_to_llamas_own_route(prompt: list[object]) -> None:
    ready = prepared({"prompt": prompt, "stop": "x", "logprobs": 3, "top_k": 5})
    body = msgspec.json.decode(ready.body)
    assert (ready.path, ready.engine_path) == ("/v1/completions", "/completion")
    assert (body["prompt"], body["stop"], body["n_probs"]) == (prompt, ["x"], 3)
    assert (body["max_tokens"], body["top_k"]) == (25, 5)
    assert "logprobs" not in body


@pytest.mark.parametrize("prompt", ["a", [1, 2, 3], ["a"]])
def test_one_answer_goes_the_usual_way(prompt: object) -> None:
    assert prepared({"prompt": prompt}).engine_path == "/v1/completions"
    assert prepared({"prompt": ["a", "b"]}, stream=True).engine_path == "/v1/completions"


@pytest.mark.parametrize(("logprobs", "probs"), [(True, 1), (False, None), ("many", 1), (0, None)])
def test_log_probabilities_are_asked_for_as_a_number(logprobs: object, probs: int | None) -> None:
    body = msgspec.json.decode(prepared({"prompt": ["a", "b"], "logprobs": logprobs}).body)
    assert body.get("n_probs") == probs


def test_the_prompts_of_all_choices_are_billed() -> None:
    results = [result(1, prompt=10, cached=4, completion=3), result(0, prompt=2)]
    whole = joined(results, prompt=["a", "b"])
    assert whole is not None
    assert whole.counts == Counts(prompt=12, cached=4, completion=5)
    fields = msgspec.json.decode(whole.body)
    assert fields["usage"] == {
        "prompt_tokens": 12,
        "completion_tokens": 5,
        "total_tokens": 17,
        "prompt_tokens_details": {"cached_tokens": 4},
    }
    assert [choice["text"] for choice in fields["choices"]] == ["text 0", "text 1"]
    assert [choice["finish_reason"] for choice in fields["choices"]] == ["length", "stop"]
    assert fields["choices"][0]["logprobs"]["tokens"] == ["a"]
    assert (fields["id"], fields["object"]) == ("cmpl-o-1", "text_completion")
    assert (fields["created"], fields["model"]) == (7, MANIFEST.name)


def test_a_prompt_with_several_choices_is_billed_once() -> None:
    results = [result(index, prompt=2 + 8 * (index // 2)) for index in range(4)]
    whole = joined(results, prompt=["a", "b"], n=2)
    assert whole is not None
    assert whole.counts == Counts(prompt=12, cached=0, completion=8)


def test_no_log_probabilities_are_none() -> None:
    plain = {**result(0, prompt=1), "completion_probabilities": None}
    whole = joined([plain, result(1, prompt=1)], prompt=["a", "b"])
    assert whole is not None
    assert msgspec.json.decode(whole.body)["choices"][0]["logprobs"] is None


@pytest.mark.parametrize(
    "results",
    [
        [],
        {},
        [result(0, prompt=1)],
        [result(0, prompt=1), result(0, prompt=1)],
        [result(0, prompt=1), result(2, prompt=1)],
        [result(0, prompt=1), 5],
        [result(0, prompt=1), {**result(1, prompt=1), "content": None}],
        [result(0, prompt=1), {**result(1, prompt=1), "index": "1"}],
        [result(0, prompt=1), {**result(1, prompt=1), "timings": None}],
    ],
)
def test_results_that_do_not_answer_every_prompt_are_the_engines_failure(results: object) -> None:
    assert joined(results, prompt=["a", "b"]) is None


@given(st.lists(st.integers(0, 60), min_size=2, max_size=6), st.data())
def test_the_bill_is_the_sum_of_what_the_engine_told(
    prompts: list[int], data: st.DataObject
) -> None:
    lengths = [data.draw(st.integers(0, 9)) for _ in prompts]
    told = list(enumerate(zip(prompts, lengths, strict=True)))
    results = [result(index, prompt=size, completion=length) for index, (size, length) in told]
    whole = joined(results, prompt=["x"] * len(prompts))
    assert whole is not None
    assert whole.counts == Counts(prompt=sum(prompts), cached=0, completion=sum(lengths))
