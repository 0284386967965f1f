"""Prompts and responses as one tensor: how they are packed for a causal language model, and what is read of it again.

A row of `[n, 2, T]` holds in plane 0 the tokens of prompt and response, padded on the right. Plane 1 has at each
position the token that comes next, where that one belongs to the response (its end included), else `NOT_SAID`, which
torch's losses ignore. So the span of the response, its loss and the padding all lie in the tensor.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .imports import later

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = later("torch")

NOT_SAID = -100  # the index that torch's cross entropy ignores


def pack(
    prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]], padding: int, longest: int | None = None
) -> Tensor:
    """Pack token lists into int64 `[n, 2, T]`.

        >>> pack([[1, 7]], [[8, 2]], padding=0)[0]
        tensor([[   1,    7,    8,    2],
                [-100,    8,    2, -100]])

    Args:
        prompts: tokens of each prompt, one or more: the first token of a response needs one before it.
        responses: tokens of each response, one or more.
        padding: token that fills rows up.
        longest: tokens of a row at most; None: any number. Of what is longer, the prompt loses its first tokens until
            half of the row is left to it, then the response its last.

    Raises:
        ValueError: an empty prompt or response, another number of the one than of the other, `longest` below 2.
    """
    if longest is not None and longest < 2:
        raise ValueError(f"longest={longest}: a row has a token of a prompt and one of a response at least")
    rows = []
    for prompt, response in zip(prompts, responses, strict=True):
        if not prompt or not response:
            raise ValueError("a prompt and a response need one token at least each")
        if longest is not None:
            prompt = prompt[-max(longest - len(response), longest // 2) :]
            response = response[: longest - len(prompt)]
        rows.append((list(prompt), list(response)))
    width = max((len(prompt) + len(response) for prompt, response in rows), default=2)
    packed = torch.empty(len(rows), 2, width, dtype=torch.int64)
    packed[:, 0], packed[:, 1] = padding, NOT_SAID
    for number, (prompt, response) in enumerate(rows):
        start, stop = len(prompt), len(prompt) + len(response)
        packed[number, 0, :stop] = torch.tensor(prompt + response)
        packed[number, 1, start - 1 : stop - 1] = torch.tensor(response)
    return packed


def tokens(inputs: Tensor) -> Tensor:
    """The tokens of prompt and response, int64 `[n, T]`, padded on the right."""
    return inputs[:, 0]


def following(inputs: Tensor) -> Tensor:
    """At each position the token of the response that comes next, int64 `[n, T]`, elsewhere `NOT_SAID`."""
    return inputs[:, 1]


def starts(inputs: Tensor) -> Tensor:
    """Position of the first token of each response, which is the number of tokens of its prompt: int64 `[n]`."""
    return (inputs[:, 1] != NOT_SAID).long().argmax(1) + 1


def lengths(inputs: Tensor) -> Tensor:
    """Tokens of prompt and response together, int64 `[n]`."""
    positions = torch.arange(2, inputs.shape[2] + 2, device=inputs.device)
    return ((inputs[:, 1] != NOT_SAID) * positions).amax(1)


def ended(inputs: Tensor, end: int) -> Tensor:
    """Whether each response goes on to its last token, `end`: bool `[n]`. One that was cut does not."""
    return (inputs[:, 1] == end).any(1)


def trimmed(inputs: Tensor) -> Tensor:
    """The same without the columns at the end in which every row is padded."""
    return inputs[:, :, : int(lengths(inputs).max())] if len(inputs) else inputs


def prompts_of(inputs: Tensor) -> list[list[int]]:
    """The tokens of each prompt."""
    return [row[0, :start].tolist() for row, start in zip(inputs, starts(inputs).tolist(), strict=True)]


def responses_of(inputs: Tensor) -> list[list[int]]:
    """The tokens of each response, its end included where it has one."""
    return [row[1, row[1] != NOT_SAID].tolist() for row in inputs]
