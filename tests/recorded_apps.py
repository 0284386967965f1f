"""Small models and data as Hugging Face and Lightning apps have them, and recorded federations of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from provfl_cli.cli import main

CLIENTS = {"ada": 60, "bob": 50, "cem": 40, "dee": 30, "eve": 20}
VOCABULARY, WIDTH, TEXTS, CLASSES = 40, 12, 15, 3

Loss = Callable[[Any, Any], Tensor]


def text_network(classes: int = CLASSES) -> nn.Module:
    """A small DistilBERT, as transformers builds it."""
    torch.manual_seed(0)
    settings = transformers.DistilBertConfig(
        vocab_size=VOCABULARY, dim=16, n_layers=2, n_heads=2, hidden_dim=32, max_position_embeddings=WIDTH,
        num_labels=classes, dropout=0.0, attention_dropout=0.0, seq_classif_dropout=0.0,
    )  # fmt: skip
    return transformers.DistilBertForSequenceClassification(settings).eval()


def texts(count: int = TEXTS, seed: int = 5, share: int | None = None) -> dict[str, Tensor]:
    """Texts of different lengths, padded with 0; a label's texts hold its own tokens. `share`: mostly of that label."""
    random = torch.Generator().manual_seed(seed)
    labels = torch.randint(CLASSES, (count,), generator=random)
    if share is not None:
        labels = torch.where(torch.rand(count, generator=random) < 0.7, torch.tensor(share % CLASSES), labels)
    ids = 4 + labels[:, None] * 10 + torch.randint(10, (count, WIDTH), generator=random)
    noise = torch.randint(4, VOCABULARY, (count, WIDTH), generator=random)
    ids = torch.where(torch.rand(count, WIDTH, generator=random) < 0.4, noise, ids)
    lengths = torch.randint(3, WIDTH + 1, (count, 1), generator=random)
    mask = (torch.arange(WIDTH) < lengths).long()
    return {"input_ids": ids * mask, "attention_mask": mask, "labels": labels}


def batches() -> DataLoader[Any]:
    """The texts in batches that are padded no further than they need."""
    rows = [dict(zip(texts(), values, strict=True)) for values in zip(*texts().values(), strict=True)]

    def collated(batch: list[dict[str, Tensor]]) -> transformers.BatchEncoding:  # as transformers' collators
        joined = {name: torch.stack([row[name] for row in batch]) for name in batch[0]}
        longest = int(joined["attention_mask"].sum(1).max())
        cut = {name: value if value.dim() == 1 else value[:, :longest] for name, value in joined.items()}
        return transformers.BatchEncoding(cut)

    return DataLoader(rows, batch_size=4, shuffle=False, collate_fn=collated)  # type: ignore[arg-type]


class Items(Dataset[Any]):
    """More texts than are read, each a dict of lists without padding, as tokenizers give them."""

    def __len__(self) -> int:
        return 5000

    def __getitem__(self, number: int) -> dict[str, Any]:
        row = {name: value[number % TEXTS] for name, value in texts().items()}
        length = int(row["attention_mask"].sum())
        return {
            "input_ids": row["input_ids"][:length].tolist(),
            "attention_mask": [1] * length,
            "label": int(row["labels"]),
            "idx": number,
        }


class Lightning(nn.Module):
    """As a LightningModule wraps a network: `self.model`, batches by name, hyper-parameters, steps."""

    def __init__(self) -> None:
        super().__init__()
        self.model = text_network()
        self.hparams = SimpleNamespace(lr=0.1)

    def forward(self, **batch: Tensor) -> Any:
        return self.model(**batch)

    def training_step(self, batch: Mapping[str, Tensor], index: int) -> Tensor:
        return nn.functional.cross_entropy(self(**batch).logits, batch["labels"])


