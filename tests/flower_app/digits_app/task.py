"""The model, the data and the training of the federation; nothing here knows of Flower or ProvFL."""

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

TEST = 297  # the last of the 1,797 pictures belong to the server


class Net(nn.Module):
    """A small convolutional network for pictures of 8x8 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(1, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.hidden = nn.Linear(8 * 4 * 4, 32)
        self.output = nn.Linear(32, 10)

    def forward(self, pictures: Tensor) -> Tensor:
        seen = torch.max_pool2d(torch.relu(self.norm(self.convolution(pictures))), 2)
        return self.output(torch.relu(self.hidden(seen.flatten(1))))


def pictures() -> tuple[Tensor, Tensor]:
    """All pictures, `[1797, 1, 8, 8]` from 0 to 1, and their digits."""
    data = load_digits()
    return torch.tensor(data.images, dtype=torch.float32)[:, None] / 16, torch.tensor(data.target)


def test_data() -> tuple[Tensor, Tensor]:
    """The server's pictures and their digits."""
    inputs, labels = pictures()
    return inputs[-TEST:], labels[-TEST:]


def load_data(partition: int, partitions: int, batch_size: int) -> DataLoader:
    """A client's own pictures: of the digits 0 to 9 each client has a part of its own, in turn."""
    inputs, labels = pictures()
    own = labels[:-TEST] % partitions == partition
    generator = torch.Generator().manual_seed(partition)
    return DataLoader(TensorDataset(inputs[:-TEST][own], labels[:-TEST][own]), batch_size, True, generator=generator)


def train(net: nn.Module, loader: DataLoader, epochs: int, learning_rate: float) -> float:
    """Train in place; returns the mean loss."""
    optimizer = torch.optim.SGD(net.parameters(), lr=learning_rate, momentum=0.9)
    losses = []
    net.train()
    for _ in range(epochs):
        for inputs, labels in loader:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(net(inputs), labels)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return sum(losses) / len(losses)


def test(net: nn.Module) -> tuple[float, float]:
    """Loss and accuracy on the server's pictures."""
    inputs, labels = test_data()
    net.eval()
    with torch.no_grad():
        logits = net(inputs)
    return nn.functional.cross_entropy(logits, labels).item(), (logits.argmax(1) == labels).float().mean().item()
