"""Pixels and tokens that carried a client, against finite differences of finite differences."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from provfl_cli.provenance.carried import carried
from provfl_cli.provenance.targets import target_value


class Read(nn.Module):
    """Tokens: embedded, with their positions, mixed by attention, and told apart."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(11, 8), nn.Embedding(5, 8)
        self.mix, self.head = nn.TransformerEncoderLayer(8, 2, 16, activation="gelu", batch_first=True), nn.Linear(8, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens[:, : int((tokens != 0).sum(1).max())]
        seen: Tensor = self.words(tokens) + self.places(torch.arange(tokens.shape[1]))
        told: Tensor = self.head(self.mix(seen).mean(1))
        return told


def contribution(
    model: nn.Module, inputs: Tensor, moved: Mapping[str, Tensor], wanted: Tensor, kind: str, step: float = 1e-4
) -> Tensor:
    """`[n]`: how the target changes where the weights go a little along what the client moved."""
    ends = []
    for sign in (1, -1):
        other = copy.deepcopy(model).eval()
        with torch.no_grad():
            for name, parameter in other.named_parameters():
                parameter += sign * step * moved.get(name, torch.zeros(()))
            ends.append(target_value(kind, other(inputs), wanted))
    return (ends[0] - ends[1]) / (2 * step)


def moved_of(model: nn.Module, seed: int = 1) -> dict[str, Tensor]:
    made = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(parameter.shape, generator=made, dtype=torch.float64)
        for name, parameter in model.named_parameters()
    }


@pytest.mark.parametrize("kind", ["logit", "centred", "margin"])
def test_pixels_are_the_differences_of_the_contribution(kind: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3), nn.Tanh(), nn.Flatten(), nn.Linear(48, 4))
    model.double().eval()
    inputs, wanted = torch.randn(3, 2, 4, 4, dtype=torch.float64), torch.tensor([0, 3, 1])
    moved = moved_of(model)
    del moved["4.bias"]  # of what a client does not share nothing is moved
    found = carried(model, inputs, moved, wanted, kind)
    assert found.shape == inputs.shape
    for at in ((0, 0, 1), (1, 3, 2), (1, 0, 0)):
        step = torch.zeros_like(inputs)
        step[:, at[0], at[1], at[2]] = 1e-3
        ends = [contribution(model, inputs + sign * step, moved, wanted, kind) for sign in (1, -1)]
        torch.testing.assert_close(found[:, at[0], at[1], at[2]], (ends[0] - ends[1]) / 2e-3, rtol=2e-4, atol=2e-5)
    assert not any(parameter.grad is not None for parameter in model.parameters())


def test_tokens_are_the_differences_of_the_contribution_along_their_embedding() -> None:
    torch.manual_seed(0)
    model = Read().double().eval()
    tokens, wanted = torch.tensor([[1, 2, 3, 4, 0], [5, 6, 7, 8, 0]]), torch.tensor([2, 0])
    moved = moved_of(model)
    found = carried(model, tokens, moved, wanted, "centred")
    assert found.shape == tokens.shape
    assert not found[:, 4].any()  # which the model cuts
    for row, place in ((0, 0), (0, 3), (1, 1)):
        ends = []
        for sign in (1, -1):
            hook = model.words.register_forward_hook(lambda m, g, out, s=sign, r=row, p=place: _longer(out, r, p, s))
            ends.append(_of_hooked(model, tokens, moved, wanted)[row])
            hook.remove()
        assert float(found[row, place]) == pytest.approx(float(ends[0] - ends[1]) / 2e-3, rel=1e-3, abs=1e-5)


def _longer(output: Tensor, row: int, place: int, sign: int) -> Tensor:
    """The embedding of one token, as it is in the global model, longer by a thousandth of it."""
    output = output.clone()
    output[row, place] += sign * 1e-3 * BEFORE[0][row, place]
    return output


BEFORE: list[Tensor] = []


def _of_hooked(model: Read, tokens: Tensor, moved: Mapping[str, Tensor], wanted: Tensor) -> Tensor:
    BEFORE[:] = [model.words.weight.detach()[tokens].clone()]
    ends = []
    for sign in (1, -1):
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter += sign * 1e-4 * moved[name]
            ends.append(target_value("centred", model(tokens), wanted))
            for name, parameter in model.named_parameters():
                parameter -= sign * 1e-4 * moved[name]
    return (ends[0] - ends[1]) / 2e-4


def test_what_moved_nothing_carries_nothing() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    inputs, wanted = torch.randn(2, 3), torch.tensor([0, 1])
    assert not carried(model, inputs, {}, wanted, "logit").any()
    bias = {"2.bias": torch.ones(2)}  # pushes the same whatever the input is
    assert not carried(model, inputs, bias, wanted, "logit").any()


def test_what_cannot_be_told_is_said() -> None:
    model = nn.Sequential(nn.Embedding(4, 2), nn.Flatten(), nn.Linear(6, 2))
    with pytest.raises(RuntimeError, match="no module embeds the tokens"):
        carried(_Other(), torch.tensor([[1, 2, 3]]), {"weight": torch.ones(2, 3)}, torch.tensor([0]), "logit")
    assert carried(model, torch.tensor([[1, 2, 3]]), moved32(model), torch.tensor([0]), "logit").shape == (1, 3)


def moved32(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.float() for name, tensor in moved_of(model).items()}


class _Other(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2, 3))

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens.float() @ self.weight.T
