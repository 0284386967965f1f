"""Rounds of half precision of every model of the suite, beside float32 by autograd alone."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor, nn

from provfl_cli.config.schema import Model
from provfl_cli.data.federated import Pictures
from provfl_cli.errors import RunError
from provfl_cli.models.build import build
from provfl_cli.provenance import from_state_dicts, trace
from provfl_cli.provenance.stack import Source

from .networks import ARCHITECTURES, CLASSES, SHARED, LeNet, texts

HALF = (torch.float16, torch.bfloat16)
SHARES = (50, 30, 20)
# How far a model that is itself in half precision may be off: its rotary angles are rounded, which no round holds.
NEAR = {torch.float16: 0.01, torch.bfloat16: 0.05}


def torchvision(name: str) -> Callable[[], nn.Module]:
    return lambda: build(Model(f"provfl_cli.models.torchvision.{name}", name), Pictures(3, 32), CLASSES, 0)


def decoder(name: str) -> Callable[[], nn.Module]:
    """A causal model of transformers with a head for classes."""

    def made() -> nn.Module:
        sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
        more = {"num_key_value_heads": 1} if name in ("llama", "mistral", "qwen2") else {}
        config = transformers.AutoConfig.for_model(name, **sizes, **more, **SHARED)
        return transformers.AutoModelForSequenceClassification.from_config(config)

    return made


PICTURES: dict[str, Callable[[], nn.Module]] = {
    "lenet": LeNet,
    "resnet18": torchvision("resnet18"),
    "densenet121": torchvision("densenet121"),
}
TEXTS: dict[str, Callable[[], nn.Module]] = {
    **{name: made for name, (made, _) in ARCHITECTURES.items()},
    **{name: decoder(name) for name in ("llama", "mistral", "qwen2", "roberta", "albert", "gpt_neox", "electra")},
}
MODELS = {**PICTURES, **TEXTS}
QUICK = ("lenet", "gpt", "gpt2", "bert", "llama")
CASES = [
    pytest.param(name, dtype, marks=[] if name in QUICK else [pytest.mark.slow])
    for name in MODELS
    for dtype in (*HALF, *((torch.float8_e4m3fn,) if name in ("lenet", "gpt2") else ()))
]


def model_and_inputs(name: str) -> tuple[nn.Module, dict[str, Tensor]]:
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    generator = torch.Generator().manual_seed(1)
    if name in PICTURES:
        shape = (3, 1, 28, 28) if name == "lenet" else (2, 3, 32, 32)
        return model, {"": torch.randn(shape, generator=generator)}
    tokens = texts()
    mask = (tokens != 0).long()
    return model, {"input_ids": tokens, "attention_mask": mask}


def moved(tensor: Tensor, dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    """What a client makes of a tensor, stored as `dtype`."""
    if not tensor.is_floating_point():
        return tensor.clone()
    scale = 0.1 * float(tensor.float().abs().mean()) + 1e-3
    wide = tensor.float() + scale * torch.randn(tensor.shape, generator=generator)
    return wide.to(dtype)


def stored(model: nn.Module, dtype: torch.dtype) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
    """Three clients and the model before, in the type `dtype`; tied tensors stay tied."""
    generator = torch.Generator().manual_seed(3)
    state = model.state_dict()
    first: dict[int, str] = {}
    names = {
        name: first.setdefault(tensor.data_ptr(), name) if tensor.numel() else name for name, tensor in state.items()
    }
    before = {n: t.to(dtype) if t.is_floating_point() else t.clone() for n, t in state.items()}
    clients = []
    for _ in SHARES:
        client = {name: moved(before[name], dtype, generator) for name in dict.fromkeys(names.values())}
        clients.append(
            {name: client[names[name]].abs() if "running_var" in name else client[names[name]] for name in before}
        )
    return clients, before


def largest_difference(ours: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(ours - other).max() / np.abs(other).max())


def by_hand(
    model: nn.Module,
    inputs: dict[str, Tensor],
    clients: list[dict[str, Tensor]],
    before: dict[str, Tensor],
    round: Source,
) -> np.ndarray:
    """`faithful` in float32 by autograd alone: the gradient of the margin of class 0 with each client's share."""
    model.load_state_dict({n: t.to(model.state_dict()[n].dtype) for n, t in round.weights().items()})
    parameters = dict(model.named_parameters())
    result = np.zeros((len(next(iter(inputs.values()))), len(SHARES)))
    for b, row in enumerate(result):
        single = {name: tensor[b : b + 1] for name, tensor in inputs.items()}
        logits = (model(single[""]) if "" in single else model(**single).logits)[0]
        gradients = torch.autograd.grad(logits[0] - logits[1:].logsumexp(0), list(parameters.values()))
        for k, client in enumerate(clients):
            moves = (client[name].double() - before[name].double() for name in parameters)
            row[k] = SHARES[k] / 100 * sum(float((g * move).sum()) for g, move in zip(gradients, moves, strict=True))
    return result


