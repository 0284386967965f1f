"""The scalar of a prediction that clients are credited with pushing (design section 2.1; paper eq. 2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import lazy_loader as lazy

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = lazy.load("torch")

KINDS = ("logit", "centred", "margin")


def target_value(kind: str, logits: Tensor, classes: Tensor) -> Tensor:
    """`y_b` for every input of a batch, differentiable in the logits.

    Args:
        kind: `logit` (the class's logit, as in the paper), `centred` (minus the mean of the other logits) or `margin`
            (minus their logsumexp: the log-odds of the class).
        logits: `[batch, classes]`.
        classes: int64 `[batch]`, the class whose prediction is explained.

    Returns:
        `[batch]`.
    """
    own = logits.gather(1, classes[:, None]).squeeze(1)
    if kind == "logit":
        return own
    others = torch.ones_like(logits, dtype=torch.bool).scatter(1, classes[:, None], False)
    if kind == "centred":
        return own - (logits * others).sum(1) / (logits.shape[1] - 1)
    if kind == "margin":
        return own - logits.masked_fill(~others, -torch.inf).logsumexp(1)
    raise ValueError(f"no target {kind!r}: logit, centred or margin")
