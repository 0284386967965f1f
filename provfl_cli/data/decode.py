"""Stored pictures of any form and size become one array of pixels."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image

from .picture_shape import is_strip
from .pixel_scale import BLACK, WHITE, Range, Reading, levels_of, pixels_of, range_of, scale_sentence
from .pixels import Stored, read
from .scale_fit import Reach, misfits, reach_of

LEEWAY = 1e-3  # of the largest value: numbers beyond a scale by less are its rounding
KEPT_BYTES = 2**28  # of pictures that wait until all are seen: beyond, they are read twice


@dataclass(frozen=True)
class DecodedPictures:
    """Pictures as uint8 `[n, size, size, channels]`, how they were read, and what a user should know of that.

    `shapes` are the (height, width) that each came in.
    """

    pixels: np.ndarray
    reading: Reading
    lines: tuple[str, ...]
    shapes: tuple[tuple[int, int], ...]


def decode(cells: Sequence[tuple[str, Any]], size: int, digest: Any, reading: Reading | None = None) -> DecodedPictures:
    """Decode pictures and resize them to `size` x `size` (bilinear).

    Channels are 1 where every picture is grey, else 3. `digest` (of hashlib) takes the pixels as they came, scaled to
    0 to 255. Pictures of 8 bits are decoded one by one; those whose scale, background or layout is a matter of the
    whole set wait until all have been seen.

    Args:
        cells: where each picture stands, for messages, and the picture: encoded bytes, a file, nested lists, or an
            array `[height, width]`, `[height, width, channels]` or `[channels, height, width]`.
        size: height and width of the result.
        digest: takes the content.
        reading: how the pictures of the training set were read; None: these are they, and it is decided here.

    Raises:
        InputError: a picture that cannot be read, or whose numbers are on another scale than those of the rest, named
            by where it stands.
    """
    known, held = reading or Reading(), dict[str, Range]()
    wanted = known.wanted
    reaches, faint = defaultdict[str, list[Reach]](list), set[float]()
    counts, first = Counter[str](), ""
    pictures, shapes = list[np.ndarray](), list[tuple[int, int]]()
    kept, room, start = dict[int, Stored](), KEPT_BYTES, len(cells)

    def finish(pixels: np.ndarray) -> None:
        shapes.append(pixels.shape[:2])
        digest.update(pixels.tobytes())
        pictures.append(resize(pixels, size))

    for number, (where, cell) in enumerate(cells):
        stored = read(where, cell, wanted)
        if stored.turned:
            counts["turned"] += 1
        if stored.layout:
            counts[stored.layout] += 1
        if stored.plain:
            if number < start:
                finish(stored.values)
                continue
        else:
            start = min(start, number)
            if stored.kind != "bytes":
                own = range_of(stored, where)
                held[stored.kind] = own.joined(held.get(stored.kind))
                reaches[stored.kind].append(reach_of(where, stored.values, own.low, own.high))
            if stored.faint is not None:
                faint.add(stored.faint)
                counts["faint"] += 1
            elif stored.alpha is not None:
                first = first or where
                counts.update(_seen_on(stored))
        room -= stored.values.nbytes
        if room > 0:
            kept[number] = stored
    if reading is None and (len(faint) > 1 or 0 < counts["faint"] < len(cells)):
        counts["transparent"] += counts["faint"]
    decided = _decided(known, held, counts)
    odd = misfits(reaches, decided, reading is None)
    for number in range(start, len(cells)):
        where, cell = cells[number]
        waiting = kept.pop(number, None) or read(where, cell, wanted)
        finish(pixels_of(waiting, decided, where))
    if len({picture.shape[-1] for picture in pictures}) > 1:
        pictures = [np.broadcast_to(picture, (*picture.shape[:2], 3)) for picture in pictures]
    lines = _lines(known, decided, held, counts, len(cells)) if reading is None else _new(known, decided, held, first)
    return DecodedPictures(np.stack(pictures), decided, (*lines, *odd, *_strips(cells, shapes)), tuple(shapes))


def resize(pixels: np.ndarray, size: int) -> np.ndarray:
    """Resize one picture `[height, width, channels]` to `[size, size, channels]`, bilinear; uint8 both."""
    if pixels.shape[:2] == (size, size):
        return pixels
    picture = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    return np.asarray(picture.resize((size, size), Image.Resampling.BILINEAR)).reshape(size, size, -1)


def _seen_on(stored: Stored) -> Counter[str]:
    """What a partly transparent picture counts as: one, and one that cannot be seen on white or on black."""
    counts = Counter(transparent=1)
    if stored.kind == "bytes":
        for name, background in (("lost on white", WHITE), ("lost on black", BLACK)):
            drawn = pixels_of(stored, Reading(background=background), "")
            counts[name] += bool((drawn == drawn[:1, :1]).all())
    return counts


def _strips(cells: Sequence[tuple[str, Any]], shapes: Sequence[tuple[int, int]]) -> tuple[str, ...]:
    """A sentence where pictures look like flattened ones."""
    narrow = {shape for shape in set(shapes) if is_strip(shape)}
    if not narrow:
        return ()
    strips = [number for number, shape in enumerate(shapes) if shape in narrow]
    height, width = shapes[strips[0]]
    are, where = "is a strip" if len(strips) == 1 else "are strips", cells[strips[0]][0]
    return (f"{len(strips):,} of {len(shapes):,} pictures {are}, such as {where} ({width}x{height} pixels): stretched",)


def _decided(known: Reading, held: dict[str, Range], counts: Counter[str]) -> Reading:
    """`known`, and what the set itself says about what is not known."""
    made = {kind: levels_of(span) for kind, span in held.items() if known.levels(kind) is None}
    decided = replace(known, **made)  # type: ignore[arg-type]
    if counts["transparent"] and known.background is None:
        half = counts["transparent"] / 2
        dark = counts["lost on white"] > half > counts["lost on black"]
        decided = replace(decided, background=BLACK if dark else WHITE)
    if known.channels_first is None and (counts["first"] > 0) != (counts["last"] > 0):
        decided = replace(decided, channels_first=counts["first"] > 0)
    return decided


def _lines(
    known: Reading, decided: Reading, held: dict[str, Range], counts: Counter[str], total: int
) -> tuple[str, ...]:
    """How the pictures of a training set were read, where that is not as they stand."""
    lines = []
    for kind, span in held.items():
        levels = decided.levels(kind)
        lines.append(scale_sentence(kind, span, levels) if levels is not None else None)
    if counts["transparent"]:
        on = "white" if decided.background == WHITE else "black (on white nothing would be seen of them)"
        lines.append(f"{counts['transparent']:,} of {total:,} pictures are partly transparent: drawn on {on}")
    first = counts["first"] + (counts["either"] if decided.channels_first else 0)
    if first:
        lines.append(f"{first:,} of {total:,} pictures have their channels first ([channels, height, width]): turned")
    if counts["turned"]:
        lines.append(f"{counts['turned']:,} of {total:,} pictures are turned upright, as their EXIF orientation says")
    return tuple(line for line in lines if line)


def _new(known: Reading, decided: Reading, held: dict[str, Range], transparent: str) -> tuple[str, ...]:
    """What of later pictures the training set says nothing about."""
    lines = []
    for kind, span in held.items():
        levels, before = decided.levels(kind), known.levels(kind)
        if before is None and levels is not None:
            lines.append(scale_sentence(kind, span, levels))
        elif before is not None and max(before.low - span.low, span.high - before.high) > LEEWAY * before.high:
            lines.append(
                f"pictures hold values from {span.low:,.4g} to {span.high:,.4g}, those of the training data were read "
                f"as {before.low:,.4g} to {before.high:,.4g}: the rest is cut off"
            )
    if transparent and known.background is None:
        lines.append(f"{transparent} is partly transparent, as no training picture was: drawn on white")
    return tuple(line for line in lines if line)
