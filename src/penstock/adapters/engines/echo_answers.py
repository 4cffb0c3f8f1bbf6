"""What the echo engine says: pure functions from request bodies to answers in OpenAI's dialect.

A token is a word; the answer is the last user message. Every answer follows from its question
alone, so that two runs, and two miners, give the same bytes.
"""

import base64
import hashlib
import math
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import msgspec

from penstock.adapters.engines.echo_schema import instance_text, is_schema_wanted, tool_called
from penstock.adapters.engines.echo_words import (
    MODEL,
    Body,
    Chatter,
    Prompts,
    sse,
    texts_of,
    tokens_before,
    understood,
    words_of,
)

DONE = b"data: [DONE]\n\n"
VECTOR_SIZE = 32
CHOICES_MAX = 128
STOPS_MAX = 16

TokensMax = Annotated[int, msgspec.Meta(ge=1)] | None
Count = Annotated[int, msgspec.Meta(ge=1, le=CHOICES_MAX)] | None


Stop = str | Annotated[list[str], msgspec.Meta(max_length=STOPS_MAX)] | None


class StreamOptions(msgspec.Struct):
    include_usage: bool = False


class ChatMessage(Chatter, kw_only=True):
    role: str


class Question(msgspec.Struct, kw_only=True):
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: TokensMax = None
    n: Count = None
    stop: Stop = None
    seed: int | None = None


class ChatQuestion(Question, kw_only=True):
    messages: Annotated[list[ChatMessage], msgspec.Meta(min_length=1)]
    max_completion_tokens: TokensMax = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    response_format: Body | None = None
    tools: list[Body] | None = None
    tool_choice: str | Body | None = None


class CompletionQuestion(Question, kw_only=True):
    prompt: Prompts
    suffix: str | None = None
    echo: bool | None = None
    logprobs: bool | int | None = None


