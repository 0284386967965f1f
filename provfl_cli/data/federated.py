"""What the data part hands on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor


@dataclass(frozen=True)
class Source:
    """Where the examples came from, for the manifest and the line under every table."""

    name: str
    source: str  # embedded | hub | path
    location: str  # package, hub id and revision, or folder
    train_examples: int
    test_examples: int
    fingerprint: str  # of the content: 16 hexadecimal digits
    note: str  # one sentence for people, such as "embedded subset of 5,000; all 60,000 with dataset.source=hub"


@dataclass(frozen=True)
class ClientData:
    """One client's share, ready for training.

    `inputs` float32 `[n, channels, height, width]`; `labels` int64 `[n]`, what it trains on (after injection);
    `label_counts` int64 `[classes]`, of those labels.
    """

    id: int
    inputs: Tensor
    labels: Tensor
    label_counts: np.ndarray


@dataclass(frozen=True)
class TestData:
    """The server's test set: `inputs` and `labels` as in `ClientData`, `pixels` uint8 `[n, height, width, channels]`.

    `indices` int64 `[n]`: where each example stands in the source's whole test set, before the cap.
    """

    inputs: Tensor
    labels: Tensor
    pixels: np.ndarray
    indices: np.ndarray


@dataclass(frozen=True)
class Faults:
    """What was planted: the faulty clients, and which true label each flips to which (empty: nothing to look for)."""

    clients: tuple[int, ...]
    flips: tuple[tuple[int, int], ...]  # (true label, label trained on)


@dataclass(frozen=True)
class FederatedData:
    """All clients kept, in the order of their numbers, the server's test set, and where it came from."""

    clients: tuple[ClientData, ...]
    dropped: tuple[tuple[int, int], ...]  # (client, examples it had left)
    test: TestData
    label_names: tuple[str, ...]
    source: Source
    faults: Faults
    lines: tuple[str, ...]  # what a user should be told, such as a resize; one sentence each
