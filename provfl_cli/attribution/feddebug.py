"""Differential testing of the clients' models on generated inputs (FedDebug: Gill, Anwar and Gulzar, ICSE 2023).

What is implemented, after the paper and the behaviour of its published artifact:

1. Inputs are drawn from a weight initialiser, without any data (the artifact's default is one draw an input; its
   feedback loop, which keeps inputs that split the clients' predictions in new ways, is switched off there and is not
   here either). They are not normalised as the data set's pictures are. Texts, which the paper has not, are
   sequences of tokens drawn uniformly, as long as the longest the model reads.
2. A neuron of a client's model is active on an input where its output after its activation function exceeds the
   threshold. Models without activation functions have their logits for neurons.
3. For each input, every set that leaves one client out is scored by how many neurons all its members activate, neurons
   that all clients activate not counted. The client whose removal leaves the most in common is faulty for that input.
4. A client's value is the share of the generated inputs that call it faulty. Where several removals are equally good
   they share the vote, which the artifact gives to the first.

A client's value is the same for every traced prediction: the method looks for a faulty client, not for who is behind a
prediction. The paper's repetition for several faulty clients is not done: the votes rank all clients.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from ..checks import Range, in_range, one_of
from ..config.parts import RunSettings
from ..data.federated import Texts
from ..errors import InputError, RunError
from ..imports import later
from .method import AttributionResult, Case, for_every_input, used_clients
from .settings import check_classes

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from ..provenance import marks, shared_part, structure
else:
    torch = later("torch")
    marks = later("provfl_cli.provenance.marks")
    shared_part = later("provfl_cli.provenance.shared_part")
    structure = later("provfl_cli.provenance.structure")

GENERATORS = (
    "uniform", "normal", "trunc_normal", "xavier_uniform", "xavier_normal",
    "kaiming_uniform", "kaiming_normal", "orthogonal",
)  # fmt: skip


@dataclass(frozen=True)
class FedDebug:
    """See the module.

    Attributes:
        name: of the method.
        threshold: a neuron is active above it.
        inputs: how many are generated.
        generator: the initialiser that pictures are drawn from, each as a weight of shape `[1, C, H, W]`.
    """

    name: str = "feddebug"
    threshold: Annotated[float, Range(-1e6, 1e6)] = 0.003
    inputs: Annotated[int, Range(1, 100_000)] = 10
    generator: str = "kaiming_normal"

    def __post_init__(self) -> None:
        in_range(f"attribution.{self.name}", self)
        one_of(f"attribution.{self.name}.generator", self.generator, GENERATORS)

    def check(self, run: RunSettings) -> None:
        """Refuse responses."""
        check_classes(self.name, run)

    def attribute(self, case: Case) -> AttributionResult:
        """Each client's share of the votes."""
        began = time.perf_counter()
        generated = self._generated(case).to(case.device)
        network, stack = structure.Structure.of(case.model.to(case.device)), case.stored.as_sent().client_stack()

        def active() -> Iterator[Tensor]:
            for client in range(len(case.stored.clients)):
                shared_part.load_part(case.model, {name: stack[name][client] for name in stack})
                yield active_neurons(case.model, generated, self.threshold)

        with network.frozen(), torch.no_grad():
            votes = leave_one_out_votes(active())
        shared_part.load_part(case.model, case.stored.weights())
        values = for_every_input(votes.mean(0).cpu().numpy(), case)
        note = f"{self.name} votes once for the round, not for each input"
        return AttributionResult(values, used_clients(case), time.perf_counter() - began, note=note)

    def _generated(self, case: Case) -> Tensor:
        """Pictures `[inputs, C, H, W]`, or tokens `[inputs, T]`."""
        if not isinstance(case.inputs, torch.Tensor):
            raise InputError(
                f"--method {self.name}: it generates inputs, and cannot generate those by argument name "
                f"({', '.join(map(str, case.inputs))}): choose another method"
            )
        random = torch.Generator().manual_seed(case.seed)
        if case.inputs.is_floating_point():
            draw = getattr(torch.nn.init, f"{self.generator}_")
            empty = [torch.empty(1, *case.inputs.shape[1:]) for _ in range(self.inputs)]
            return torch.cat([draw(picture, generator=random) for picture in empty]).to(case.inputs.dtype)
        form = case.form
        if not isinstance(form, Texts):
            raise RunError(f"attribution={self.name}: to generate texts it needs to know the tokens, as a run does")
        drawn = torch.randint(form.vocabulary - 1, (self.inputs, case.inputs.shape[1]), generator=random)
        return (drawn + (drawn >= form.padding)).to(case.inputs.dtype)  # any token but the one that pads


def leave_one_out_votes(active: Iterator[Tensor]) -> Tensor:
    """Which client's removal leaves the others the most active neurons in common, input by input.

    All sets of one client fewer have in common what all clients activate, and besides, without client k, what all but
    k activate. So one pass will do: count who activates a neuron, and remember who did not.

    Args:
        active: of each client in turn, bool `[inputs, neurons]`.

    Returns:
        float64 `[inputs, clients]`, each row adds up to 1; equals share the vote.
    """
    first = next(active)
    silent = (~first).to(torch.int16)  # clients that do not activate a neuron, [inputs, neurons]
    last = torch.zeros_like(silent)  # the last of them
    clients = 1
    for client in active:
        silent += ~client
        last.masked_fill_(~client, clients)
        clients += 1
    alone = silent == 1
    gained = torch.zeros(len(silent), clients, dtype=torch.int64, device=silent.device)
    gained.scatter_add_(1, last.long(), alone.long())
    best = (gained == gained.amax(1, keepdim=True)).double()
    return best / best.sum(1, keepdim=True)


def active_neurons(model: nn.Module, inputs: Tensor, threshold: float) -> Tensor:
    """Neurons whose output after the activation function exceeds `threshold`, bool `[inputs, neurons]`."""
    neurons: list[Tensor] = []

    def collect(output: Any) -> None:
        if isinstance(output, torch.Tensor) and output.dim() and output.shape[0] % len(inputs) == 0:
            neurons.append((output.detach() > threshold).reshape(len(inputs), -1))

    with _activations(model, collect):
        logits = model(inputs)
    if not neurons:
        collect(logits)
    return torch.cat(neurons, 1)


@contextmanager
def _activations(model: nn.Module, collect: Any) -> Iterator[None]:
    """Call `collect` with the output of every activation function, be it a module or a function of torch."""
    inside: list[nn.Module] = []  # activation modules that run now: what they compute inside is no activation

    class Watch(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            output = func(*args, **(kwargs or {}))
            if not inside and func.__name__.strip("_") in marks.ACTIVATIONS:
                collect(output)
            return output

    def enter(module: nn.Module, args: Any) -> None:
        inside.append(module)

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        inside.pop()
        if not inside:
            collect(output)

    with ExitStack() as hooks:
        for module in model.modules():
            if marks.is_activation(module):
                for handle in (module.register_forward_pre_hook(enter), module.register_forward_hook(leave)):
                    hooks.callback(handle.remove)
        hooks.enter_context(Watch())
        yield
