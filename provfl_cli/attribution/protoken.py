"""ProToken's rule for layers (Gill, Humayun, Anwar and Gulzar, arXiv 2601.19672, "ProToken: Token-Level Attribution for
Federated Large Language Models").

As in the paper and the authors' code: of the global model some of the last modules are chosen, the feed-forward parts
(`mlp`) of its last blocks and the head. What goes into each is recorded, and the gradient of the predicted token's
logit with respect to what comes out. Each client's own module is given the same input, and its output multiplied with
that gradient; a client's value is the sum over all positions and modules. The paper's softmax over clients is the
column `share`.

A response is the sum over its tokens (eq. 9): each token's logit has a gradient at all positions before it, and what
goes into a module there does not depend on what follows, so one pass over the whole response gives that sum; the
authors' code makes a pass a token. A prediction of a class is one token's worth.

Without `gradients` (the paper's ablation) all outputs of a module count alike: as in the authors' code they are added
up, for each token over all positions before it.

What had to differ: the authors' layer names (`model.layers.15.mlp`, …) become a rule: in each of the last `blocks`
elements of the longest list of blocks the module called `mlp`, `ffn` or `feed_forward` (of BERT `intermediate` and
`output.dense`), and the head. Of models without such blocks these are the last `blocks` layers with weights before the
head.

The paper's conditions: transformers fine-tuned for a few rounds, with clients from different domains, all in every
round. Neither client sizes nor the model before the round enter: it is a trace of weights, not of updates.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

from ..checks import Range, in_range
from ..config.parts import RunSettings
from ..errors import InputError
from ..imports import later
from .method import AttributionResult, Case, used_clients

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor, nn

    from ..federation import sharing
    from ..provenance import outputs, responses, shared_part, structure, targets
    from ..provenance.responses import ResponseScore
else:
    np = later("numpy")
    torch = later("torch")
    outputs = later("provfl_cli.provenance.outputs")
    responses = later("provfl_cli.provenance.responses")
    shared_part = later("provfl_cli.provenance.shared_part")
    sharing = later("provfl_cli.federation.sharing")
    structure = later("provfl_cli.provenance.structure")
    targets = later("provfl_cli.provenance.targets")

FEED_FORWARD = ("mlp", "ffn", "feed_forward")  # what transformers' blocks call theirs
OF_BERT = ("intermediate", "output.dense")
BATCH = 32  # inputs whose activations are kept at once


@dataclass(frozen=True)
class ProToken:
    """See the module.

    Attributes:
        name: of the method.
        blocks: how many of the last blocks are looked at, beside the head (three of eighteen in the authors' code).
        gradients: whether outputs are weighted by the gradient.
    """

    name: str = "protoken"
    blocks: Annotated[int, Range(0, 1000)] = 3
    gradients: bool = True

    def __post_init__(self) -> None:
        in_range(f"attribution.{self.name}", self)

    def check(self, run: RunSettings) -> None:
        """Nothing to check."""

    def attribute(self, case: Case) -> AttributionResult:
        """One forward and backward pass of the global model, then the chosen modules of every client.

        Raises:
            InputError: there are neither classes nor tokens, whose logit would be explained.
        """
        began = time.perf_counter()
        if not case.tells_classes and not isinstance(case.model, responses.ResponseScore):
            raise InputError(f"--method {self.name}: explains a class's logit, and the model tells none apart")
        model, stack = case.model.to(case.device).eval(), case.stored.as_sent().client_stack()
        network = model.module if isinstance(model, responses.ResponseScore) else model
        modules, count = chosen_modules(network, self.blocks), len(case.classes)
        values = np.zeros((count, len(case.stored.clients)))
        for start in range(0, count, BATCH):
            where = slice(start, min(start + BATCH, count))
            shared_part.load_part(model, case.stored.weights())
            calls = recorded(case, modules.values(), where)
            if not self.gradients:
                calls = [replace(call, gradient=positions_counted(case, call.gradient, where)) for call in calls]
            for client in range(len(case.stored.clients)):
                shared_part.load_part(model, {name: stack[name][client] for name in stack})
                with torch.no_grad():
                    for call in calls:
                        own = _tensor(call.module(*call.args, **call.kwargs)).double()
                        products = (own * call.gradient.double()).reshape(where.stop - start, -1).sum(1)
                        values[where, client] += products.cpu().numpy()
        shared_part.load_part(model, case.stored.weights())
        return AttributionResult(values, used_clients(case), time.perf_counter() - began, target="logit")


def chosen_modules(model: nn.Module, blocks: int) -> dict[str, nn.Module]:
    """The modules that are looked at, by name: those of the last blocks, then the head."""
    named = dict(model.named_modules())
    lists = {
        name: module
        for name, module in named.items()
        if isinstance(module, torch.nn.ModuleList)
        and any(_feed_forward(f"{name}.{k}", b) for k, b in enumerate(module))
    }
    head = dict.fromkeys(name.rpartition(".")[0] for name in sharing.head_names(model))
    leaves = [name for name, module in named.items() if any(True for _ in module.parameters(recurse=False))]
    last = [name for name in leaves if name in head][-1:]
    if lists:
        longest = max(lists, key=lambda name: len(lists[name]))
        first = max(0, len(lists[longest]) - blocks)
        chosen = [
            found
            for number, block in enumerate(lists[longest])
            if number >= first
            for found in _feed_forward(f"{longest}.{number}", block)
        ]
    else:
        before = [name for name in leaves if name not in last and _is_layer(named[name])]
        chosen = before[len(before) - min(blocks, len(before)) :]
    return {name: named[name] for name in (*chosen, *last)}


def _feed_forward(name: str, block: nn.Module) -> list[str]:
    """The names of a block's feed-forward part: one module, or the two in which BERT has it; [] where it has none."""
    inside = dict(block.named_modules())
    found = [child for child in FEED_FORWARD if child in inside][:1] or [two for two in OF_BERT if two in inside]
    return [f"{name}.{child}" for child in found]


def _is_layer(module: nn.Module) -> bool:
    """Whether it has a matrix or a kernel: normalisations have not, and embeddings read tokens."""
    weight = getattr(module, "weight", None)
    return isinstance(weight, torch.Tensor) and weight.dim() > 1 and not isinstance(module, torch.nn.Embedding)


@dataclass(frozen=True)
class Call:
    """A call of a module of the global model: what it was given, and the gradient of the logit of what came out."""

    module: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    gradient: Tensor


def recorded(case: Case, modules: Iterable[nn.Module], where: slice) -> list[Call]:
    """The calls of these modules for some of the inputs; the model holds the weights to be explained.

    Those on which the logits do not depend are left out.
    """
    calls: list[tuple[nn.Module, tuple[Any, ...], dict[str, Any], Tensor]] = []

    def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        plain = _tensor(output)
        if not plain.requires_grad:  # nothing that is recorded stands before it
            plain = plain.detach().requires_grad_()
        calls.append((module, tuple(map(_apart, args)), {name: _apart(value) for name, value in kwargs.items()}, plain))
        # A copy goes on: what follows may change it in place.
        return plain.clone() if isinstance(output, torch.Tensor) else (plain.clone(), *output[1:])

    named = outputs.by_argument(case.inputs)
    batch = {name: tensor[where].to(case.device, copy=True) for name, tensor in named.items()}
    wanted = torch.from_numpy(case.classes[where]).to(case.device)
    with structure.Structure.of(case.model).frozen(), ExitStack() as hooks:
        for module in modules:
            hooks.callback(module.register_forward_hook(note, with_kwargs=True).remove)
        if isinstance(case.model, responses.ResponseScore):
            value = _logits_said(case.model, batch[""]).sum()
        else:
            logits = outputs.logits_of_classes(outputs.output_of(case.model, batch), len(wanted))
            value = targets.target_value("logit", logits, wanted).sum()
        gradients = torch.autograd.grad(value, [plain for *_, plain in calls], allow_unused=True)
    return [
        Call(module, args, kwargs, gradient)
        for (module, args, kwargs, _), gradient in zip(calls, gradients, strict=True)
        if gradient is not None
    ]


def positions_counted(case: Case, like: Tensor, where: slice) -> Tensor:
    """For how many tokens of a response each output counts, of the shape of `like`; of a class for one."""
    if not isinstance(case.model, responses.ResponseScore):
        return torch.ones_like(like)
    (inputs,) = outputs.by_argument(case.inputs).values()
    said = case.model.counted(inputs[where])
    later = said.flip(1).cumsum(1).flip(1)[:, : like.shape[1]].to(like)
    return later.reshape(*later.shape, *(1 for _ in like.shape[2:])).expand_as(like)


def _logits_said(score: ResponseScore, inputs: Tensor) -> Tensor:
    """The logits of the tokens of responses that count, `[tokens, 1]`; the head is evaluated at all positions."""
    counted = score.counted(inputs)
    said: Tensor = score.module(inputs)[counted]
    return said.gather(1, inputs[:, 1][counted][:, None])


def _tensor(output: Any) -> Tensor:
    """What a module put out, or the first part of it."""
    tensor: Tensor = output if isinstance(output, torch.Tensor) else output[0]
    return tensor


def _apart(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, torch.Tensor) else value
