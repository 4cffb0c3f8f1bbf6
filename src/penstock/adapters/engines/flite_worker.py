"""Text to speech by the program flite: `python -m <this module>`.

A text is spoken piece by piece, a process each: no text can harm more than its own request, and a
stream begins after the first sentence. The text goes through stdin, so that no process list shows it.
"""

import base64
import re
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
import soundfile

from penstock.adapters.engines.flite import FliteSettings
from penstock.adapters.engines.transcripts import event
from penstock.adapters.engines.waveform import CONTENT_TYPES, Samples, encoded, wav_head
from penstock.adapters.engines.worker import Loaded, Made, refused, run_worker, understood
from penstock.kit.wire.http import SSE_HEADERS
from penstock.kit.wire.problem import Refusal, problem

PATH = "/v1/audio/speech"
DEFAULT_FORMAT = "mp3"
CHARS_MAX = 16_384
PIECE_CHARS_MAX = 400
PIECE_DEADLINE_S = 60
EVENT_BYTES = 24_000
PIECEWISE = ("mp3", "pcm", "wav")
"""Formats whose pieces can be joined; others are made whole, also for a stream."""
OWN_VOICES = ("slt", "rms", "awb", "kal16", "kal")
VOICES = {
    "alloy": "slt",
    "ash": "rms",
    "ballad": "awb",
    "cedar": "rms",
    "coral": "slt",
    "echo": "rms",
    "fable": "awb",
    "marin": "slt",
    "nova": "slt",
    "onyx": "rms",
    "sage": "slt",
    "shimmer": "slt",
    "verse": "kal16",
}
"""OpenAI's voices by what comes nearest: slt is a woman, rms a man, awb a Scot, kal16 a robot."""
_PIECE_END = re.compile(r"(?<=[.!?;:])\s+|\n+")


class SpeechQuestion(msgspec.Struct):
    input: Annotated[str, msgspec.Meta(min_length=1, max_length=CHARS_MAX)]
    voice: str | dict[str, Any] = "alloy"
    response_format: str = DEFAULT_FORMAT
    speed: Annotated[float, msgspec.Meta(ge=0.25, le=4)] = 1.0
    stream_format: str = "audio"


@dataclass(frozen=True, slots=True)
class Wish:
    """How a text is to be spoken: one of Flite's voices, faster than 1 or slower."""

    voice: str
    speed: float


class Speaker:
    """The program, and the voices it has here."""

    def __init__(self, settings: FliteSettings) -> None:
        self._program = settings.program
        self._env = {"LD_LIBRARY_PATH": settings.libraries} if settings.libraries else {}
        told = subprocess.run(
            (self._program, "-lv"),
            env=self._env,
            check=True,
            capture_output=True,
            timeout=PIECE_DEADLINE_S,
        )
        found = told.stdout.decode(errors="replace").partition(":")[2].split()
        self.voices = tuple(voice for voice in OWN_VOICES if voice in found)
        if not self.voices:
            raise ValueError(f"{self._program} has none of the voices {', '.join(OWN_VOICES)}")

    def speak(self, text: str, wish: Wish) -> tuple[Samples, int]:
        """(samples, Hz) of one piece. Raises Refusal (422) for what Flite cannot speak."""
        with tempfile.TemporaryDirectory(prefix="flite-") as folder:
            out = Path(folder, "piece.wav")
            try:
                subprocess.run(
                    (
                        *(self._program, "-voice", wish.voice),
                        *("--setf", f"duration_stretch={1 / wish.speed:.4f}"),
                        *("-f", "/dev/stdin", "-o", str(out)),
                    ),
                    env=self._env,
                    input=text.encode(errors="replace") + b"\n",
                    check=True,
                    capture_output=True,
                    timeout=PIECE_DEADLINE_S,
                )
                samples, rate_hz = soundfile.read(out, dtype="float32")
            except (subprocess.SubprocessError, soundfile.LibsndfileError, OSError) as error:
                message = f"Flite cannot speak this text ({type(error).__name__})."
                raise Refusal(problem(422, "text_unspeakable", message, param="input")) from error
        return samples, int(rate_hz)


