"""Transcripts in their shapes, the cuts of long audio, and what a text becomes before it is spoken."""

import re

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.adapters.engines.flite_worker import PIECE_CHARS_MAX, pieces
from penstock.adapters.engines.pocketsphinx_worker import PART_MS_MAX, RATE_HZ, cut, plain
from penstock.adapters.engines.transcripts import (
    CUE_WORDS_MAX,
    Transcript,
    Word,
    cues,
    events,
    stamp,
)
from penstock.kit.sse import EventSplitter, event_data


def said(*texts: str, pause_ms: int = 0) -> tuple[Word, ...]:
    """Words of 400 ms, one after the other."""
    step = 400 + pause_ms
    return tuple(Word(text, place * step, place * step + 400) for place, text in enumerate(texts))


def test_a_pause_or_a_full_line_ends_a_cue() -> None:
    assert [len(cue) for cue in cues(said(*"abcd"))] == [4]
    assert [len(cue) for cue in cues(said(*"abcd", pause_ms=300))] == [1] * 4
    assert [len(cue) for cue in cues(said(*["a"] * 30))] == [CUE_WORDS_MAX, CUE_WORDS_MAX, 6]
    assert cues(()) == []


def test_subtitles_are_numbered_with_commas_and_webvtt_has_points_and_a_head() -> None:
    transcript = Transcript(said("one", "two", pause_ms=1_000), 1_900)
    kind, srt = transcript.written("srt", has_words=False)
    assert kind == "text/plain; charset=utf-8"
    assert srt.decode() == (
        "1\n00:00:00,000 --> 00:00:00,400\none\n\n2\n00:00:01,400 --> 00:00:01,800\ntwo\n"
    )
    kind, vtt = transcript.written("vtt", has_words=False)
    assert kind == "text/vtt; charset=utf-8"
    assert vtt.decode() == (
        "WEBVTT\n\n00:00:00.000 --> 00:00:00.400\none\n\n00:00:01.400 --> 00:00:01.800\ntwo\n"
    )


def test_silence_has_every_shape_too() -> None:
    silence = Transcript((), 500)
    assert silence.written("text", has_words=False)[1] == b"\n"
    assert silence.written("srt", has_words=False)[1] == b""
    assert silence.written("vtt", has_words=False)[1] == b"WEBVTT\n\n"
    verbose = msgspec.json.decode(silence.written("verbose_json", has_words=True)[1])
    assert (verbose["segments"], verbose["words"], verbose["duration"]) == ([], [], 0.5)


def test_words_are_told_only_where_they_were_asked_for() -> None:
    transcript = Transcript(said("one", "two"), 801)
    without = msgspec.json.decode(transcript.written("verbose_json", has_words=False)[1])
    assert "words" not in without
    assert without["text"] == "one two"
    assert without["usage"] == {"type": "duration", "seconds": 1}
    plain_json = msgspec.json.decode(transcript.written("json", has_words=True)[1])
    assert set(plain_json) == {"text", "usage"}


def test_deltas_add_up_to_the_text() -> None:
    parts = [said("one", "two"), (), said("three")]
    splitter = EventSplitter()
    told = [
        msgspec.json.decode(event_data(one)) for one in splitter.feed(b"".join(events(parts, 900)))
    ]
    assert [one["delta"] for one in told[:-1]] == ["one two", " three"]
    assert told[-1]["text"] == "one two three"


@pytest.mark.parametrize(
    ("length_ms", "shown"),
    [(0, "00:00:00.000"), (61_001, "00:01:01.001"), (3_600_000, "01:00:00.000")],
)
def test_times_are_stamped(length_ms: int, shown: str) -> None:
    assert stamp(length_ms, ".") == shown


def test_a_word_loses_the_number_of_its_pronunciation() -> None:
    assert (plain("during(3)"), plain("don't")) == ("during", "don't")


def test_long_audio_is_cut_where_it_is_quietest() -> None:
    samples = np.ones(40 * RATE_HZ, np.float32)
    samples[15 * RATE_HZ : 15 * RATE_HZ + RATE_HZ // 2] = 0
    first = cut(samples, 0)
    assert 15 * RATE_HZ <= first <= 15 * RATE_HZ + RATE_HZ // 2
    assert first < cut(samples, first) <= first + PART_MS_MAX * RATE_HZ // 1_000
    assert cut(samples[: 20 * RATE_HZ], 0) == 20 * RATE_HZ


@given(st.text(min_size=1, max_size=2_000))
def test_every_word_of_a_text_is_spoken_once_and_in_order(text: str) -> None:
    found = pieces(text)
    assert found
    assert all(0 < len(piece) <= PIECE_CHARS_MAX for piece in found)
    spoken = "".join(re.sub(r"\s", "", piece) for piece in found)
    wanted = re.sub(r"\s", "", text.replace("\0", " "))
    assert spoken == wanted or (not wanted and found == ["."])


def test_sentences_are_pieces_so_that_a_stream_begins_early() -> None:
    assert pieces("One. Two! Three? 3.5 is a number\nand so on") == [
        *("One.", "Two!", "Three?", "3.5 is a number", "and so on")
    ]
