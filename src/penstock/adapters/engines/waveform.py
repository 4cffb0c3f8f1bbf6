"""Sound as samples: files decoded, resampled and encoded, by libsndfile and numpy.

What is billed is the length that `kit.audio` reads from a file's own bytes, so only kinds that it
knows are decoded, and a file that plays longer than it says is refused.
"""

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile

from penstock.adapters.engines.mp3_info import with_info, without_info
from penstock.adapters.errors import AudioRefused
from penstock.kit.audio import PCM_RATE_HZ, audio_kind, audio_ms

Samples = npt.NDArray[np.float32]
"""One channel, -1 to 1."""

DECODED_KINDS = ("wav", "mp3", "flac", "opus")
ACCEPTED = "WAV, MP3, FLAC and Ogg Opus"
RATE_HZ_MIN, RATE_HZ_MAX = 4_000, 192_000
CHANNELS_MAX = 8
BLOCK_FRAMES = 65_536
LONGER_MS_MAX = 500
"""An MP3's last frame and a codec's padding play a little longer than they count."""
FILTER_ZEROS = 16
FULL_SCALE = 32_767

CONTENT_TYPES = {
    "wav": "audio/wav",
    "pcm": "audio/pcm",
    "mp3": "audio/mpeg",
    "flac": "audio/flac",
    "opus": "audio/ogg",
}
_FILE_FORMATS = {
    "wav": ("WAV", "PCM_16"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
    "flac": ("FLAC", "PCM_16"),
    "opus": ("OGG", "OPUS"),
}
MP3_COMPRESSION = 0.7
"""Of the range between the largest and the smallest rate; 40 kbit/s at 16 kHz."""


@dataclass(frozen=True, slots=True)
class Waveform:
    """Samples at a rate, and the length in ms that the file says it has."""

    samples: Samples
    rate_hz: int
    length_ms: int


def decoded(data: bytes, *, rate_hz: int, ms_max: int) -> Waveform:
    """One channel at `rate_hz`. Raises AudioRefused."""
    length_ms = audio_ms(data)
    if audio_kind(data) not in DECODED_KINDS or not length_ms:
        raise AudioRefused(f"This engine reads {ACCEPTED}; the upload is none of them, or empty")
    if length_ms > ms_max:
        raise AudioRefused(f"The audio plays {length_ms // 1000} s; at most {ms_max // 1000} s")
    if audio_kind(data) == "mp3":
        data = with_info(data, length_ms)
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            _check_shape(file)
            frames_max = (length_ms + LONGER_MS_MAX) * file.samplerate // 1000
            samples = _mono(file, frames_max=frames_max)
            rate = int(file.samplerate)
    except (soundfile.LibsndfileError, RuntimeError) as error:
        raise AudioRefused(f"The audio cannot be decoded ({error})") from error
    return Waveform(resampled(samples, rate, rate_hz), rate_hz, length_ms)


def _check_shape(file: Any) -> None:
    if not RATE_HZ_MIN <= file.samplerate <= RATE_HZ_MAX or not 1 <= file.channels <= CHANNELS_MAX:
        shape = f"{file.channels} channels at {file.samplerate} Hz"
        raise AudioRefused(
            f"The audio has {shape}; up to {CHANNELS_MAX} at {RATE_HZ_MIN} to {RATE_HZ_MAX} Hz"
        )


def _mono(file: Any, *, frames_max: int) -> Samples:
    blocks: list[Samples] = []
    frames = 0
    while len(block := file.read(BLOCK_FRAMES, dtype="float32", always_2d=True)):
        frames += len(block)
        if frames > frames_max:
            raise AudioRefused("The audio plays longer than its head says")
        blocks.append(block.mean(axis=1, dtype=np.float32))
    samples = np.concatenate(blocks) if blocks else np.zeros(0, np.float32)
    return np.clip(np.nan_to_num(samples), -1, 1)


def resampled(samples: Samples, from_hz: int, to_hz: int) -> Samples:
    """Linear interpolation, behind a windowed-sinc low pass where the rate goes down."""
    if from_hz == to_hz or not len(samples):
        return samples
    if from_hz > to_hz:
        half = FILTER_ZEROS * from_hz // to_hz
        at = np.arange(-half, half + 1)
        kernel = np.sinc(at * (to_hz / from_hz)) * np.hamming(len(at))
        samples = np.convolve(samples, (kernel / kernel.sum()).astype(np.float32), "same")
    places = np.arange(len(samples) * to_hz // from_hz) * (from_hz / to_hz)
    between: Samples = np.interp(places, np.arange(len(samples)), samples).astype(np.float32)
    return between


def as_pcm(samples: Samples) -> bytes:
    """16 bit, little endian."""
    whole = np.clip(np.rint(samples * FULL_SCALE), -FULL_SCALE - 1, FULL_SCALE)
    return whole.astype("<i2").tobytes()


def encoded(samples: Samples, rate_hz: int, kind: str) -> bytes:
    """A file of one of CONTENT_TYPES. OpenAI's pcm has a rate of its own."""
    if kind == "pcm":
        return as_pcm(resampled(samples, rate_hz, PCM_RATE_HZ))
    container, subtype = _FILE_FORMATS[kind]
    file = io.BytesIO()
    # Without the frame of counts, only a constant rate tells a player how long a file is.
    rate = {"bitrate_mode": "CONSTANT", "compression_level": MP3_COMPRESSION}
    more = rate if kind == "mp3" else {}
    soundfile.write(file, samples, rate_hz, format=container, subtype=subtype, **more)
    data = file.getvalue()
    return without_info(data) if kind == "mp3" else data


def wav_head(rate_hz: int) -> bytes:
    """The head of a WAV whose length nobody knows yet, as streams have it."""
    unknown = (0xFFFFFFFF).to_bytes(4, "little")
    shape = (16, 1 | 1 << 16, rate_hz, 2 * rate_hz, 2 | 16 << 16)
    fields = b"".join(value.to_bytes(4, "little") for value in shape)
    return b"RIFF" + unknown + b"WAVEfmt " + fields + b"data" + unknown
