"""The echo engine's pictures and sounds: made from the words alone, and heard again.

A picture is a pattern of the prompt's hash. Speech is a row of beeps, two for each byte of the text,
from which a transcription reads the text back; other audio is transcribed as its length.
"""

import base64
import hashlib
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import msgspec

from penstock.adapters.engines.echo_words import Body, sse, understood, words_of
from penstock.kit.audio import PCM_RATE_HZ, audio_kind, audio_ms, pcm_ms
from penstock.kit.multipart import BadMultipart, parse_multipart
from penstock.kit.wire.problem import Refusal, problem

SIDE_PIXELS = 256
SIDE_PIXELS_MAX = 2_048
SIZES_TOLD = ("1024x1024", "1024x1536", "1536x1024")
IMAGES_MAX = 10
CELLS = 8

BEEP_SAMPLES = 96
"""4 ms: a text takes 8 ms a byte, far less than speech would."""
HALF_WAVE_SAMPLES_MIN = 2
LOUDNESS = 8_000
TEXT_START, TEXT_END = 2, 3
SOUND = "mp3"
"""What OpenAI's clients get when they name no format."""
WAV_HEAD = struct.Struct("<4sI4s4sIHHIIHH4sI")
EVENT_BYTES = 24_000

MP3_FRAME_HEAD = bytes((0xFF, 0xF3, 0x14, 0xC4))
"""MPEG 2 Layer III, 8 kbit/s, 24 kHz, one channel: 24 bytes for 24 ms; all zero bits are silence."""
MP3_FRAME_BYTES = 24
MP3_FRAME_MS = 24
ID3_TEXT = b"TXXX"


class ImageQuestion(msgspec.Struct):
    prompt: str
    n: Annotated[int, msgspec.Meta(ge=1, le=IMAGES_MAX)] | None = None
    size: str | None = None
    response_format: str | None = None


class SpeechQuestion(msgspec.Struct):
    input: Annotated[str, msgspec.Meta(min_length=1)]
    response_format: str | None = None
    stream_format: str | None = None


@dataclass(frozen=True, slots=True)
class Sound:
    """Speech, and how it is wanted."""

    data: bytes
    content_type: str
    wants_events: bool

    def events(self) -> list[bytes]:
        """The same as server-sent events."""
        parts = [self.data[at : at + EVENT_BYTES] for at in range(0, len(self.data), EVENT_BYTES)]
        pieces = [base64.b64encode(part).decode() for part in parts]
        deltas = [sse({"type": "speech.audio.delta", "audio": piece}) for piece in pieces]
        return [*deltas, sse({"type": "speech.audio.done"})]