class Desk:
    """The skill: a text in, sound out."""

    def __init__(self, speaker: Speaker) -> None:
        self._speaker = speaker

    def speech(self, body: bytes) -> Made:
        """Raises Refusal (400, 422)."""
        question = understood(body, SpeechQuestion)
        kind = question.response_format
        if kind not in CONTENT_TYPES:
            known = ", ".join(CONTENT_TYPES)
            raise refused(f"This engine makes {known}, not {kind[:20]!r}.", "response_format")
        wish = Wish(self._voice(question.voice), question.speed)
        texts = pieces(question.input)
        if question.stream_format == "sse":
            units: dict[str, int] = {}
            return Made(self._events(texts, wish, kind=kind, units=units), SSE_HEADERS[0][1], units)
        samples, rate_hz = self._whole(texts, wish)
        units = {"audio_ms": len(samples) * 1_000 // rate_hz}
        return Made(encoded(samples, rate_hz, kind), CONTENT_TYPES[kind], units)

    def _voice(self, asked: str | dict[str, Any]) -> str:
        name = str(asked.get("id", "")) if isinstance(asked, dict) else asked
        voice = VOICES.get(name.lower(), name.lower())
        if voice in self._speaker.voices:
            return voice
        if name.lower() in VOICES:
            return self._speaker.voices[0]
        known = ", ".join((*VOICES, *self._speaker.voices))
        raise refused(f"There is no voice {name[:40]!r}. Choose one of {known}.", "voice")

    def _whole(self, texts: list[str], wish: Wish) -> tuple[Samples, int]:
        spoken = [self._speaker.speak(text, wish) for text in texts]
        return np.concatenate([samples for samples, _ in spoken]), spoken[0][1]

    def _events(
        self, texts: list[str], wish: Wish, *, kind: str, units: dict[str, int]
    ) -> Iterator[bytes]:
        for data in self._parts(texts, wish, kind=kind, units=units):
            for at in range(0, len(data), EVENT_BYTES):
                piece = base64.b64encode(data[at : at + EVENT_BYTES]).decode()
                yield event({"type": "speech.audio.delta", "audio": piece})
        yield event({"type": "speech.audio.done"})

    def _parts(
        self, texts: list[str], wish: Wish, *, kind: str, units: dict[str, int]
    ) -> Iterator[bytes]:
        """Encoded sound as it is spoken; `units` grow with it."""
        groups = [[text] for text in texts] if kind in PIECEWISE else [texts]
        for place, group in enumerate(groups):
            samples, rate_hz = self._whole(group, wish)
            units["audio_ms"] = units.get("audio_ms", 0) + len(samples) * 1_000 // rate_hz
            if kind == "wav":
                yield (b"" if place else wav_head(rate_hz)) + encoded(samples, rate_hz, "wav")[44:]
            else:
                yield encoded(samples, rate_hz, kind)


def pieces(text: str) -> list[str]:
    """Sentences, and parts of those that are too long; never none."""
    found: list[str] = []
    for sentence in _PIECE_END.split(text.replace("\0", " ")):
        rest = sentence.strip()
        while len(rest) > PIECE_CHARS_MAX:
            space = rest.rfind(" ", 1, PIECE_CHARS_MAX)
            end = space if space > 0 else PIECE_CHARS_MAX
            found.append(rest[:end])
            rest = rest[end:].strip()
        if rest:
            found.append(rest)
    return found or ["."]


def load(settings: FliteSettings) -> Loaded:
    speaker = Speaker(settings)
    # The encoders are loaded now, not by the first request.
    encoded(np.zeros(16, np.float32), 16_000, DEFAULT_FORMAT)
    return Loaded({PATH: Desk(speaker).speech}, Path(settings.program).name)


if __name__ == "__main__":
    run_worker(FliteSettings, load)
