"""One stored picture, whatever its form, as the numbers that it holds: nothing is scaled here."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import InputError
from .picture import open_picture

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image as Picture

CHANNELS = (1, 3, 4)
GREY_MODES = ("1", "L", "LA", "La")
ALPHA_MODES = ("LA", "La", "PA", "RGBA", "RGBa")
ORIENTATION = 274  # EXIF's tag
# Where orientation may stand: looking only where there is something costs nothing for the others.
ORIENTED = frozenset({"exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp"})
ACCEPTED = "accepted are [height, width], and [height, width, channels] or [channels, height, width] with 1, 3 or 4"


class Stored(NamedTuple):
    """What a picture holds.

    Attributes:
        values: numbers `[height, width, 1 or 3]`; where `layout` is `either`, as they stand in the array.
        kind: `bytes` are 0 to 255; `lists` (of a table), `integers` and `fractions` need a scale.
        alpha: float32 `[height, width, 1]`, 0 where nothing is to be seen to 1; None where it is the same everywhere.
        layout: of a three-dimensional array: its channels stand `first`, `last`, or `either` way; "": it is none.
        turned: it was stored in another orientation than its EXIF data say.
        upper: only the upper 8 of its 16 bits could be read.
    """

    values: np.ndarray
    kind: str = "bytes"
    alpha: np.ndarray | None = None
    layout: str = ""
    turned: bool = False
    upper: bool = False

    @property
    def plain(self) -> bool:
        """Whether the values are the pixels, with nothing to decide."""
        return self.kind == "bytes" and self.alpha is None and self.layout != "either"


def read(where: str, cell: Any, upright: bool = True, transparent: bool = True) -> Stored:
    """Read one picture: encoded bytes, a file, nested lists, or an array.

    Args:
        where: where it stands, for messages.
        cell: the picture. Of several frames the first is read.
        upright: turn it as its EXIF orientation says.
        transparent: read alpha, where it varies; else it is left out.

    Raises:
        InputError: it cannot be read.
    """
    import numpy as np
    from PIL import UnidentifiedImageError

    try:
        if isinstance(cell, np.ndarray):
            return _array(cell, transparent)
        if isinstance(cell, list):
            return _array(_of_lists(cell), transparent, "lists")
        return _file(cell, upright, transparent)
    except UnidentifiedImageError:
        reason = "not a picture in a known format"
    except (OSError, ValueError, SyntaxError, TypeError) as error:
        reason = str(error).partition("\n")[0]
    raise InputError(f"unreadable picture: {where}: {reason}: repair or remove it")


def arranged(values: np.ndarray, layout: str, transparent: bool = True) -> tuple[np.ndarray, np.ndarray | None]:
    """An array with channels `first` or `last` (or none) as values `[height, width, 1 or 3]` and alpha, None where it
    is the same everywhere."""
    import numpy as np

    if values.ndim == 2:
        return values[..., np.newaxis], None
    if layout == "first":
        values = np.moveaxis(values, 0, -1)
    if values.shape[-1] != 4:
        return np.ascontiguousarray(values), None
    alpha = values[..., 3:]
    varies = transparent and alpha.min() != alpha.max()
    return np.ascontiguousarray(values[..., :3]), _opacity(alpha) if varies else None


def layout_of(shape: tuple[int, ...]) -> str:
    """Where the channels of an array of this shape stand: `first`, `last`, `either`; "" in two dimensions.

    Raises:
        ValueError: it is the shape of no picture.
    """
    if len(shape) not in (2, 3) or 0 in shape:
        raise ValueError(f"values of shape {list(shape)}: {ACCEPTED}")
    if len(shape) == 2:
        return ""
    first, last = shape[0] in CHANNELS, shape[-1] in CHANNELS
    if not first and not last:
        raise ValueError(f"values of shape {list(shape)}: {ACCEPTED}")
    if first and last:
        return "either"
    return "first" if first else "last"


def _of_lists(cell: list[Any]) -> np.ndarray:
    import numpy as np

    try:
        return np.asarray(cell)
    except ValueError:
        raise ValueError("its rows have different lengths") from None


def _array(values: np.ndarray, transparent: bool, kind: str = "") -> Stored:
    import numpy as np

    layout = layout_of(values.shape)
    if values.dtype.kind not in "biuf":
        raise ValueError("holds values that are no numbers")
    if values.dtype == bool:
        values, kind = values.astype(np.uint8) * np.uint8(255), "bytes"
    elif values.dtype == np.uint8:
        kind = "bytes"
    kind = kind or ("fractions" if values.dtype.kind == "f" else "integers")
    if layout == "either":
        return Stored(values, kind, None, layout)
    pixels, alpha = arranged(values, layout, transparent)
    return Stored(pixels, kind, alpha, layout)


def _opacity(alpha: np.ndarray) -> np.ndarray:
    """Alpha of any type as float32 from 0 to 1: the largest value that its range has room for is opaque."""
    import numpy as np

    full = next((top for top in (1, 255, 1023, 4095, 16383, 65535) if alpha.max() <= top), alpha.max())
    return (alpha / full).clip(0, 1).astype(np.float32)


def _file(source: Any, upright: bool, transparent: bool) -> Stored:
    import numpy as np

    with open_picture(source) as picture:
        deep = picture.mode in ("RGB", "RGBA", "LA") and any(";16" in str(tile[3]) for tile in picture.tile[:1])
        picture.load()
        if deep and picture.format == "PNG" and (values := _deep_png(source)) is not None:
            return _deep(values, _orientation(picture) if upright else 1, transparent)
        turned: Picture = picture
        if upright and not ORIENTED.isdisjoint(picture.info):
            turned = _upright(picture)
        stored = _decoded(turned, transparent)
        if deep:  # Pillow keeps the upper byte of such colours
            values = stored.values.astype(np.uint16) << 8
            stored = stored._replace(values=values, kind="integers", upper=True)
        return stored if turned is picture else stored._replace(turned=True)


def _decoded(picture: Picture, transparent: bool) -> Stored:
    import numpy as np

    mode = picture.mode
    if mode == "F":
        return Stored(np.asarray(picture)[..., np.newaxis], "fractions")
    if mode.startswith("I"):
        return Stored(np.asarray(picture)[..., np.newaxis], "integers")
    see_through = mode in ALPHA_MODES or "transparency" in picture.info
    if mode == "P" and not see_through:
        see_through = picture.palette is not None and picture.palette.mode.endswith("A")
    if mode in ("La", "RGBa"):  # premultiplied: Pillow converts it to nothing else
        picture = picture.convert(mode.upper())
    if see_through and transparent:
        whole = picture.convert("RGBA")
        least, most = whole.getchannel("A").getextrema()
        if least != most:
            values = np.asarray(whole)
            colours = values[..., : 1 if mode in GREY_MODES else 3]
            return Stored(np.ascontiguousarray(colours), "bytes", _opacity(values[..., 3:]))
    wanted = "L" if mode in GREY_MODES else "RGB"
    pixels = np.asarray(picture if picture.mode == wanted else picture.convert(wanted))
    return Stored(pixels[..., np.newaxis] if wanted == "L" else pixels)


def _orientation(picture: Picture) -> int:
    """EXIF's, 1 to 8; damaged EXIF data say nothing."""
    try:
        with warnings.catch_warnings(action="ignore"):
            value = picture.getexif().get(ORIENTATION, 1)
    except Exception:  # of whatever the parser stumbles over
        return 1
    return value if value in range(1, 9) else 1


