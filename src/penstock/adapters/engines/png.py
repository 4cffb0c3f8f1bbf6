"""Pixels as a PNG file, without an imaging library: the one format that every viewer reads."""

import struct
import zlib

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]

SIGNATURE = b"\x89PNG\r\n\x1a\n"
TRUE_COLOUR = 2
BITS_PER_SAMPLE = 8
FROM_ABOVE = 2
"""The filter that writes each row as its difference from the one above: flat pictures shrink most."""
COMPRESSION = 6


def png(pixels: Pixels) -> bytes:
    """Shape (height, width, 3), red green blue. Equal pixels give equal bytes."""
    height, width, _ = pixels.shape
    rows = pixels.reshape(height, width * 3)
    filtered = np.empty((height, 1 + width * 3), np.uint8)
    filtered[:, 0] = FROM_ABOVE
    filtered[0, 1:] = rows[0]
    np.subtract(rows[1:], rows[:-1], out=filtered[1:, 1:])
    head = struct.pack(">IIBBBBB", width, height, BITS_PER_SAMPLE, TRUE_COLOUR, 0, 0, 0)
    return png_file(
        (b"IHDR", head), (b"IDAT", zlib.compress(filtered.tobytes(), COMPRESSION)), (b"IEND", b"")
    )


def png_file(*chunks: tuple[bytes, bytes]) -> bytes:
    """A file of (name, data) chunks, as the PNG specification lays them out."""
    return SIGNATURE + b"".join(_chunk(name, data) for name, data in chunks)


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
