"""langchain-openai: invoke, stream, tools, structured output, embeddings by token ids, errors."""

import openai
import pytest
from langchain_openai import ChatOpenAI, OpenAI, OpenAIEmbeddings
from pydantic import BaseModel, Field

SAID = "Water turns the wheel"


class City(BaseModel):
    """A city."""

    city: str = Field(description="its name")
    people: int


@pytest.fixture
def chat(gateway):
    return ChatOpenAI(model=gateway.chat, base_url=gateway.v1, api_key=gateway.key, max_retries=0)


def test_invoke_and_batch(chat):
    answer = chat.invoke(SAID)
    assert answer.content == SAID
    assert answer.usage_metadata["total_tokens"] > 0
    assert [one.content for one in chat.batch(["a b", "c"])] == ["a b", "c"]


def test_stream(chat):
    chunks = list(chat.stream(SAID, stream_usage=True))
    assert "".join(chunk.content for chunk in chunks) == SAID
    assert any(chunk.usage_metadata for chunk in chunks)


def test_the_real_engine(gateway):
    chat = ChatOpenAI(
        model=gateway.real_chat,
        base_url=gateway.v1,
        api_key=gateway.key,
        max_completion_tokens=8,
        temperature=0,
    )
    assert chat.invoke(SAID).content


def test_tools(chat, tool):
    bound = chat.bind_tools([{"type": "function", "function": tool}], tool_choice=tool["name"])
    assert bound.invoke(SAID).tool_calls[0]["name"] == tool["name"]
    streamed = None
    for chunk in bound.stream(SAID):
        streamed = chunk if streamed is None else streamed + chunk
    assert isinstance(streamed.tool_calls[0]["args"]["city"], str)


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_structured_output(chat, method):
    assert isinstance(chat.with_structured_output(City, method=method).invoke(SAID), City)


def test_the_responses_api(gateway):
    chat = ChatOpenAI(
        model=gateway.chat, base_url=gateway.v1, api_key=gateway.key, use_responses_api=True
    )
    assert chat.invoke(SAID).text == SAID
    assert "".join(chunk.text for chunk in chat.stream(SAID)) == SAID


def test_completions(gateway):
    model = OpenAI(model=gateway.chat, base_url=gateway.v1, api_key=gateway.key)
    assert model.invoke(SAID) == SAID


@pytest.mark.parametrize("model", ["embeddings", "real_embeddings"])
def test_embeddings_of_texts(gateway, model):
    # By token ids (LangChain's default) it would fetch OpenAI's tokenizer; openai's tests send ids.
    made = OpenAIEmbeddings(
        model=getattr(gateway, model),
        base_url=gateway.v1,
        api_key=gateway.key,
        check_embedding_ctx_length=False,
    )
    first, second = made.embed_documents(["a cat", "a kitten"])
    assert len(first) == len(second) == len(made.embed_query("a cat"))


def test_errors(gateway):
    asked = {"base_url": gateway.v1, "api_key": gateway.key, "max_retries": 0}
    with pytest.raises(openai.AuthenticationError):
        ChatOpenAI(model=gateway.chat, **{**asked, "api_key": "sk-penstock-wrong"}).invoke(SAID)
    with pytest.raises(openai.NotFoundError):
        ChatOpenAI(model="no-such-model", **asked).invoke(SAID)
    with pytest.raises(openai.BadRequestError):
        ChatOpenAI(model=gateway.chat, temperature=9, **asked).invoke(SAID)
