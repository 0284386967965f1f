#!/usr/bin/env python
"""How near retraining is to its arithmetic: many small federations trained again, beside the steps of their clients.

    scripts/bench_retraining.py --count 100
    scripts/bench_retraining.py --clients 1000 --per-round 50 --count 4

The default federation (MNIST, LeNet, Dirichlet 0.3) for some rounds, again with random halves of its clients: all that
retraining does (cache, fusion, evaluation after each round, checksums) beside the training of the same clients alone,
both on as many workers, of which each has a core. The two take turns over groups of federations.

whole     seconds for all federations, from nothing in the cache to the last prediction
steps     seconds for what their clients train, and nothing else
x         how many times longer the whole takes
together  seconds for a step of ten clients in one call (`torch.func.vmap` over their weights), beside ten calls of one
"""

from __future__ import annotations

import argparse
import copy
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version

import numpy as np
import torch
from torch import Tensor, nn

from provfl_cli.config import schema
from provfl_cli.config.compose import compose_jobs
from provfl_cli.config.validate import validated
from provfl_cli.data.federated import FederatedData
from provfl_cli.data.load import federated_data
from provfl_cli.federation.client import train_client
from provfl_cli.federation.forked import forked
from provfl_cli.federation.participation import rosters
from provfl_cli.federation.warm_start import initial_model
from provfl_cli.garbage import collect_rarely
from provfl_cli.processes import available_cores
from provfl_cli.retraining.designs import HALVES, Retraining, halves
from provfl_cli.retraining.predictions import Asked
from provfl_cli.retraining.subset import subset
from provfl_cli.retraining.train import Whole, retrained

GROUP = 10  # federations between two turns
INPUTS = 120  # that each retrained model is asked about
TOGETHER, SIZES, STEPS = 10, (16, 32, 128), 20  # clients in one call; examples in a batch; steps that are timed


def asked_of(config: schema.Config, data: FederatedData) -> Asked:
    """Predictions of the last round."""
    count = min(INPUTS, len(data.test.labels))
    return Asked(config.federation.rounds, data.test.inputs[:count], np.arange(count), data.test.labels[:count].numpy())


def seconds_of_all(whole: Whole, asked: Asked, plan: list[Retraining], workers: int) -> float:
    """What retraining takes."""
    began = time.perf_counter()
    with retrained(whole, [asked], plan, workers) as outcomes:
        for _, outcome in outcomes:
            if outcome.trained != asked.round:
                raise SystemExit(f"a federation was not trained: {outcome.reason or 'it was in the cache'}")
    return time.perf_counter() - began


@contextmanager
def steps_alone(whole: Whole, rounds: int, workers: int) -> Iterator[Callable[[list[Retraining]], float]]:
    """Seconds in which the same workers train what the clients of federations train, each from the initial model."""
    model = copy.deepcopy(whole.models[whole.config.seed])
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    def perform(task: Retraining) -> bool:
        config, data = subset(whole.config, whole.data, task.clients, task.seed, rounds)
        counts = [len(client.labels) for client in data.clients]
        ids = [client.id for client in data.clients]
        for roster in rosters(config.federation, ids, counts, config.seed, rounds):
            for participant in roster.trained:
                model.load_state_dict(start)
                client = data.clients[participant.position]
                train_client(
                    model, client, config.federation, config.fusion, config.seed, roster.number,
                    epochs=participant.epochs,
                )  # fmt: skip
        return True

    with forked(perform, workers, lambda task: "", "") as ask:

        def seconds(plan: list[Retraining]) -> float:
            began = time.perf_counter()
            for _ in ask(plan):
                pass
            return time.perf_counter() - began

        yield seconds


def step_by_step(models: list[nn.Module], inputs: Tensor, labels: Tensor) -> list[tuple[Tensor, ...]]:
    """Gradients of each client's batch, one client after the other."""
    found = []
    for model, batch, truth in zip(models, inputs, labels, strict=True):
        loss = nn.functional.cross_entropy(model(batch), truth)
        found.append(torch.autograd.grad(loss, list(model.parameters())))
    return found


