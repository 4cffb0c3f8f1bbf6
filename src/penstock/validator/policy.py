"""What to ask, of whom, and when: drawn from a generator, so that nobody can tell it from a user."""

import random
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, assert_never

import msgspec

from penstock.kit.multipart import file_part, form_of, text_part
from penstock.spec.messages import Modality
from penstock.validator.peers import Probeable

CHAT_PATH = "/v1/chat/completions"
EMBEDDINGS_PATH = "/v1/embeddings"
TRANSCRIPTIONS_PATH = "/v1/audio/transcriptions"
IMAGE_SIZE = "256x256"
WAV_RATE_HZ = 8_000
WAV_LOUDNESS = 4_000
COMPLETION_UNITS_MIN = 8
COMPLETION_UNITS_MAX = 96
TEXTS_MAX = 4

WORDS = (
    *("river", "stone", "lantern", "copper", "window", "garden", "thunder", "paper", "harbour"),
    *("violet", "engine", "basket", "winter", "mirror", "bridge", "pepper", "candle", "forest"),
)
FACTS = (
    "What is the capital of France?",
    "Which planet is closest to the sun?",
    "How many sides does a hexagon have?",
    "What is the chemical symbol of gold?",
    "Who wrote the play Hamlet?",
    "What is the largest ocean on Earth?",
    "At what temperature does water boil at sea level?",
    "Name the first three prime numbers.",
    "Which language is spoken in Brazil?",
    "What is the square root of 144?",
)
REQUESTS = (
    "Write one sentence about a {}.",
    "Give me a short riddle about a {}.",
    "Use the word {} in a question.",
    "Say something kind to a person who lost a {}.",
)

_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Probe:
    """One request as a user would send it, and when (ms after the plan was made)."""

    after_ms: int
    chute: str
    path: str
    is_stream: bool
    body: bytes
    content_type: str = "application/json"


def plan_probes(
    rng: random.Random, chutes: Sequence[Probeable], *, count: int, span_ms: int
) -> list[Probe]:
    """`count` probes at random moments of the span, every chute about as often. Sorted by time."""
    if not chutes:
        return []
    order = [chutes[index % len(chutes)] for index in range(count)]
    rng.shuffle(order)
    moments = sorted(rng.randrange(max(1, span_ms)) for _ in range(count))
    return [_probe(rng, chute, after_ms) for chute, after_ms in zip(order, moments, strict=True)]


def _probe(rng: random.Random, chute: Probeable, after_ms: int) -> Probe:
    match chute.modality:
        case Modality.CHAT:
            is_stream = rng.random() < 0.5
            body = _chat_body(rng, chute, is_stream=is_stream)
            return Probe(after_ms, chute.chute, CHAT_PATH, is_stream, body)
        case Modality.EMBEDDINGS:
            texts = [_sentence(rng) for _ in range(rng.randint(1, TEXTS_MAX))]
            body = _encode({"model": chute.chute, "input": texts})
            return Probe(after_ms, chute.chute, EMBEDDINGS_PATH, is_stream=False, body=body)
        case Modality.TRANSCRIPTION:
            form = form_of(
                [
                    text_part("model", chute.chute),
                    file_part("file", "note.wav", _tone(rng), content_type="audio/wav"),
                ]
            )
            return Probe(
                after_ms,
                chute.chute,
                TRANSCRIPTIONS_PATH,
                is_stream=False,
                body=form.body(),
                content_type=form.content_type(),
            )
        case Modality.RERANK | Modality.IMAGES | Modality.SPEECH | Modality.MODERATION:
            path, asked = _other(rng, chute.modality)
            body = _encode({"model": chute.chute, **asked})
            return Probe(after_ms, chute.chute, path, is_stream=False, body=body)
        case _:
            assert_never(chute.modality)


def _other(rng: random.Random, modality: Modality) -> tuple[str, dict[str, Any]]:
    """(path, fields) of what is asked in one JSON object and answered whole."""
    if modality is Modality.RERANK:
        documents = [_sentence(rng) for _ in range(rng.randint(2, TEXTS_MAX))]
        return "/v1/rerank", {"query": _sentence(rng), "documents": documents}
    if modality is Modality.IMAGES:
        asked = {"prompt": _sentence(rng), "n": 1, "size": IMAGE_SIZE}
        return "/v1/images/generations", {**asked, "response_format": "b64_json"}
    if modality is Modality.SPEECH:
        return "/v1/audio/speech", {"input": _sentence(rng), "voice": "alloy"}
    return "/v1/moderations", {"input": _sentence(rng)}


def _tone(rng: random.Random) -> bytes:
    """A second or so of a tone, as a WAV file of 16-bit samples."""
    period = rng.randint(8, 64)
    samples = [WAV_LOUDNESS * (index % period) // period for index in range(WAV_RATE_HZ)]
    data = struct.pack(f"<{len(samples)}h", *samples)
    form = struct.pack("<HHIIHH", 1, 1, WAV_RATE_HZ, 2 * WAV_RATE_HZ, 2, 16)
    chunks = b"WAVEfmt " + struct.pack("<I", len(form)) + form + b"data"
    chunks += struct.pack("<I", len(data)) + data
    return b"RIFF" + struct.pack("<I", len(chunks)) + chunks


def _chat_body(rng: random.Random, chute: Probeable, *, is_stream: bool) -> bytes:
    units_max = min(COMPLETION_UNITS_MAX, chute.completion_max)
    body: dict[str, Any] = {
        "model": chute.chute,
        "messages": [{"role": "user", "content": question(rng)}],
        "temperature": 0,
        "max_tokens": rng.randint(min(COMPLETION_UNITS_MIN, units_max), units_max),
    }
    if is_stream:
        body["stream"] = True
        if rng.random() < 0.5:
            body["stream_options"] = {"include_usage": True}
    return _encode(body)


def question(rng: random.Random) -> str:
    """A sum, a fact, an echo or a small request."""
    kind = rng.randrange(4)
    if kind == 0:
        return f"What is {rng.randint(2, 999)} plus {rng.randint(2, 999)}?"
    if kind == 1:
        return rng.choice(FACTS)
    if kind == 2:
        return f"Repeat these words: {_sentence(rng)}"
    return rng.choice(REQUESTS).format(rng.choice(WORDS))


def _sentence(rng: random.Random) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(rng.randint(3, 24)))
