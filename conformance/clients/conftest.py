"""What every client's tests are told: where the gateway is, whose key, which models."""

import os
from dataclasses import dataclass

import pytest

TOOL = {
    "name": "weather",
    "description": "The weather of a city.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
        "additionalProperties": False,
    },
}
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "people": {"type": "integer"}},
    "required": ["city", "people"],
    "additionalProperties": False,
}


@dataclass(frozen=True)
class Gateway:
    """`chat` and `embeddings` are the development engine's models, the others are real ones."""

    url: str
    key: str
    chat: str
    real_chat: str
    embeddings: str
    real_embeddings: str

    @property
    def v1(self) -> str:
        return f"{self.url}/v1"


@pytest.fixture(scope="session")
def gateway() -> Gateway:
    told = {name: os.environ[f"CONFORMANCE_{name.upper()}"] for name in Gateway.__annotations__}
    return Gateway(**told)


@pytest.fixture(scope="session")
def tool() -> dict:
    return TOOL


@pytest.fixture(scope="session")
def schema() -> dict:
    return SCHEMA
