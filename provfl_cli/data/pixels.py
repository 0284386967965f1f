"""One stored picture, whatever its form, as the numbers that it holds: nothing is scaled here."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import ImageOps, UnidentifiedImageError
from PIL.Image import Image as Picture

from ..errors import InputError
from ..imports import later
from .picture import open_picture
from .picture_shape import layout_of

if TYPE_CHECKING:
    import torch
    import torchvision
else:
    torch, torchvision = later("torch"), later("torchvision")

GREY_MODES = ("1", "L", "LA", "La")
ALPHA_MODES = ("LA", "La", "PA", "RGBA", "RGBa")
ORIENTATION = 274  # EXIF's tag
# Where orientation may stand: looking only where there is something costs nothing for the others.
ORIENTED = frozenset({"exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp"})
INVERTED, DEPTH = 262, 258  # TIFF's tags: whether 0 is white, and bits of a value


class Stored(NamedTuple):
    """What a picture holds.

    Attributes:
        values: numbers `[height, width, 1 or 3]`; where `layout` is `either`, as they stand in the array.
        kind: `bytes` are 0 to 255; `lists` (of a table), `integers` and `fractions` need a scale.
        alpha: float32 `[height, width, 1]`, 0 where nothing is to be seen to 1; `[1, 1, 1]` where it is the same
            everywhere; None where all is opaque.
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

    @property
    def faint(self) -> float | None:
        """Its alpha, where that is the same everywhere but not opaque."""
        return float(self.alpha[0, 0, 0]) if self.alpha is not None and self.alpha.size == 1 else None


class Wanted(NamedTuple):
    """What is read of pictures beside their colours.

    Attributes:
        upright: pictures are turned as their EXIF orientation says.
        transparent: alpha is not left out.
        complete: nor where it is the same in a whole picture; transparent colours of 16 bits and TIFF whose 0 is white
            are read as such.
    """

    upright: bool = True
    transparent: bool = True
    complete: bool = True


ALL = Wanted()


def read(where: str, cell: Any, wanted: Wanted = ALL) -> Stored:
    """Read one picture: encoded bytes, a file, nested lists, or an array.

    Args:
        where: where it stands, for messages.
        cell: the picture. Of several frames the first is read.
        wanted: what is read of it.

    Raises:
        InputError: it cannot be read.
    """
    try:
        if isinstance(cell, np.ndarray):
            return _array(cell, wanted)
        if isinstance(cell, list):
            return _array(_of_lists(cell), wanted, "lists")
        return _file(cell, wanted)
    except UnidentifiedImageError:
        reason = "not a picture in a known format"
    except (OSError, ValueError, SyntaxError, TypeError) as error:
        reason = str(error).partition("\n")[0]
    raise InputError(f"unreadable picture: {where}: {reason}: repair or remove it")


def arranged(values: np.ndarray, layout: str, wanted: Wanted = ALL) -> tuple[np.ndarray, np.ndarray | None]:
    """Values `[height, width, 1 or 3]` and alpha (see `Stored`) of an array with channels `first`, `last` or none."""
    if values.ndim == 2:
        return values[..., np.newaxis], None
    if layout == "first":
        values = np.moveaxis(values, 0, -1)
    if values.shape[-1] != 4:
        return np.ascontiguousarray(values), None
    return np.ascontiguousarray(values[..., :3]), _alpha(values[..., 3:], wanted)


def _of_lists(cell: list[Any]) -> np.ndarray:
    try:
        return np.asarray(cell)
    except ValueError:
        raise ValueError("its rows have different lengths") from None


def _array(values: np.ndarray, wanted: Wanted, kind: str = "") -> Stored:
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
    pixels, alpha = arranged(values, layout, wanted)
    return Stored(pixels, kind, alpha, layout)


def _alpha(alpha: np.ndarray, wanted: Wanted, full: int | None = None) -> np.ndarray | None:
    """Alpha `[height, width, 1]` of any type as that of `Stored`.

    `full` is opaque; None: the largest value that its range has room for.
    """
    if not wanted.transparent or not alpha.size:
        return None
    low, high = alpha.min(), alpha.max()
    if full is None:
        full = next((top for top in (1, 255, 1023, 4095, 16383, 65535) if high <= top), high)
    if low == high:
        if low == full or not wanted.complete:
            return None
        alpha = alpha[:1, :1]
    return (alpha / full).clip(0, 1).astype(np.float32)


def _without(values: np.ndarray, colour: Any, wanted: Wanted) -> tuple[np.ndarray, np.ndarray | None]:
    """Whole numbers `[height, width, 1 or 3]` and alpha where a PNG calls one of their colours transparent.

    Its pixels become 0: the colour tells nothing about the scale of the others.
    """
    if colour is None or not (wanted.transparent and wanted.complete):
        return values, None
    seen = (values != np.asarray(colour, dtype=np.int64)).any(axis=-1, keepdims=True)
    return np.where(seen, values, values.dtype.type(0)), _alpha(seen.astype(np.uint8), wanted, 1)


