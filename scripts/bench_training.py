#!/usr/bin/env python
"""How fast a federation trains: the local engine beside Flower's own simulation, in one run.

    scripts/bench_training.py --clients 10 100 --rounds 5 --json rows.json

The same federation in three ways, each in fresh processes: `local` (engine=local), `flower` (a plain Flower app as its
users write it: FedAvg of flwr, clients that train on their share, the simulation on Ray) and `engine=flower` (ours,
through that simulation). All train with the same function, so that what differs is how clients are run. LeNet, 8,000
MNIST images dealt evenly (those of ../shared/data/mnist; embedded are 4,000), 2 local epochs, batches of 32, Adam.

start-up   seconds until the first round begins: data, imports, processes
a round    median of the rounds but the first
total      seconds from the first line to the end of the last round
peak       MB of anonymous resident memory, summed over the process and all that it has started, sampled
once       the same where pages that forked processes share count once: what the machine must have
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

from provfl_cli.config.compose import compose_jobs, validated
from provfl_cli.config.plain import as_text, from_text
from provfl_cli.config.schema import Config
from provfl_cli.federation.flower_server import ALONE, QUIET

WAYS = ("local", "flower", "engine=flower")
WORKERS = 2
FIGURES = (
    "startup_seconds", "first_round_seconds", "round_seconds", "total_seconds", "peak_mb", "peak_once_mb", "accuracy",
)  # fmt: skip
HERE = Path(__file__).resolve().parent.parent
SHARED = HERE.parent / "shared" / "data" / "mnist"
SAMPLE = 0.2  # seconds between two looks at the memory


def configured(way: str, clients: int, rounds: int, epochs: int) -> Config:
    """The federation, to be trained in a way."""
    data = f"dataset.path={SHARED}" if SHARED.is_dir() else "dataset.source=embedded"
    argv = [
        "dataset=mnist", data, "partition=iid", "model=lenet", f"federation.clients={clients}",
        f"federation.rounds={rounds}", f"federation.local_epochs={epochs}", "federation.batch_size=32",
        "federation.optimizer=adam", "federation.learning_rate=0.001", f"engine.workers={WORKERS}",
        f"engine={'flower' if way == 'engine=flower' else 'local'}",
    ]  # fmt: skip
    ((_, cfg),) = compose_jobs(argv)
    return validated(cfg)


def report(what: str, value: float = 0.0) -> None:
    """Tell the process that measures; nobody else reads this."""
    print(json.dumps([what, value]), flush=True)


def by_engine(config: Config, cache: Path) -> None:
    """Train with an engine of ours."""
    import torch

    from provfl_cli.data.load import federated_data
    from provfl_cli.federation.events import Event, RoundFinished, RoundStarted
    from provfl_cli.federation.train import federated_rounds
    from provfl_cli.models.build import build

    def observe(event: Event) -> None:
        if isinstance(event, RoundStarted):
            report("round")
        elif isinstance(event, RoundFinished):
            report("accuracy", event.metrics.accuracy)

    data = federated_data(config)
    model = build(config.model, data.form, len(data.label_names), config.seed)
    last = {config.federation.rounds}
    with federated_rounds(config, data, model, cache, last, torch.device("cpu"), observe) as rounds:
        list(rounds)
    report("end")


def by_flower(config: Config) -> None:
    """Train with Flower alone: a strategy of its own, and clients that keep to its quickstart."""
    import torch
    from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
    from flwr.clientapp import ClientApp
    from flwr.serverapp import Grid, ServerApp
    from flwr.serverapp.strategy import FedAvg
    from flwr.simulation import run_simulation

    from provfl_cli.data.load import federated_data
    from provfl_cli.federation.client import evaluate
    from provfl_cli.models.build import build

    text, rounds = as_text(config), config.federation.rounds
    client_app, server_app = ClientApp(), ServerApp()

    @client_app.train()
    def train(message: Message, context: Context) -> Message:
        from bench_training import trained

        position = int(context.node_config["partition-id"])
        number = int(message.content["config"]["server-round"])
        weights, loss, count = trained(text, position, number, message.content["arrays"].to_torch_state_dict())
        metrics = MetricRecord({"train_loss": loss, "num-examples": count})
        return Message(RecordDict({"arrays": ArrayRecord(weights), "metrics": metrics}), reply_to=message)

    @server_app.main()
    def main(grid: Grid, context: Context) -> None:
        data = federated_data(config)
        model = build(config.model, data.form, len(data.label_names), config.seed)
        initial = ArrayRecord(model.state_dict())

        def central(number: int, arrays: ArrayRecord) -> MetricRecord:
            model.load_state_dict(arrays.to_torch_state_dict())
            test = data.evaluated
            right = sum(
                evaluate(model, *part)[1] for part in zip(test.inputs.split(256), test.labels.split(256), strict=True)
            )
            report("accuracy" if number else "begun", right / len(test.labels))
            report("round" if number < rounds else "end")  # what follows is the next round
            return MetricRecord({"accuracy": right / len(test.labels)})

        FedAvg(fraction_evaluate=0.0).start(
            grid, initial, rounds, train_config=ConfigRecord({}), evaluate_fn=central, timeout=3600
        )

    torch.set_num_threads(1)
    resources = {"client_resources": {"num_cpus": 1, "num_gpus": 0.0}, "init_args": {"num_cpus": WORKERS}}
    run_simulation(server_app, client_app, config.federation.clients, backend_config=resources)


LOADED: dict[str, Any] = {}  # of a worker: data and model, read once


def trained(text: str, position: int, number: int, weights: Mapping[str, Any]) -> tuple[dict[str, Any], float, int]:
    """One client's round in a worker of Flower: its tensors, loss and number of examples."""
    import torch

    from provfl_cli.data.load import federated_data
    from provfl_cli.federation.client import train_client
    from provfl_cli.models.build import build

    if text not in LOADED:
        torch.set_num_threads(1)
        config = from_text(text)
        data = federated_data(config)
        LOADED[text] = config, data, build(config.model, data.form, len(data.label_names), config.seed)
    config, data, model = LOADED[text]
    model.load_state_dict(weights)
    client = data.clients[position]
    loss = train_client(model, client, config.federation, config.fusion, config.seed, number)
    return model.state_dict(), loss, len(client.labels)


