"""The federation that `bench_training.py` measures, trained in several ways; each call is a process of its own."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from provfl_cli.config.compose import compose_jobs, validated
from provfl_cli.config.plain import as_text, from_text
from provfl_cli.config.schema import Config
from provfl_cli.garbage import collect_rarely

WORKERS = 2
SHARED = Path(__file__).resolve().parent.parent.parent / "shared" / "data" / "mnist"
LOADED: dict[str, Any] = {}  # of a worker of Flower: data and model, read once


def configured(engine: str, model: str, clients: int, rounds: int, epochs: int) -> Config:
    """The federation, to be trained with an engine."""
    data = f"dataset.path={SHARED}" if SHARED.is_dir() else "dataset.source=embedded"
    argv = [
        "dataset=mnist", data, "partition=iid", "partition.min_examples_per_label=1",
        "partition.min_examples_per_client=2", f"model={model}", f"federation.clients={clients}",
        f"federation.rounds={rounds}", f"federation.local_epochs={epochs}", "federation.batch_size=32",
        "federation.optimizer=adam", "federation.learning_rate=0.001", f"engine.workers={WORKERS}", f"engine={engine}",
    ]  # fmt: skip
    ((_, cfg),) = compose_jobs(argv)
    return validated(cfg)


def run(way: str, cache: Path, model: str, clients: int, rounds: int, epochs: int) -> None:
    """Train in a way, telling the process that measures when rounds begin and what accuracy they reach."""
    collect_rarely()  # as `provfl` does; here for all
    if way.startswith("engine=") or way == "local":
        return by_engine(configured(way.removeprefix("engine="), model, clients, rounds, epochs), cache)
    config = configured("local", model, clients, rounds, epochs)
    return by_pfl(config) if way == "pfl" else by_flower(config, way)


def report(what: str, value: float = 0.0) -> None:
    """Tell the process that measures; nobody else reads this."""
    print(json.dumps([what, value]), flush=True)


def by_engine(config: Config, cache: Path) -> None:
    """Train with an engine of ours."""
    import torch

    from provfl_cli.federation.events import Event, RoundFinished, RoundStarted
    from provfl_cli.federation.train import federated_rounds

    def observe(event: Event) -> None:
        if isinstance(event, RoundStarted):
            report("round")
        elif isinstance(event, RoundFinished):
            report("accuracy", event.metrics.accuracy)

    data, model = data_and_model(config)
    last = {config.federation.rounds}
    with federated_rounds(config, data, model, cache, last, torch.device("cpu"), observe) as rounds:
        list(rounds)
    report("end")


def by_flower(config: Config, way: str) -> None:
    """Train with Flower alone: FedAvg of its own, and clients that train as those of its quickstart."""
    import torch
    from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
    from flwr.clientapp import ClientApp
    from flwr.serverapp import Grid, ServerApp
    from flwr.serverapp.strategy import FedAvg
    from flwr.simulation import run_simulation

    text, rounds = as_text(config), config.federation.rounds
    client_app, server_app = ClientApp(), ServerApp()

    @client_app.train()
    def train(message: Message, context: Context) -> Message:
        from bench_ways import trained  # by its name: the app goes to the workers by value

        position = int(context.node_config["partition-id"])
        weights, loss, count = trained(text, way, position, message.content["arrays"])
        metrics = MetricRecord({"train_loss": loss, "num-examples": count})
        return Message(RecordDict({"arrays": ArrayRecord(weights), "metrics": metrics}), reply_to=message)

    @server_app.main()
    def main(grid: Grid, context: Context) -> None:
        data, model = data_and_model(config)
        tested = tester(data, rounds)

        def central(number: int, arrays: ArrayRecord) -> MetricRecord:
            model.load_state_dict(arrays.to_torch_state_dict())
            return MetricRecord({"accuracy": tested(model, number)})

        result = FedAvg(fraction_evaluate=0.0).start(
            grid,
            ArrayRecord(model.state_dict()),
            rounds,
            train_config=ConfigRecord({}),
            evaluate_fn=central,
            timeout=3600,
        )
        if len(result.train_metrics_clientapp) < rounds:
            sys.exit("clients failed")

    torch.set_num_threads(1)
    resources = {"client_resources": {"num_cpus": 1, "num_gpus": 0.0}, "init_args": {"num_cpus": WORKERS}}
    run_simulation(server_app, client_app, config.federation.clients, backend_config=resources)


def trained(text: str, way: str, position: int, arrays: Any) -> tuple[dict[str, Any], float, int]:
    """One client's round in a worker of Flower: its tensors, loss and number of examples."""
    import torch
    from torch.utils.data import DataLoader

    if text not in LOADED:
        torch.set_num_threads(1)
        config = from_text(text)
        LOADED[text] = config, *(pictures(config) if way == "flower" else tensors(config))
    config, model, shares = LOADED[text]
    model.load_state_dict(arrays.to_torch_state_dict())
    share, settings = shares(position), config.federation
    loader = DataLoader(share, batch_size=settings.batch_size, shuffle=True)
    criterion = torch.nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=settings.learning_rate)
    model.train()
    total = 0.0
    for _ in range(settings.local_epochs):
        for batch in loader:
            inputs, labels = (batch["image"], batch["label"]) if isinstance(batch, dict) else batch
            optimizer.zero_grad()
            loss = criterion(model(inputs), labels)
            loss.backward()
            optimizer.step()
            total += loss.item()
    return model.state_dict(), total / (settings.local_epochs * len(loader)), len(share)


