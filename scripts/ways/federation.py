"""The federation that `bench_training.py` measures, and what the process that trains it tells the one that measures."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from provfl_cli.config.compose import compose_jobs
from provfl_cli.config.schema import Config, Model
from provfl_cli.config.validate import validated
from provfl_cli.data.federated import FederatedData
from provfl_cli.federation.loss import evaluate
from provfl_cli.garbage import collect_rarely
from provfl_cli.models.build import build

if TYPE_CHECKING:
    from torch import nn

WORKERS = 2
SHARED = Path(__file__).resolve().parents[3] / "shared" / "data" / "mnist"


def from_arguments() -> tuple[str, Path, Config]:
    """The way, the folder for its files, and what is to be trained, from the command line.

    That is the way (`engine=…` and `local` are engines of ours, the others train what the local engine would), a
    folder, and the model's name; numbers of clients, rounds, and epochs.
    """
    collect_rarely()  # as `provfl` does; here for all
    way, folder, model, clients, rounds, epochs = sys.argv[1:]
    engine = way.removeprefix("engine=") if way.startswith("engine=") else "local"
    data = f"dataset.path={SHARED}" if SHARED.is_dir() else "dataset.source=embedded"
    argv = [
        "dataset=mnist", data, "partition=iid", "partition.min_examples_per_label=1",
        "partition.min_examples_per_client=2", f"model={model}", f"federation.clients={clients}",
        f"federation.rounds={rounds}", f"federation.local_epochs={epochs}", "federation.batch_size=32",
        "federation.optimizer=adam", "federation.learning_rate=0.001", f"engine.workers={WORKERS}", f"engine={engine}",
    ]  # fmt: skip
    ((_, made),) = compose_jobs(argv)
    return way, Path(folder), validated(made)


def initial_model(model: Model, data: FederatedData, seed: int) -> nn.Module:
    """The model before the first round."""
    return build(model, data.form, len(data.label_names), seed)


def report(what: str, value: float = 0.0) -> None:
    """Tell the process that measures; nobody else reads this."""
    print(json.dumps([what, value]), flush=True)


def tester(data: FederatedData, rounds: int) -> Callable[[nn.Module, int], float]:
    """What evaluates a global model after a round (0: before the first) on the server's test set, and tells."""

    def tested(model: nn.Module, number: int) -> float:
        test = data.evaluated
        parts = zip(test.inputs.split(256), test.labels.split(256), strict=True)
        accuracy = sum(evaluate(model, *part)[1] for part in parts) / len(test.labels)
        if number:
            report("accuracy", accuracy)
        report("round" if number < rounds else "end")  # what follows is the next round
        return accuracy

    return tested
