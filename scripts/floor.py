"""The floor of a trace: what nobody can do without, at the rates of one large product and one large copy.

Multiply-adds of the forward pass, of the backward pass to activations, and of each layer's cheaper contraction; bytes
of the clients, each read once. Of a kernel's taps those are left out that see nothing but padding, and of an embedding
the rows of tokens that are not in the batch. `executed` counts what a trace really does of both.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from provfl_cli.provenance.rules.convolution import _by_dimension, _live_taps, _low_padding

CHOOSING = (torch.ops.aten.index, torch.ops.aten.index_select, torch.ops.aten.gather, torch.ops.aten.embedding)
MATRIX, COPIED = 4096, 1 << 28  # of the large product; bytes of the large copy


@dataclass(frozen=True)
class Work:
    """Multiply-adds, and bytes of the clients: those that are `used`, and those read with them.

    A tap that sees nothing but padding lies between others in the same line of memory, and is read, but not used.
    """

    forward: int
    backward: int
    contraction: int
    bytes: int
    used: int

    @property
    def products(self) -> int:
        return self.forward + self.backward + self.contraction

    def seconds(self, rate: float, copied: float, beside: bool) -> float:
        """With so many multiply-adds and bytes a second; `beside`: copies take no time of what multiplies."""
        parts = self.products / rate, self.bytes / copied
        return max(parts) if beside else sum(parts)


def _taps(module: Any, size: tuple[int, ...], out: tuple[int, ...]) -> int:
    """Taps of a convolution's kernel that see a pixel for some output."""
    kernel = tuple(module.kernel_size)
    n = len(kernel)
    dilation, stride = _by_dimension(module.dilation, n), _by_dimension(module.stride, n)
    padding = _low_padding(module.padding, kernel, dilation)
    geometry = zip(size, out, kernel, stride, padding, dilation, strict=True)
    return math.prod(len(_live_taps(*each)) for each in geometry)


def floor_work(
    model: nn.Module, run: Callable[[], object], inputs: int, clients: int, shared: Mapping[str, int]
) -> Work:
    """The least work of a trace.

    Args:
        model: that `run` runs on a batch of so many `inputs`.
        run: one forward pass.
        inputs: in the batch.
        clients: of the round.
        shared: bytes that a client sent of each parameter, by name; others are constants.
    """
    rows: list[tuple[int, int, bool]] = []  # weights, positions of one input, whether clients share the weights
    apart = [0]
    read, used = dict(shared), dict(shared)

    def seen(name: str, module: Any, args: Any, output: Any) -> None:
        weight, shared_name = module.weight, f"{name}.weight"
        numbers = weight.numel()
        if isinstance(module, nn.Embedding):
            if shared_name in shared:
                part = shared[shared_name] // len(weight) * len(args[0].unique())
                read[shared_name] = used[shared_name] = part
            return
        if isinstance(module, nn.modules.conv._ConvNd):
            numbers = numbers // math.prod(module.kernel_size) * _taps(module, args[0].shape[2:], output.shape[2:])
            positions = math.prod(output.shape[2:])
        else:
            positions = args[0].numel() // args[0].shape[-1] // inputs
        rows.append((numbers, positions, shared_name in shared))
        if shared_name in shared:
            used[shared_name] = shared[shared_name] // weight.numel() * numbers

    handles = [
        module.register_forward_hook(lambda m, a, o, name=name: seen(name, m, a, o))
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | nn.Embedding | nn.modules.conv._ConvNd) or type(module).__name__ == "Conv1D"
    ]
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        run()
    for handle in handles:
        handle.remove()
    for function, count in counter.get_flop_counts().get("Global", {}).items():
        if "bmm" in str(function) or "attention" in str(function):  # products of data with data
            apart[0] += count // 2
    forward = sum(numbers * positions for numbers, positions, _ in rows) * inputs
    first = rows[0][0] * rows[0][1] * inputs if rows else 0  # no gradient is asked of what goes in
    contraction = sum(
        numbers * min(positions * clients, positions + clients) for numbers, positions, sent in rows if sent
    )
    return Work(
        forward=forward + apart[0],
        backward=forward - first + 2 * apart[0],
        contraction=contraction * inputs,
        bytes=clients * sum(read.values()),
        used=clients * sum(used.values()),
    )


@dataclass(frozen=True)
class Executed:
    """Multiply-adds of all products, by torch function, and bytes of the clients that were read."""

    by_function: Mapping[str, int]
    bytes: int

    @property
    def products(self) -> int:
        return sum(self.by_function.values())


class _Counter(TorchDispatchMode):
    """Counts the products that torch executes, and what is read of some tensors.

    A convolution counts as if it multiplied padding too; elementwise functions, which multiply as well, do not count.
    """

    def __init__(self, of: Iterable[Tensor]) -> None:
        super().__init__()
        self.held = {tensor.untyped_storage().data_ptr() for tensor in of}
        self.products: Counter[str] = Counter()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, packet = kwargs or {}, func._overloadpacket
        if packet not in flop_registry:
            with self:
                made = func.decompose(*args, **kwargs)
                if made is not NotImplemented:
                    return made
        output = func(*args, **kwargs)
        if packet in flop_registry:
            self.products[packet.__name__] += flop_registry[packet](*args, **kwargs, out_val=output) // 2
        if not func.is_view:
            chooses = packet in CHOOSING  # reads of its first argument as much as it puts out
            for tensor in args:
                if isinstance(tensor, Tensor) and tensor.untyped_storage().data_ptr() in self.held:
                    self.bytes += (output if chooses else tensor).numel() * tensor.itemsize
        return output


def executed(call: Callable[[], object], of: Iterable[Tensor]) -> Executed:
    """The multiply-adds of `call`, and the bytes that it reads of the tensors `of`; a view reads nothing."""
    with _Counter(of) as counter:
        call()
    return Executed(dict(counter.products), counter.bytes)


def _median(call: Callable[[], object], device: torch.device, repeat: int = 5) -> float:
    lengths = []
    for turn in range(repeat + 1):
        began = now(device)
        call()
        if turn:
            lengths.append(now(device) - began)
    return sorted(lengths)[len(lengths) // 2]


def now(device: torch.device) -> float:
    """Seconds, once a GPU has done what it was asked for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def product_rate(device: torch.device, dtype: torch.dtype = torch.float32, size: int = 0) -> float:
    """Multiply-adds a second of one large product."""
    size = size or (8192 if device.type == "cuda" else MATRIX // 2)
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in "ab")
    return size**3 / _median(lambda: left @ right, device)


def copy_rate(device: torch.device, where: str = "here") -> float:
    """Bytes a second of one large copy: `here` on it, `up` to it from page-locked memory, `gather` into that."""
    gpu = device.type == "cuda"
    source = torch.randn(COPIED // 4)
    if where == "gather":
        target = torch.empty(COPIED // 4, pin_memory=gpu)
        return COPIED / _median(lambda: target.copy_(source), device)
    if where == "up":
        pinned, target = source.pin_memory() if gpu else source, torch.empty(COPIED // 4, device=device)
        return COPIED / _median(lambda: target.copy_(pinned, non_blocking=True), device)
    here = source.to(device)
    target = torch.empty_like(here)
    return COPIED / _median(lambda: target.copy_(here), device)
