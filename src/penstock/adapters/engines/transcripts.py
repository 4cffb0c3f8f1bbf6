"""What was heard, in the five shapes of OpenAI's transcriptions, and as a stream of events.

Subtitles and segments are cues: words up to the next pause, or as many as fit a line.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

CUE_WORDS_MAX = 12
CUE_PAUSE_MS = 300
FORMATS = ("json", "text", "srt", "verbose_json", "vtt")


@dataclass(frozen=True, slots=True)
class Word:
    """One word and when it was said, in ms from the beginning."""

    text: str
    start_ms: int
    end_ms: int


@dataclass(frozen=True, slots=True)
class Transcript:
    """All words of an audio of `length_ms`, which is the length that is billed."""

    words: tuple[Word, ...]
    length_ms: int
    language: str = "english"

    @property
    def text(self) -> str:
        return text_of(self.words)

    def written(self, response_format: str, *, has_words: bool) -> tuple[str, bytes]:
        """(content type, body). `has_words`: with the times of each word (verbose_json)."""
        plain = "text/plain; charset=utf-8"
        match response_format:
            case "text":
                return plain, f"{self.text}\n".encode()
            case "srt":
                return plain, self._subtitles(",", numbered=True).encode()
            case "vtt":
                page = f"WEBVTT\n\n{self._subtitles('.', numbered=False)}"
                return "text/vtt; charset=utf-8", page.encode()
            case "verbose_json":
                return "application/json", msgspec.json.encode(self._verbose(has_words=has_words))
            case _:
                return "application/json", msgspec.json.encode(
                    {"text": self.text, "usage": usage_of(self.length_ms)}
                )

    def _subtitles(self, mark: str, *, numbered: bool) -> str:
        blocks = []
        for number, cue in enumerate(cues(self.words), start=1):
            span = f"{stamp(cue[0].start_ms, mark)} --> {stamp(cue[-1].end_ms, mark)}"
            lines = [str(number)] if numbered else []
            blocks.append("\n".join((*lines, span, text_of(cue))) + "\n")
        return "\n".join(blocks)

    def _verbose(self, *, has_words: bool) -> dict[str, Any]:
        segments = [
            {
                "id": number,
                "seek": 0,
                "start": cue[0].start_ms / 1_000,
                "end": cue[-1].end_ms / 1_000,
                "text": text_of(cue),
                "tokens": [],
                "temperature": 0.0,
                "avg_logprob": 0.0,
                "compression_ratio": 1.0,
                "no_speech_prob": 0.0,
            }
            for number, cue in enumerate(cues(self.words))
        ]
        answer = {
            "task": "transcribe",
            "language": self.language,
            "duration": self.length_ms / 1_000,
            "text": self.text,
            "segments": segments,
            "usage": usage_of(self.length_ms),
        }
        if has_words:
            answer["words"] = [
                {"word": one.text, "start": one.start_ms / 1_000, "end": one.end_ms / 1_000}
                for one in self.words
            ]
        return answer


def cues(words: Iterable[Word]) -> list[list[Word]]:
    """The words in lines."""
    lines: list[list[Word]] = []
    for word in words:
        last = lines[-1] if lines else []
        is_near = bool(last) and word.start_ms - last[-1].end_ms < CUE_PAUSE_MS
        if is_near and len(last) < CUE_WORDS_MAX:
            last.append(word)
        else:
            lines.append([word])
    return lines


def events(parts: Iterable[tuple[Word, ...]], length_ms: int) -> Iterator[bytes]:
    """Server-sent events as the parts of an audio are understood, one after the other."""
    said = ""
    for words in parts:
        if words:
            delta = f"{' ' if said else ''}{text_of(words)}"
            said += delta
            yield event({"type": "transcript.text.delta", "delta": delta})
    usage = usage_of(length_ms)
    yield event({"type": "transcript.text.done", "text": said, "usage": usage})


def event(fields: Mapping[str, Any]) -> bytes:
    """A data event."""
    return b"data: %b\n\n" % msgspec.json.encode(fields)


def text_of(words: Iterable[Word]) -> str:
    return " ".join(word.text for word in words)


def usage_of(length_ms: int) -> dict[str, Any]:
    """OpenAI counts audio in whole seconds."""
    return {"type": "duration", "seconds": -(-length_ms // 1_000)}


def stamp(length_ms: int, mark: str) -> str:
    """`00:00:01.500` of WebVTT (mark `.`), or SubRip's with `,`."""
    seconds, rest = divmod(length_ms, 1_000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{seconds:02d}{mark}{rest:03d}"
