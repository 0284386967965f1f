"""Every row of a round with all that there is, written out: late clients, masks, momentum, control variates."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from provfl_cli.fusion.decomposition import Decomposition, Multiplier, pack
from provfl_cli.provenance.state_dicts import RoundInMemory
from provfl_cli.provenance.targets import target_value
from provfl_cli.provenance.tracing import trace

from .federations import perturbed, settings

SHARES = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).double()


def multiplier(kind: str, like: Tensor) -> tuple[Multiplier | None, Tensor]:
    """A multiplier of that kind for a parameter, and the same as plain numbers `[clients, *shape]`."""
    scalars = torch.tensor([1.0, 0.5, 2.0], dtype=torch.float64)
    plain = scalars.view(-1, *(1,) * like.dim()).expand(3, *like.shape)
    if kind == "none":
        return None, torch.ones_like(plain)
    if kind == "scalars":
        return Multiplier(scalars), plain
    if kind == "shared":
        shared = torch.rand_like(like) + 0.5
        return Multiplier(scalars, shared), plain * shared
    bits = torch.rand(2, 3, *like.shape) < 0.5
    values = torch.rand(2, *like.shape, dtype=torch.float64)
    packed = pack(bits.reshape(2, 3, like.shape[0], -1))
    return Multiplier(scalars, None, packed, values), plain * (bits * values[:, None]).sum(0)


def round_of(kind: str, late: bool, corrected: bool) -> tuple[RoundInMemory, dict[str, Any]]:
    """A round, and what each row of it holds, by name of the parameter: `[clients, *shape]` or `[*shape]`."""
    before = {name: tensor.clone() for name, tensor in net().state_dict().items()}
    sent = [perturbed(before, 0.1, seed) for seed in range(3)]
    old = perturbed(before, 0.2, 9)
    momentum = {name: 0.1 * torch.randn_like(tensor) for name, tensor in before.items() if name != "2.bias"}
    made = {name: multiplier(kind, tensor) for name, tensor in before.items()}
    corrections = {name: 0.05 * torch.randn(3, *tensor.shape, dtype=torch.float64) for name, tensor in before.items()}
    stacked = {name: torch.stack([client[name] for client in sent]) for name in before}
    parts: dict[str, Any] = {"weights": {}, "updates": {}, "gradients": {}, "previous": {}, "control": {}}
    after = {}
    for name, tensor in before.items():
        base = torch.stack([tensor, old[name] if late else tensor, tensor])
        m = made[name][1]
        a = SHARES.view(-1, *(1,) * tensor.dim()) * m
        parts["weights"][name] = m * stacked[name]
        parts["updates"][name] = m * (stacked[name] - base)
        parts["gradients"][name] = m * (stacked[name] - base - corrections[name])
        parts["previous"][name] = tensor - (a * base).sum(0)
        parts["control"][name] = (a * corrections[name]).sum(0)
        parts["momentum"] = momentum
        after[name] = tensor + momentum.get(name, 0) + (a * (stacked[name] - base)).sum(0)
    decomposition = Decomposition(
        SHARES, {name: factor for name, (factor, _) in made.items() if factor is not None}, {"momentum": momentum}
    )
    source = RoundInMemory(
        (0, 1, 2), decomposition, after, before, stacked,
        {1: old} if late else {}, corrections if corrected else {},
    )  # fmt: skip
    return source, parts


def gradients(weights: dict[str, Tensor], inputs: Tensor) -> list[dict[str, Tensor]]:
    model = net()
    model.load_state_dict(weights)
    of_inputs = []
    for example in inputs:
        logits = model(example[None])
        y = target_value("centred", logits, logits.argmax(1))[0]
        names = [name for name, _ in model.named_parameters()]
        of_inputs.append(dict(zip(names, torch.autograd.grad(y, list(model.parameters())), strict=True)))
    return of_inputs


def against(part: dict[str, Tensor], gradient: dict[str, Tensor]) -> Tensor:
    """The inner product of a row (or of rows, one a client) with a gradient."""
    return sum((tensor * gradient[name]).flatten(tensor.dim() - gradient[name].dim()).sum(-1)
               for name, tensor in part.items())  # fmt: skip


@pytest.mark.parametrize("kind", ["none", "scalars", "shared", "bits"])
@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("of", ["weights", "updates", "gradients"])
@pytest.mark.parametrize("weighting", ["none", "fusion"])
def test_rows_are_what_they_say(of: str, late: bool, kind: str, weighting: str) -> None:
    torch.manual_seed(1)
    source, parts = round_of(kind, late, corrected=of == "gradients")
    inputs = torch.randn(4, 6, dtype=torch.float64)
    answer = trace(net(), inputs, source, settings(of=of, client_weighting=weighting, layer_decay=1.0))
    assert answer.residuals.max() < 1e-9
    expected = (
        {"momentum"} | ({"previous"} if of == "weights" else set()) | ({"control"} if of == "gradients" else set())
    )
    assert set(answer.rows) == expected
    for row, gradient in enumerate(gradients(dict(source.after), inputs)):
        clients = against(parts[of], gradient) * (SHARES if weighting == "fusion" else 1)
        assert answer.values[row].tolist() == pytest.approx(clients.tolist(), rel=1e-8, abs=1e-10)
        for name in expected:
            assert answer.rows[name][row] == pytest.approx(float(against(parts[name], gradient)), rel=1e-8, abs=1e-10)