def family(pid: int) -> Iterator[int]:
    """A process and all that it has started, directly or not."""
    yield pid
    with suppress(OSError):
        for path in Path(f"/proc/{pid}/task").glob("*/children"):
            for child in path.read_text().split():
                yield from family(int(child))


def anonymous_mb(pid: int) -> tuple[float, float]:
    """Anonymous memory of a process and its family, MB (Linux): resident; and with shared pages counted once."""
    resident = proportional = 0
    for member in family(pid):
        with suppress(OSError, StopIteration):
            resident += _kilobytes(Path(f"/proc/{member}/status"), "RssAnon")
            proportional += _kilobytes(Path(f"/proc/{member}/smaps_rollup"), "Pss_Anon")
    return resident / 1024, proportional / 1024


def _kilobytes(path: Path, name: str) -> int:
    return next(int(line.split()[1]) for line in path.read_text().splitlines() if line.startswith(name))


def measured(way: str, clients: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """One row: a federation trained in a way, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder, (Path(folder) / "log").open("w+") as log:
        began = time.perf_counter()
        command = [sys.executable, __file__, "--run", way, str(clients), folder]
        command += ["--rounds", str(arguments.rounds), "--epochs", str(arguments.epochs)]
        alone = {**os.environ, **QUIET, **ALONE}
        started = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=alone)
        peak = [0.0, 0.0]

        def sample() -> None:
            while started.poll() is None:
                peak[:] = map(max, peak, anonymous_mb(started.pid))
                time.sleep(SAMPLE)

        watcher = threading.Thread(target=sample)
        watcher.start()
        moments, accuracy = [], float("nan")
        assert started.stdout is not None
        for line in started.stdout:
            with suppress(ValueError):
                what, value = json.loads(line)
                if what in ("round", "end"):
                    moments.append(time.perf_counter() - began)
                accuracy = value if what == "accuracy" else accuracy
        watcher.join()
        if started.wait() or len(moments) != arguments.rounds + 1:
            log.seek(0)
            sys.exit(f"{way}, {clients} clients: it ended early\n{log.read()[-3000:]}")
    lengths = [after - before for before, after in pairwise(moments)]
    return {
        "way": way,
        "clients": clients,
        "rounds": arguments.rounds,
        "startup_seconds": moments[0],
        "first_round_seconds": lengths[0],
        "round_seconds": statistics.median(lengths[1:] or lengths),
        "total_seconds": moments[-1],
        "peak_mb": peak[0] or None,
        "peak_once_mb": peak[1] or None,
        "accuracy": accuracy,
    }


def line(*cells: object) -> str:
    """Cells of a table row, in columns of the width of its headings."""
    widths = (14, 8, 10, 13, 10, 8, 8, 8, 9)
    return " ".join(f"{spelled(cell):>{width}}" for cell, width in zip(cells, widths, strict=True))


def spelled(cell: object) -> str:
    """A figure in three digits, more only in front of the point."""
    if not isinstance(cell, float):
        return "–" if cell is None else str(cell)
    return f"{cell:,.0f}" if cell >= 100 else f"{cell:.3g}"


def main() -> None:
    """Measure what the arguments ask for, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--clients", nargs="+", type=int, default=[10, 100])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=2, help="passes of a client over its data in a round")
    parser.add_argument("--quick", action="store_true", help="4 clients, 2 rounds, 1 epoch: only to see that it works")
    parser.add_argument("--json", type=Path, help="also write the rows there")
    parser.add_argument("--run", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run:
        way, clients, folder = arguments.run
        config = configured(way, int(clients), arguments.rounds, arguments.epochs)
        return by_flower(config) if way == "flower" else by_engine(config, Path(folder))
    if arguments.quick:
        arguments.clients, arguments.rounds, arguments.epochs = [4], 2, 1

    import torch

    images = "8,000" if SHARED.is_dir() else "4,000 (embedded)"
    print(
        f"{platform.processor() or platform.machine()}, {WORKERS} workers, torch {torch.__version__}, {images} images"
    )
    print(line("", "clients", "start-up s", "first round s", "a round s", "total s", "peak MB", "once MB", "accuracy"))
    rows = []
    for clients in arguments.clients:
        for way in arguments.ways:
            row = measured(way, clients, arguments)
            rows.append(row)
            print(line(way, clients, *(row[name] for name in FIGURES)), flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")
    return None


if __name__ == "__main__":
    main()
