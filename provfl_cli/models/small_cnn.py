"""A small convolutional network with group normalization, for federations of small colour pictures.

Clients with different labels disagree about batch statistics, so that averaged BatchNorm networks fail where clients
differ; group normalization (Wu & He 2018) has no statistics to average, and is what Hsieh et al. 2020 ("The Non-IID
Data Quagmire of Decentralized Machine Learning") put in its place.
"""

from collections import OrderedDict

from torch import nn

from ..errors import InputError

KERNELS = (5, 3, 3)  # of the stages, pixels of a side


def small_cnn(channels: int, classes: int, image_size: int, width: int = 32, groups: int = 4) -> nn.Module:
    """Return the network, `[n, channels, image_size, image_size]` to logits `[n, classes]`.

    Three stages of a convolution that halves the sides, group normalization and ReLU, `width`, `2 width` and `4 width`
    channels, kernels of 5x5 and twice 3x3; then a linear layer.

    Args:
        channels: of the pictures.
        classes: how many there are.
        image_size: pixels of a side, 8 or more.
        width: channels of the first stage.
        groups: of channels, normalized together; a divisor of `width`.

    Raises:
        InputError: `width` is no multiple of `groups`.

    Example:
        >>> sum(parameter.numel() for parameter in small_cnn(3, 10, 32).parameters())
        115722
    """
    if width % groups:
        raise InputError(f"model.width={width}: a multiple of model.groups={groups}")
    layers = OrderedDict[str, nn.Module]()
    before, side = channels, image_size
    for stage, kernel in enumerate(KERNELS):
        after, side = width << stage, (side + 1) // 2
        layers |= {
            f"conv{stage + 1}": nn.Conv2d(before, after, kernel, stride=2, padding=kernel // 2),
            f"norm{stage + 1}": nn.GroupNorm(groups, after),
            f"relu{stage + 1}": nn.ReLU(),
        }
        before = after
    layers |= {"flatten": nn.Flatten(), "head": nn.Linear(before * side * side, classes)}
    return nn.Sequential(layers)
