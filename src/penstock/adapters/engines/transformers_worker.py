"""Chat and completions by transformers: `python -m <this module>` (see worker.py)."""

import itertools
from typing import Any

import msgspec

from penstock.adapters.engines.transformers_answers import Turn, read_question
from penstock.adapters.engines.transformers_model import CausalModel, TemplateRefused
from penstock.adapters.engines.transformers_settings import TransformersSettings
from penstock.adapters.engines.worker import (
    Loaded,
    Made,
    json_made,
    refused,
    run_worker,
    understood,
)
from penstock.kit.clock import SystemClock


class TokenizeQuestion(msgspec.Struct):
    prompt: str | None = None
    messages: list[dict[str, Any]] | None = None
    add_special_tokens: bool = True


class DetokenizeQuestion(msgspec.Struct):
    tokens: list[int]


class Desk:
    """The skills."""

    def __init__(self, model: CausalModel, name: str) -> None:
        self._model = model
        self._name = name
        self._clock = SystemClock()
        self._numbers = itertools.count(1)

    def chat(self, body: bytes) -> Made:
        return self._answered(body, is_chat=True)

    def complete(self, body: bytes) -> Made:
        return self._answered(body, is_chat=False)

    def tokenize(self, body: bytes) -> Made:
        """In the shape of vLLM."""
        question = understood(body, TokenizeQuestion)
        if question.messages:
            try:
                ids = self._model.chat_ids(question.messages)
            except TemplateRefused as error:
                raise refused(error.why, "messages") from error
        else:
            wants_marks = question.add_special_tokens
            found = self._model.tokenizer(question.prompt or "", add_special_tokens=wants_marks)
            ids = list(found["input_ids"])
        most = self._model.context_tokens_max
        return json_made({"count": len(ids), "max_model_len": most, "tokens": ids})

    def detokenize(self, body: bytes) -> Made:
        tokens = understood(body, DetokenizeQuestion).tokens
        if not all(0 <= token < len(self._model.tokenizer) for token in tokens):
            raise refused("tokens must be ids of this model.", "tokens")
        return json_made({"prompt": self._model.tokenizer.decode(tokens)})

    def _answered(self, body: bytes, *, is_chat: bool) -> Made:
        question = read_question(body, is_chat=is_chat)
        created, number = self._clock.now_ms() // 1000, next(self._numbers)
        turn = Turn(self._model, self._name, question, is_chat, created, number)
        return turn.made()


def load(settings: TransformersSettings) -> Loaded:
    import transformers

    desk = Desk(CausalModel(settings), settings.model)
    return Loaded(
        skills={
            "/v1/chat/completions": desk.chat,
            "/v1/completions": desk.complete,
            "/tokenize": desk.tokenize,
            "/detokenize": desk.detokenize,
        },
        version=f"transformers {transformers.__version__}",
    )


if __name__ == "__main__":
    run_worker(TransformersSettings, load)
