"""Requests and answers in OpenAI's dialect for the worker over transformers.

A field that it does not follow is refused by its name, known or not, unless it asks for nothing.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import msgspec

from penstock.adapters.engines.transformers_model import (
    CausalModel,
    Sampling,
    TemplateRefused,
    Word,
)
from penstock.adapters.engines.worker import Made, json_made, refused
from penstock.kit.wire.problem import Refusal, problem

DONE = b"data: [DONE]\n\n"
TOP_LOGPROBS_MAX = 20
CHOICES_MAX = 8
STOPS_MAX = 16
SILENT = frozenset({"model", "user", "metadata", "store", "stream_options", "service_tier"})
"""Fields that change nothing of an answer's text."""
EMPTY: tuple[Any, ...] = (None, False, 0, "", [], {}, "auto", {"type": "text"})
"""Values by which a field asks for nothing."""

_decode = msgspec.json.Decoder(dict[str, Any]).decode
_encode = msgspec.json.Encoder().encode

Count = Annotated[int, msgspec.Meta(ge=1)]


class Question(msgspec.Struct, kw_only=True):
    """The fields that are followed."""

    prompt: str | list[int] | None = None
    messages: list[dict[str, Any]] | None = None
    max_tokens: Count | None = None
    max_completion_tokens: Count | None = None
    temperature: Annotated[float, msgspec.Meta(ge=0, le=100)] | None = None
    top_p: Annotated[float, msgspec.Meta(gt=0, le=1)] | None = None
    top_k: Annotated[int, msgspec.Meta(ge=-1)] | None = None
    seed: int | None = None
    n: Annotated[int, msgspec.Meta(ge=1, le=CHOICES_MAX)] | None = None
    stop: str | Annotated[list[str], msgspec.Meta(max_length=STOPS_MAX)] | None = None
    stream: bool | None = None
    logprobs: bool | Annotated[int, msgspec.Meta(ge=0, le=TOP_LOGPROBS_MAX)] | None = None
    top_logprobs: Annotated[int, msgspec.Meta(ge=0, le=TOP_LOGPROBS_MAX)] | None = None


FOLLOWED = frozenset(Question.__struct_fields__)


def read_question(body: bytes, *, is_chat: bool) -> Question:
    """Raises Refusal (400)."""
    try:
        fields = _decode(body)
        question = msgspec.convert(fields, Question)
    except (
        msgspec.ValidationError,
        msgspec.DecodeError,
        UnicodeDecodeError,
        RecursionError,
    ) as error:
        message = f"The request body is not understood: {error}."
        raise Refusal(problem(400, "body_invalid", message)) from error
    for name in fields.keys() - FOLLOWED - SILENT:
        if fields[name] not in EMPTY:
            raise Refusal(
                problem(
                    400,
                    "unsupported_parameter",
                    f"This model's engine does not follow {name[:80]}. Leave it out.",
                    param=name[:80],
                )
            )
    wanted = "messages" if is_chat else "prompt"
    if not getattr(question, wanted):
        raise refused(f"Send `{wanted}`.", wanted)
    return question


