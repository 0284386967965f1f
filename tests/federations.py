"""Small federations for tests: random or written digits, a network with every kind of state, their training."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from provfl_cli.config import schema
from provfl_cli.config.lora import Lora
from provfl_cli.config.validate import provenance_preset
from provfl_cli.data.federated import ClientData, Faults, FederatedData, Pictures, Source, TestData, Texts
from provfl_cli.data.injection import NoInjection
from provfl_cli.federation import events
from provfl_cli.federation.train import federated_rounds
from provfl_cli.fusion.fedavg import FedAvg
from provfl_cli.fusion.privacy import NoPrivacy
from provfl_cli.store.rounds import Round

CPU = torch.device("cpu")
DIGITS = schema.Dataset("digits", "embedded", embedded="provfl_cli.data.embedded.digits", mean=[0.3], std=[0.4])


@dataclass(frozen=True)
class AsGiven:
    """Stands for the partition: the clients are what `make_data` says."""

    def check(self, federation: schema.Federation) -> None:
        """Nothing to check."""


class SmallNet(nn.Module):
    """Convolution, batch normalisation (buffers, one of them an integer), dropout, two linear layers."""

    def __init__(self, size: int = 8, width: int = 6) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(1, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.dropout = nn.Dropout(0.2)
        self.hidden = nn.Linear(width * (size // 2) ** 2, 16)
        self.logits = nn.Linear(16, 10)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        maps = nn.functional.max_pool2d(torch.relu(self.norm(self.convolution(inputs))), 2)
        return self.logits(self.dropout(torch.relu(self.hidden(maps.flatten(1)))))


def make_model(seed: int = 0, **sizes: int) -> nn.Module:
    """The same small network for the same seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return SmallNet(**sizes)


def make_data(clients: int = 4, examples: int = 50, test: int = 300, size: int = 8, seed: int = 0) -> FederatedData:
    """Ten classes told apart by which pixels are bright; client k holds a few examples more than k-1."""
    random = torch.Generator().manual_seed(seed)
    prototypes = torch.randn(10, 1, size, size, generator=random)

    def draw(count: int) -> tuple[torch.Tensor, torch.Tensor]:
        labels = torch.randint(10, (count,), generator=random)
        return prototypes[labels] + 0.7 * torch.randn(count, 1, size, size, generator=random), labels

    shares = []
    for client in range(clients):
        inputs, labels = draw(examples + 7 * client)
        shares.append(ClientData(2 * client, inputs, labels, np.bincount(labels.numpy(), minlength=10)))
    inputs, labels = draw(test)
    pixels = np.zeros((test, size, size, 1), np.uint8)
    source = Source("made", "embedded", "tests", sum(len(share.labels) for share in shares), test, "0" * 16, "made up")
    names = tuple("0123456789")
    return FederatedData(
        tuple(shares),
        (),
        TestData(inputs, labels, pixels, np.arange(test)),
        Pictures(1, size),
        names,
        source,
        Faults((), ()),
        (),
    )


def make_texts() -> FederatedData:
    """The made-up federation with texts of 1 to 12 tokens for pictures."""
    random = torch.Generator().manual_seed(0)

    def texts(count: int) -> torch.Tensor:
        tokens = torch.randint(1, 20, (count, 12), generator=random)
        lengths = torch.randint(1, 13, (count, 1), generator=random)
        return tokens.where(torch.arange(12) < lengths, torch.tensor(0))

    data = make_data()
    return replace(
        data,
        form=Texts(vocabulary=20, max_tokens=12, padding=0),
        clients=tuple(replace(client, inputs=texts(len(client.labels))) for client in data.clients),
        test=replace(data.test, inputs=texts(len(data.test.labels))),
    )


def make_config(**changes: Any) -> schema.Config:
    """A configuration; `changes` are fields of it, or of `federation`, `store` and `engine`."""
    federation = schema.Federation(8, None, 3, 2, 16, "sgd", 0.05, 0.9, 0.0)
    config = schema.Config(
        dataset=schema.Dataset("made", "embedded", embedded="none"),
        model=schema.Model("tests.SmallNet", "small"),
        partition=AsGiven(),
        injection=NoInjection(),
        fusion=FedAvg(),
        privacy=NoPrivacy(),
        engine=schema.Engine("local", 2),
        federation=federation,
        provenance=provenance_preset("provfl"),
        store=schema.Store("cache", "last", 20),
        evaluation=schema.Evaluation("correct", 500, 10),
        seed=0,
        device="cpu",
        threshold=0.0,
        tracefl_beside=True,
        lora=Lora(),
    )
    for name, value in changes.items():
        if hasattr(config, name):
            config = replace(config, **{name: value})
            continue
        for block in ("federation", "store", "engine"):
            if hasattr(getattr(config, block), name):
                config = replace(config, **{block: replace(getattr(config, block), **{name: value})})
                break
        else:
            raise KeyError(name)
    return config


def train(
    cache: Path,
    config: schema.Config,
    wanted: set[int] | None = None,
    data: FederatedData | None = None,
    model: nn.Module | None = None,
) -> tuple[list[Round], list[events.Event]]:
    """All wanted rounds (default: the last), and what was observed."""
    seen: list[events.Event] = []
    wanted = {config.federation.rounds} if wanted is None else wanted
    with federated_rounds(
        config, data or make_data(), model or make_model(), cache, wanted, CPU, seen.append
    ) as rounds:
        return list(rounds), seen


def content(cache: Path) -> dict[str, bytes]:
    """Every stored tensor file of a cache with one federation."""
    (entry,) = [folder for folder in (cache / "federations").iterdir() if folder.is_dir()]
    return {str(path.relative_to(entry)): path.read_bytes() for path in sorted(entry.rglob("*.safetensors"))}
