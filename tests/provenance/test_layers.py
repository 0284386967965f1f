"""Every kind of layer against per-example gradients: without mask and decay, `T_k = <X_k, dy_b / dW>` exactly."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from provfl_cli.errors import RunError
from provfl_cli.provenance.tracing import trace

from .exactness import PLAIN, assert_exact
from .federations import federation, settings
from .networks import head


class Twice(nn.Module):
    """One layer called twice, with functional in-place activations between, and a residual added in place."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.again, self.last = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(x), inplace=True)
        y = self.again(x)
        y += x
        y = torch.tanh_(y)
        return self.last(F.silu(self.again(y), inplace=True))


class Tied(nn.Module):
    """An embedding whose transpose is the head, positions added, as in language models."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(11, 6), nn.Embedding(20, 6)
        self.mix, self.norm = Conv1D(6, 6), nn.LayerNorm(6)
        self.head = nn.Linear(6, 11, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tokens(ids) + self.positions(torch.arange(ids.shape[1]))
        return self.head(self.norm(x + F.gelu(self.mix(x)))).mean(1)


class Loose(nn.Module):
    """Parameters used outside any module's own forward: class token, scale, shift, a matrix, a slice of another's."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.randn(1, 1, 6))
        self.scale, self.shift = nn.Parameter(torch.randn(6)), nn.Parameter(torch.randn(4, 6))
        self.matrix, self.form = nn.Parameter(torch.randn(6, 5)), nn.Parameter(torch.randn(6, 6))
        self.other = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.token.expand(len(x), -1, -1), x * self.scale + self.shift], 1)
        x = torch.einsum("bti,ij->btj", x, self.form).relu()
        x = F.linear(x, self.other.weight[2:], self.other.bias[2:])
        return (F.pad(x, (0, 2)) @ self.matrix).sum(1) / (1 + self.scale.square()[:5])


class Attention(nn.Module):
    def __init__(self, batch_first: bool, kdim: int | None = None) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(6, 2, batch_first=batch_first, kdim=kdim, vdim=kdim)
        self.batch_first, self.kdim = batch_first, kdim
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        padding = torch.zeros(x.shape[:2], dtype=torch.bool)
        padding[:, -1] = True
        if not self.batch_first:
            x = x.transpose(0, 1)
        other = x[..., : self.kdim] if self.kdim else x
        y, _ = self.attention(x, other, other, key_padding_mask=padding)
        return self.head(y).mean(1 if self.batch_first else 0)


def vision_transformer_block() -> nn.Module:
    return nn.Sequential(
        nn.TransformerEncoderLayer(6, 2, 12, batch_first=True, activation="gelu"), nn.Flatten(), nn.Linear(24, 5)
    )


CASES = {
    "linear": (nn.Sequential(nn.Linear(6, 8), nn.ReLU(inplace=True), nn.Linear(8, 5)), (6,)),
    "linear on sequences": (head(nn.Linear(6, 8), (4, 6)), (4, 6)),
    "conv1d": (head(nn.Conv1d(4, 6, 3, stride=2, padding=1, groups=2), (4, 9)), (4, 9)),
    "conv2d": (head(nn.Conv2d(4, 6, 3, padding=1, dilation=2), (4, 6, 5)), (4, 6, 5)),
    "conv2d on one pixel": (head(nn.Conv2d(4, 6, 3, padding=1), (4, 1, 1)), (4, 1, 1)),
    "conv3d": (head(nn.Conv3d(2, 3, (1, 2, 3), padding=(0, 1, 1)), (2, 3, 4, 5)), (2, 3, 4, 5)),
    "transposed 1d": (head(nn.ConvTranspose1d(4, 6, 3, stride=2, output_padding=1), (4, 5)), (4, 5)),
    "transposed 2d": (head(nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, groups=2), (4, 3, 5)), (4, 3, 5)),
    "transposed 3d": (head(nn.ConvTranspose3d(2, 3, 2, dilation=2), (2, 2, 3, 2)), (2, 2, 3, 2)),
    "conv1D of transformers": (head(Conv1D(8, 6), (4, 6)), (4, 6)),
    "layer norm": (head(nn.LayerNorm((4, 6)), (4, 6)), (4, 6)),
    "rms norm": (head(nn.RMSNorm(6), (4, 6)), (4, 6)),
    "group norm": (head(nn.GroupNorm(2, 4), (4, 5)), (4, 5)),
    "instance norm": (head(nn.InstanceNorm1d(4, affine=True), (4, 5)), (4, 5)),
    "batch norm": (head(nn.Sequential(nn.BatchNorm2d(4), nn.ReLU()), (4, 3, 3)), (4, 3, 3)),
    "batch norm of vectors": (head(nn.BatchNorm1d(6), (6,)), (6,)),
    "prelu": (nn.Sequential(nn.Linear(6, 8), nn.PReLU(8), nn.Linear(8, 5)), (6,)),
    "bilinear-like": (Loose(), (4, 6)),
    "twice": (Twice(), (6,)),
    "attention": (Attention(True), (4, 6)),
    "attention, sequence first": (Attention(False), (4, 6)),
    "attention, other keys": (Attention(True, kdim=3), (4, 6)),
    "encoder layer": (vision_transformer_block(), (4, 6)),
    "weight norm": (head(nn.utils.parametrizations.weight_norm(nn.Linear(6, 8)), (6,)), (6,)),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("batch", [1, 4, 6])  # 4 and 6 are also sequence length and width: shapes alone say nothing
