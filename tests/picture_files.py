"""Pictures written into files of every kind, and read back as the pixels that they show."""

import hashlib
import io
import struct
import zlib

import numpy as np
from PIL import Image

from provfl_cli.data.decode import decode
from provfl_cli.data.pixel_scale import Reading


def encoded(picture: Image.Image, form: str = "PNG", **options) -> bytes:
    out = io.BytesIO()
    picture.save(out, form, **options)
    return out.getvalue()


def deep_png(values: np.ndarray, exif: bytes = b"") -> bytes:
    """A PNG of 16 bits a channel; Pillow writes none with several channels."""
    height, width, channels = values.shape

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    head = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    also = chunk(b"eXIf", exif) if exif else b""
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + also + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )


def read(*cells, reading: Reading | None = None, size: int = 16):
    return decode([(f"picture {number}", cell) for number, cell in enumerate(cells)], size, hashlib.sha256(), reading)


def shown(*cells, reading: Reading | None = None) -> np.ndarray:
    """Pixels of square pictures, at their own size."""
    return read(*cells, reading=reading).pixels
