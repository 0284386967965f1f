"""What a language model says to prompts: token by token, greedy or sampled.

No row of a batch is ever padded: the rows are as long as the shortest prompt, and while a longer prompt lasts its own
next token follows, whatever the model would say. So every row is computed as if it were alone, whichever architecture.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..processes import threads_worth
from ..seeds import generator
from .causal import ResponseModel
from .network import takes

BATCH = 64  # prompts answered together, of similar lengths


@torch.inference_mode()
def generate(
    model: ResponseModel,
    prompts: Sequence[Sequence[int]],
    most: int | Sequence[int],
    temperature: float | None = None,
    seed: int = 0,
    cached: bool = True,
) -> list[list[int]]:
    """The tokens of each response, its end included where it came to one; what it says does not depend on the others.

        >>> generate(model, [[1, 5, 7]], most=20)  # doctest: +SKIP
        [[8, 9, 2]]

    Args:
        model: on whatever device.
        prompts: tokens of each, one at least.
        most: tokens of a response at most, of all or of each.
        temperature: the logits are divided by it, and a token is drawn; None: the likeliest one is taken.
        seed: of what is drawn, apart for each prompt by its number.
        cached: keys and values of earlier positions are kept, or else computed again at each step.
    """
    if temperature is not None and temperature <= 0:
        raise ValueError(f"temperature={temperature}: above 0, or None for the likeliest token")
    limits = [most] * len(prompts) if isinstance(most, int) else list(most)
    training = model.training
    model.eval()
    responses: list[list[int]] = [[] for _ in prompts]
    order = sorted(range(len(prompts)), key=lambda number: len(prompts[number]))
    try:
        with threads_worth(sum(p.numel() for p in model.parameters())):
            for start in range(0, len(order), BATCH):
                chosen = [number for number in order[start : start + BATCH] if limits[number] > 0]
                if not chosen:
                    continue
                rows = _continued(
                    model,
                    [list(prompts[number]) for number in chosen],
                    [limits[number] for number in chosen],
                    temperature,
                    [_draws(seed, number, limits[number]) for number in chosen] if temperature is not None else [],
                    cached,
                )
                for number, row in zip(chosen, rows, strict=True):
                    responses[number] = row
    finally:
        model.train(training)
    return responses


def _draws(seed: int, number: int, most: int) -> Tensor:
    """One number from 0 to 1 for each token of a response, float64 `[most]`."""
    return torch.rand(most, generator=generator(seed, "generate", number), dtype=torch.float64)


def _continued(
    model: ResponseModel,
    prompts: list[list[int]],
    most: list[int],
    temperature: float | None,
    draws: list[Tensor],
    cached: bool,
) -> list[list[int]]:
    """The responses to some prompts, at least one; each may have at least one token."""
    device = next(model.parameters()).device
    width = min(map(len, prompts))
    whole = torch.tensor([prompt[:width] for prompt in prompts], device=device)
    said: list[list[int]] = [[] for _ in prompts]
    fresh, past = whole, None
    name = "cache" if takes(model.network, "cache") else "past_key_values"  # its name before transformers 5.24
    keep = {"logits_to_keep": 1} if takes(model.network, "logits_to_keep") else {}
    while True:
        result = model.network(input_ids=fresh if cached else whole, use_cache=cached, **{name: past}, **keep)
        past = getattr(result, name) if cached else None
        logits = result.logits[:, -1].double().cpu() if device.type != "mps" else result.logits[:, -1].cpu()
        following = []
        for row, prompt in enumerate(prompts):
            if width < len(prompt):
                following.append(prompt[width])
            elif _ended(said[row], most[row], model.end):
                following.append(model.end)  # nobody reads it
            else:
                token = _token(logits[row], temperature, draws[row][len(said[row])] if draws else None)
                said[row].append(token)
                following.append(token)
        if all(width >= len(prompt) and _ended(said[row], most[row], model.end) for row, prompt in enumerate(prompts)):
            return said
        fresh = torch.tensor(following, device=device)[:, None]
        whole = whole if cached else torch.cat([whole, fresh], dim=1)
        width += 1


def _ended(said: list[int], most: int, end: int) -> bool:
    return len(said) >= most or (bool(said) and said[-1] == end)


def _token(logits: Tensor, temperature: float | None, draw: Tensor | None) -> int:
    """The likeliest token, the first of several; or the one at `draw` of the cumulative probabilities."""
    if temperature is None or draw is None:
        return int(logits.argmax())
    cumulative = (logits / temperature).softmax(0).cumsum(0)
    return min(int(torch.searchsorted(cumulative, draw.to(cumulative), right=True)), len(logits) - 1)
