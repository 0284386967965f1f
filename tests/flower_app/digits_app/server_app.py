"""What the server does: federated averaging, evaluated on its own pictures after every round."""

import torch
from flwr.app import ArrayRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from digits_app.task import Net, test
from provfl_cli.flower import ProvenanceStrategy  # ProvFL

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Train for as many rounds as the run's configuration says."""
    config = context.run_config
    torch.manual_seed(0)
    strategy = FedAvg(fraction_evaluate=0.0, min_train_nodes=1)
    strategy = ProvenanceStrategy(  # ProvFL
        strategy,  # ProvFL
        str(config["folder"]),  # ProvFL
        names="partition-id",  # ProvFL
        parameters=Net(),  # ProvFL
        labels=[str(digit) for digit in range(10)],  # ProvFL
    )  # ProvFL
    strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord(Net().state_dict()),
        num_rounds=int(config["num-server-rounds"]),
        timeout=float(config["seconds-a-round"]),
        evaluate_fn=evaluate,
    )


def evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord:
    """Loss and accuracy of the global model."""
    net = Net()
    net.load_state_dict(arrays.to_torch_state_dict())
    loss, accuracy = test(net)
    return MetricRecord({"loss": loss, "accuracy": accuracy})
