"""Embeddings and rerank by MiniLM: `python -m <this module>`.

A document's score is the cosine between the query and that passage of it which comes nearest.
"""

import hashlib
from typing import Annotated, Any

import msgspec

from penstock.adapters.engines.minilm_vectors import (
    MiniLmSettings,
    Vectors,
    all_passages,
    dot,
    passages,
)
from penstock.adapters.engines.worker import Loaded, Made, json_made, run_worker, understood

DOCUMENTS_MAX = 2_048


class RerankQuestion(msgspec.Struct):
    query: str
    documents: Annotated[
        list[str | dict[str, Any]], msgspec.Meta(min_length=1, max_length=DOCUMENTS_MAX)
    ]
    top_n: Annotated[int, msgspec.Meta(ge=1)] | None = None
    return_documents: bool = False


class Desk:
    """The skills over one model."""

    def __init__(self, vectors: Vectors) -> None:
        self._vectors = vectors

    def embed(self, body: bytes) -> Made:
        """Raises Refusal (400)."""
        answer = self._vectors.embeddings(understood(body, dict[str, Any]))
        return json_made(answer, prompt_tokens=answer["usage"]["prompt_tokens"])

    def rerank(self, body: bytes) -> Made:
        """Best first. Of a long query the first passage counts. Raises Refusal (400)."""
        question = understood(body, RerankQuestion)
        documents = [text_of(one) for one in question.documents]
        found, places = all_passages(documents, param="documents")
        (query, *vectors), tokens = self._vectors.of([passages(question.query)[0], *found])
        scores = [-1.0] * len(documents)
        for place, vector in zip(places, vectors, strict=True):
            scores[place] = max(scores[place], dot(query, vector))
        order = sorted(range(len(documents)), key=lambda place: (-scores[place], place))
        results = [
            {"index": place, "relevance_score": scores[place]}
            | ({"document": {"text": documents[place]}} if question.return_documents else {})
            for place in order[: question.top_n]
        ]
        answer = {
            "id": f"rerank-{hashlib.sha256(body).hexdigest()[:24]}",
            "results": results,
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        }
        return json_made(answer, prompt_tokens=tokens)


def text_of(document: str | dict[str, Any]) -> str:
    return document if isinstance(document, str) else str(document.get("text", ""))


def load(settings: MiniLmSettings) -> Loaded:
    vectors = Vectors(settings)
    desk = Desk(vectors)
    rerank = dict.fromkeys(("/v1/rerank", "/v2/rerank", "/rerank"), desk.rerank)
    return Loaded({"/v1/embeddings": desk.embed, **rerank}, vectors.version)


if __name__ == "__main__":
    run_worker(MiniLmSettings, load)
