"""Flower apps in this process, for tests: a grid of clients, what they answer, and a model that learns."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import flwr
import numpy as np
import torch
from flwr.app import Array, ArrayRecord, Error, Message, MetricRecord, RecordDict
from flwr.serverapp import strategy as flower
from torch import nn

from provfl_cli.store.rounds import Round

SHAPES = {"w": (5, 7), "kernel": (2, 3, 2, 2), "b": (9,), "temperature": (), "norm.running_mean": (3,)}


PARAMETERS = ["w", "kernel", "b", "temperature"]


quiet = {"fraction_evaluate": 0.0}


Answer = Callable[[int, int, dict[str, np.ndarray]], RecordDict | Error]


class Clients:
    """A grid of so many clients in this process, with node ids that say nothing."""

    def __init__(self, count: int, answer: Answer) -> None:
        self.nodes = [2**60 + 7919 * (count - index) for index in range(count)]
        self.answer = answer
        self.round = 0

    def get_node_ids(self) -> list[int]:
        return self.nodes

    def send_and_receive(self, messages: Any, *, timeout: float | None = None) -> list[Message]:
        replies = []
        messages = list(messages)
        self.round += any(message.metadata.message_type == "train" for message in messages)
        for number, message in enumerate(messages):
            message.metadata.__dict__["_message_id"] = f"{self.round}/{number}"
            index = self.nodes.index(message.metadata.dst_node_id)
            arrays = {name: array.numpy() for name, array in message.content["arrays"].items()}
            answer = self.answer(index, self.round, arrays)
            if answer is not None:
                replies.append(Message(answer, reply_to=message))
                if isinstance(answer, Error):  # of nodes that are gone the superlink, node 1, says so
                    replies[-1].metadata.__dict__["_src_node_id"] = 1
        return replies


def reply(arrays: dict[str, np.ndarray], **metrics: float) -> RecordDict:
    arrays = {name: Array(np.asarray(value)) for name, value in arrays.items()}
    return RecordDict({"arrays": ArrayRecord(arrays), "metrics": MetricRecord(metrics)})


def trained(index: int, number: int, arrays: dict[str, np.ndarray]) -> RecordDict:
    """A client's work: the same for the same client, round and model."""
    draw = np.random.default_rng([index, number])
    moved = {
        name: (value + draw.normal(size=value.shape) * 0.02 * (1 + index)).astype(np.float32)
        for name, value in arrays.items()
    }
    return reply(moved, **{"num-examples": 10 + 7 * (index % 4), "partition-id": index, "train_loss": 0.5 + index})


def initial() -> ArrayRecord:
    draw = np.random.default_rng(0)
    return ArrayRecord(
        {name: Array(np.asarray(draw.normal(size=shape), dtype=np.float32)) for name, shape in SHAPES.items()}
    )


def run(strategy: Any, answer: Answer = trained, clients: int = 11, rounds: int = 4, **settings: Any) -> Any:
    random.seed(3)  # whom Flower asks first
    np.random.seed(3)  # Flower's noise
    return strategy.start(Clients(clients, answer), initial(), num_rounds=rounds, **settings)


def restated(stored: Any) -> dict[str, np.ndarray]:
    """`W_prev + U + sum_k A_k o (W_k - V_k)`, written out."""
    decomposition, previous, stack = stored.decomposition, stored.previous(), stored.client_stack()
    result = {}
    for name in previous:
        if name in stored.buffers:
            continue
        whole = previous[name].double()
        multiplier = decomposition.multipliers.get(name)
        for k, share in enumerate(decomposition.example_weights.tolist()):
            factor = 1.0
            if multiplier is not None:
                factor = multiplier.rows(slice(None), tuple(previous[name].shape))[k]
                factor = factor.reshape(previous[name].shape if factor.numel() > 1 else ())
            base = stored.bases().get(k, previous)[name]
            whole = whole + share * factor * (stack[name][k].double() - base.double())
        result[name] = (whole + sum(parts[name].double() for parts in decomposition.unsent.values())).numpy()
    return result


