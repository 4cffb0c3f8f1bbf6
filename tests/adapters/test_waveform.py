"""Sound as samples: decoded, resampled and encoded without getting longer, shorter or out of tune."""

import io

import numpy as np
import pytest
import soundfile

from penstock.adapters.engines.mp3_info import with_info, without_info
from penstock.adapters.engines.waveform import (
    CONTENT_TYPES,
    Samples,
    as_pcm,
    decoded,
    encoded,
    resampled,
    wav_head,
)
from penstock.adapters.errors import AudioRefused
from penstock.kit.audio import PCM_RATE_HZ, audio_kind, audio_ms

MS_MAX = 60_000
TONE_HZ = 440


def tone(rate_hz: int, seconds: float = 1.0) -> Samples:
    at = np.arange(int(rate_hz * seconds))
    return (0.3 * np.sin(2 * np.pi * TONE_HZ * at / rate_hz)).astype(np.float32)


def pitch_of(samples: Samples, rate_hz: int) -> float:
    """The loudest frequency in Hz."""
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(spectrum.argmax() * rate_hz / len(samples))


def file_of(samples: Samples, rate_hz: int, container: str, subtype: str, **more: object) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate_hz, format=container, subtype=subtype, **more)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["wav", "mp3", "flac", "opus"])
def test_a_tone_comes_back_from_every_kind_of_file(kind: str) -> None:
    data = encoded(tone(16_000, 2.0), 16_000, kind)
    assert audio_kind(data) == kind
    back = decoded(data, rate_hz=16_000, ms_max=MS_MAX)
    assert back.length_ms == audio_ms(data)
    assert 2_000 <= len(back.samples) / 16 <= 2_150
    assert pitch_of(back.samples, 16_000) == pytest.approx(TONE_HZ, abs=2)
    assert set(CONTENT_TYPES) == {"wav", "mp3", "flac", "opus", "pcm"}


@pytest.mark.parametrize("rate_hz", [8_000, 11_025, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000])
@pytest.mark.parametrize("channels", [1, 2])
def test_an_mp3_is_read_to_its_end_at_every_rate(rate_hz: int, channels: int) -> None:
    """Libsndfile stops early in a variable-rate file without a frame of counts; ours get one."""
    sound = tone(rate_hz, 3.0)
    sound[rate_hz : 2 * rate_hz] = 0
    columns = np.stack([sound] * channels, axis=1)
    data = file_of(columns, rate_hz, "MP3", "MPEG_LAYER_III", bitrate_mode="VARIABLE")
    bare = without_info(data)
    assert bare != data
    assert with_info(data, audio_ms(data)) == data
    back = decoded(bare, rate_hz=16_000, ms_max=MS_MAX)
    assert abs(len(back.samples) / 16 - audio_ms(bare)) < 100


def test_mp3s_that_were_joined_are_read_to_the_end_of_the_second() -> None:
    data = encoded(tone(16_000), 16_000, "mp3")
    back = decoded(data + data, rate_hz=16_000, ms_max=MS_MAX)
    assert len(back.samples) / 16 > 2_000


def test_an_mp3_with_a_tag_in_front_is_read() -> None:
    data = b"ID3\x03\x00\x00\x00\x00\x01\x00" + bytes(128) + encoded(tone(16_000), 16_000, "mp3")
    back = decoded(data, rate_hz=16_000, ms_max=MS_MAX)
    assert len(back.samples) / 16 > 990


@pytest.mark.parametrize("data", [b"", b"\xff", b"\xff\xfb", b"ID3", b"\xff\xfb\x90", b"no mp3"])
def test_what_is_hardly_an_mp3_is_left_as_it_is(data: bytes) -> None:
    assert with_info(data, 10) == data
    assert without_info(data) == data


@pytest.mark.parametrize(
    ("subtype", "rate_hz"),
    [
        ("PCM_U8", 8_000),
        ("PCM_16", 44_100),
        ("PCM_24", 48_000),
        ("PCM_32", 96_000),
        ("FLOAT", 22_050),
    ],
)
def test_any_wav_becomes_one_channel_at_the_wanted_rate(subtype: str, rate_hz: int) -> None:
    columns = np.stack([tone(rate_hz), np.zeros(rate_hz, np.float32)], axis=1)
    back = decoded(file_of(columns, rate_hz, "WAV", subtype), rate_hz=16_000, ms_max=MS_MAX)
    assert len(back.samples) == 16_000
    assert pitch_of(back.samples, 16_000) == pytest.approx(TONE_HZ, abs=2)
    assert 0.1 < float(back.samples.max()) < 0.2