def tensors(config: Config) -> tuple[Any, Callable[[int], Any]]:
    """The model, and every client's share as tensors in memory."""
    from torch.utils.data import TensorDataset

    data, model = data_and_model(config)
    return model, lambda position: TensorDataset(data.clients[position].inputs, data.clients[position].labels)


def pictures(config: Config) -> tuple[Any, Callable[[int], Any]]:
    """The model, and every client's share as Flower's quickstart has it: pictures, decoded whenever they are used."""
    from datasets import load_dataset
    from flwr_datasets.partitioner import IidPartitioner
    from torchvision.transforms import Compose, Normalize, ToTensor

    from provfl_cli.data.federated import Pictures
    from provfl_cli.models.build import build

    prepare = Compose([ToTensor(), Normalize(config.dataset.mean, config.dataset.std)])
    partitioner = IidPartitioner(num_partitions=config.federation.clients)
    files = {"train": str(SHARED / "train.parquet")}
    partitioner.dataset = load_dataset("parquet", data_files=files)["train"].shuffle(seed=config.seed)

    def prepared(batch: dict[str, Any]) -> dict[str, Any]:
        return {**batch, "image": [prepare(picture) for picture in batch["image"]]}

    model = build(config.model, Pictures(1, 28), 10, config.seed)
    return model, lambda position: partitioner.load_partition(position).with_transform(prepared)


def by_pfl(config: Config) -> None:
    """Train with pfl-research, in its one process."""
    import torch
    from pfl.aggregate.simulate import SimulatedBackend
    from pfl.algorithm.base import NNAlgorithmParams
    from pfl.algorithm.federated_averaging import FederatedAveraging
    from pfl.callback.base import TrainingProcessCallback
    from pfl.data.dataset import Dataset
    from pfl.data.federated_dataset import FederatedDataset
    from pfl.data.sampling import get_user_sampler
    from pfl.hyperparam import NNEvalHyperParams, NNTrainHyperParams
    from pfl.metrics import Metrics
    from pfl.model.pytorch import PyTorchModel

    settings = config.federation
    data, model = data_and_model(config)
    tested = tester(data, settings.rounds)
    cross_entropy = torch.nn.CrossEntropyLoss()

    def loss(inputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return cross_entropy(model.train()(inputs), labels)

    model.loss, model.metrics = loss, lambda *batch: {}

    class Told(TrainingProcessCallback):
        """Evaluates the global model after a round."""

        def after_central_iteration(
            self, aggregate_metrics: Any, model: Any, *, central_iteration: int
        ) -> tuple[bool, Any]:
            """Also tells that the next round begins; pfl counts from 0."""
            tested(model.pytorch_model, central_iteration + 1)
            return False, Metrics()

    shares = {client.id: client for client in data.clients}
    users = FederatedDataset(
        lambda user: Dataset((shares[user].inputs, shares[user].labels), user_id=str(user)),
        get_user_sampler("minimize_reuse", list(shares)),
    )
    central = torch.optim.SGD(model.parameters(), lr=1.0)  # the mean update as it is
    tested(model, 0)
    FederatedAveraging().run(
        algorithm_params=NNAlgorithmParams(settings.rounds, settings.rounds, len(shares), 0),
        backend=SimulatedBackend(training_data=users, val_data=users),
        model=PyTorchModel(model, torch.optim.Adam, central),
        model_train_params=NNTrainHyperParams(
            local_num_epochs=settings.local_epochs,
            local_learning_rate=settings.learning_rate,
            local_batch_size=settings.batch_size,
        ),
        model_eval_params=NNEvalHyperParams(local_batch_size=256),
        callbacks=[Told()],
    )


def data_and_model(config: Config) -> tuple[Any, Any]:
    """The clients' data and the initial model."""
    from provfl_cli.data.load import federated_data
    from provfl_cli.models.build import build

    data = federated_data(config)
    return data, build(config.model, data.form, len(data.label_names), config.seed)


def tester(data: Any, rounds: int) -> Callable[[Any, int], float]:
    """What evaluates a global model after a round (0: before the first) on the server's test set, and tells."""
    from provfl_cli.federation.client import evaluate

    def tested(model: Any, number: int) -> float:
        test = data.evaluated
        parts = zip(test.inputs.split(256), test.labels.split(256), strict=True)
        accuracy = sum(evaluate(model, *part)[1] for part in parts) / len(test.labels)
        if number:
            report("accuracy", accuracy)
        report("round" if number < rounds else "end")  # what follows is the next round
        return accuracy

    return tested


if __name__ == "__main__":
    named, folder, model_name, *numbers = sys.argv[1:]
    run(named, Path(folder), model_name, *map(int, numbers))
