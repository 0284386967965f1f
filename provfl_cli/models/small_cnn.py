"""A small convolutional network with group normalization, for federations of small colour pictures.

Clients with different labels disagree about batch statistics, so that averaged BatchNorm networks fail where clients
differ; group normalization (Wu & He 2018) has no statistics to average, and is what Hsieh et al. 2020 ("The Non-IID
Data Quagmire of Decentralized Machine Learning") put in its place.
"""

from collections import OrderedDict

from torch import nn

from ..errors import InputError

STAGES = 3  # each halves the sides


def small_cnn(channels: int, classes: int, image_size: int, width: int = 16, groups: int = 4) -> nn.Module:
    """Return the network, `[n, channels, image_size, image_size]` to logits `[n, classes]`.

    Three stages of a 3x3 convolution, max pooling, group normalization and ReLU, `width`, `2 width` and `4 width`
    channels; then a linear layer. Pooling comes first, so that what follows has a quarter of the work.

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
        34058
    """
    if width % groups:
        raise InputError(f"model.width={width}: a multiple of model.groups={groups}")
    layers = OrderedDict[str, nn.Module]()
    before = channels
    for stage in range(STAGES):
        after = width << stage
        layers |= {
            f"conv{stage + 1}": nn.Conv2d(before, after, kernel_size=3, padding=1),
            f"pool{stage + 1}": nn.MaxPool2d(2),
            f"norm{stage + 1}": nn.GroupNorm(groups, after),
            f"relu{stage + 1}": nn.ReLU(),
        }
        before = after
    side = image_size >> STAGES
    layers |= {"flatten": nn.Flatten(), "head": nn.Linear(before * side * side, classes)}
    return nn.Sequential(layers)
