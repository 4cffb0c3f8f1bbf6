"""How long a piece of audio plays, read from its own bytes: WAV, PCM, MP3, FLAC, Ogg Opus, AAC, MP4.

A miner bills audio by the millisecond, and whoever holds the bytes can count them again. Only the
framing is read, never a sample, in time linear to the bytes. What is not understood is 0 ms.
"""

from collections.abc import Callable

PCM_RATE_HZ = 24_000
PCM_BYTES_PER_SAMPLE = 2
"""OpenAI's `pcm`: 24 kHz, 16 bit, one channel, no header."""

OPUS_RATE_HZ = 48_000
AAC_FRAME_SAMPLES = 1_024
OGG_TAIL_BYTES = 65_536
FILE_KINDS = ("wav", "mp3", "flac", "opus", "aac", "mp4")

_MARKS = (
    (8, b"WAVE", "wav"),
    (0, b"fLaC", "flac"),
    (0, b"OggS", "opus"),
    (4, b"ftyp", "mp4"),
    (0, b"ID3", "mp3"),
)
_MP3_KBPS = {
    1: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 0),
    2: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160, 0),
}
_MP3_RATES_HZ = {
    3: (44_100, 48_000, 32_000, 0),
    2: (22_050, 24_000, 16_000, 0),
    0: (11_025, 12_000, 8_000, 0),
}
_AAC_RATES_HZ = (
    *(96_000, 88_200, 64_000, 48_000, 44_100, 32_000, 24_000),
    *(22_050, 16_000, 12_000, 11_025, 8_000, 7_350, 0, 0, 0),
)


def audio_kind(data: bytes) -> str:
    """One of FILE_KINDS by the first bytes, "" for anything else (raw PCM has no mark)."""
    for at, mark, kind in _MARKS:
        if data[at : at + len(mark)] == mark:
            return kind
    if len(data) < 2 or data[0] != 0xFF:
        return ""
    if data[1] & 0xF6 == 0xF0:
        return "aac"
    return "mp3" if data[1] & 0xE6 == 0xE2 else ""


def audio_ms(data: bytes, *, is_pcm: bool = False) -> int:
    """Milliseconds of the audio in `data`, rounded up; 0 when its format is not known.

    `is_pcm`: bytes without a known header are OpenAI's raw PCM.
    """
    kind = audio_kind(data)
    if kind:
        return _LENGTHS[kind](data)
    return pcm_ms(len(data)) if is_pcm else 0


def pcm_ms(size: int) -> int:
    """Milliseconds of so many bytes of raw PCM."""
    return _ms(size // PCM_BYTES_PER_SAMPLE, PCM_RATE_HZ)


def wav_ms(data: bytes, *, size: int | None = None) -> int:
    """By the `fmt ` chunk's byte rate over the bytes that are there, whatever the header claims:
    a WAV that was streamed names a length it did not know. `size` is the whole file's, if `data` is
    only its beginning.
    """
    total = len(data) if size is None else size
    rate, at = 0, 12
    while at + 8 <= len(data):
        name, length = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        if name == b"fmt ":
            rate = int.from_bytes(data[at + 16 : at + 20], "little")
        if name == b"data":
            return _ms(min(length, max(total - at - 8, 0)), rate)
        at += 8 + length + length % 2
    return 0


def _mp3_ms(data: bytes) -> int:
    at, micros = 0, 0
    if data[:3] == b"ID3":
        at = 10 + _synchsafe(data[6:10])
    while at + 4 <= len(data):
        frame = _mp3_frame(data[at : at + 4])
        if frame is None:
            break
        length, samples, rate = frame
        micros += samples * 1_000_000 // rate
        at += length
    return _ms(micros, 1_000_000)


def _mp3_frame(head: bytes) -> tuple[int, int, int] | None:
    """(bytes, samples, Hz) of a Layer III frame."""
    version, layer = head[1] >> 3 & 3, head[1] >> 1 & 3
    rates = _MP3_RATES_HZ.get(version)
    if head[0] != 0xFF or head[1] < 0xE0 or layer != 1 or rates is None:
        return None
    kbps = _MP3_KBPS[1 if version == 3 else 2][head[2] >> 4]
    rate = rates[head[2] >> 2 & 3]
    if not kbps or not rate:
        return None
    samples = 1_152 if version == 3 else 576
    return samples // 8 * kbps * 1_000 // rate + (head[2] >> 1 & 1), samples, rate


def _flac_ms(data: bytes) -> int:
    """STREAMINFO is the first block: 20 bits of rate, 3 of channels, 5 of depth, 36 of samples."""
    info = int.from_bytes(data[18:26], "big")
    return _ms(info & ((1 << 36) - 1), info >> 44)


def _opus_ms(data: bytes) -> int:
    """The last page's position, less the samples to skip at the beginning (RFC 7845)."""
    head = data.find(b"OpusHead", 0, 256)
    tail = max(len(data) - OGG_TAIL_BYTES, 0)
    last = data.rfind(b"OggS", tail)
    if head < 0 or last < 0:
        return 0
    skip = int.from_bytes(data[head + 10 : head + 12], "little")
    position = int.from_bytes(data[last + 6 : last + 14], "little")
    return _ms(max(position - skip, 0), OPUS_RATE_HZ)


def _aac_ms(data: bytes) -> int:
    at, frames, rate = 0, 0, 0
    while at + 7 <= len(data) and data[at] == 0xFF:
        rate = _AAC_RATES_HZ[data[at + 2] >> 2 & 15]
        length = (data[at + 3] & 3) << 11 | data[at + 4] << 3 | data[at + 5] >> 5
        if length < 7:
            break
        frames += 1
        at += length
    return _ms(frames * AAC_FRAME_SAMPLES, rate)


def _mp4_ms(data: bytes) -> int:
    at = data.find(b"mvhd")
    if at < 0:
        return 0
    body = data[at + 8 : at + 36]
    if data[at + 4 : at + 5] == b"\x01":
        return _ms(int.from_bytes(body[20:28], "big"), int.from_bytes(body[16:20], "big"))
    return _ms(int.from_bytes(body[12:16], "big"), int.from_bytes(body[8:12], "big"))


def _synchsafe(data: bytes) -> int:
    value = 0
    for byte in data:
        value = value << 7 | byte & 0x7F
    return value


def _ms(count: int, per_second: int) -> int:
    return -(-count * 1_000 // per_second) if per_second else 0


_LENGTHS: dict[str, Callable[[bytes], int]] = {
    "wav": wav_ms,
    "mp3": _mp3_ms,
    "flac": _flac_ms,
    "opus": _opus_ms,
    "aac": _aac_ms,
    "mp4": _mp4_ms,
}
