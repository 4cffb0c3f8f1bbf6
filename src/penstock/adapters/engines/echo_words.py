"""The echo engine's words: its tokens, and the answers that need only them.

A token is a word with the space before it. Its id is the word's bytes read as a number, so ids need
no table and every text comes back from them exactly; a word of more than six bytes is several ids.
"""

import hashlib
import re
from typing import Annotated, Any, TypeVar

import msgspec

from penstock.kit.wire.problem import Refusal, problem

MODEL = "echo"
CONTEXT_TOKENS = 8_192
PIECE_BYTES_MAX = 6
ID_MARK = b"\x01"
"""The first byte of every id of ours: it keeps leading zeros, and tells our ids from others."""

CATEGORIES = (
    *("harassment", "harassment/threatening", "hate", "hate/threatening", "illicit"),
    *("illicit/violent", "self-harm", "self-harm/instructions", "self-harm/intent"),
    *("sexual", "sexual/minors", "violence", "violence/graphic"),
)
FLAGGED_WORDS = {
    "idiot": "harassment",
    "threaten": "harassment/threatening",
    "hate": "hate",
    "heroin": "illicit",
    "bomb": "illicit/violent",
    "suicide": "self-harm",
    "porn": "sexual",
    "kill": "violence",
    "murder": "violence",
    "gore": "violence/graphic",
}
"""What the echo engine holds to be harmful, and why. It is a fixture, not a filter."""

T = TypeVar("T")
Body = dict[str, Any]
Batch = Annotated[list[str | int | list[int]], msgspec.Meta(min_length=1)]
Prompts = str | Batch
"""A text, a list of them, ids, or a list of lists of ids."""


class Chatter(msgspec.Struct, kw_only=True):
    """A message, for its text."""

    role: str = ""
    content: Any = None

    def text(self) -> str:
        """All its text parts."""
        if isinstance(self.content, list):
            parts = [part for part in self.content if isinstance(part, dict)]
            return " ".join(str(part.get("text", "")) for part in parts)
        return self.content if isinstance(self.content, str) else ""


class TokenizeQuestion(msgspec.Struct):
    prompt: str = ""
    messages: list[Chatter] = msgspec.field(default_factory=list)
    return_token_strs: bool = False


class DetokenizeQuestion(msgspec.Struct):
    tokens: list[int]


class RerankQuestion(msgspec.Struct):
    query: str
    documents: Annotated[list[str], msgspec.Meta(min_length=1)]


class ModerationQuestion(msgspec.Struct):
    input: str | Annotated[list[str | Body], msgspec.Meta(min_length=1)]


def words_of(text: str) -> list[str]:
    """The tokens of a text: each word with the white space before it."""
    return re.findall(r"\s*\S+", text)


def ids_of(text: str) -> list[int]:
    """The text's ids."""
    ids: list[int] = []
    for word in re.findall(r"\s*\S+|\s+", text):
        data = word.encode(errors="surrogatepass")
        starts = range(0, len(data), PIECE_BYTES_MAX)
        pieces = [ID_MARK + data[start : start + PIECE_BYTES_MAX] for start in starts]
        ids += [int.from_bytes(piece, "big") for piece in pieces]
    return ids