@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_a_round_of_half_precision_is_traced_as_if_computed_in_float32(name: str, dtype: torch.dtype) -> None:
    model, plain = model_and_inputs(name)
    inputs = {k: t.to(dtype).float() if t.is_floating_point() else t for k, t in plain.items()}
    clients, before = stored(model, dtype)
    round = from_state_dicts(clients, SHARES, before)
    classes = [0] * len(next(iter(inputs.values())))
    found = trace(copy.deepcopy(model), inputs, round, "faithful", classes)
    assert found.residuals.max() < 1e-4
    assert found.covered == 1.0
    assert np.abs(found.rows["rounding"]).max() > 0
    assert largest_difference(found.values, by_hand(copy.deepcopy(model), inputs, clients, before, round)) < 1e-3
    if dtype in HALF:
        own = copy.deepcopy(model).to(dtype)
        narrow = trace(
            own, {k: t.to(dtype) if t.is_floating_point() else t for k, t in inputs.items()}, round, "faithful", classes
        )
        assert narrow.residuals.max() < 1e-4
        assert narrow.unchecked == found.unchecked
        assert largest_difference(narrow.values, found.values) < NEAR[dtype]
        assert next(own.parameters()).dtype == dtype


def summed_in(dtype: torch.dtype, tensors: list[Tensor], shares: list[float]) -> Tensor:
    """What a server that never leaves the type makes of clients: shares, products and sums are rounded to it."""
    total = torch.zeros_like(tensors[0])
    for tensor, share in zip(tensors, shares, strict=True):
        total = total + torch.tensor(share, dtype=dtype) * tensor
    return total


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("preset", ["faithful", "equations", "provfl"])
@pytest.mark.parametrize("count", [3, 40])
@pytest.mark.parametrize("spread", [0.02, 3.0])
def test_a_server_may_sum_in_half_precision(dtype: torch.dtype, preset: str, count: int, spread: float) -> None:
    """Clients that differ by more than the mean is large are rounded where they are, not where the mean is."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 4)).eval()
    before = {n: t.to(dtype) for n, t in model.state_dict().items()}
    generator = torch.Generator().manual_seed(2)
    clients = [
        {n: (t.float() + spread * torch.randn(t.shape, generator=generator)).to(dtype) for n, t in before.items()}
        for _ in range(count)
    ]
    shares = [1 / count] * count
    after = {n: summed_in(dtype, [client[n] for client in clients], shares) for n in before}
    inputs = torch.randn(4, 6, generator=generator)
    found = trace(model, inputs, from_state_dicts(clients, [10] * count, before, after), preset)
    assert found.residuals.max() < 1e-4
    assert np.abs(found.rows["rounding"]).max() > 0


@pytest.mark.parametrize("dtype", HALF)
def test_a_client_left_out_is_more_than_rounding(dtype: torch.dtype) -> None:
    """The tolerance grows with the number of clients and with what they sent, and still hides nobody."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 4)).eval()
    before = {n: t.to(dtype) for n, t in model.state_dict().items()}
    generator = torch.Generator().manual_seed(2)
    clients = [
        {n: (t.float() + 0.2 * torch.randn(t.shape, generator=generator)).to(dtype) for n, t in before.items()}
        for _ in range(5)
    ]
    after = {n: torch.stack([client[n].float() for client in clients[1:]]).mean(0).to(dtype) for n in before}
    with pytest.raises(RunError, match="conservation fails"):
        trace(model, torch.randn(4, 6), from_state_dicts(clients, [1] * 5, before, after), "faithful")