class EmbeddingsQuestion(msgspec.Struct):
    input: Prompts
    encoding_format: str = "float"
    dimensions: Annotated[int, msgspec.Meta(ge=1, le=VECTOR_SIZE)] | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    """One of an answer's choices: its tokens (words with the space before them).

    `said_before` are the prompt's own tokens where the client wants them too; `call` is a tool call.
    """

    index: int
    tokens: tuple[str, ...]
    finish_reason: str
    said_before: tuple[str, ...] = ()
    call: Body | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer: its choices, counts, and how it is wanted. `logprobs` is how many alternatives
    are shown for each token, None for no log-probabilities at all.
    """

    kind: str
    choices: tuple[Choice, ...]
    prompt_tokens: int
    wants_stream: bool
    wants_usage: bool
    logprobs: int | None = None

    @property
    def tokens(self) -> tuple[str, ...]:
        """Everything that is said, in the order of the stream."""
        return tuple(token for choice in self.choices for token in choice.tokens)

    def whole(self, answer_id: str) -> Body:
        shown = [self._whole_choice(choice) for choice in self.choices]
        return {**self._frame(answer_id, self.kind), "choices": shown, "usage": self.usage()}

    def opening(self, answer_id: str) -> Iterator[bytes]:
        for choice in self.choices:
            if self.kind != "text_completion":
                delta: Body = {"role": "assistant", "content": "" if choice.call is None else None}
                if choice.call is not None:
                    delta["tool_calls"] = [{"index": 0, **choice.call}]
                yield self._event(answer_id, choice.index, {"delta": delta})
            elif choice.said_before:
                yield self._said(answer_id, choice, choice.said_before, place=0)

    def deltas(self, answer_id: str) -> Iterator[bytes]:
        """One event for each of `tokens`."""
        for choice in self.choices:
            place = len("".join(choice.said_before))
            for token in choice.tokens:
                yield self._said(answer_id, choice, (token,), place=place)
                place += len(token)

    def closing(self, answer_id: str) -> Iterator[bytes]:
        part: Body = {"text": ""} if self.kind == "text_completion" else {"delta": {}}
        for choice in self.choices:
            yield self._event(answer_id, choice.index, part, finish_reason=choice.finish_reason)
        if self.wants_usage:
            frame = self._frame(answer_id, self._event_kind())
            yield sse({**frame, "choices": [], "usage": self.usage()})
        yield DONE

    def usage(self) -> Body:
        completion = len(self.tokens)
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": completion,
            "total_tokens": self.prompt_tokens + completion,
            "prompt_tokens_details": {"cached_tokens": 0},
        }

    def _whole_choice(self, choice: Choice) -> Body:
        tokens = choice.said_before + choice.tokens
        shown: Body = {"index": choice.index, "finish_reason": choice.finish_reason}
        shown["logprobs"] = self._logprobs(tokens, place=0, starts=bool(choice.said_before))
        if self.kind == "text_completion":
            return {**shown, "text": "".join(tokens)}
        message: Body = {"role": "assistant", "content": "".join(tokens), "refusal": None}
        if choice.call is not None:
            message |= {"content": None, "tool_calls": [choice.call]}
        return {**shown, "message": message}

    def _said(
        self, answer_id: str, choice: Choice, tokens: tuple[str, ...], *, place: int
    ) -> bytes:
        text = "".join(tokens)
        part: Body = {"delta": {"content": text}}
        if self.kind == "text_completion":
            part = {"text": text}
        starts = bool(choice.said_before) and place == 0
        logprobs = self._logprobs(tokens, place=place, starts=starts)
        if logprobs is not None:
            part["logprobs"] = logprobs
        return self._event(answer_id, choice.index, part)

    def _logprobs(self, tokens: tuple[str, ...], *, place: int, starts: bool) -> Body | None:
        """`starts`: the first token is a prompt's first, which nothing comes before."""
        if self.logprobs is None:
            return None
        alternatives = [top_logprobs(token, self.logprobs) for token in tokens]
        if self.kind != "text_completion":
            return {
                "content": [
                    {**logprob_of(token), "top_logprobs": tops}
                    for token, tops in zip(tokens, alternatives, strict=True)
                ],
                "refusal": None,
            }
        offsets = []
        for token in tokens:
            offsets.append(place)
            place += len(token)
        known = [logprob_of(token)["logprob"] for token in tokens]
        tops = [{top["token"]: top["logprob"] for top in one} or None for one in alternatives]
        if starts:
            known[0] = tops[0] = None
        return {
            "tokens": list(tokens),
            "token_logprobs": known,
            "top_logprobs": tops,
            "text_offset": offsets,
        }

    def _event(
        self, answer_id: str, index: int, part: Body, *, finish_reason: str | None = None
    ) -> bytes:
        choice = {"index": index, **part, "finish_reason": finish_reason}
        return sse({**self._frame(answer_id, self._event_kind()), "choices": [choice]})

    def _event_kind(self) -> str:
        return self.kind if self.kind == "text_completion" else f"{self.kind}.chunk"

    def _frame(self, answer_id: str, kind: str) -> Body:
        # `created` would be the one field that differs between two runs; no client needs it.
        return {"id": answer_id, "object": kind, "created": 0, "model": MODEL}


def read_chat(body: bytes) -> Answer:
    """Raises Refusal (400) for what is no chat request."""
    question = understood(body, ChatQuestion)
    asked = [message.text() for message in question.messages if message.role == "user"]
    said = asked[-1] if asked else ""
    if is_schema_wanted(question.response_format):
        said = instance_text(question.response_format or {})
    call = tool_called(question.tools, question.tool_choice)
    tokens_max = question.max_completion_tokens or question.max_tokens
    choice = stopped(cut_choice(0, said, tokens_max=tokens_max), question.stop)
    if call is not None:
        choice = Choice(0, (), "tool_calls", call=call)
    return built_answer(
        "chat.completion",
        choices=[choice],
        prompt_tokens=sum(len(message.text().split()) for message in question.messages),
        question=question,
        logprobs=(question.top_logprobs or 0) if question.logprobs else None,
    )


