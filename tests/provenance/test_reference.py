"""Contributions against Algorithm 1 as printed, for the architectures that the paper uses and for odd convolutions."""

import copy

import pytest
import torch
import torchvision
from torch import nn

from provfl_cli.provenance.tracing import trace

from .exactness import close
from .federations import federation, settings
from .networks import LeNet
from .reference import algorithm1

LENET_ACTIVATION = {"conv1": "act1", "conv2": "act2", "fc1": "act3", "fc2": "act4"}.get


@pytest.mark.parametrize("of", ["weights", "updates"])
@pytest.mark.parametrize("kind", ["logit", "centred", "margin"])
@pytest.mark.parametrize(("threshold", "scale"), [(None, "absolute"), (0.15, "absolute"), (0.3, "minmax")])
def test_lenet(of: str, kind: str, threshold: float | None, scale: str) -> None:
    torch.manual_seed(0)
    model = LeNet()
    source, clients = federation(model)
    inputs = torch.randn(7, 1, 28, 28)
    wanted = settings(of=of, target=kind, threshold=threshold, threshold_scale=scale, batch_size=3)
    ours = trace(model, inputs, source, wanted)
    reference = algorithm1(
        model, inputs, clients, source.after, source.before, of=of, kind=kind, decay=0.9, threshold=threshold,
        minmax=scale == "minmax", activation=LENET_ACTIVATION,
    )  # fmt: skip
    close(ours.values, reference)
    assert ours.covered == 1.0
    assert not ours.unchecked
    assert set(ours.masked_layers) == (set() if threshold is None else {"conv1", "conv2", "fc1", "fc2"})


@pytest.mark.slow
@pytest.mark.parametrize("of", ["weights", "updates"])
def test_resnet18(of: str) -> None:
    torch.manual_seed(0)
    model = torchvision.models.resnet18(num_classes=10)
    source, clients = federation(model, clients=2, scale=0.02)
    inputs = torch.randn(2, 3, 32, 32)
    ours = trace(model, inputs, source, settings(of=of))
    close(
        ours.values, algorithm1(model, inputs, clients, source.after, source.before, of=of, kind="centred", decay=0.9)
    )
    assert ours.covered == 1.0
    # Every layer but the last goes through a ReLU: by itself, or after its BatchNorm or the residual sum.
    masked = trace(model, inputs, source, settings(of=of, threshold=0.0))
    assert set(masked.masked_layers) == {n for n, m in model.named_modules() if list(m.parameters(False))} - {"fc"}


@pytest.mark.slow
def test_densenet121() -> None:
    torch.manual_seed(0)
    model = torchvision.models.densenet121(num_classes=10)
    source, clients = federation(model, clients=2, scale=0.02)
    inputs = torch.randn(2, 3, 32, 32)
    for of in ("weights", "updates"):
        ours = trace(model, inputs, source, settings(of=of))
        close(
            ours.values,
            algorithm1(model, inputs, clients, source.after, source.before, of=of, kind="centred", decay=0.9),
        )
        assert ours.covered == 1.0
    # conv2 of a dense layer ends in a concatenation: not masked; conv1 is normalised and rectified: masked.
    masked = trace(model, inputs, source, settings(threshold=0.0)).masked_layers
    assert "features.denseblock1.denselayer1.conv1" in masked
    assert "features.denseblock1.denselayer1.conv2" not in masked


CONVOLUTIONS = [
    nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2),
    nn.Conv2d(4, 6, 3, dilation=2, padding=2),
    nn.Conv2d(4, 4, (3, 1), padding="same", groups=4, bias=False),
    nn.Conv2d(4, 6, 5, stride=3, padding=4),
    nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular"),
    nn.Conv2d(4, 6, 2, padding="valid", stride=(2, 1)),
    nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2),
    nn.ConvTranspose2d(4, 6, 3, dilation=2),
]


@pytest.mark.parametrize("layer", CONVOLUTIONS, ids=str)
@pytest.mark.parametrize("size", [3, 7])
def test_convolutions(layer: nn.Module, size: int) -> None:
    torch.manual_seed(1)
    layer = copy.deepcopy(layer).double()
    flat = layer(torch.zeros(1, 4, size, size, dtype=torch.float64)).numel()
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Tanh(), layer, nn.GELU(), nn.Flatten(), nn.Linear(flat, 5)).double()
    source, clients = federation(model)
    inputs = torch.randn(6, 3, size, size, dtype=torch.float64)
    reference = algorithm1(
        model, inputs, clients, source.after, source.before, of="updates", kind="margin", decay=0.9, threshold=0.05,
        activation={"0": "1", "2": "3"}.get,
    )  # fmt: skip
    close(trace(model, inputs, source, settings(target="margin", threshold=0.05)).values, reference, 1e-9)
