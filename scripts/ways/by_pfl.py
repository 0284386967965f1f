"""Trains the federation with pfl-research, in its one process."""

from typing import Any

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
from torch import nn

from provfl_cli.config.schema import Federation
from provfl_cli.data.federated import FederatedData
from provfl_cli.data.load import federated_data
from ways.federation import from_arguments, initial_model, tester


def train(data: FederatedData, model: nn.Module, settings: Federation) -> None:
    """Train the model on all clients' data, and evaluate it after each round."""
    tested = tester(data, settings.rounds)
    cross_entropy = torch.nn.CrossEntropyLoss()

    def loss(inputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return cross_entropy(model.train()(inputs), labels)

    model.loss, model.metrics = loss, lambda *batch: {}

    class Evaluated(TrainingProcessCallback):
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
        callbacks=[Evaluated()],
    )


def main() -> None:
    """Train what the command line says."""
    _, _, config = from_arguments()
    data = federated_data(config)
    train(data, initial_model(config.model, data, config.seed), config.federation)


if __name__ == "__main__":
    main()
