"""MiniLM's vectors inside a worker, by llama.cpp in the same process: a crash there ends the worker only.

The model was made for passages of a few sentences and takes 512 tokens at most, so longer texts are cut
into passages, at spaces where there are any. A passage is short enough that no text exceeds the model.
"""

from collections.abc import Iterable, Sequence
from operator import mul
from typing import Any

from penstock.adapters.engines.minilm import TOKENS_MAX
from penstock.adapters.engines.worker import FrameSettings
from penstock.kit.wire.http import Response, json_response
from penstock.kit.wire.problem import Refusal, problem

Vector = Sequence[float]

LOG_ERRORS_ONLY = 1
PASSAGE_WEIGHT_MAX = 480
"""A word piece is at least one character; signs beyond ASCII may be taken apart into three."""
PASSAGES_MAX = 4_096
BATCH_TEXTS = 64


class MiniLmSettings(FrameSettings, frozen=True, kw_only=True):
    """`path` is the GGUF."""

    path: str


class Vectors:
    """The loaded model. Usable from several threads."""

    def __init__(self, settings: MiniLmSettings) -> None:
        import xllamacpp

        params = xllamacpp.CommonParams()
        params.model.path = settings.path
        params.hostnames = ["127.0.0.1"]
        params.port = 0
        params.n_parallel = settings.slots_max
        params.n_ctx = TOKENS_MAX * settings.slots_max
        params.n_batch = params.n_ubatch = params.n_ctx
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = settings.threads
        params.verbosity = LOG_ERRORS_ONLY
        params.embedding = True
        params.endpoint_slots = False
        params.offline = True
        params.ui = False
        self._model = settings.model
        self._server = xllamacpp.Server(params)
        self.version = str(xllamacpp.__version__)

    def embeddings(self, question: dict[str, Any]) -> dict[str, Any]:
        """The answer to a question of /v1/embeddings. Raises Refusal (400)."""
        try:
            answer: dict[str, Any] = self._server.handle_embeddings(question)
        except ValueError as error:
            raise Refusal(problem(400, "body_invalid", str(error))) from error
        if "error" in answer:
            raise Refusal(_as_told(answer["error"]))
        return {**answer, "model": self._model}

    def of(self, texts: Sequence[str]) -> tuple[list[Vector], int]:
        """(a unit vector of each text, tokens read). Each text is a passage. Raises Refusal (400)."""
        vectors: list[Vector] = []
        tokens = 0
        for start in range(0, len(texts), BATCH_TEXTS):
            answer = self.embeddings({"input": list(texts[start : start + BATCH_TEXTS])})
            vectors += [one["embedding"] for one in answer["data"]]
            tokens += answer["usage"]["prompt_tokens"]
        return vectors, tokens


def _as_told(error: object) -> Response:
    """llama.cpp's own error, in its own words."""
    fields = error if isinstance(error, dict) else {"message": str(error)}
    status = fields.get("code")
    return json_response(status if type(status) is int else 500, {"error": fields})


def passages(text: str) -> list[str]:
    """The text in parts that fit; at least one."""
    found: list[str] = []
    words: list[str] = []
    weight = 0
    for word in _short_words(text):
        more = _weight(word) + 1
        if words and weight + more > PASSAGE_WEIGHT_MAX:
            found.append(" ".join(words))
            words, weight = [], 0
        words.append(word)
        weight += more
    return [*found, " ".join(words) or " "]


def _short_words(text: str) -> Iterable[str]:
    """The words, those cut that are longer than a passage."""
    for word in text.split():
        chars = PASSAGE_WEIGHT_MAX if word.isascii() else PASSAGE_WEIGHT_MAX // 3
        for start in range(0, len(word), chars - 1):
            yield word[start : start + chars - 1]


def _weight(word: str) -> int:
    return len(word) if word.isascii() else 3 * len(word)


def all_passages(texts: Iterable[str], *, param: str) -> tuple[list[str], list[int]]:
    """(the passages of all texts, for each the place of its text). Raises Refusal (400)."""
    found: list[str] = []
    places: list[int] = []
    for place, text in enumerate(texts):
        parts = passages(text)
        found += parts
        places += [place] * len(parts)
        if len(found) > PASSAGES_MAX:
            message = f"The texts are too long together: more than {PASSAGES_MAX} passages."
            raise Refusal(problem(400, "texts_too_long", message, param=param))
    return found, places


def dot(one: Vector, other: Vector) -> float:
    """Of unit vectors: their cosine."""
    return float(sum(map(mul, one, other)))
