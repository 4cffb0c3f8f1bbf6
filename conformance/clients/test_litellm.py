"""LiteLLM, by each of its providers that speaks to a server like ours."""

import litellm
import pytest

HELLO = [{"role": "user", "content": "Water turns the wheel"}]
litellm.telemetry = False


@pytest.fixture
def openai(gateway):
    return {"api_base": gateway.v1, "api_key": gateway.key, "num_retries": 0}


@pytest.mark.parametrize("provider", ["openai", "hosted_vllm", "openrouter"])
def test_chat_whole_and_streamed(openai, gateway, provider):
    asked = {"model": f"{provider}/{gateway.chat}", "messages": HELLO, **openai}
    whole = litellm.completion(**asked)
    assert whole.choices[0].message.content == "Water turns the wheel"
    assert whole.usage.total_tokens > 0
    chunks = list(litellm.completion(**asked, stream=True))
    said = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert said == "Water turns the wheel"


def test_anthropics_dialect(gateway):
    asked = {
        "model": f"anthropic/{gateway.chat}",
        "messages": HELLO,
        "max_tokens": 20,
        "api_base": gateway.url,
        "api_key": gateway.key,
    }
    assert litellm.completion(**asked).choices[0].message.content == "Water turns the wheel"
    chunks = list(litellm.completion(**asked, stream=True))
    said = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert said == "Water turns the wheel"


def test_a_tool_call(openai, gateway, tool):
    answer = litellm.completion(
        model=f"openai/{gateway.chat}",
        messages=HELLO,
        tools=[{"type": "function", "function": tool}],
        tool_choice="required",
        **openai,
    )
    assert answer.choices[0].message.tool_calls[0].function.name == tool["name"]


def test_responses(openai, gateway):
    answer = litellm.responses(model=f"openai/{gateway.chat}", input="Water turns", **openai)
    assert answer.output[-1].content[0].text == "Water turns"


@pytest.mark.parametrize("model", ["embeddings", "real_embeddings"])
def test_embeddings(openai, gateway, model):
    answer = litellm.embedding(
        model=f"openai/{getattr(gateway, model)}", input=["a cat", "a kitten"], **openai
    )
    assert len(answer.data) == 2
    assert len(answer.data[0]["embedding"]) > 8


def test_rerank_as_vllm_and_as_cohere(gateway):
    asked = {"query": "water wheel", "documents": ["a cat", "a water wheel"]}
    for model, base in (
        ("hosted_vllm/echo/rerank", gateway.v1),
        ("cohere/echo/rerank", gateway.url),
    ):
        answer = litellm.rerank(model=model, api_base=base, api_key=gateway.key, **asked)
        assert answer.results[0]["index"] == 1


def test_errors_have_their_classes(openai, gateway):
    asked = {"model": f"openai/{gateway.chat}", "messages": HELLO, **openai}
    with pytest.raises(litellm.AuthenticationError):
        litellm.completion(**{**asked, "api_key": "sk-penstock-wrong"})
    with pytest.raises(litellm.NotFoundError):
        litellm.completion(**{**asked, "model": "openai/no-such-model"})
    with pytest.raises(litellm.BadRequestError):
        litellm.completion(**{**asked, "temperature": 9})
