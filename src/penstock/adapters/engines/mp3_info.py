"""The first frame of an MP3 that holds no sound but counts: taken off, and put on.

It is an ordinary frame of silence with `Xing` or `Info` (LAME) behind its side information and, by a flag,
the number of frames that follow. Fraunhofer's encoder writes `VBRI` instead.
"""

_INFO_MARKS = (b"Xing", b"Info")
_INFO_FRAME_BYTES_MAX = 2_048
_INFO_MARK_AT_MAX = 44
_OTHER_MARK = b"VBRI"
_RATES_HZ = (44_100, 48_000, 32_000, 0)


def without_info(mp3: bytes) -> bytes:
    """An MP3 without the silent first frame that says how many follow: it would be billed as sound,
    and would say a wrong number where more is appended.
    """
    head = mp3[:_INFO_FRAME_BYTES_MAX]
    second = head.find(mp3[:2], 4)
    is_info = second > 0 and any(mark in head[:second] for mark in _INFO_MARKS)
    return mp3[second:] if is_info else mp3


def with_info(mp3: bytes, length_ms: int) -> bytes:
    """An MP3 with a first frame that says how many follow, if it has none: libsndfile guesses the length
    of others by their first frame's bit rate, and stops reading there.
    """
    at = mp3.find(b"\xff", _id3_bytes(mp3))
    opening = mp3[at : at + _INFO_MARK_AT_MAX]
    if at < 0 or len(opening) < 4 or any(mark in opening for mark in (*_INFO_MARKS, _OTHER_MARK)):
        return mp3
    head = mp3[at : at + 4]
    is_mpeg1, is_mono = head[1] >> 3 & 3 == 3, head[3] >> 6 == 3
    at_mark = {(True, False): 36, (True, True): 21, (False, False): 21}.get((is_mpeg1, is_mono), 13)
    frame_samples = 1_152 if is_mpeg1 else 576
    # The rate's two bits stand where every version has them; the lower versions halve it.
    rate_hz = _RATES_HZ[head[2] >> 2 & 3] >> {3: 0, 2: 1}.get(head[1] >> 3 & 3, 2)
    frames = -(-length_ms * rate_hz // (1_000 * frame_samples))
    # 64 kbit/s of MPEG 1 and 2, without padding and check: large enough for the mark.
    bits = 0x50 if is_mpeg1 else 0x80
    plain = bytes((0xFF, head[1] | 1, bits | head[2] & 0x0C, head[3]))
    size = frame_samples // 8 * 64_000 // rate_hz if rate_hz else 0
    tag = b"Xing" + (1).to_bytes(4, "big") + frames.to_bytes(4, "big")
    return (plain.ljust(at_mark, b"\0") + tag).ljust(size, b"\0") + mp3[at:]


def _id3_bytes(mp3: bytes) -> int:
    """How long the tag in front is."""
    if mp3[:3] != b"ID3" or len(mp3) < 10:
        return 0
    size = 0
    for byte in mp3[6:10]:
        size = size << 7 | byte & 0x7F
    return 10 + size