@dataclass(slots=True)
class Turn:
    """One request in work: its prompt, and what was counted."""

    model: CausalModel
    name: str
    question: Question
    is_chat: bool
    created: int
    number: int
    units: dict[str, int] = field(
        default_factory=lambda: {"prompt_tokens": 0, "completion_tokens": 0}
    )
    _prompt: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._prompt = self._ids()
        self.units["prompt_tokens"] = len(self._prompt)
        room = self.model.context_tokens_max - len(self._prompt)
        if room < 1:
            message = (
                f"The prompt has {len(self._prompt)} tokens, and this model takes "
                f"{self.model.context_tokens_max} with its answer. Send a shorter one."
            )
            raise Refusal(problem(400, "context_length_exceeded", message))
        asked = self.question.max_completion_tokens or self.question.max_tokens
        self._tokens_max = min(asked or room, room)

    _tokens_max: int = 1

    def made(self) -> Made:
        """The whole answer, or its events as they come."""
        if self.question.stream:
            return Made(self.events(), content_type="text/event-stream", units=self.units)
        choices = [self._choice(index, list(self._words(index))) for index in range(self._count)]
        body = {**self._frame(chunk=False), "choices": choices, "usage": self._usage()}
        return json_made(body, **self.units)

    def events(self) -> Iterator[bytes]:
        """A stream: choice after choice, then the counts."""
        for index in range(self._count):
            for place, word in enumerate(self._words(index)):
                yield self._event([self._delta(index, word, is_first=place == 0)])
        yield self._event([], usage=self._usage())
        yield DONE

    @property
    def _count(self) -> int:
        return self.question.n or 1

    def _ids(self) -> list[int]:
        question = self.question
        if isinstance(question.prompt, list):
            return question.prompt
        if not self.is_chat:
            return list(self.model.tokenizer(question.prompt)["input_ids"])
        try:
            return self.model.chat_ids(question.messages or [])
        except TemplateRefused as error:
            why = f"The model's template does not take these messages: {error.why}."
            raise refused(why, "messages") from error

    def _words(self, index: int) -> Iterator[Word]:
        question = self.question
        stop = [question.stop] if isinstance(question.stop, str) else question.stop or []
        seed = None if question.seed is None else question.seed + index
        sampling = Sampling(
            tokens_max=self._tokens_max,
            temperature=1.0 if question.temperature is None else question.temperature,
            top_p=question.top_p or 1.0,
            top_k=max(question.top_k or 0, 0),
            seed=seed,
            stop=tuple(stop),
            top_logprobs=self._top,
        )
        for word in self.model.words(self._prompt, sampling):
            self.units["completion_tokens"] += 1
            yield word

    @property
    def _top(self) -> int:
        question = self.question
        if self.is_chat:
            return (question.top_logprobs or 0) if question.logprobs else 0
        return int(question.logprobs or 0)

    def _choice(self, index: int, words: Sequence[Word]) -> dict[str, Any]:
        text = "".join(word.text for word in words)
        said = (
            {"message": {"role": "assistant", "content": text}} if self.is_chat else {"text": text}
        )
        return {
            "index": index,
            **said,
            "logprobs": self._logprobs(words),
            "finish_reason": words[-1].finish,
        }

    def _delta(self, index: int, word: Word, *, is_first: bool) -> dict[str, Any]:
        role = {"role": "assistant"} if is_first else {}
        said = {"delta": {**role, "content": word.text}} if self.is_chat else {"text": word.text}
        finish = word.finish or None
        return {"index": index, **said, "logprobs": self._logprobs([word]), "finish_reason": finish}

    def _logprobs(self, words: Sequence[Word]) -> dict[str, Any] | None:
        asked = self.question.logprobs
        if asked is None or asked is False:
            return None
        if self.is_chat:
            return {"content": [self._told(word) for word in words]}
        return {
            "tokens": [self._piece(word.token) for word in words],
            "token_logprobs": [word.logprob for word in words],
            "top_logprobs": [
                {self._piece(token): logprob for token, logprob in word.top} for word in words
            ],
            "text_offset": [],
        }

    def _told(self, word: Word) -> dict[str, Any]:
        top = [self._item(token, logprob) for token, logprob in word.top]
        return {**self._item(word.token, word.logprob), "top_logprobs": top}

    def _item(self, token: int, logprob: float) -> dict[str, Any]:
        piece = self._piece(token)
        return {"token": piece, "logprob": logprob, "bytes": list(piece.encode())}

    def _piece(self, token: int) -> str:
        return str(self.model.tokenizer.decode([token]))

    def _usage(self) -> dict[str, Any]:
        prompt, completion = self.units["prompt_tokens"], self.units["completion_tokens"]
        return {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "prompt_tokens_details": {"cached_tokens": 0},
        }

    def _event(self, choices: list[dict[str, Any]], **more: Any) -> bytes:
        return (
            b"data: " + _encode({**self._frame(chunk=True), "choices": choices, **more}) + b"\n\n"
        )

    def _frame(self, *, chunk: bool) -> dict[str, Any]:
        kind = "chat.completion" if self.is_chat else "text_completion"
        prefix = "chatcmpl" if self.is_chat else "cmpl"
        return {
            "id": f"{prefix}-{self.number}",
            "object": f"{kind}.chunk" if chunk and self.is_chat else kind,
            "created": self.created,
            "model": self.name,
        }
