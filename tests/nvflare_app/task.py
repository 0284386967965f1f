"""A small federation on scikit-learn's digits: what the clients train, and what the model is asked about."""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

TRAINED = 1500  # of 1,797 digits


class Net(nn.Module):
    """8 x 8 pixels, 16 units, 10 classes; always with the same first weights, since NVFlare's server makes it anew."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.first = nn.Linear(64, 16)
            self.second = nn.Linear(16, 10)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.second(torch.relu(self.first(pixels)))


def _digits() -> tuple[Tensor, Tensor]:
    """All pixels, from 0 to 1, and what they show."""
    pixels, labels = load_digits(return_X_y=True)
    return torch.from_numpy(pixels).float() / 16, torch.from_numpy(labels).long()


def test_data() -> tuple[Tensor, Tensor]:
    """The digits that nobody trains on."""
    pixels, labels = _digits()
    return pixels[TRAINED:], labels[TRAINED:]


def train_data(client: int, clients: int) -> tuple[Tensor, Tensor]:
    """A client's digits: those that leave its own number when divided by the number of clients."""
    pixels, labels = _digits()
    own = labels[:TRAINED] % clients == client
    return pixels[:TRAINED][own], labels[:TRAINED][own]


def train(net: Net, pixels: Tensor, labels: Tensor, epochs: int) -> int:
    """Train, and return the number of steps."""
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    steps = 0
    for _ in range(epochs):
        for start in range(0, len(pixels), 32):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(net(pixels[start : start + 32]), labels[start : start + 32])
            loss.backward()
            optimizer.step()
            steps += 1
    return steps