def in_one_call(models: list[nn.Module]) -> Callable[[Tensor, Tensor], dict[str, Tensor]]:
    """Gradients of all clients' batches, `[clients, …]` by parameter."""
    stacked, _ = torch.func.stack_module_state(models)
    weights = {name: tensor.detach() for name, tensor in stacked.items()}

    def loss(one: dict[str, Tensor], batch: Tensor, truth: Tensor) -> Tensor:
        return nn.functional.cross_entropy(torch.func.functional_call(models[0], one, (batch,)), truth)

    every = torch.func.vmap(torch.func.grad(loss))
    return lambda inputs, labels: every(weights, inputs, labels)


def timed(call: Callable[[], object]) -> float:
    """Median seconds of a call."""
    call()
    taken = []
    for _ in range(STEPS):
        began = time.perf_counter()
        call()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def compare_together(model: nn.Module, data: FederatedData) -> None:
    """Print what a step of several clients in one call takes beside one call for each."""
    torch.set_num_threads(1)
    models = [copy.deepcopy(model) for _ in range(TOGETHER)]
    at_once = in_one_call(models)
    for size in SIZES:
        drawn = torch.randint(len(data.test.labels), (TOGETHER, size), generator=torch.Generator().manual_seed(0))
        inputs, labels = data.test.inputs[drawn], data.test.labels[drawn]
        alone, together = step_by_step(models, inputs, labels), at_once(inputs, labels)
        for position, name in enumerate(dict(model.named_parameters())):
            for client, gradients in enumerate(alone):
                torch.testing.assert_close(together[name][client], gradients[position], rtol=1e-3, atol=1e-5)
        each = timed(lambda a=inputs, b=labels: step_by_step(models, a, b))  # type: ignore[misc]
        one = timed(lambda a=inputs, b=labels: at_once(a, b))  # type: ignore[misc]
        print(
            f"batches of {size:>3}: {TOGETHER} calls {each * 1e3:6.1f} ms, one {one * 1e3:6.1f} ms, x {one / each:.2f}"
        )


def main() -> None:
    """Measure what the arguments ask for, and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=10)
    parser.add_argument("--per-round", type=int, help="default: all")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--count", type=int, default=20, help="federations")
    parser.add_argument("--workers", type=int, default=available_cores())
    arguments = parser.parse_args()
    collect_rarely()
    with tempfile.TemporaryDirectory() as cache:
        small = ["partition.min_examples_per_label=1", "partition.min_examples_per_client=2"]
        argv = [
            f"federation.clients={arguments.clients}", f"federation.rounds={arguments.rounds}", f"store.cache={cache}",
            f"federation.clients_per_round={arguments.per_round or 'null'}", *(small if arguments.clients > 50 else []),
        ]  # fmt: skip
        config = validated(compose_jobs(argv)[0][1])
        data = federated_data(config)
        model = initial_model(config, data)
        print(f"torch {version('torch')}, {arguments.workers} workers, load {os.getloadavg()[0]:.1f}", flush=True)
        whole = Whole(config, data, {config.seed: model}, torch.device("cpu"))
        chosen = halves([client.id for client in data.clients], arguments.count, config.seed)
        plan = [Retraining(HALVES, clients, config.seed) for clients in chosen]
        every, steps, ratios = 0.0, 0.0, list[float]()
        with steps_alone(whole, arguments.rounds, arguments.workers) as alone:
            for first in range(0, len(plan), GROUP):
                group = plan[first : first + GROUP]
                a, b = seconds_of_all(whole, asked_of(config, data), group, arguments.workers), alone(group)
                every, steps, ratios = every + a, steps + b, [*ratios, a / b]
        print(
            f"{len(plan)} federations of {len(chosen[0])} clients, {arguments.rounds} rounds: whole {every:.1f} s, "
            f"steps {steps:.1f} s, x {every / steps:.2f} (by group {min(ratios):.2f} to {max(ratios):.2f})"
        )
    compare_together(model, data)


if __name__ == "__main__":
    main()
