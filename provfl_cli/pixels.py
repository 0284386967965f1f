"""Pictures from their pixels: as a PNG file, and small. Pillow is imported with this file."""

import io

import numpy as np
from PIL import Image


def png(pixels: np.ndarray) -> bytes:
    """A picture uint8 `[height, width, channels]` as PNG."""
    out = io.BytesIO()
    Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels[..., :3]).save(out, "PNG")
    return out.getvalue()


def shrunk(pixels: np.ndarray, columns: int) -> np.ndarray:
    """A picture at `columns` wide and an even number high, `[rows, columns, 3]`.

    The proportions are kept; pixels are averaged, so small things stay.
    """
    height, width = pixels.shape[:2]
    rows = max(2, 2 * round(columns * height / width / 2))
    image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels[:, :, :3])
    return np.asarray(image.convert("RGB").resize((columns, rows), Image.Resampling.BOX))
