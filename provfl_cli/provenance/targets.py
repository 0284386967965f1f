"""The scalar of a prediction that clients are credited with pushing (design section 2.1; paper eq. 2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..imports import later

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = later("torch")


def target_value(kind: str, logits: Tensor, wanted: Tensor) -> Tensor:
    """`y_b` for every input of a batch, differentiable in the logits.

        >>> target_value("mse", torch.tensor([[1.0, 3.0]]), torch.tensor([[1.0, 1.0]]))
        tensor([2.])

    Args:
        kind: `logit` (the class's logit, as in the paper), `centred` (minus the mean of the other logits) or `margin`
            (minus their logsumexp: the log-odds of the class); `output` (the number itself), or `mse` (the mean squared
            difference of all numbers: who pushes it up makes the output worse).
        logits: `[batch, classes]`, or `[batch, numbers]` of a model without classes.
        wanted: int64 `[batch]`, the class whose prediction is explained, or which number; of `mse` `[batch, numbers]`.

    Returns:
        `[batch]`.
    """
    if kind == "mse":
        return (logits - wanted.to(logits.dtype)).square().mean(1)
    own = logits.gather(1, wanted[:, None]).squeeze(1)
    if kind in ("logit", "output"):
        return own
    others = torch.ones_like(logits, dtype=torch.bool).scatter(1, wanted[:, None], False)
    if kind == "centred":
        return own - (logits * others).sum(1) / (logits.shape[1] - 1)
    if kind == "margin":
        return own - logits.masked_fill(~others, -torch.inf).logsumexp(1)
    raise ValueError(f"no target {kind!r}: logit, centred, margin, output or mse")