def _file(source: Any, wanted: Wanted) -> Stored:
    with open_picture(source) as picture:
        deep = picture.mode in ("RGB", "RGBA", "LA") and any(";16" in str(tile[3]) for tile in picture.tile[:1])
        picture.load()
        if deep and picture.format == "PNG":
            if (values := _deep_png(source)) is not None:
                colour = picture.info.get("transparency")
                return _deep(values, _orientation(picture) if wanted.upright else 1, colour, wanted)
            if "transparency" in picture.info and wanted.transparent:
                raise ValueError("the colour that it calls transparent cannot be read here: save it with alpha")
        turned: Picture = picture
        if wanted.upright and not ORIENTED.isdisjoint(picture.info):
            turned = _upright(picture)
        inverted = wanted.complete and picture.format == "TIFF" and picture.mode in ("I;16", "I;16B", "I", "F")
        if inverted and picture.tag_v2.get(INVERTED, 1) == 0:  # type: ignore[attr-defined]
            stored = _inverted(turned, picture.tag_v2[DEPTH][0])  # type: ignore[attr-defined]
        else:
            stored = _decoded(turned, wanted)
        if deep:  # Pillow keeps the upper byte of such colours
            values = stored.values.astype(np.uint16) << 8
            stored = stored._replace(values=values, kind="integers", upper=True)
        return stored if turned is picture else stored._replace(turned=True)


def _inverted(picture: Picture, bits: int) -> Stored:
    """A TIFF whose 0 is white: Pillow turns only those of up to 8 bits around."""
    if picture.mode == "F" or bits > 16:
        raise ValueError(f"a TIFF of {bits}-bit numbers of which 0 is white (WhiteIsZero): save it with 0 as black")
    return Stored((2**bits - 1 - np.asarray(picture)[..., np.newaxis].astype(np.int32)).clip(0), "integers")


def _decoded(picture: Picture, wanted: Wanted) -> Stored:
    mode = picture.mode
    if mode == "F":
        return Stored(np.asarray(picture)[..., np.newaxis], "fractions")
    if mode.startswith("I"):
        values, alpha = _without(np.asarray(picture)[..., np.newaxis], picture.info.get("transparency"), wanted)
        return Stored(values, "integers", alpha)
    see_through = mode in ALPHA_MODES or "transparency" in picture.info
    if mode == "P" and not see_through:
        see_through = picture.palette is not None and picture.palette.mode.endswith("A")
    if mode in ("La", "RGBa"):  # premultiplied: Pillow converts it to nothing else
        picture = picture.convert(mode.upper())
    alpha = None
    if see_through and wanted.transparent:
        whole = picture.convert("RGBA")
        least, most = whole.getchannel("A").getextrema()
        if least != most:
            values = np.asarray(whole)
            colours = values[..., : 1 if mode in GREY_MODES else 3]
            return Stored(np.ascontiguousarray(colours), "bytes", _alpha(values[..., 3:], wanted))
        if least != 255:
            alpha = _alpha(np.full((1, 1, 1), least), wanted)
    form = "L" if mode in GREY_MODES else "RGB"
    pixels = np.asarray(picture if picture.mode == form else picture.convert(form))
    return Stored(pixels[..., np.newaxis] if form == "L" else pixels, "bytes", alpha)


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
    if _orientation(picture) == 1:
        return picture
    turned = ImageOps.exif_transpose(picture)
    return picture if turned is None else turned


def _deep_png(source: Any) -> np.ndarray | None:
    """A PNG of several channels of 16 bits, which Pillow cuts to the upper 8: uint16 `[height, width, 2, 3 or 4]`.

    None where torchvision was built without it.
    """
    encoded = source.read_bytes() if isinstance(source, Path) else source
    try:
        with warnings.catch_warnings(action="ignore"):  # it is to move to a package of its own
            tensor: torch.Tensor = torchvision.io.decode_image(
                torch.frombuffer(bytearray(encoded), dtype=torch.uint8), torchvision.io.ImageReadMode.UNCHANGED
            )
    except RuntimeError:
        return None
    return np.moveaxis(tensor.numpy(), 0, -1)


def _deep(values: np.ndarray, orientation: int, colour: Any, wanted: Wanted) -> Stored:
    """What `_deep_png` read; the last of 2 or 4 channels is alpha, `colour` is transparent where there is none."""
    turned = _turned(values, orientation)
    colours = 1 if turned.shape[-1] < 3 else 3
    pixels = np.ascontiguousarray(turned[..., :colours])
    alpha = _alpha(turned[..., colours:], wanted, 65535)
    if turned.shape[-1] == colours:
        pixels, alpha = _without(pixels, colour, wanted)
    return Stored(pixels, "integers", alpha, turned=orientation != 1)


def _turned(values: np.ndarray, orientation: int) -> np.ndarray:
    """An array `[height, width, channels]` turned as Pillow turns pictures of that EXIF orientation."""
    if orientation >= 5:
        values = values.swapaxes(0, 1)
    rows = -1 if orientation in (3, 4, 7, 8) else 1
    columns = -1 if orientation in (2, 3, 6, 7) else 1
    return values[::rows, ::columns]
