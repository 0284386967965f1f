"""Recurrent layers: LSTM, GRU and RNN, and their cells, on padded sequences, as torch's functions of those names.

They are not linear in their parameters and hand back several tensors: each call is differentiated for every input alone
(`fallback`). A recurrent layer's neurons are all numbers that it hands on, its outputs at each step and its final
states. They have been through the layer's own activation functions already, so that the layer is never masked by the
threshold, whatever follows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

LAYERS = {getattr(torch, name): 2 if name == "lstm" else 1 for name in ("lstm", "gru", "rnn_tanh", "rnn_relu")}
"""Functions of whole sequences, and how many states they hand back."""

CELLS = {getattr(torch, name): name for name in ("lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell")}
"""Functions of one step."""

RECURRENT: frozenset[Callable[..., Any]] = frozenset((*LAYERS, *CELLS))


@dataclass(frozen=True)
class Layout:
    """Batch axes of a recurrent call: of its first argument, of its states, and of each tensor that it returns."""

    input: int
    states: int
    outputs: tuple[int, ...]


def layout(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Layout | None:
    """The batch axes of a call; None for other functions, and for packed sequences.

    Those have the inputs' steps mixed in one dimension: they are traced input by input.
    """
    if function in CELLS:
        return Layout(0, 0, (0, 0) if CELLS[function] == "lstm_cell" else (0,))
    if function not in LAYERS or not isinstance(arguments[-1], bool) or isinstance(arguments[3], (list, tuple)):
        return None
    first = 0 if arguments[-1] else 1
    return Layout(first, 1, (first, *(1,) * LAYERS[function]))


def unpacked(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same for a packed sequence of a single input, which is that input's steps; else NotImplementedError."""

    def computed(*arguments: Any) -> Any:
        if function not in LAYERS or not isinstance(arguments[3], (list, tuple)) or int(arguments[1].max()) > 1:
            raise NotImplementedError
        steps, _, states, weights, *options = arguments
        output, *last = function(steps.unsqueeze(1), states, weights, *options, False)
        return output.squeeze(1), *last

    return computed


def without_cudnn(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same, computed by torch itself: cuDNN's recurrent layers have no gradient in evaluation mode."""

    def computed(*arguments: Any, **named: Any) -> Any:
        with torch.backends.cudnn.flags(enabled=False):
            return function(*arguments, **named)

    computed.__name__ = function.__name__
    return computed
