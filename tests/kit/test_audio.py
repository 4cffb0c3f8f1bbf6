"""The length of audio is read from the audio's own bytes."""

import struct
import wave
from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.adapters.engines.echo_media import mp3, wav
from penstock.kit.audio import audio_kind, audio_ms, pcm_ms, wav_ms


def wave_file(*, rate_hz: int, channels: int, width: int, frames: int) -> bytes:
    """A WAV by the standard library's own writer."""
    out = BytesIO()
    with wave.open(out, "wb") as writer:
        writer.setnchannels(channels)
        writer.setsampwidth(width)
        writer.setframerate(rate_hz)
        writer.writeframes(bytes(frames * channels * width))
    return out.getvalue()


@given(
    st.sampled_from([8_000, 16_000, 22_050, 44_100]),
    st.integers(1, 2),
    st.integers(1, 4),
    st.integers(0, 2_000),
)
def test_a_wav_is_as_long_as_its_frames(rate: int, channels: int, width: int, frames: int) -> None:
    data = wave_file(rate_hz=rate, channels=channels, width=width, frames=frames)
    assert audio_kind(data) == "wav"
    assert audio_ms(data) == -(-frames * 1_000 // rate)


def test_a_streamed_wav_that_names_no_length_is_measured_by_its_bytes() -> None:
    data = wave_file(rate_hz=8_000, channels=1, width=2, frames=8_000)
    streamed = data[:40] + b"\xff\xff\xff\xff" + data[44:]
    assert audio_ms(streamed) == 1_000
    assert wav_ms(streamed[:100], size=len(streamed)) == 1_000


def test_a_chunk_before_the_samples_is_skipped() -> None:
    data = wave_file(rate_hz=8_000, channels=1, width=2, frames=80)
    listed = data[:36] + b"LIST\x03\x00\x00\x00abc\x00" + data[36:]
    assert audio_ms(listed) == 10


def test_raw_pcm_has_no_mark_and_is_measured_only_where_it_was_asked_for() -> None:
    assert pcm_ms(48_000) == 1_000
    assert audio_ms(bytes(48_000), is_pcm=True) == 1_000
    assert audio_ms(bytes(48_000)) == 0


def test_mp3_frames_are_counted_behind_the_tag() -> None:
    data = mp3("Hello")
    assert audio_kind(data) == "mp3"
    assert audio_ms(data) % 24 == 0
    assert audio_ms(data + b"TAG" + bytes(125)) == audio_ms(data)
    v1 = b"\xff\xfb\x90\x64" + bytes(413)  # 128 kbit/s at 44.1 kHz: 417 bytes, 1152 samples
    assert audio_ms(v1 * 100) == -(-100 * 1_152 * 1_000_000 // 44_100 // 1_000)


def test_flac_opus_aac_and_mp4_name_their_length() -> None:
    info = (48_000 << 44 | 1 << 41 | 15 << 36 | 96_000).to_bytes(8, "big")
    assert audio_ms(b"fLaC\x00\x00\x00\x22" + bytes(10) + info) == 2_000
    head = b"OggS" + bytes(24) + b"OpusHead\x01\x01" + (312).to_bytes(2, "little") + bytes(20)
    last = b"OggS\x00\x04" + (48_312).to_bytes(8, "little") + bytes(20)
    assert audio_ms(head + last) == 1_000
    length = 16
    frame = bytes(
        (0xFF, 0xF1, 0x58, 0x40 | length >> 11, length >> 3 & 255, (length & 7) << 5, 0xFC)
    )
    assert audio_ms((frame + bytes(9)) * 22) == -(-22 * 1_024 * 1_000 // 24_000)
    mvhd = b"mvhd" + bytes(12) + struct.pack(">II", 1_000, 2_500)
    assert audio_ms(bytes(4) + b"ftypM4A " + bytes(8) + mvhd) == 2_500
    long = b"mvhd\x01" + bytes(19) + struct.pack(">IQ", 1_000, 3_500)
    assert audio_ms(bytes(4) + b"ftypM4A " + bytes(8) + long) == 3_500


@given(
    st.sampled_from([wav("a"), mp3("a"), b"fLaC", b"OggS", b"\xff\xf1", b"ID3", b"\0\0\0\0ftyp"]),
    st.binary(max_size=80),
    st.integers(0, 100),
)
def test_broken_audio_has_a_length_all_the_same(data: bytes, noise: bytes, at: int) -> None:
    assert audio_ms(data[:at] + noise + data[at:]) >= 0
    assert audio_ms(noise, is_pcm=True) >= 0


@pytest.mark.parametrize("data", [b"", b"\xff", b"RIFF", b"text"])
def test_what_is_no_audio_is_no_time(data: bytes) -> None:
    assert (audio_kind(data), audio_ms(data)) == ("", 0)
