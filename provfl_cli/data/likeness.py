"""What the pictures that a model was trained on look like, and whether another one looks like them.

Five measures of each picture, all in grey values from 0 to 255 but the last: its mean brightness; its contrast (the
standard deviation); the median of its edge; how much colour it has; and its grain, the mean step between neighbours
over the contrast. A picture is unlike the training data where a measure lies outside what these reach, or where it is
one colour throughout and they are not. That finds inverted, blank and noisy pictures where the training data have a
look of their own; it is no judgement about what a picture shows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import reduce
from typing import Any

import numpy as np

SAMPLE = 2000  # pictures looked at, evenly spaced
SAMPLE_VALUES = 4_000_000  # fewer where they are large, but SAMPLE_LEAST
SAMPLE_LEAST = 200
MARGIN = 0.1  # of what a measure reaches, added at both ends; more where few pictures were seen: 3 / sqrt(n)
RARE = 0.001  # share of training pictures of one colour from which on another such picture is nothing new
NEARLY_SAME = 0.999  # share of all pixels that have one value
LITTLE_SPREAD = 2.0  # standard deviation of all pixels
QUANTILES = (0.0, 0.01, 0.25, 0.5, 0.75, 0.99, 1.0)
STRETCHED = 1.25  # proportions beyond those of the training data by this factor
RESIZED = 2.0  # sides beyond
MEASURES = {
    "brightness": "brightness",
    "contrast": "contrast",
    "edge": "brightness at the edge",
    "colour": "colour",
    "grain": "grain",
}


@dataclass(frozen=True)
class Look:
    """What training pictures look like.

    Attributes:
        pictures: how many were looked at.
        mean, std: of all their pixels, by channel, 0 to 255.
        brightness: quantiles of the pictures' brightness, at `QUANTILES`.
        measures: the least and the largest of each measure.
        constant: share of pictures of one colour throughout.
        common: share of the most frequent pixel value.
        same: whether all are the same picture.
        heights, widths: the least and the largest, as they came; (): not known.
        proportions: the least and the largest width over height; (): not known.
    """

    pictures: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    brightness: tuple[float, ...]
    measures: Mapping[str, tuple[float, float]]
    constant: float
    common: float
    same: bool
    heights: tuple[int, ...] = ()
    widths: tuple[int, ...] = ()
    proportions: tuple[float, ...] = ()


def look_of(pixels: np.ndarray, shapes: frozenset[tuple[int, int]] = frozenset()) -> Look:
    """What pictures uint8 `[n, height, width, channels]` look like; `shapes` are the (height, width) they came in."""
    seen = _sample(pixels)
    counts = np.bincount(seen.reshape(-1), minlength=256)
    moments = [_moments(seen[..., channel]) for channel in range(seen.shape[-1])]
    measured = measures(seen)
    return Look(
        pictures=len(seen),
        mean=tuple(round(mean, 4) for mean, _ in moments),
        std=tuple(round(std, 4) for _, std in moments),
        brightness=tuple(round(float(value), 4) for value in np.quantile(measured["brightness"], QUANTILES)),
        measures={
            name: (round(float(values.min()), 4), round(float(values.max()), 4)) for name, values in measured.items()
        },
        constant=float(constant(seen).mean()),
        common=float(counts.max() / counts.sum()),
        same=len(seen) > 1 and bool((seen == seen[0]).all()),
        heights=_ends([height for height, _ in shapes]),
        widths=_ends([width for _, width in shapes]),
        proportions=_ends([width / height for height, width in shapes]),
    )


def measures(pixels: np.ndarray) -> dict[str, np.ndarray]:
    """The measures of pictures uint8 `[n, height, width, channels]`, each float `[n]`."""
    channels = [pixels[..., channel] for channel in range(pixels.shape[3])]  # their axis is too short to be fast
    grey: np.ndarray = reduce(np.add, [channel.astype(np.float32) for channel in channels]) / np.float32(len(channels))
    contrast = grey.std(axis=(1, 2))
    edge = np.concatenate([grey[:, 0], grey[:, -1], grey[:, :, 0], grey[:, :, -1]], axis=1)
    steps = np.abs(np.diff(grey, axis=1)).mean(axis=(1, 2)) + np.abs(np.diff(grey, axis=2)).mean(axis=(1, 2))
    colour = (reduce(np.maximum, channels) - reduce(np.minimum, channels)).mean(axis=(1, 2))
    return {
        "brightness": grey.mean(axis=(1, 2)),
        "contrast": contrast,
        "edge": np.median(edge, axis=1),
        "colour": colour,
        "grain": steps / 2 / np.maximum(contrast, 1),
    }


def constant(pixels: np.ndarray) -> np.ndarray:
    """Which pictures uint8 `[n, height, width, channels]` are one colour throughout: bool `[n]`."""
    few = pixels[:, ::4, ::4]  # nearly all are ruled out by these
    same: np.ndarray = (few == few[:, :1, :1]).all(axis=(1, 2, 3))
    for number in np.flatnonzero(same):
        same[number] = (pixels[number] == pixels[number, :1, :1]).all()
    return same


def blank(pixels: np.ndarray, names: Callable[[int], str]) -> tuple[str, ...]:
    """A sentence where pictures uint8 `[n, height, width, channels]` are one colour throughout; `names` by number."""
    empty = np.flatnonzero(constant(pixels)).tolist()
    if not empty:
        return ()
    are = "is" if len(empty) == 1 else "are"
    return (f"{len(empty):,} of {len(pixels):,} pictures {are} one colour throughout, such as {names(empty[0])}",)


def all_alike(look: Look) -> tuple[str, ...]:
    """A sentence where the pictures of a set can hardly be told apart."""
    if look.same:
        return (f"all {look.pictures:,} training pictures looked at are the same: nothing can be learned from them",)
    spread = max(look.std)
    if look.common < NEARLY_SAME and spread >= LITTLE_SPREAD:
        return ()
    return (
        f"the training pictures' pixels are nearly all the same (mean {look.mean[0]:.0f} of 255, deviation "
        f"{spread:.2g}): are their values scaled as they should be?",
    )


def unlike(picture: np.ndarray, shape: tuple[int, int], look: Look) -> tuple[str, ...]:
    """In what a picture uint8 `[height, width, channels]` that came in `shape` differs from the training data."""
    lines = list(_odd(picture, look))
    if lines and not _odd(255 - picture, look):
        lines.append("inverted, it would be like them")
    return (*lines, *_other_shape(shape, picture.shape[:2], look))


def _odd(picture: np.ndarray, look: Look) -> list[str]:
    if constant(picture[None])[0]:
        return [] if look.constant >= RARE else ["it is one colour throughout"]
    differences = []
    share = max(MARGIN, 3 / math.sqrt(look.pictures))
    for name, values in measures(picture[None]).items():
        if name not in look.measures:
            continue
        low, high = look.measures[name]
        margin = share * (high - low) + (0.05 if name == "grain" else 2.0)
        value = float(values[0])
        if not low - margin <= value <= high + margin:
            differences.append(f"its {MEASURES[name]} is {value:.3g} (there {low:.3g} to {high:.3g})")
    return differences


def _other_shape(shape: tuple[int, int], drawn: tuple[int, ...], look: Look) -> list[str]:
    if not (look.heights and look.widths and look.proportions):
        return []
    height, width = shape
    if shape == drawn:
        return []
    came = f"{width}x{height} pixels"
    sizes = f"{_span(look.widths)} wide and {_span(look.heights)} high"
    low, high = look.proportions
    if not low / STRETCHED <= width / height <= high * STRETCHED:
        return [f"it is stretched from {came} (there {sizes})"]
    larger = height > RESIZED * look.heights[1] and width > RESIZED * look.widths[1]
    smaller = height * RESIZED < look.heights[0] and width * RESIZED < look.widths[0]
    return [f"it came in {came} (there {sizes})"] if larger or smaller else []


def as_values(look: Look) -> dict[str, Any]:
    """Plain values, for a manifest."""
    return asdict(look)


def from_values(values: Mapping[str, Any]) -> Look:
    """What `as_values` made.

    Raises:
        ValueError, TypeError, KeyError: it is something else.
    """
    lists = ("mean", "std", "brightness", "heights", "widths", "proportions")
    made = Look(
        pictures=int(values["pictures"]),
        constant=float(values["constant"]),
        common=float(values["common"]),
        same=bool(values["same"]),
        measures={str(name): (float(low), float(high)) for name, (low, high) in values["measures"].items()},
        **{name: tuple(map(float, values[name])) for name in lists},  # type: ignore[arg-type]
    )
    if made.pictures < 1 or any(len(ends) not in (0, 2) for ends in (made.heights, made.widths, made.proportions)):
        raise ValueError("statistics of no pictures")
    return made


def _sample(pixels: np.ndarray) -> np.ndarray:
    """Some of the pictures, evenly spaced."""
    room = max(SAMPLE_VALUES // max(pixels[0].size, 1), SAMPLE_LEAST)
    count = min(len(pixels), SAMPLE, room)
    chosen = np.linspace(0, len(pixels) - 1, count).round().astype(int)
    sample: np.ndarray = pixels[chosen]
    return sample


def _moments(values: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation of uint8 values, from their histogram."""
    counts = np.bincount(values.reshape(-1), minlength=256)
    greys = np.arange(256)
    mean = float(counts @ greys / counts.sum())
    return mean, math.sqrt(float(counts @ (greys - mean) ** 2 / counts.sum()))


def _ends(values: Sequence[Any]) -> tuple[Any, ...]:
    return (min(values), max(values)) if values else ()


def _span(ends: Sequence[float]) -> str:
    low, high = ends
    return f"{low:.0f}" if low == high else f"{low:.0f} to {high:.0f}"
