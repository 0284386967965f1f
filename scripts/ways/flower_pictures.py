"""Every client's share as Flower's quickstart has it: pictures, decoded whenever they are used."""

from collections.abc import Callable
from typing import Any

from datasets import load_dataset
from flwr_datasets.partitioner import IidPartitioner
from torch import nn
from torchvision.transforms import Compose, Normalize, ToTensor

from provfl_cli.config.schema import Dataset, Model
from provfl_cli.data.federated import Pictures
from provfl_cli.models.build import build
from ways.federation import SHARED


def model(settings: Model, seed: int) -> nn.Module:
    """The model for these pictures."""
    return build(settings, Pictures(1, 28), 10, seed)


def shares(dataset: Dataset, clients: int, seed: int) -> Callable[[int], Any]:
    """The data set of the client at a position, pictures as tensors."""
    prepare = Compose([ToTensor(), Normalize(dataset.mean, dataset.std)])
    partitioner = IidPartitioner(num_partitions=clients)
    files = {"train": str(SHARED / "train.parquet")}
    partitioner.dataset = load_dataset("parquet", data_files=files)["train"].shuffle(seed=seed)

    def prepared(batch: dict[str, Any]) -> dict[str, Any]:
        return {**batch, "image": [prepare(picture) for picture in batch["image"]]}

    return lambda position: partitioner.load_partition(position).with_transform(prepared)
