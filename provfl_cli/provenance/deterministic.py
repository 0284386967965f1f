"""Whether a model gives the same answer to the same input, alone or beside others, and at the weights it was given."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..errors import InputError, RunError
from .by_autograd import logits_of
from .marks import words
from .random_state import drawn_from, random_states
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
AT_A_TIME = 16  # inputs
BESIDE = (
    "the model's logits for an input depend on the inputs beside it, as if it used statistics of the batch: an "
    "answer that belongs to one input is needed"
)


def check_deterministic(
    structure: Structure,
    batch: Mapping[str, Tensor],
    alone: Mapping[int, Tensor],
    together: Tensor | None,
    drawn: Sequence[str],
) -> None:
    """Refuse a model that answers the same input in two ways, alone or beside others, or that draws random numbers.

    Args:
        structure: of the model.
        batch: inputs by argument name.
        alone: what the model gave for some of them, each asked alone, `[1, classes]` by row.
        together: what it gave for all of them at once, `[inputs, classes]`; None: not asked.
        drawn: generators of random numbers that it drew from the second time.

    Raises:
        InputError: it is not deterministic.
        RunError: an input's logits depend on the inputs beside it.
    """
    together = _once_more(structure, batch) if together is None else together
    differs = others_change(together, alone)
    if not differs and not drawn:
        return
    where, draws = _random(structure, batch)
    again = _once_more(structure, batch)
    if draws or not same(together, again):
        raise InputError(_not_deterministic(where))
    if differs:
        raise RunError(BESIDE)


def others_change(logits: Tensor, alone: Mapping[int, Tensor]) -> bool:
    """Whether inputs that were asked alone, by row, have got other logits in a batch."""
    least = 1e-2 * float(logits.abs().max())
    return any(not same(logits[row : row + 1], answer, least) for row, answer in alone.items() if row < len(logits))


def answers(structure: Structure, batch: Mapping[str, Tensor]) -> bool:
    """Whether the model can compute a batch at all."""
    try:
        with torch.no_grad():
            _once_more(structure, batch)
    except Exception:
        return False
    return True


def depending(structure: Structure, batch: Mapping[str, Tensor], logits: Tensor, rows: Sequence[int]) -> Iterator[int]:
    """Those of the `rows` of a batch to which the model gives other logits, or none, where each is asked alone."""
    if not rows:
        return
    logits = logits.detach()
    with torch.no_grad(), plain_attention(), eager():
        least = 1e-2 * float(logits.abs().max())
        for row in rows:
            single = {name: tensor.clone() for name, tensor in _row(batch, row).items()}
            try:
                alone = logits_of(structure, single)
            except torch.OutOfMemoryError:
                raise
            except Exception:  # it needs others beside it
                yield row
                continue
            if not same(logits[row : row + 1], alone, least):
                yield row


def rows_to_ask(batch: Mapping[str, Tensor], lost: bool) -> list[int]:
    """The rows of a batch that are asked alone: one, or where inputs may be mixed (`lost`) up to four.

    Those are two at other places than the first, and the inputs that hold least and that are padded most, which are the
    ones that a longer or larger input beside them would change.
    """
    size = len(next(iter(batch.values())))
    if size == 1:
        return []
    rows = [1 + 5 * size // 8 % (size - 1)]
    if lost:
        rows.append(1 + (rows[0] + size // 4) % (size - 1))
        for tensor in batch.values():
            flat = tensor.reshape(size, -1)
            rows += [int(flat.count_nonzero(1).argmin()), int((flat == flat[:, -1:]).sum(1).argmax())]
            if tensor.is_floating_point():
                rows.append(int(flat.abs().amax(1).argmin()))
    return list(dict.fromkeys(rows))[:4]


def check_weights_kept(
    structure: Structure, weights: Mapping[str, Tensor], inputs: Mapping[str, Tensor] | None = None
) -> None:
    """Raise InputError where a parameter of the model is no longer that of the round: its forward has written to it.

    Args:
        structure: of the model, after a forward pass.
        weights: those of the round.
        inputs: by argument name; the model is run on them first. None: it has been.
    """
    for start in range(0, 0 if inputs is None else len(next(iter(inputs.values()))), AT_A_TIME):
        device = next(iter(structure.parameters.values())).device
        _once_more(structure, {n: t[start : start + AT_A_TIME].to(device) for n, t in (inputs or {}).items()})
    for name, parameter in structure.parameters.items():
        if not parameter.is_floating_point():
            continue
        now, loaded = parameter.detach(), weights[name].to(parameter.device, parameter.dtype)
        if torch.equal(now, loaded):
            continue
        if float((now - loaded).abs().max()) > 16 * torch.finfo(now.dtype).eps * float(loaded.abs().max()):
            layer, _, short = name.rpartition(".")
            module = structure.modules[layer]
            by = "max_norm" if getattr(module, "max_norm", None) is not None else "code that writes to it in place"
            raise InputError(
                f"layer {layer!r} changes its {short} in forward ({by}), so that the model does not compute with the "
                "weights of the round: bound weights while the model is trained, and leave them alone in forward in "
                "evaluation mode"
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


def _row(batch: Mapping[str, Tensor], row: int) -> dict[str, Tensor]:
    return {name: tensor[row : row + 1] for name, tensor in batch.items()}


def same(logits: Tensor, others: Tensor, least: float = 0.0) -> bool:
    """Equal but for rounding, beside logits of the size `least` at least."""
    if logits.shape != others.shape:
        return False
    tolerance = 1e-3 if logits.dtype.itemsize >= 4 else 5e-2
    largest = max(float(logits.abs().max()), least)
    return bool((logits - others).abs().max() <= tolerance * largest) or not bool(logits.isfinite().all())


def _once_more(structure: Structure, batch: Mapping[str, Tensor]) -> Tensor:
    with plain_attention(), eager():
        return logits_of(structure, {name: tensor.clone() for name, tensor in batch.items()}).detach()


def _random(structure: Structure, batch: Mapping[str, Tensor]) -> tuple[str, bool]:
    """Where a model draws random numbers, in words, and whether it leaves some generator in another state."""
    entered: list[str] = []
    drawing = _Drawing(entered)
    device = next(iter(structure.parameters.values())).device
    before = random_states(structure, device)
    with _entering(structure, entered), drawing:
        _once_more(structure, batch)
    drawn = drawn_from(before, random_states(structure, device))
    return drawing.first or (f"its forward draws from {drawn[0]}" if drawn else ""), bool(drawn)


def _not_deterministic(where: str) -> str:
    return (
        f"the model is not deterministic in evaluation mode{f': {where}' if where else ''}: two passes over the same "
        "input may give other logits, so no trace of it means anything; use nn.Dropout, which evaluation mode switches "
        "off, or draw only where self.training"
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
