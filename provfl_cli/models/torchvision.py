"""ResNet-18 and DenseNet-121 as torchvision builds them, for any number of channels and classes."""

from __future__ import annotations

import math
import re
from pathlib import Path

import torch
from torch import Tensor, nn

from ..checks import one_of
from ..data.network import reachable
from ..errors import InputError
from ..imports import put_off

# Torch's compiler, for operators of detection models only.
with put_off("torch._dynamo.utils", "is_compile_supported"):
    from torchvision import models

NORMS = ("batch", "group")
GROUPS = 32  # the number that Wu and He 2018, "Group Normalization", settle on


def resnet18(channels: int, classes: int, image_size: int, pretrained: bool = False, norm: str = "batch") -> nn.Module:
    """ResNet-18 (He et al. 2016): `[n, channels, image_size, image_size]` to logits `[n, classes]`.

    `pretrained`: ImageNet weights for all but the last layer; InputError where they cannot be had. `norm`: `batch`, or
    `group` for group normalisation in its place, which keeps no statistics of the data.
    """
    _check_norm(norm, pretrained, "resnet18")
    model = models.resnet18()
    if pretrained:
        model.load_state_dict(_published(models.ResNet18_Weights.IMAGENET1K_V1, "resnet18"))
    model.conv1 = _for_channels(model.conv1, channels, pretrained)
    model.fc = nn.Linear(model.fc.in_features, classes)
    return _normalised(model, norm)


def densenet121(
    channels: int, classes: int, image_size: int, pretrained: bool = False, norm: str = "batch"
) -> nn.Module:
    """DenseNet-121 (Huang et al. 2017): `[n, channels, image_size, image_size]`, 32 or more, to logits `[n, classes]`.

    `pretrained`: ImageNet weights for all but the last layer; InputError where they cannot be had. `norm`: `batch`, or
    `group` for group normalisation in its place, which keeps no statistics of the data.
    """
    _check_norm(norm, pretrained, "densenet121")
    model = models.densenet121()
    if pretrained:
        model.load_state_dict(_published(models.DenseNet121_Weights.IMAGENET1K_V1, "densenet121"))
    features = model.features
    features.conv0 = _for_channels(features.conv0, channels, pretrained)
    model.classifier = nn.Linear(model.classifier.in_features, classes)
    return _normalised(model, norm)


def _check_norm(norm: str, pretrained: bool, name: str) -> None:
    one_of("model.norm", norm, NORMS)
    if norm == "group" and pretrained:
        raise InputError(
            f"model.norm=group: the published weights of model={name} belong to batch normalisation: "
            "model.pretrained=false, or model.norm=batch"
        )


def _normalised(model: nn.Module, norm: str) -> nn.Module:
    """`model` itself, each BatchNorm replaced by a GroupNorm of 32 groups, or of fewer where 32 does not divide."""
    if norm == "group":
        for name, module in list(model.named_modules()):
            if isinstance(module, nn.BatchNorm2d):
                channels = module.num_features
                model.set_submodule(name, nn.GroupNorm(math.gcd(GROUPS, channels), channels, eps=module.eps))
    return model


def _for_channels(conv: nn.Conv2d, channels: int, pretrained: bool) -> nn.Conv2d:
    """The first convolution, for `channels` instead of three; a pretrained one answers a grey picture as it did."""
    if channels == conv.in_channels:
        return conv
    new = nn.Conv2d(channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding, bias=False)  # type: ignore[arg-type]
    with torch.no_grad():
        if pretrained:
            new.weight.copy_(conv.weight.sum(dim=1, keepdim=True).expand_as(new.weight) / channels)
        else:
            nn.init.kaiming_normal_(new.weight, mode="fan_out", nonlinearity="relu")
    return new


def _published(weights: models.WeightsEnum, name: str) -> dict[str, Tensor]:
    """The published tensors, from torch's cache or fetched into it."""
    cached = Path(torch.hub.get_dir()) / "checkpoints" / weights.url.rpartition("/")[2]
    ways_out = f"model.pretrained=false, or put {cached.name} into {cached.parent}"
    # Left alone, the download of an unreachable file takes 10 s to fail.
    if not cached.exists() and not reachable(weights.url):
        raise InputError(f"model={name}: {weights.url} cannot be reached: {ways_out}")
    try:
        tensors = weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except Exception as error:  # of the download, of its checksum, of a broken file
        reason = str(error).partition("\n")[0]
        raise InputError(f"model={name}: published weights cannot be loaded ({reason}): {ways_out}") from error
    # Published before modules' names could hold no dots: `denselayer1.norm.1` is `norm1` today.
    return {re.sub(r"\.(norm|conv)\.(\d)\.", r".\1\2.", key): tensor for key, tensor in tensors.items()}
