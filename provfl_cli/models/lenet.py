"""LeNet-5 (LeCun et al. 1998, "Gradient-based learning applied to document recognition"), ReLU and max pooling."""

from collections import OrderedDict

from torch import nn


def lenet(channels: int, classes: int, image_size: int) -> nn.Module:
    """Return LeNet-5, `[n, channels, image_size, image_size]` to logits `[n, classes]`; `image_size` 28 or more.

    Below 32 pixels the first convolution pads by 2, so that 28x28 and 32x32 have the same 400 features.
    """
    padding = 2 if image_size < 32 else 0
    side = ((image_size + 2 * padding - 4) // 2 - 4) // 2
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(channels, 6, kernel_size=5, padding=padding),
            relu1=nn.ReLU(),
            pool1=nn.MaxPool2d(2),
            conv2=nn.Conv2d(6, 16, kernel_size=5),
            relu2=nn.ReLU(),
            pool2=nn.MaxPool2d(2),
            flatten=nn.Flatten(),
            fc1=nn.Linear(16 * side * side, 120),
            relu3=nn.ReLU(),
            fc2=nn.Linear(120, 84),
            relu4=nn.ReLU(),
            fc3=nn.Linear(84, classes),
        )
    )
