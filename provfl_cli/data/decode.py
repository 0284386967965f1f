"""Encoded pictures of any size become one array of pixels."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError

if TYPE_CHECKING:
    import numpy as np

GREY_MODES = ("1", "L", "LA", "La")


def decode(cells: Iterable[tuple[str, Any]], size: int, digest: Any) -> np.ndarray:
    """Decode pictures and resize them to `size` x `size` (bilinear), uint8 `[n, size, size, channels]`.

    Channels are 1 where every picture is grey, else 3. `digest` (of hashlib) takes the pixels as they came.

    Args:
        cells: where each picture stands, for messages, and the picture: encoded bytes, a file, nested lists of
            values from 0 to 255, or pixels uint8 `[height, width]` or `[height, width, 1 or 3]`.

    Raises:
        InputError: a picture that cannot be read, named by where it stands.
    """
    import numpy as np

    pictures = []
    for where, cell in cells:
        pixels = _read(where, cell)
        digest.update(pixels.tobytes())
        pictures.append(resize(pixels, size))
    if len({picture.shape[-1] for picture in pictures}) > 1:
        pictures = [np.broadcast_to(picture, (*picture.shape[:2], 3)) for picture in pictures]
    return np.stack(pictures)


def resize(pixels: np.ndarray, size: int) -> np.ndarray:
    """Resize one picture `[height, width, channels]` to `[size, size, channels]`, bilinear; uint8 both."""
    import numpy as np
    from PIL import Image

    if pixels.shape[:2] == (size, size):
        return pixels
    picture = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    return np.asarray(picture.resize((size, size), Image.Resampling.BILINEAR)).reshape(size, size, -1)


def _read(where: str, cell: Any) -> np.ndarray:
    """One picture as uint8 `[height, width, 1 or 3]`."""
    import numpy as np
    from PIL import Image, UnidentifiedImageError

    if isinstance(cell, np.ndarray):
        return cell[..., np.newaxis] if cell.ndim == 2 else cell
    try:
        if isinstance(cell, list):
            array = np.asarray(cell)
            if array.ndim not in (2, 3) or array.min() < 0 or array.max() > 255:
                raise ValueError("not rows of values from 0 to 255")
            array = array.astype(np.uint8)
            return array[..., np.newaxis] if array.ndim == 2 else np.ascontiguousarray(array[..., :3])
        with Image.open(cell if isinstance(cell, Path) else io.BytesIO(cell)) as picture:
            if picture.mode.startswith("I"):  # 16 bits a pixel: keep the upper 8, converting would clip
                return (np.asarray(picture) >> 8).clip(0, 255).astype(np.uint8)[..., np.newaxis]
            if picture.mode in GREY_MODES:
                return np.asarray(picture.convert("L"))[..., np.newaxis]
            return np.asarray(picture.convert("RGB"))
    except UnidentifiedImageError:
        reason = "not a picture in a known format"
    except (OSError, ValueError, SyntaxError, TypeError, Image.DecompressionBombError) as error:
        reason = str(error).partition("\n")[0]
    raise InputError(f"unreadable picture: {where}: {reason}: repair or remove it")