def piece_of(number: int) -> bytes:
    """The bytes behind an id; an id that is not ours is shown as a word."""
    data = number.to_bytes((number.bit_length() + 7) // 8, "big") if number > 0 else b""
    return data[1:] if len(data) > 1 and data[:1] == ID_MARK else b" #%d" % number


def text_of(ids: list[int]) -> str:
    """The text of ids."""
    return b"".join(piece_of(number) for number in ids).decode(errors="replace")


def tokens_before(tokens: tuple[str, ...], stops: list[str]) -> tuple[str, ...]:
    """The tokens up to where one of the texts begins; the last of them may be a part of one."""
    whole = "".join(tokens)
    ends = [whole.index(stop) for stop in stops if stop and stop in whole]
    left, kept = min(ends, default=len(whole)), []
    for token in tokens:
        kept.append(token[:left])
        left -= len(kept[-1])
    return tuple(token for token in kept if token)


def texts_of(prompts: Prompts) -> list[str]:
    """A prompt or a batch of them, in words or ids, as texts."""
    if isinstance(prompts, str):
        return [prompts]
    ids = [one for one in prompts if isinstance(one, int)]
    if len(ids) == len(prompts):
        return [text_of(ids)]
    return [
        one if isinstance(one, str) else text_of([one] if isinstance(one, int) else one)
        for one in prompts
    ]


def tokenize_answer(body: bytes) -> Body:
    """The shape of vLLM. Raises Refusal (400)."""
    question = understood(body, TokenizeQuestion)
    text = question.prompt or " ".join(message.text() for message in question.messages)
    ids = ids_of(text)
    strings = [piece_of(number).decode(errors="replace") for number in ids]
    return {
        "count": len(ids),
        "max_model_len": CONTEXT_TOKENS,
        "tokens": ids,
        "token_strs": strings if question.return_token_strs else None,
    }


def detokenize_answer(body: bytes) -> Body:
    """Raises Refusal (400)."""
    return {"prompt": text_of(understood(body, DetokenizeQuestion).tokens)}


def rerank_answer(body: bytes) -> Body:
    """Scores by the words that query and document share. Raises Refusal (400)."""
    question = understood(body, RerankQuestion)
    wanted = set(question.query.lower().split())
    results = []
    for index, document in enumerate(question.documents):
        found = set(document.lower().split())
        together = len(wanted | found)
        score = len(wanted & found) / together if together else 0.0
        results.append({"index": index, "relevance_score": score})
    total = sum(len(text.split()) for text in (question.query, *question.documents))
    usage = {"prompt_tokens": total, "total_tokens": total}
    name = f"echo-{hashlib.sha256(body).hexdigest()[:16]}"
    return {"id": name, "model": MODEL, "results": results, "usage": usage}


def moderation_answer(body: bytes) -> Body:
    """One result a text, by the word list. Raises Refusal (400)."""
    question = understood(body, ModerationQuestion)
    texts = [question.input] if isinstance(question.input, str) else _moderated(question.input)
    total = sum(len(text.split()) for text in texts)
    return {
        "id": f"modr-{hashlib.sha256(body).hexdigest()[:24]}",
        "model": MODEL,
        "results": [_moderated_result(text) for text in texts],
        "usage": {"prompt_tokens": total, "total_tokens": total},
    }


def _moderated(inputs: list[str | Body]) -> list[str]:
    """Texts are judged one by one; parts of one message together, as OpenAI does."""
    if all(isinstance(one, str) for one in inputs):
        return [one for one in inputs if isinstance(one, str)]
    parts = [one if isinstance(one, str) else str(one.get("text", "")) for one in inputs]
    return [" ".join(parts)]


def _moderated_result(text: str) -> Body:
    words = {word.strip(".,;:!?\"'()").lower() for word in text.split()}
    found = {FLAGGED_WORDS[word] for word in words & FLAGGED_WORDS.keys()}
    return {
        "flagged": bool(found),
        "categories": {name: name in found for name in CATEGORIES},
        "category_scores": {name: 0.99 if name in found else 0.01 for name in CATEGORIES},
        "category_applied_input_types": {
            name: ["text"] if name in found else [] for name in CATEGORIES
        },
    }


def sse(body: Body) -> bytes:
    """A data event."""
    return b"data: " + msgspec.json.encode(body) + b"\n\n"


def understood(body: bytes, kind: type[T]) -> T:
    """The request body as `kind`; fields it does not know are ignored. Raises Refusal (400)."""
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        message = f"The request body is not understood: {error}."
        raise Refusal(problem(400, "body_invalid", message)) from error
