"""A picture's file, opened only where it is one, and not larger than pictures are."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

from PIL import Image
from PIL.ImageFile import ImageFile

MOST_PIXELS = 1 << 26  # 8,192 x 8,192: 200 MB in memory
# Formats that Pillow decodes itself: for others it starts programs (Ghostscript for EPS), whatever a file is called.
FORMATS = ("BMP", "DIB", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TIFF", "WEBP")


def open_picture(source: Path | bytes) -> ImageFile:
    """The picture in a file, or in encoded bytes; its pixels are not decoded yet. Of an animation, the first.

    Raises:
        PIL.UnidentifiedImageError: it is in none of `FORMATS`.
        ValueError: it has more than `MOST_PIXELS`, as its header says.
        OSError: it cannot be read.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's own limits, which are said below
        try:
            picture = Image.open(source if isinstance(source, Path) else io.BytesIO(source), formats=_known())
        except Image.DecompressionBombError:
            raise ValueError(_too_large()) from None
    width, height = picture.size
    if width * height > MOST_PIXELS:
        picture.close()
        raise ValueError(f"{width:,} x {height:,} pixels: {_too_large()}")
    return picture


def _too_large() -> str:
    return f"pictures of more than {MOST_PIXELS / 1e6:.0f} million pixels are not read, make it smaller"


def _known() -> list[str]:
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]