def test_a_wav_that_was_streamed_is_read_to_the_bytes_that_are_there() -> None:
    data = wav_head(16_000) + as_pcm(tone(16_000))
    assert audio_ms(data) == 1_000
    assert len(decoded(data, rate_hz=16_000, ms_max=MS_MAX).samples) == 16_000


def test_numbers_that_are_none_are_silence() -> None:
    spoilt = tone(16_000)
    spoilt[10:20] = np.nan
    spoilt[20:30] = np.inf
    back = decoded(file_of(spoilt, 16_000, "WAV", "FLOAT"), rate_hz=16_000, ms_max=MS_MAX)
    assert np.isfinite(back.samples).all()
    assert float(np.abs(back.samples).max()) <= 1


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "none of them"),
        (b"RIFF", "none of them"),
        (b"text, and a lot of it", "none of them"),
        (b"\0\0\0\x20ftypM4A " + bytes(100), "none of them"),
        (file_of(tone(16_000), 16_000, "OGG", "VORBIS"), "none of them"),
        (encoded(tone(16_000, 61), 16_000, "wav"), "at most 60 s"),
        (file_of(tone(2_000), 2_000, "WAV", "PCM_16"), "at 2000 Hz"),
        (file_of(np.zeros((800, 9), np.float32), 8_000, "WAV", "PCM_16"), "9 channels"),
        (b"fLaC" + encoded(tone(16_000), 16_000, "flac")[4:60], "cannot be decoded"),
    ],
)
def test_what_cannot_be_read_is_refused_with_the_reason(data: bytes, why: str) -> None:
    with pytest.raises(AudioRefused, match=why):
        decoded(data, rate_hz=16_000, ms_max=MS_MAX)


def test_a_file_that_plays_longer_than_its_head_says_is_refused() -> None:
    """What is billed is what the head says, so nothing longer is worked on."""
    data = bytearray(encoded(tone(16_000, 10), 16_000, "wav"))
    data[28:32] = (320_000).to_bytes(4, "little")
    assert audio_ms(bytes(data)) == 1_000
    with pytest.raises(AudioRefused, match="longer than its head"):
        decoded(bytes(data), rate_hz=16_000, ms_max=MS_MAX)


def test_of_a_flac_no_more_is_read_than_its_head_says() -> None:
    data = bytearray(encoded(tone(16_000, 10), 16_000, "flac"))
    head = int.from_bytes(data[18:26], "big")
    data[18:26] = (head - 160_000 + 16).to_bytes(8, "big")
    assert audio_ms(bytes(data)) == 1
    assert len(decoded(bytes(data), rate_hz=16_000, ms_max=MS_MAX).samples) == 16


@pytest.mark.parametrize("to_hz", [8_000, 16_000, 24_000, 48_000])
def test_resampling_keeps_length_and_pitch(to_hz: int) -> None:
    found = resampled(tone(16_000), 16_000, to_hz)
    assert len(found) == to_hz
    assert pitch_of(found, to_hz) == pytest.approx(TONE_HZ, abs=2)


def test_resampling_down_lets_no_high_tone_through_as_another() -> None:
    at = np.arange(48_000)
    high = np.sin(2 * np.pi * 14_000 * at / 48_000).astype(np.float32)
    assert float(np.abs(resampled(high, 48_000, 16_000)[200:-200]).max()) < 0.02


def test_nothing_is_resampled_to_nothing() -> None:
    assert len(resampled(np.zeros(0, np.float32), 8_000, 16_000)) == 0


def test_pcm_has_openais_rate_and_no_head() -> None:
    data = encoded(tone(16_000), 16_000, "pcm")
    assert len(data) == 2 * PCM_RATE_HZ
    assert as_pcm(np.array([2.0, -2.0, 0.0], np.float32)) == b"\xff\x7f\x00\x80\x00\x00"
