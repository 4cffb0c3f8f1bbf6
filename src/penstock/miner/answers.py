"""Whole answers in one dialect, whatever the engine's: by what was asked, to what its clients expect.

Pure functions from an engine's 200 to the client's bytes and the counts in it. What cannot be the
answer to the question is None: the engine has failed.
"""

from array import array
from base64 import b64decode, b64encode
from binascii import Error as NotBase64
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any

import msgspec

from penstock.kit.audio import audio_ms
from penstock.kit.engine import Capability
from penstock.miner.llama_answer import joined_results
from penstock.miner.llama_request import LLAMA, NATIVE_PATH
from penstock.miner.normalise import (
    Counts,
    as_usage,
    heard_ms,
    legacy_logprobs,
    name_completion,
    read_counts,
    whole_choices,
)
from penstock.miner.paths import CHAT_PATH, TOKENIZE_PATH
from penstock.miner.rewrite import Prepared, answers_asked
from penstock.spec.messages import Manifest

JSON = "application/json"
TEXT_FORMATS = {
    "text": "text/plain; charset=utf-8",
    "srt": "text/plain; charset=utf-8",
    "vtt": "text/vtt; charset=utf-8",
}

_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode

Fields = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Whole:
    """An answer for the client, and the engine's counts for it if it told any."""

    body: bytes
    content_type: str
    counts: Counts | None


def whole_answer(
    data: bytes, content_type: str, *, prepared: Prepared, manifest: Manifest
) -> Whole | None:
    """The engine's 200 as the client gets it; None if it is no answer to what was asked."""
    if prepared.kind is Capability.SPEECH:
        return _speech(data, content_type, prepared)
    if prepared.kind in {Capability.TRANSCRIPTION, Capability.TRANSLATION}:
        return _transcript(data, content_type, prepared)
    fields = _joined(data, prepared) if prepared.own_path == NATIVE_PATH else _fields(data)
    if fields is not None and prepared.path == CHAT_PATH:
        _count_choices(fields, prepared, manifest)
    shape = _SHAPES.get(prepared.kind)
    if fields is not None and prepared.kind is Capability.TOKENIZE:
        fields = _tokens(fields, prepared, manifest)
    elif fields is not None and shape is not None:
        fields = shape(fields, prepared)
    if fields is None:
        return None
    if "model" in fields or prepared.kind is Capability.RERANK:
        fields["model"] = manifest.name
    return Whole(_encode(fields), JSON, _counts(fields, prepared))


def _joined(data: bytes, prepared: Prepared) -> Fields | None:
    results = _decoded(data)
    return joined_results(results, prepared) if isinstance(results, list) else None


def _decoded(data: bytes) -> object:
    """JSON, or None for what is none."""
    try:
        return _decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _fields(data: bytes) -> Fields | None:
    fields = _decoded(data)
    return fields if isinstance(fields, dict) and "error" not in fields else None


def _counts(fields: Mapping[str, Any], prepared: Prepared) -> Counts | None:
    counts = read_counts(fields)
    match prepared.kind:
        case Capability.IMAGES:
            images = len(fields["data"])
            return replace(counts or Counts(0, 0, 0), images=images)
        case Capability.RERANK | Capability.EMBEDDINGS if counts is not None and not counts.prompt:
            # Engines that read and never write may tell the sum alone.
            total = fields["usage"].get("total_tokens")
            return replace(counts, prompt=total if type(total) is int and total > 0 else 0)
        case _:
            return counts


def _count_choices(fields: Fields, prepared: Prepared, manifest: Manifest) -> None:
    """Bring the usage of several choices up to all of them, and take out what we asked for that."""
    if manifest.engine in LLAMA and answers_asked(prepared.asked).total > 1:
        counts = whole_choices(fields)
        if counts is not None:
            fields["usage"] = as_usage(counts)
    if "logprobs" in prepared.hidden:
        choices = fields.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            if isinstance(choice, dict):
                choice.pop("logprobs", None)


def _completion(fields: Fields, _: Prepared) -> Fields | None:
    name_completion(fields)
    choices = fields.get("choices")
    for choice in choices if isinstance(choices, list) else ():
        if isinstance(choice, dict):
            choice["logprobs"] = legacy_logprobs(choice.get("logprobs"), offset=0)
    return fields


def _chat(fields: Fields, _: Prepared) -> Fields | None:
    # OpenRouter's client refuses an answer without this field, which many engines leave out.
    if "choices" in fields:
        fields.setdefault("system_fingerprint", None)
    return fields


def _embeddings(fields: Fields, prepared: Prepared) -> Fields | None:
    """Vectors as numbers or as base64 of 32-bit floats, whichever was asked for."""
    data = fields.get("data")
    if not isinstance(data, list) or not all(isinstance(item, dict) for item in data):
        return None
    is_packed = prepared.asked.get("encoding_format") == "base64"
    for item in data:
        vector = item.get("embedding")
        try:
            if is_packed and isinstance(vector, list):
                item["embedding"] = b64encode(array("f", vector).tobytes()).decode()
            elif not is_packed and isinstance(vector, str):
                item["embedding"] = array("f", b64decode(vector)).tolist()
        except (TypeError, ValueError, NotBase64, OverflowError):
            return None
    return fields