@dataclass(frozen=True, slots=True)
class Transcript:
    """What was heard, and how it is wanted."""

    text: str
    length_ms: int
    task: str
    response_format: str
    wants_stream: bool

    def whole(self) -> tuple[str, bytes]:
        """(content type, body)."""
        end = stamp(self.length_ms)
        match self.response_format:
            case "text":
                return "text/plain; charset=utf-8", f"{self.text}\n".encode()
            case "srt":
                span = f"{stamp(0)} --> {end}".replace(".", ",")
                return "text/plain; charset=utf-8", f"1\n{span}\n{self.text}\n".encode()
            case "vtt":
                lines = f"WEBVTT\n\n{stamp(0)} --> {end}\n{self.text}\n"
                return "text/vtt; charset=utf-8", lines.encode()
            case "verbose_json":
                return "application/json", msgspec.json.encode(self._verbose())
            case _:
                plain = {"text": self.text, "usage": self._usage()}
                return "application/json", msgspec.json.encode(plain)

    def events(self) -> list[bytes]:
        """The same as server-sent events."""
        words = words_of(self.text)
        deltas = [sse({"type": "transcript.text.delta", "delta": word}) for word in words]
        done = {"type": "transcript.text.done", "text": self.text, "usage": self._usage()}
        return [*deltas, sse(done)]

    def _usage(self) -> Body:
        return {"type": "duration", "seconds": -(-self.length_ms // 1_000)}

    def _verbose(self) -> Body:
        seconds = self.length_ms / 1_000
        segment = {
            "id": 0,
            "seek": 0,
            "start": 0.0,
            "end": seconds,
            "text": self.text,
            "tokens": [],
            "temperature": 0.0,
            "avg_logprob": 0.0,
            "compression_ratio": 1.0,
            "no_speech_prob": 0.0,
        }
        return {
            "task": self.task,
            "language": "english",
            "duration": seconds,
            "text": self.text,
            "segments": [segment],
            "usage": self._usage(),
        }


def images_answer(body: bytes) -> Body:
    """PNG files as base64. Raises Refusal (400)."""
    question = understood(body, ImageQuestion)
    if question.response_format not in {None, "b64_json"}:
        raise refused("This engine gives b64_json only.", "response_format")
    width, height = parsed_size(question.size)
    pictures = [
        picture(question.prompt, index, width=width, height=height)
        for index in range(question.n or 1)
    ]
    data = [{"b64_json": base64.b64encode(png).decode()} for png in pictures]
    answer = {"created": 0, "data": data, "output_format": "png"}
    size = f"{width}x{height}"
    # OpenAI's clients know no other size in an answer; whoever asked for one knows it.
    return {**answer, "size": size} if size in SIZES_TOLD else answer


def parsed_size(size: str | None) -> tuple[int, int]:
    """Raises Refusal (400)."""
    if size in {None, "auto"}:
        return SIDE_PIXELS, SIDE_PIXELS
    width, _, height = str(size).partition("x")
    if not (width.isdecimal() and height.isdecimal()):
        raise refused("size must be WIDTHxHEIGHT.", "size")
    sides = int(width[:5]), int(height[:5])
    if not all(1 <= side <= SIDE_PIXELS_MAX for side in sides):
        raise refused(f"A side has 1 to {SIDE_PIXELS_MAX} pixels.", "size")
    return sides


def picture(prompt: str, index: int, *, width: int, height: int) -> bytes:
    """A PNG: eight by eight cells in two colours, mirrored, all from the prompt's hash."""
    chance = hashlib.sha256(f"{index}\0{prompt}".encode(errors="replace")).digest()
    half = [chance[4 + place % 28] & 1 for place in range(CELLS * CELLS // 2)]
    halves = [half[at : at + CELLS // 2] for at in range(0, len(half), CELLS // 2)]
    rows = [side + side[::-1] for side in halves]
    lines = [b"\0" + bytes(row[x * CELLS // width] for x in range(width)) for row in rows]
    pixels = b"".join(lines[y * CELLS // height] for y in range(height))
    head = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)
    palette = chance[:3] + bytes(255 - part for part in chance[:3])
    chunks = ((b"IHDR", head), (b"PLTE", palette), (b"IDAT", zlib.compress(pixels, 6)))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        png_chunk(name, data) for name, data in (*chunks, (b"IEND", b""))
    )


def png_chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def speech_answer(body: bytes) -> Sound:
    """Raises Refusal (400)."""
    question = understood(body, SpeechQuestion)
    maker = _SOUNDS.get(question.response_format or SOUND)
    if maker is None:
        known = ", ".join(_SOUNDS)
        raise refused(f"This engine makes {known}. Ask for one of them.", "response_format")
    content_type, make = maker
    return Sound(make(question.input), content_type, question.stream_format == "sse")


def beeps(text: str) -> bytes:
    """Raw PCM: each half byte a square wave of its own pitch."""
    data = bytes((TEXT_START, *text.encode(errors="replace"), TEXT_END))
    return b"".join(_BEEPS[byte >> 4] + _BEEPS[byte & 15] for byte in data)


def wav(text: str) -> bytes:
    """The beeps with a WAV head."""
    data = beeps(text)
    head = WAV_HEAD.pack(
        *(b"RIFF", 36 + len(data), b"WAVE", b"fmt ", 16, 1, 1),
        *(PCM_RATE_HZ, 2 * PCM_RATE_HZ, 2, 16, b"data", len(data)),
    )
    return head + data


def mp3(text: str) -> bytes:
    """Silence as long as the beeps, with the text in a tag: an encoder would be another engine."""
    said = b"\x03text\0" + text.encode(errors="replace")
    frame = ID3_TEXT + struct.pack(">IH", len(said), 0) + said
    size = len(frame)
    synchsafe = bytes(size >> shift & 0x7F for shift in (21, 14, 7, 0))
    frames = -(-pcm_ms(len(beeps(text))) // MP3_FRAME_MS)
    silence = MP3_FRAME_HEAD + bytes(MP3_FRAME_BYTES - len(MP3_FRAME_HEAD))
    return b"ID3\x03\x00\x00" + synchsafe + frame + silence * frames


def transcript_answer(body: bytes, *, task: str) -> Transcript:
    """Raises Refusal (400)."""
    try:
        form = parse_multipart(body)
        texts = form.texts()
    except BadMultipart as error:
        raise refused(f"The form is not understood: {error.reason}.", "file") from error
    upload = form.file("file")
    if upload is None:
        raise refused("There is no audio.", "file")
    length_ms = audio_ms(upload.data)
    heard = heard_text(upload.data)
    return Transcript(
        text=f"{length_ms} milliseconds of audio" if heard is None else heard,
        length_ms=length_ms,
        task=task,
        response_format=texts.get("response_format", "json"),
        wants_stream=texts.get("stream", "").lower() == "true",
    )


def heard_text(data: bytes) -> str | None:
    """The text in audio of our own; None in any other."""
    if audio_kind(data) == "mp3":
        at = data.find(ID3_TEXT, 0, 64)
        size = int.from_bytes(data[at + 4 : at + 8], "big")
        return data[at + 16 : at + 10 + size].decode(errors="replace") if at > 0 else None
    samples = data[WAV_HEAD.size :] if audio_kind(data) == "wav" else data
    halves = [_half(samples, at) for at in range(0, len(samples) - 1, 2 * BEEP_SAMPLES)]
    said = bytes(high << 4 | low for high, low in zip(halves[::2], halves[1::2], strict=False))
    if not said.startswith(bytes((TEXT_START,))) or not said.endswith(bytes((TEXT_END,))):
        return None
    return said[1:-1].decode(errors="replace")


def _half(samples: bytes, at: int) -> int:
    """The half byte of the beep that starts here: how long its first half wave is."""
    length = 0
    while length < 18 and samples[at + 2 * length + 1 : at + 2 * length + 2] < b"\x80":
        length += 1
    return max(min(length - HALF_WAVE_SAMPLES_MIN, 15), 0)


def _beep(half_wave: int) -> bytes:
    up, down = struct.pack("<h", LOUDNESS), struct.pack("<h", -LOUDNESS)
    wave = up * half_wave + down * half_wave
    return (wave * BEEP_SAMPLES)[: 2 * BEEP_SAMPLES]


def stamp(length_ms: int) -> str:
    """`00:00:01.500`, as WebVTT writes it."""
    seconds, rest = divmod(length_ms, 1_000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{seconds:02d}.{rest:03d}"


def refused(message: str, param: str) -> Refusal:
    """A 400 about one field."""
    return Refusal(problem(400, "unsupported_value", message, param=param))


_BEEPS = tuple(_beep(half + HALF_WAVE_SAMPLES_MIN) for half in range(16))
_SOUNDS: dict[str, tuple[str, Callable[[str], bytes]]] = {
    "wav": ("audio/wav", wav),
    "pcm": ("audio/pcm", beeps),
    "mp3": ("audio/mpeg", mp3),
}
