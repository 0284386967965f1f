"""Algorithm 1 of the paper as printed, slowly and on its own: nothing here is shared with the code under test.

Each input alone; each client's copy of each layer evaluated on the input that the global model's layer received;
the result, where the neuron is active, dotted with the gradient of the target in the global layer's output.
"""

import copy
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn


def counted(module: nn.Module) -> bool:
    return isinstance(module, (nn.Linear, nn.modules.conv._ConvNd, nn.LayerNorm)) or type(module).__name__ == "Conv1D"


def betas(model: nn.Module, decay: float) -> dict[str, float]:
    order, result, last = [n for n, m in model.named_modules() if counted(m)], {}, 0
    for name, module in model.named_modules():
        if counted(module):
            last = order.index(name)
        result[name] = decay ** (len(order) - 1 - last)
    return result


def apart(model: nn.Module) -> nn.Module:
    """The model with a copy of its own wherever blocks share one activation module, as OpenAI GPT's do."""
    known: set[int] = set()
    for name, module in list(model.named_modules(remove_duplicate=False)):
        if id(module) in known and not list(module.parameters()):
            model.set_submodule(name, copy.deepcopy(module))
        known.add(id(module))
    return model


def target(kind: str, logits: Tensor, label: int) -> Tensor:
    rest = torch.cat([logits[:label], logits[label + 1 :]])
    if kind == "logit":
        return logits[label]
    return logits[label] - (rest.mean() if kind == "centred" else torch.logsumexp(rest, 0))


def with_weights(module: nn.Module, name: str, tensors: Mapping[str, Tensor]) -> nn.Module:
    """A copy of one layer with other parameters, and the global buffers (running statistics)."""
    other = copy.deepcopy(module)
    other._forward_hooks.clear()
    with torch.no_grad():
        for key, parameter in other.named_parameters(recurse=False):
            parameter.copy_(tensors[f"{name}.{key}"])
    return other


def algorithm1(
    model: nn.Module,
    inputs: Tensor,
    clients: Sequence[Mapping[str, Tensor]],
    weights: Mapping[str, Tensor],
    previous: Mapping[str, Tensor],
    *,
    of: str,
    kind: str,
    decay: float,
    threshold: float | None = None,
    minmax: bool = False,
    padding: int | None = None,
    activation: Callable[[str], str | None] = lambda name: None,
    layers: Callable[[nn.Module], bool] = lambda module: True,
) -> Tensor:
    """Raw contributions without client sizes, `[inputs, clients]`; `weights` is the global model, `previous` before.

    Each input is run alone; of texts, only the tokens that are not `padding`.

    `activation` names the module whose output is the activation of a layer, None where there is none.
    """
    model = apart(copy.deepcopy(model).eval())
    model.load_state_dict(dict(weights))
    for module in model.modules():
        if hasattr(module, "inplace"):
            module.inplace = False
    modules = {n: m for n, m in model.named_modules() if any(True for _ in m.parameters(recurse=False))}
    weight_of = betas(model, decay)
    seen: dict[str, list[tuple[Tensor, Tensor]]] = {}

    def watch(name: str, module: nn.Module) -> None:
        def hook(m: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
            if not (args and isinstance(args[0], Tensor) and isinstance(output, Tensor)):
                return None  # DenseNet hands lists of feature maps on, transformers outputs of several parts
            if output.requires_grad:
                output.retain_grad()
            seen.setdefault(name, []).append((args[0].detach().clone(), output))
            return output.clone()  # whatever follows in place leaves the recorded output alone

        module.register_forward_hook(hook)

    for name, module in model.named_modules():
        watch(name, module)
    result = torch.zeros(len(inputs), len(clients), dtype=torch.float64)
    for b in range(len(inputs)):
        seen.clear()
        alone = inputs[b] if padding is None else inputs[b][inputs[b] != padding]
        logits = model(alone[None])
        target(kind, logits[0], int(logits[0].argmax())).backward()
        for name, module in modules.items():
            if not layers(module):
                continue
            for call, (z, output) in enumerate(seen[name]):
                g = output.grad
                behind = activation(name)
                if threshold is not None and behind is not None:
                    value = seen[behind][min(call, len(seen[behind]) - 1)][1].detach()
                    if minmax:
                        value = (value - value.min()) / (value.max() - value.min())
                    g = g * (value > threshold)
                with torch.no_grad():
                    base = with_weights(module, name, previous)(z) if of == "updates" else 0.0
                    for k, tensors in enumerate(clients):
                        a = with_weights(module, name, tensors)(z) - base
                        result[b, k] += weight_of[name] * float((g.double() * a.double()).sum())
    return result