def _rerank(fields: Fields, prepared: Prepared) -> Fields | None:
    """Best first, at most `top_n`, in the shape of Cohere, Jina and vLLM at once."""
    results = fields.get("results")
    documents = prepared.asked.get("documents") or ()
    if not isinstance(results, list):
        return None
    scored: list[tuple[int, float]] = []
    for result in results:
        place = result.get("index") if isinstance(result, dict) else None
        score = result.get("relevance_score", result.get("score")) if place is not None else None
        if type(place) is not int or not 0 <= place < len(documents):
            return None
        if not isinstance(score, (int, float)):
            return None
        scored.append((place, score))
    scored.sort(key=lambda one: (-one[1], one[0]))
    shown = [
        {"index": place, "relevance_score": score, **_document(documents[place], prepared)}
        for place, score in scored[: prepared.asked.get("top_n")]
    ]
    usage = fields.get("usage")
    return {
        **fields,
        "id": fields.get("id") or f"rerank-{sha256(prepared.body).hexdigest()[:24]}",
        "results": shown,
        "usage": usage if isinstance(usage, dict) else {"total_tokens": 0},
        "meta": {"api_version": {"version": "2"}, "billed_units": {"search_units": 1}},
    }


def _document(document: object, prepared: Prepared) -> Fields:
    if not prepared.asked.get("return_documents"):
        return {}
    text = document.get("text", "") if isinstance(document, dict) else document
    return {"document": {"text": text}}


def _images(fields: Fields, prepared: Prepared) -> Fields | None:
    data = fields.get("data")
    if not isinstance(data, list) or not data:
        return None
    wanted = prepared.asked.get("n") or 1
    shown = []
    for item in data[:wanted]:
        if not isinstance(item, dict) or not isinstance(item.get("b64_json"), str):
            return None
        shown.append({name: value for name, value in item.items() if name != "url"})
    created = fields.get("created")
    return {**fields, "created": created if type(created) is int else 0, "data": shown}


def _tokens(fields: Fields, prepared: Prepared, manifest: Manifest) -> Fields | None:
    """The shape of vLLM, also of llama.cpp's answers."""
    if prepared.path != TOKENIZE_PATH:
        text = fields.get("prompt", fields.get("content"))
        return {"prompt": text} if isinstance(text, str) else None
    tokens = fields.get("tokens")
    if not isinstance(tokens, list):
        return None
    ids = [token.get("id") if isinstance(token, dict) else token for token in tokens]
    if not all(type(token) is int for token in ids):
        return None
    pieces = [_piece(token.get("piece")) for token in tokens if isinstance(token, dict)]
    is_wanted = bool(prepared.asked.get("return_token_strs"))
    return {
        "count": len(ids),
        "max_model_len": manifest.limits.context_tokens_max,
        "tokens": ids,
        "token_strs": (pieces or fields.get("token_strs")) if is_wanted else None,
    }


def _piece(piece: object) -> str:
    """llama.cpp gives a token that is no whole UTF-8 as its bytes."""
    if isinstance(piece, list):
        return bytes(byte for byte in piece if type(byte) is int and 0 <= byte < 256).decode(
            errors="replace"
        )
    return piece if isinstance(piece, str) else ""


def _speech(data: bytes, content_type: str, prepared: Prepared) -> Whole | None:
    """Audio as it is; its length is read from it."""
    if not data or content_type.startswith((JSON, "text/")):
        return None
    length_ms = audio_ms(data, is_pcm=prepared.asked.get("response_format") == "pcm")
    kind = content_type or "application/octet-stream"
    return Whole(data, kind, Counts(0, 0, 0, audio_ms=length_ms))


def _transcript(data: bytes, content_type: str, prepared: Prepared) -> Whole | None:
    """Text, subtitles or JSON, as asked; billed by the audio's length as the engine tells it."""
    wanted = TEXT_FORMATS.get(prepared.asked.get("response_format", "json"))
    heard = Counts(0, 0, 0, audio_ms=prepared.upload_ms)
    if wanted is not None and not content_type.startswith(JSON):
        return Whole(data, wanted, heard)
    fields = _fields(data)
    if fields is None or not isinstance(fields.get("text"), str):
        return None
    told = read_counts(fields) or Counts(0, 0, 0)
    counts = replace(told, audio_ms=heard_ms(fields, prepared.upload_ms))
    if wanted is not None:
        return Whole(fields["text"].encode() + b"\n", wanted, counts)
    return Whole(_encode(fields), JSON, counts)


_SHAPES: dict[Capability, Callable[[Fields, Prepared], Fields | None]] = {
    Capability.CHAT: _chat,
    Capability.COMPLETIONS: _completion,
    Capability.EMBEDDINGS: _embeddings,
    Capability.RERANK: _rerank,
    Capability.IMAGES: _images,
}