class ByTrust(flower.Strategy):
    """A strategy of somebody's own, with a loop of its own, that pops what it averages."""

    def configure_train(self, server_round: int, arrays: Any, config: Any, grid: Any) -> Any:
        content = RecordDict({"arrays": arrays, "config": config})
        return (Message(content, message_type="train", dst_node_id=node) for node in grid.get_node_ids())

    def aggregate_train(self, server_round: int, replies: Any) -> Any:
        replies = list(replies)
        trust = [reply.content["metrics"]["trust"] for reply in replies]
        sums: dict[str, Any] = {}
        for reply_, weight in zip(replies, trust, strict=True):
            arrays = reply_.content["arrays"]
            for name in list(arrays):
                sums[name] = sums.get(name, 0) + arrays.pop(name).numpy() * weight / sum(trust)
        return ArrayRecord({name: Array(np.asarray(value)) for name, value in sums.items()}), None

    def configure_evaluate(self, *_: Any) -> Any:
        return []

    def aggregate_evaluate(self, *_: Any) -> None:
        return None

    def summary(self) -> None:
        pass

    def start(self, grid: Any, initial_arrays: Any, num_rounds: int = 3, *_: Any, **__: Any) -> Any:
        arrays = initial_arrays
        for number in range(6, 6 + num_rounds):
            messages = self.configure_train(number, arrays, flwr.app.ConfigRecord(), grid)
            arrays, _ = self.aggregate_train(number, grid.send_and_receive(messages))
        return arrays


def trusted(index: int, number: int, arrays: dict[str, np.ndarray]) -> RecordDict:
    return reply(
        {name: value + np.float32(index + 1) / 8 for name, value in arrays.items()},
        **{"trust": 0.25 * (index + 1), "num-examples": 40},
    )


class Net(nn.Module):
    """Two layers on ten numbers, three classes."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(10, 16)
        self.head = nn.Linear(16, 3)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.body(inputs)))


def examples(index: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A client's examples, most of them of one class; client -1 is the server."""
    draw = torch.Generator().manual_seed(100 + index)
    count = 60 + 8 * max(index, 0)
    labels = torch.randint(3, (count,), generator=draw)
    if index >= 0:
        labels[: int(0.7 * count)] = index % 3
    centres = torch.randn(3, 10, generator=torch.Generator().manual_seed(5))
    return centres[labels] + 0.7 * torch.randn(count, 10, generator=draw), labels


def learnt(index: int, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A client's model after ten steps."""
    net = Net()
    net.load_state_dict({name: value.float() for name, value in state.items()})
    inputs, labels = examples(index)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    for _ in range(10):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(inputs), labels).backward()
        optimizer.step()
    return net.state_dict()


def effects(stored: Round, inputs: torch.Tensor, target: torch.Tensor, model: nn.Module) -> torch.Tensor:
    """What each client's update did to the log-probability of the target, `[inputs, clients]`: the difference to the
    model that the round would have made had that client returned what it was sent."""

    def answer(weights: dict[str, torch.Tensor]) -> torch.Tensor:
        whole = {name: value.double() for name, value in model.state_dict().items()}
        net = model.double()
        net.load_state_dict({**whole, **weights})
        with torch.no_grad():
            return nn.functional.log_softmax(net(inputs.double()), 1).gather(1, target[:, None])[:, 0]

    whole = {name: value.double() for name, value in stored.weights().items()}
    parts, columns = stored.decomposition, []
    for k, share in enumerate(parts.example_weights):
        without = {}
        for name, value in whole.items():
            multiplier = parts.multipliers.get(name)
            scalar = 1.0 if multiplier is None else multiplier.scalars[k]
            update = stored.client_stack()[name][k].double() - stored.previous()[name].double()
            without[name] = value - share * scalar * update
        columns.append(answer(whole) - answer(without))
    return torch.stack(columns, 1)
