"""Speech to text by PocketSphinx and the US-English model that comes in its wheel: `python -m <this module>`.

Long audio is taken in parts, cut where it is quietest. Every part starts from the same state, so that
the same sound always gives the same words and nothing of one request reaches another.
"""

import queue
from collections.abc import Iterator
from typing import Any

import numpy as np

from penstock.adapters.engines.transcripts import FORMATS, Transcript, Word, events
from penstock.adapters.engines.waveform import ACCEPTED, Samples, as_pcm, decoded
from penstock.adapters.engines.worker import FrameSettings, Loaded, Made, refused, run_worker
from penstock.adapters.errors import AudioRefused
from penstock.kit.multipart import BadMultipart, Form, parse_multipart
from penstock.kit.wire.http import SSE_HEADERS

PATH = "/v1/audio/transcriptions"
LANGUAGES = ("", "en", "en-us", "en-gb", "english")
RATE_HZ = 16_000
FRAME_MS = 10
AUDIO_MS_MAX = 15 * 60_000
PART_MS_MIN, PART_MS_MAX = 8_000, 20_000
QUIET_MS = 200
PART_MS_HEARD_MIN = 100
"""The recogniser needs a few frames to hear anything at all."""
WORD_TIMES = "timestamp_granularities[]"


class Recogniser:
    """Decoders, one a thread: each holds about 90 MB."""

    def __init__(self, *, decoders: int) -> None:
        import pocketsphinx

        made = [pocketsphinx.Decoder(loglevel="FATAL") for _ in range(decoders)]
        self._start = made[0].get_cmn(update=False)
        self._idle: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for decoder in made:
            self._idle.put(decoder)

    def parts(self, samples: Samples) -> Iterator[tuple[Word, ...]]:
        """The words of one part after the other; takes about a quarter of the time it plays."""
        at = 0
        while at < len(samples):
            end = cut(samples, at)
            yield self._words(samples[at:end], offset_ms=at * 1_000 // RATE_HZ)
            at = end

    def _words(self, samples: Samples, *, offset_ms: int) -> tuple[Word, ...]:
        if len(samples) * 1_000 < PART_MS_HEARD_MIN * RATE_HZ:
            return ()
        decoder = self._idle.get()
        try:
            decoder.set_cmn(self._start)
            decoder.start_utt()
            decoder.process_raw(as_pcm(samples), full_utt=True)
            decoder.end_utt()
            segments = decoder.seg() if decoder.hyp() else ()
            return tuple(
                Word(
                    plain(one.word),
                    offset_ms + one.start_frame * FRAME_MS,
                    offset_ms + (one.end_frame + 1) * FRAME_MS,
                )
                for one in segments or ()
                if one.word[0] not in "<["
            )
        finally:
            self._idle.put(decoder)


def plain(word: str) -> str:
    """The dictionary numbers the ways a word is said: `during(3)`."""
    return word.partition("(")[0]


def cut(samples: Samples, at: int) -> int:
    """Where the part that starts at `at` ends: at the quietest place, if it is too long."""
    longest = PART_MS_MAX * RATE_HZ // 1_000
    if len(samples) - at <= longest:
        return len(samples)
    window = QUIET_MS * RATE_HZ // 1_000
    first = at + PART_MS_MIN * RATE_HZ // 1_000
    energy = np.square(samples[first : at + longest], dtype=np.float64).cumsum()
    loudness = energy[window:] - energy[:-window]
    return first + int(loudness.argmin()) + window // 2


class Desk:
    """The skill: a form in, a transcript out."""

    def __init__(self, recogniser: Recogniser) -> None:
        self._recogniser = recogniser

    def transcribe(self, body: bytes) -> Made:
        """Raises Refusal (400)."""
        form, texts = read_form(body)
        response_format = texts.get("response_format", "json")
        if response_format not in FORMATS:
            raise refused(f"This engine writes {', '.join(FORMATS)}.", "response_format")
        language = texts.get("language", "").lower()
        if language not in LANGUAGES:
            raise refused(
                f"This engine understands English only, not {language[:20]!r}. Call another model.",
                "language",
            )
        upload = form.file("file")
        if upload is None:
            raise refused("There is no audio. Upload it in the field file.", "file")
        try:
            sound = decoded(upload.data, rate_hz=RATE_HZ, ms_max=AUDIO_MS_MAX)
        except AudioRefused as error:
            raise refused(f"{error} This engine reads {ACCEPTED}.", "file") from error
        units = {"audio_ms": sound.length_ms}
        parts = self._recogniser.parts(sound.samples)
        if texts.get("stream", "").lower() in {"true", "1"}:
            return Made(events(parts, sound.length_ms), SSE_HEADERS[0][1], units)
        words = tuple(word for part in parts for word in part)
        granular = [part.text() for part in form.parts if part.name == WORD_TIMES]
        content_type, written = Transcript(words, sound.length_ms).written(
            response_format, has_words="word" in granular
        )
        return Made(written, content_type, units)


def read_form(body: bytes) -> tuple[Form, dict[str, str]]:
    """Raises Refusal (400)."""
    try:
        form = parse_multipart(body)
        return form, form.texts()
    except BadMultipart as error:
        raise refused(f"The form is not understood: {error.reason}.", "file") from error


def load(settings: FrameSettings) -> Loaded:
    """Takes about a second."""
    from importlib.metadata import version

    desk = Desk(Recogniser(decoders=settings.slots_max))
    return Loaded({PATH: desk.transcribe}, version("pocketsphinx"))


if __name__ == "__main__":
    run_worker(FrameSettings, load)