def _upright(picture: Picture) -> Picture:
    """The picture turned as EXIF says; itself where it is upright."""
    from PIL import ImageOps

    if _orientation(picture) == 1:
        return picture
    turned = ImageOps.exif_transpose(picture)
    return picture if turned is None else turned


def _deep_png(source: Any) -> np.ndarray | None:
    """A PNG of several channels of 16 bits, which Pillow cuts to the upper 8: uint16 `[height, width, 2, 3 or 4]`.

    None where torchvision was built without it.
    """
    import numpy as np
    import torch
    from torchvision.io import ImageReadMode, decode_image

    encoded = source.read_bytes() if isinstance(source, Path) else source
    try:
        with warnings.catch_warnings(action="ignore"):  # it is to move to a package of its own
            tensor = decode_image(torch.frombuffer(bytearray(encoded), dtype=torch.uint8), ImageReadMode.UNCHANGED)
    except RuntimeError:
        return None
    return np.moveaxis(tensor.numpy(), 0, -1)


def _deep(values: np.ndarray, orientation: int, transparent: bool) -> Stored:
    """What `_deep_png` read; the last of 2 or 4 channels is alpha."""
    import numpy as np

    turned = _turned(values, orientation)
    colours = 1 if turned.shape[-1] < 3 else 3
    alpha = turned[..., colours:]
    varies = transparent and alpha.size > 0 and alpha.min() != alpha.max()
    opacity = (alpha / 65535).astype(np.float32) if varies else None
    return Stored(np.ascontiguousarray(turned[..., :colours]), "integers", opacity, turned=orientation != 1)


def _turned(values: np.ndarray, orientation: int) -> np.ndarray:
    """An array `[height, width, channels]` turned as Pillow turns pictures of that EXIF orientation."""
    if orientation >= 5:
        values = values.swapaxes(0, 1)
    rows = -1 if orientation in (3, 4, 7, 8) else 1
    columns = -1 if orientation in (2, 3, 6, 7) else 1
    return values[::rows, ::columns]