class Asking(nn.Module):
    """A class that cannot be built without arguments."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 2)


def lightning_class() -> type[nn.Module]:
    return Lightning


class Giving(nn.Module):
    """A network whose output is put into something else."""

    def __init__(self, wrap: Callable[[Tensor], Any], numbers: int = CLASSES) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, numbers))
        self.wrap = wrap

    def forward(self, x: Tensor) -> Any:
        return self.wrap(self.body(x))


def plain() -> nn.Module:
    return Giving(lambda z: z)


def giving_dict() -> nn.Module:
    return Giving(lambda z: {"loss": z.sum(), "logits": z})


def giving_tuple() -> nn.Module:
    return Giving(lambda z: (z.sum(), z))


def one_logit() -> nn.Module:
    return Giving(lambda z: z, 1)


def two_numbers() -> nn.Module:
    return Giving(lambda z: z, 2)


def autoencoder() -> nn.Module:
    return Giving(lambda z: z, 6)


def maps() -> nn.Module:
    return Giving(lambda z: z.view(-1, 3, 2), 6)


def points(count: int = 8, seed: int = 5) -> Tensor:
    return torch.randn(count, 6, generator=torch.Generator().manual_seed(seed))


def of_points(labels: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    return {"inputs": points(), "labels": labels(points())}


def classes() -> dict[str, Tensor]:
    return of_points(lambda x: x[:, :3].argmax(1))


def signs() -> dict[str, Tensor]:
    return of_points(lambda x: (x.sum(1) > 0).long())


def fractions() -> dict[str, Tensor]:
    return of_points(lambda x: (x.sum(1) > 0).float())


def number() -> dict[str, Tensor]:
    return of_points(lambda x: x.sum(1))


def two_values() -> dict[str, Tensor]:
    return of_points(lambda x: x[:, :2] * 2)


def several() -> dict[str, Tensor]:
    return of_points(lambda x: (x[:, :3] > 0).long())


def unlabelled() -> Tensor:
    return points()


def pairs() -> TensorDataset:
    return TensorDataset(points(), classes()["labels"])


def loader() -> DataLoader[Any]:
    return DataLoader(pairs(), batch_size=3, shuffle=True)


def pictures() -> list[Any]:
    return [object()]


def cross_entropy(output: Any, labels: Tensor) -> Tensor:
    return nn.functional.cross_entropy(getattr(output, "logits", output), labels)


def sigmoid(output: Tensor, labels: Tensor) -> Tensor:
    return nn.functional.binary_cross_entropy_with_logits(output, labels.float().view(output.shape))


def squares(output: Tensor, labels: Tensor) -> Tensor:
    return (output - labels.reshape(output.shape)).square().mean()


def recorded(
    place: Path, model: nn.Module, loss: Loss, shares: Callable[[int], tuple[dict[str, Tensor], Tensor]], rate: float
) -> Path:
    """Train each client a few steps on its share, fuse by examples, and import the round into `place`/made.

    Args:
        place: a folder; the files `before`, `after` and those of the clients stay there.
        model: from which all start.
        loss: of the model's output and labels.
        shares: a client's inputs by argument name, `""` for the only one, and labels.
        rate: of learning.
    """
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    sent = []
    for client in range(len(CLIENTS)):
        model.load_state_dict(before)
        model.train()
        inputs, labels = shares(client)
        optimizer = torch.optim.SGD(model.parameters(), lr=rate)
        for _ in range(5):
            optimizer.zero_grad()
            loss(model(inputs[""]) if "" in inputs else model(**inputs), labels).backward()
            optimizer.step()
        sent.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
    save(place / "before", before)
    save(place / "after", fused(before, sent))
    for name, tensors in zip(CLIENTS, sent, strict=True):
        save(place / name, tensors)
    files = [f"{name}={place / name}.safetensors:{count}" for name, count in CLIENTS.items()]
    whole = ["--global", f"{place / 'after'}.safetensors", "--previous", f"{place / 'before'}.safetensors"]
    assert main(["import", *whole, "--client", *files, "--fusion", "fedavg", "--out", str(place / "made")]) == 0
    return place / "made"


def fused(
    before: Mapping[str, Tensor], sent: list[dict[str, Tensor]], left_out: int | None = None
) -> dict[str, Tensor]:
    """The mean of the clients' tensors by examples, in double precision; without one of them, of the others alone."""
    counts = [0 if client == left_out else count for client, count in enumerate(CLIENTS.values())]
    parts = {
        name: torch.stack([s[name].double() * count / sum(counts) for s, count in zip(sent, counts, strict=True)]).sum(
            0
        )
        for name in before
    }
    return {name: parts[name].to(before[name].dtype) for name in before}


def without(place: Path, left_out: int | None) -> dict[str, Tensor]:
    """By hand: the global model without a client, from the files of the round."""
    before = load_file(place / "before.safetensors")
    return fused(before, [load_file(place / f"{name}.safetensors") for name in CLIENTS], left_out)


def save(path: Path, tensors: Mapping[str, Tensor]) -> None:
    save_file({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, f"{path}.safetensors")


def point_share(labels: Callable[[Tensor], Tensor]) -> Callable[[int], tuple[dict[str, Tensor], Tensor]]:
    """Shares of points, shifted by client."""

    def share(client: int) -> tuple[dict[str, Tensor], Tensor]:
        inputs = points(30, 100 + client) + 0.5 * torch.eye(6)[client]
        return {"": inputs}, labels(inputs)

    return share


def text_share(client: int) -> tuple[dict[str, Tensor], Tensor]:
    rows = texts(30, 100 + client, client)
    return {"input_ids": rows["input_ids"], "attention_mask": rows["attention_mask"]}, rows["labels"]


def spearman(left: np.ndarray, right: np.ndarray) -> float:
    """Rank correlation, of values without ties."""
    ranks = [values.argsort().argsort() for values in (left, right)]
    return float(np.corrcoef(*ranks)[0, 1])
