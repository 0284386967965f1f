"""Trains the federation with an engine of ours, files and all."""

import torch

from provfl_cli.data.load import federated_data
from provfl_cli.federation.events import Event, RoundFinished, RoundStarted
from provfl_cli.federation.train import federated_rounds
from ways.federation import from_arguments, initial_model, report


def observe(event: Event) -> None:
    """Tell when rounds begin, and what accuracy they reach."""
    if isinstance(event, RoundStarted):
        report("round")
    elif isinstance(event, RoundFinished):
        report("accuracy", event.metrics.accuracy)


def main() -> None:
    """Train what the command line says."""
    _, cache, config = from_arguments()
    data = federated_data(config)
    model = initial_model(config.model, data, config.seed)
    last = {config.federation.rounds}
    with federated_rounds(config, data, model, cache, last, torch.device("cpu"), observe) as rounds:
        list(rounds)
    report("end")


if __name__ == "__main__":
    main()