def read_completion(body: bytes) -> Answer:
    """Raises Refusal (400) for what is no completion request."""
    question = understood(body, CompletionQuestion)
    prompts = texts_of(question.prompt)
    if question.suffix:
        prompts = [f"{prompt} {question.suffix}" for prompt in prompts]
    choices = [
        stopped(
            cut_choice(0, prompt, tokens_max=question.max_tokens, echoes=bool(question.echo)),
            question.stop,
        )
        for prompt in prompts
    ]
    asked = question.logprobs
    return built_answer(
        "text_completion",
        choices=choices,
        prompt_tokens=sum(len(prompt.split()) for prompt in prompts),
        question=question,
        logprobs=int(asked) if asked is not None and asked is not False else None,
    )


def cut_choice(index: int, said: str, *, tokens_max: int | None, echoes: bool = False) -> Choice:
    """What is said of a text: its words, up to the limit."""
    words = said.split()
    kept = words if tokens_max is None else words[:tokens_max]
    before = tuple(words_of(said)) if echoes else ()
    return Choice(
        index=index,
        tokens=tuple(
            word if place == 0 and not before else f" {word}" for place, word in enumerate(kept)
        ),
        finish_reason="stop" if len(kept) == len(words) else "length",
        said_before=before,
    )


def stopped(choice: Choice, stop: Stop) -> Choice:
    """What is said before the first of the texts that end an answer."""
    tokens = tokens_before(choice.tokens, [stop] if isinstance(stop, str) else stop or [])
    if tokens == choice.tokens:
        return choice
    return Choice(choice.index, tokens, "stop", choice.said_before, choice.call)


def built_answer(
    kind: str,
    *,
    choices: list[Choice],
    prompt_tokens: int,
    question: Question,
    logprobs: int | None,
) -> Answer:
    """The answer to a question, each choice as often as `n` says."""
    options, repeated = (
        question.stream_options,
        [one for one in choices for _ in range(question.n or 1)],
    )
    return Answer(
        kind=kind,
        choices=tuple(
            Choice(index, one.tokens, one.finish_reason, one.said_before, one.call)
            for index, one in enumerate(repeated)
        ),
        prompt_tokens=prompt_tokens,
        wants_stream=question.stream,
        wants_usage=options is not None and options.include_usage,
        logprobs=logprobs,
    )


def logprob_of(token: str) -> Body:
    """A token's log-probability follows from the token alone: above -1, and never 0."""
    first = hashlib.sha256(token.encode(errors="replace")).digest()[0]
    data = token.encode(errors="replace")
    return {"token": token, "logprob": -(first + 1) / 256, "bytes": list(data)}


def top_logprobs(token: str, count: int) -> list[Body]:
    """The token and `count - 1` others that were less likely."""
    others = [
        {**logprob_of(f"{token}~{place}"), "logprob": -float(place + 1)}
        for place in range(1, count)
    ]
    return [logprob_of(token), *others] if count else []


def embeddings_answer(body: bytes) -> Body:
    """One unit vector a text, from the text's hash alone. Raises Refusal (400)."""
    question = understood(body, EmbeddingsQuestion)
    texts = texts_of(question.input)
    words = sum(len(text.split()) for text in texts)
    is_packed = question.encoding_format == "base64"
    vectors = [unit_vector(text, size=question.dimensions or VECTOR_SIZE) for text in texts]
    return {
        "object": "list",
        "model": MODEL,
        "data": [
            {
                "object": "embedding",
                "index": index,
                "embedding": packed(vector) if is_packed else vector,
            }
            for index, vector in enumerate(vectors)
        ],
        "usage": {"prompt_tokens": words, "total_tokens": words},
    }


def packed(vector: list[float]) -> str:
    """Base64 of 32-bit floats, as OpenAI's clients ask for by default."""
    return base64.b64encode(array("f", vector).tobytes()).decode()


def unit_vector(text: str, *, size: int = VECTOR_SIZE) -> list[float]:
    """`size` numbers whose squares sum to 1. Equal texts give equal vectors; nothing else is meant."""
    digest = hashlib.sha256(text.encode(errors="replace")).digest()
    values = [byte - 127.5 for byte in digest[:size]]
    length = math.sqrt(sum(value * value for value in values))
    return [value / length for value in values]


def models_answer() -> Body:
    entry = {"id": MODEL, "object": "model", "created": 0, "owned_by": "penstock"}
    return {"object": "list", "data": [entry]}
