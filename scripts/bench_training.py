#!/usr/bin/env python
"""How fast a federation trains: the local engine beside Flower's own simulation, in one run.

    scripts/bench_training.py --clients 10 100 --rounds 5 --json rows.json

The same federation, each way in fresh processes; left out is what is not installed:

local            engine=local
flower           a Flower app as its quickstart has it, in its simulation on Ray: FedAvg of flwr; clients with pictures
                 of a dataset, decoded whenever they are used, a DataLoader and torch.optim.Adam
flower-tensors   the same with every client's share as tensors in memory
engine=flower    engine=flower: our clients' training and files through Flower's simulation
pfl              pfl-research, in its one process, with tensors in memory (pip install 'pfl[pytorch]')

MNIST, 8,000 images dealt evenly (those of ../shared/data/mnist; without it the embedded 4,000, and no `flower`), 2
local epochs, batches of 32, Adam; 2 workers of one thread each.

start-up   seconds until the first round begins: data, imports, processes
a round    median of the rounds but the first
total      seconds of the whole command, its processes ended
peak       MB of anonymous resident memory, summed over the process and all that it has started, sampled
once       the same where pages that forked processes share count once: what the machine must have
x          how many times longer than the local engine: total, and a round
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
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import version
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

from ways.federation import SHARED, WORKERS

from provfl_cli.federation.flower.server import ALONE, QUIET

HERE = Path(__file__).resolve().parent
WAYS = {  # a module of `ways/`, and the package that it needs
    "local": ("by_engine", "torch"),
    "flower": ("by_flower", "flwr"),
    "flower-tensors": ("by_flower", "flwr"),
    "engine=flower": ("by_engine", "flwr"),
    "pfl": ("by_pfl", "pfl"),
}
FIGURES = (
    "startup_seconds", "first_round_seconds", "round_seconds", "total_seconds", "peak_mb", "peak_once_mb", "accuracy",
)  # fmt: skip
SAMPLE = 0.2  # seconds between two looks at the memory


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
        settings = [arguments.model, str(clients), str(arguments.rounds), str(arguments.epochs)]
        command = [sys.executable, "-m", f"ways.{WAYS[way][0]}", way, folder, *settings]
        found = os.pathsep.join(filter(None, [str(HERE), str(HERE.parent), os.environ.get("PYTHONPATH")]))
        alone = {**os.environ, **QUIET, **ALONE, "HF_DATASETS_CACHE": folder, "PYTHONPATH": found}
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
        status, ended = started.wait(), time.perf_counter() - began
        watcher.join()
        if status or len(moments) != arguments.rounds + 1:
            log.seek(0)
            sys.exit(f"{way}, {clients} clients: it ended early\n{log.read()[-3000:]}")
    lengths = [after - before for before, after in pairwise(moments)]
    return {
        "way": way,
        "model": arguments.model,
        "clients": clients,
        "rounds": arguments.rounds,
        "startup_seconds": moments[0],
        "first_round_seconds": lengths[0],
        "round_seconds": statistics.median(lengths[1:] or lengths),
        "total_seconds": ended,
        "peak_mb": peak[0] or None,
        "peak_once_mb": peak[1] or None,
        "accuracy": accuracy,
    }


def installed() -> list[str]:
    """The ways that there is all for."""
    return [way for way, (_, needed) in WAYS.items() if find_spec(needed) and (way != "flower" or SHARED.is_dir())]


def line(*cells: object) -> str:
    """Cells of a table row, in columns of the width of its headings."""
    widths = (15, 8, 10, 13, 10, 8, 8, 8, 9, 8, 8)
    return " ".join(f"{spelled(cell):>{width}}" for cell, width in zip(cells, widths, strict=True))


def spelled(cell: object) -> str:
    """A figure in three digits, more only in front of the point."""
    if not isinstance(cell, float):
        return "–" if cell is None else str(cell)
    return f"{cell:,.0f}" if cell >= 100 else f"{cell:.3g}"


def ratios(row: dict[str, Any], rows: list[dict[str, Any]]) -> list[float | None]:
    """How many times longer than the local engine a way took with as many clients: in total, and a round."""
    local = [
        measurement
        for measurement in rows
        if measurement["way"] == "local" and measurement["clients"] == row["clients"]
    ]
    return [row[name] / local[0][name] if local else None for name in ("total_seconds", "round_seconds")]


def main() -> None:
    """Measure what the arguments ask for, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ways", nargs="+", choices=WAYS, help="default: all that are installed")
    parser.add_argument("--model", choices=("lenet", "resnet18"), default="lenet")
    parser.add_argument("--clients", nargs="+", type=int, default=[10, 100])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=2, help="passes of a client over its data in a round")
    parser.add_argument("--quick", action="store_true", help="4 clients, 2 rounds, 1 epoch: only to see that it works")
    parser.add_argument("--json", type=Path, help="also write the rows there")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.clients, arguments.rounds, arguments.epochs = [4], 2, 1

    images = "8,000" if SHARED.is_dir() else "4,000 (embedded)"
    print(
        f"{platform.processor() or platform.machine()}, {WORKERS} workers, torch {version('torch')}, "
        f"{arguments.model}, {images} images"
    )
    headings = ("start-up s", "first round s", "a round s", "total s", "peak MB", "once MB", "accuracy")
    print(line("", "clients", *headings, "x total", "x round"))
    rows: list[dict[str, Any]] = []
    for clients in arguments.clients:
        for way in arguments.ways or installed():
            rows.append(measured(way, clients, arguments))
            figures = [rows[-1][name] for name in FIGURES]
            print(line(way, clients, *figures, *ratios(rows[-1], rows)), flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
