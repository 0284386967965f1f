"""What one process needs to train clients and to evaluate: its own copy of the model, and views of everything else."""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ..config import schema
from ..data.federated import FederatedData, Texts
from ..errors import RunError
from ..fusion.fuse import Fusion
from ..store.tensorfile import Specs, write_slot
from .client import evaluate, train_client

CHUNK = 256  # test examples evaluated together; fixed, since a sum depends on how it is grouped
ALIGNMENT = 64


@dataclass(frozen=True)
class TrainTask:
    """Train the client at `position` and write its model into `slot` of the stacked tensors in `file`."""

    round: int
    position: int
    file: str
    slot: int


@dataclass(frozen=True)
class EvaluateTask:
    """Evaluate the global model on chunk number `chunk` of the server's test set."""

    chunk: int


Task = TrainTask | EvaluateTask


@dataclass(frozen=True)
class Site:
    """A model to work with, the data, the settings, and the global weights as the server published them last."""

    model: nn.Module
    data: FederatedData
    settings: schema.Federation
    fusion: Fusion
    seed: int
    published: Mapping[str, Tensor]

    def perform(self, task: Task) -> tuple[float, ...]:
        """Do a task: `(mean training loss,)` of a client, or `(summed loss, correct)` of a chunk.

        Raises:
            RunError: where it fails, naming client and round.
        """
        self.model.load_state_dict(self.published)
        if isinstance(task, EvaluateTask):
            part = slice(task.chunk * CHUNK, (task.chunk + 1) * CHUNK)
            # Cloned, so that torch's own allocation decides the alignment, on which the last digit may depend.
            return evaluate(self.model, self.data.test.inputs[part].clone(), self.data.test.labels[part])
        client = self.data.clients[task.position]
        try:
            padding = self.data.form.padding if isinstance(self.data.form, Texts) else None
            loss = train_client(self.model, client, self.settings, self.fusion, self.seed, task.round, padding)
            write_slot(Path(task.file), self.model.state_dict(), task.slot)
        except RunError:
            raise
        except Exception as error:
            raise RunError(
                f"client {client.id} failed in round {task.round}: {type(error).__name__}: {error}"
            ) from error
        return (loss,)


def shared_tensors(specs: Specs) -> dict[str, Tensor]:
    """Zeros of these types and shapes in memory that forked processes share (anonymous: nothing in /dev/shm)."""
    offsets: dict[str, int] = {}
    size = 0
    for name, (dtype, shape) in specs.items():
        offsets[name] = size
        size += -(-dtype.itemsize * torch.Size(shape).numel() // ALIGNMENT) * ALIGNMENT
    memory = mmap.mmap(-1, max(size, 1))
    tensors = {}
    for name, (dtype, shape) in specs.items():
        count = torch.Size(shape).numel()
        flat = torch.frombuffer(memory, dtype=dtype, count=count, offset=offsets[name]) if count else torch.empty(0)
        tensors[name] = flat.to(dtype).view(shape)
    return tensors
