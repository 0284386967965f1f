"""Whether a model gives the same answer to the same input, and where it draws random numbers or fails."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..errors import InputError, RunError
from .by_autograd import logits_of
from .marks import words
from .structure import Structure
from .torch_modes import eager, plain_attention

_DRAWN = words(
    "rand randn randint randperm rand_like randn_like randint_like normal normal_ uniform_ bernoulli bernoulli_ "
    "multinomial poisson exponential_ random_ cauchy_ geometric_ log_normal_ gumbel_softmax rrelu_ binomial "
    "fractional_max_pool2d fractional_max_pool3d dropout_"
)
_IN_TRAINING = words(
    "dropout dropout1d dropout2d dropout3d alpha_dropout feature_alpha_dropout rrelu multi_head_attention_forward"
)


def check_deterministic(
    structure: Structure, batch: Mapping[str, Tensor], logits: Tensor, again: Tensor | None
) -> None:
    """Refuse a model that answers the same input in two ways, alone or beside others.

    Args:
        structure: of the model.
        batch: inputs by argument name.
        logits: what the model gave for them, `[inputs, classes]`.
        again: what it gave for them another time; None: not asked.

    Raises:
        InputError: it is not deterministic.
        RunError: an input's logits depend on the inputs beside it.
    """
    first = {name: tensor[:1] for name, tensor in batch.items()}
    if again is None or not _same(logits, again):
        again = _once_more(structure, batch)
        if not _same(logits, again):
            raise InputError(_random(structure, batch))
    if len(logits) == 1:
        return
    alone = _once_more(structure, first)
    if _same(logits[:1], alone):
        return
    if not _same(alone, _once_more(structure, first)):
        raise InputError(_random(structure, first))
    raise RunError(
        "the model's logits for an input depend on the inputs beside it, as if it used statistics of the batch: an "
        "answer that belongs to one input is needed"
    )


def failing_layer(structure: Structure, batch: Mapping[str, Tensor]) -> str:
    """Where the model raises on these inputs: `layer NAME`, in words."""
    entered: list[str] = []
    try:
        with _entering(structure, entered):
            _once_more(structure, batch)
    except Exception:
        pass
    return f"layer {entered[-1]!r}" if entered and entered[-1] else "its own forward"


def _same(logits: Tensor, others: Tensor) -> bool:
    """Equal but for rounding."""
    tolerance = 1e-3 if logits.dtype.itemsize >= 4 else 5e-2
    return bool((logits - others).abs().max() <= tolerance * logits.abs().max()) or not bool(logits.isfinite().all())


def _once_more(structure: Structure, batch: Mapping[str, Tensor]) -> Tensor:
    with plain_attention(), eager():
        return logits_of(structure.model, {name: tensor.clone() for name, tensor in batch.items()}).detach()


def _random(structure: Structure, batch: Mapping[str, Tensor]) -> str:
    """What to say of a model that is not deterministic."""
    entered: list[str] = []
    drawing = _Drawing(entered)
    with _entering(structure, entered), drawing:
        _once_more(structure, batch)
    where = f": {drawing.first}" if drawing.first else ""
    return (
        f"the model is not deterministic in evaluation mode{where}: two passes over the same input give other logits, "
        "so no trace of it means anything; use nn.Dropout, which evaluation mode switches off, or pass "
        "training=self.training"
    )


class _Drawing(TorchFunctionMode):
    """Sees the first function that draws random numbers, and in which layer."""

    def __init__(self, entered: list[str]) -> None:
        super().__init__()
        self.entered = entered
        self.first = ""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func.__name__
        drawn = name in _DRAWN
        if name in _IN_TRAINING:
            drawn = bool(kwargs.get("training", args[2] if len(args) > 2 else False))
        if name == "scaled_dot_product_attention":
            drawn = bool(kwargs.get("dropout_p", args[4] if len(args) > 4 else 0))
        if drawn and not self.first:
            layer = f"in layer {self.entered[-1]!r}" if self.entered and self.entered[-1] else "in its own forward"
            self.first = f"{name} {layer} draws random numbers"
        return func(*args, **kwargs)


@contextmanager
def _entering(structure: Structure, entered: list[str]) -> Iterator[None]:
    """Keep the names of the modules that are running, innermost last; where one raises, it stays."""

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        entered.pop()

    with ExitStack() as stack:
        for name, module in structure.modules.items():
            enter = module.register_forward_pre_hook(lambda module, args, name=name: entered.append(name))
            stack.callback(enter.remove)
            stack.callback(module.register_forward_hook(leave).remove)
        yield
