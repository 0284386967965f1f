"""Trains the federation with Flower alone: FedAvg of its own, and clients that train as those of its quickstart."""

import sys

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from torch import nn

from provfl_cli.config.plain import as_text
from provfl_cli.data.federated import FederatedData
from provfl_cli.data.load import federated_data
from ways.federation import WORKERS, from_arguments, initial_model, tester
from ways.flower_clients import trained


def client_app(text: str, way: str) -> ClientApp:
    """Clients that train in a way what the configuration in `text` says."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        position = int(context.node_config["partition-id"])
        weights, loss, count = trained(text, way, position, message.content["arrays"])
        metrics = MetricRecord({"train_loss": loss, "num-examples": count})
        return Message(RecordDict({"arrays": ArrayRecord(weights), "metrics": metrics}), reply_to=message)

    return app


def server_app(data: FederatedData, model: nn.Module, rounds: int) -> ServerApp:
    """A server that evaluates the global model after each round."""
    app = ServerApp()
    tested = tester(data, rounds)

    def central(number: int, arrays: ArrayRecord) -> MetricRecord:
        model.load_state_dict(arrays.to_torch_state_dict())
        return MetricRecord({"accuracy": tested(model, number)})

    @app.main()
    def main(grid: Grid, context: Context) -> None:
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

    return app


def main() -> None:
    """Train what the command line says."""
    way, _, config = from_arguments()
    torch.set_num_threads(1)
    data = federated_data(config)
    server = server_app(data, initial_model(config.model, data, config.seed), config.federation.rounds)
    resources = {"client_resources": {"num_cpus": 1, "num_gpus": 0.0}, "init_args": {"num_cpus": WORKERS}}
    clients = client_app(as_text(config), way)
    run_simulation(server, clients, config.federation.clients, backend_config=resources)


if __name__ == "__main__":
    main()