def test_layers(name: str, batch: int) -> None:
    torch.manual_seed(3)
    model, shape = CASES[name]
    assert_exact(model, torch.randn(batch, *shape, dtype=torch.float64))


@pytest.mark.parametrize("kind", ["logit", "centred", "margin"])
def test_tied_embedding(kind: str) -> None:
    torch.manual_seed(3)
    assert_exact(Tied(), torch.randint(0, 11, (7, 7)), kind)


def test_what_is_not_covered_is_named() -> None:
    class Idle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.head, self.idle = nn.Linear(6, 4), nn.Linear(4, 5), nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.first(x))

    torch.manual_seed(3)
    model = Idle().double()
    source, _ = federation(model)
    result = trace(model, torch.randn(3, 6, dtype=torch.float64), source, settings())
    assert 0 < result.covered < 1
    assert set(result.uncovered) == {"idle.weight", "idle.bias"}
    assert "no call" in result.uncovered["idle.weight"]


def test_inputs_that_depend_on_each_other_are_refused() -> None:
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8, track_running_stats=False), nn.Linear(8, 5))
    source, _ = federation(model)
    with pytest.raises(RunError, match="statistics of the batch"):
        trace(model, torch.randn(4, 6), source, settings())


ACTIVATIONS = (nn.ReLU, nn.GELU, nn.SiLU, nn.Tanh, nn.LeakyReLU)


@st.composite
def networks(draw: st.DrawFn) -> tuple[nn.Module, tuple[int, ...]]:
    """A small random convolutional network, of random layers in random order."""
    torch.manual_seed(draw(st.integers(0, 10_000)))
    channels, size = draw(st.integers(1, 3)), draw(st.integers(1, 6))
    shape, layers = (channels, size, size), []
    for _ in range(draw(st.integers(1, 4))):
        kind = draw(st.sampled_from(["conv", "transposed", "norm", "activation", "pool"]))
        if kind in ("conv", "transposed"):
            out, kernel = draw(st.integers(1, 4)) * 2, draw(st.integers(1, 3))
            stride, padding = draw(st.integers(1, 2)), draw(st.integers(0, kernel - 1))
            groups = 2 if channels % 2 == 0 and draw(st.booleans()) else 1
            if kind == "conv" and size + 2 * padding < kernel:
                padding, kernel = 0, 1
            options = {"stride": stride, "padding": padding, "groups": groups, "bias": draw(st.booleans())}
            made = (nn.Conv2d if kind == "conv" else nn.ConvTranspose2d)(channels, out, kernel, **options)
            new = (
                made(torch.zeros(1, channels, size, size)).shape[-1]
                if kind == "conv"
                else (size - 1) * stride - 2 * padding + kernel
            )
            if not 1 <= new <= 12:
                continue
            layers.append(made)
            channels, size = out, new
        elif kind == "norm":
            layers.append(
                draw(
                    st.sampled_from(
                        [nn.BatchNorm2d(channels), nn.GroupNorm(1, channels)]
                        if channels * size > 1
                        else [nn.BatchNorm2d(channels)]
                    )
                )
            )
        elif kind == "activation":
            # Autograd itself cannot go back through an activation whose output the next one overwrites.
            fresh = not (layers and isinstance(layers[-1], ACTIVATIONS))
            chosen = draw(st.sampled_from(ACTIVATIONS))
            layers.append(chosen(inplace=True) if fresh and chosen in (nn.ReLU, nn.LeakyReLU) else chosen())
        elif size > 1:
            layers.append(nn.AvgPool2d(2))
            size //= 2
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * size * size, 4)), shape


@given(network=networks(), batch=st.integers(1, 5), data=st.data())
@examples(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_random_networks(network: tuple[nn.Module, tuple[int, ...]], batch: int, data: st.DataObject) -> None:
    model, shape = network
    kind = data.draw(st.sampled_from(["logit", "centred", "margin"]))
    inputs = torch.randn(batch, *shape, dtype=torch.float64)
    assert_exact(model, inputs, kind, batch_size=data.draw(st.integers(1, 5)))
    source, _ = federation(model)
    double = trace(model, inputs, source, settings(**PLAIN, target=kind)).values
    single = trace(model.float(), inputs.float(), source, settings(**PLAIN, target=kind)).values
    assert np.abs(single - double).max() <= 1e-4 * np.abs(double).max()
