"""Convolutions in one, two and three dimensions, and their transposes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from ..calls import Call
from ..factors import Dense, Factor, Outer, Select
from .registry import rule

CONVOLUTION = "input weight bias stride padding dilation groups"
TRANSPOSED = "input weight bias stride padding output_padding groups dilation"


def _by_dimension(value: Any, dimensions: int) -> tuple[int, ...]:
    return (value,) * dimensions if isinstance(value, int) else tuple(value) * (dimensions if len(value) == 1 else 1)


def _low_padding(padding: Any, kernel: tuple[int, ...], dilation: tuple[int, ...]) -> tuple[int, ...]:
    """Zeros in front of each dimension; `same` puts the odd one behind."""
    if padding == "valid":
        return (0,) * len(kernel)
    if padding == "same":
        return tuple(d * (k - 1) // 2 for k, d in zip(kernel, dilation, strict=True))
    return _by_dimension(padding, len(kernel))


def _live_taps(size: int, out: int, kernel: int, stride: int, padding: int, dilation: int) -> range:
    """The taps from the first to the last that sees a pixel, for some output, rather than nothing but padding."""
    live = [tap for tap in range(kernel) if any(0 <= o * stride + tap * dilation - padding < size for o in range(out))]
    return range(live[0], live[-1] + 1) if live else range(1)


def _patches(
    images: Tensor,
    out: tuple[int, ...],
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
) -> tuple[Tensor, list[range]]:
    """What each tap of the kernel sees: `[batch, C, taps, T]`, and which taps those are along each dimension."""
    size = images.shape[2:]
    taps = [_live_taps(*geometry) for geometry in zip(size, out, kernel, stride, padding, dilation, strict=True)]
    needed = [(o - 1) * s + (k - 1) * d + 1 for o, s, k, d in zip(out, stride, kernel, dilation, strict=True)]
    pads = [(low, max(0, n - low - length)) for low, n, length in zip(padding, needed, size, strict=True)]
    padded = F.pad(images, [amount for pair in reversed(pads) for amount in pair]) if any(map(any, pads)) else images
    batch, channels = images.shape[:2]
    windows = padded.as_strided(
        (batch, channels, *kernel, *out),
        (
            *padded.stride()[:2],
            *(step * d for step, d in zip(padded.stride()[2:], dilation, strict=True)),
            *(step * s for step, s in zip(padded.stride()[2:], stride, strict=True)),
        ),
    )
    windows = _keep_taps(windows, taps, range(2, 2 + len(kernel)))
    count = 1
    for chosen in taps:
        count *= len(chosen)
    return windows.reshape(batch, channels, count, -1), taps


def _keep_taps(tensor: Tensor, taps: Sequence[range], dimensions: Sequence[int]) -> Tensor:
    """Only the `taps` of the kernel's `dimensions` of a tensor, as a view."""
    for dimension, chosen in zip(dimensions, taps, strict=True):
        tensor = tensor.narrow(dimension, chosen.start, len(chosen))
    return tensor


def _select(taps: list[range], kernel: tuple[int, ...]) -> Select | None:
    """Drops the taps that see nothing from a weight `[…, *kernel]`; None where all see something."""
    if all(len(chosen) == size for chosen, size in zip(taps, kernel, strict=True)):
        return None
    return lambda weight: _keep_taps(weight, taps, range(-len(kernel), 0))


@rule(F.conv1d, F.conv2d, F.conv3d, arguments=CONVOLUTION)
def convolution(call: Call, g: Tensor) -> dict[str, Factor]:
    """`G[o, (i, tap)] = sum_t g[o, t] patches(z)[(i, tap), t]`, group by group."""
    arguments = call.arguments
    kernel = tuple(arguments["weight"].shape[2:])
    n = len(kernel)
    dilation = _by_dimension(arguments.get("dilation", 1), n)
    patches, taps = _patches(
        call.data("input"),
        tuple(g.shape[2:]),
        kernel,
        _by_dimension(arguments.get("stride", 1), n),
        _low_padding(arguments.get("padding", 0), kernel, dilation),
        dilation,
    )
    groups = arguments.get("groups", 1)
    batch, channels, count, positions = patches.shape
    right = patches.reshape(batch, groups, channels // groups * count, positions)
    left = g.flatten(2)
    return {"weight": Outer(left, right, _select(taps, kernel)), "bias": Dense(left.sum(2))}


@rule(F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d, arguments=TRANSPOSED)
def transposed_convolution(call: Call, g: Tensor) -> dict[str, Factor]:
    """The same with the parts of `z` and `g` exchanged: `G[i, (o, tap)] = sum_t z[i, t] patches(g)[(o, tap), t]`."""
    arguments = call.arguments
    kernel = tuple(arguments["weight"].shape[2:])
    n = len(kernel)
    z = call.data("input")
    patches, taps = _patches(
        g,
        tuple(z.shape[2:]),
        kernel,
        _by_dimension(arguments.get("stride", 1), n),
        _by_dimension(arguments.get("padding", 0), n),
        _by_dimension(arguments.get("dilation", 1), n),
    )
    groups = arguments.get("groups", 1)
    batch, channels, count, positions = patches.shape
    right = patches.reshape(batch, groups, channels // groups * count, positions)
    return {
        "weight": Outer(z.flatten(2), right, _select(taps, kernel), transposed=True),
        "bias": Dense(g.flatten(2).sum(2)),
    }
