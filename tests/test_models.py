"""Models: shapes for any channels and classes, weights from the seed alone, wrong options answered."""

import subprocess
import sys

import pytest
import torch
from torchvision.models import WeightsEnum, densenet121

from provfl_cli.config.schema import Model
from provfl_cli.data.federated import Pictures
from provfl_cli.errors import InputError
from provfl_cli.models.build import build

LENET = Model(target="provfl_cli.models.lenet.lenet", name="lenet", min_image_size=28)
RESNET = Model(target="provfl_cli.models.torchvision.resnet18", name="resnet18", min_image_size=28)
DENSENET = Model(target="provfl_cli.models.torchvision.densenet121", name="densenet121", min_image_size=32)


@pytest.mark.parametrize("size", [28, 29, 31, 32, 33, 64])
@pytest.mark.parametrize("channels", [1, 3])
def test_lenet_reads_any_size_from_28_on(size, channels):
    assert build(LENET, Pictures(channels, size), 7, 0)(torch.zeros(2, channels, size, size)).shape == (2, 7)


def test_lenet_is_lenet_5():
    """The 61,706 parameters of the paper's layers, at 28x28 and at 32x32."""
    assert [sum(p.numel() for p in build(LENET, Pictures(1, size), 10, 0).parameters()) for size in (28, 32)] == [
        61706
    ] * 2


@pytest.mark.slow
@pytest.mark.parametrize("model", [RESNET, DENSENET], ids=lambda model: model.name)
@pytest.mark.parametrize("channels", [1, 3])
def test_torchvision_models_read_any_channels_and_classes(model, channels):
    built = build(model, Pictures(channels, 32), 7, 0).eval()
    assert built(torch.zeros(2, channels, 32, 32)).shape == (2, 7)


def test_weights_come_from_the_seed_and_leave_the_process_random_state_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, again, other = (build(LENET, Pictures(1, 28), 10, seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["fc1.weight"], other["fc1.weight"])


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (Model("provfl_cli.models.torchvision.resnet18", "resnet18", options={"pretraind": True}), "pretrained"),
        (Model("provfl_cli.models.lenet.lenet", "lenet", options={"width": 2}), "no options"),
        (Model("provfl_cli.models.lenet.alexnet", "alexnet"), "cannot be imported"),
        (Model("nothing", "nothing"), "cannot be imported"),
        (DENSENET, "32 pixels or more"),
    ],
)
def test_a_wrong_model_is_answered(model, says):
    with pytest.raises(InputError, match=says):
        build(model, Pictures(1, 28), 10, 0)


@pytest.mark.parametrize("name", ["resnet18", "densenet121"])
def test_published_weights_out_of_reach_name_the_way_out(name, monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("provfl_cli.models.torchvision.reachable", lambda url: False)
    with pytest.raises(InputError, match=r"cannot be reached: model\.pretrained=false"):
        build(Model(f"provfl_cli.models.torchvision.{name}", name, pretrained=True), Pictures(3, 32), 10, 0)


@pytest.mark.slow
def test_published_weights_are_loaded_but_for_the_head(monkeypatch):
    """DenseNet's published file has names with dots; a grey picture gets the answer of the same picture in colour."""
    published = densenet121().state_dict()
    dotted = {
        name.replace("norm1.", "norm.1.").replace("conv2.", "conv.2.") if "denselayer" in name else name: tensor
        for name, tensor in published.items()
    }
    monkeypatch.setattr(WeightsEnum, "get_state_dict", lambda self, **kwargs: dict(dotted))
    monkeypatch.setattr("provfl_cli.models.torchvision.reachable", lambda url: True)
    model = Model(DENSENET.target, "densenet121", min_image_size=32, pretrained=True)
    grey, colour = (build(model, Pictures(channels, 32), 10, 0).eval() for channels in (1, 3))
    name = "features.denseblock4.denselayer16.conv2.weight"
    assert torch.equal(colour.state_dict()[name], published[name])
    assert colour.classifier.out_features == 10
    picture = torch.rand(2, 1, 32, 32)
    features = grey.features(picture), colour.features(picture.expand(-1, 3, -1, -1))
    assert torch.allclose(*features, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_torchvision_comes_without_the_compiler_which_is_there_when_it_is_asked_for():
    code = """
import sys
from provfl_cli.models.torchvision import resnet18
resnet18(1, 10, 28)
assert not [name for name in sys.modules if name.startswith("torch._dynamo")]
import torchvision.ops.roi_align
later = sys.modules["torchvision.ops.roi_align"].is_compile_supported("cpu")
import torch._dynamo.utils
assert later == torch._dynamo.utils.is_compile_supported("cpu")
assert torch._dynamo.utils is sys.modules["torch._dynamo.utils"]
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
