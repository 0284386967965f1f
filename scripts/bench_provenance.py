#!/usr/bin/env python
"""How fast a trace is, beside what it cannot be faster than and beside the paper's own way, in one run.

    scripts/bench_provenance.py --models lenet resnet18 --clients 10 100 --repeat 5 --json rows.json

For each model and number of clients, a round is stored on disk and three things are timed in turn, medians of
`--repeat`: the *limit* (one batched forward and backward pass of the global model, gradients of the parameters
included, as training would compute them), *ours* (a whole trace of the same inputs, reading the clients from the stored
round, its page cache warm), and *Algorithm 1* written plainly (inputs one by one for gradients, every client's layer
evaluated on every input, as the published artifact does). Memory is the peak of anonymous resident memory above what
the process held before, sampled in a fresh process for each. The *floor* (`floor.py`) is the least work at the rates of
one large product and one large copy, both measured beside each row.

`--count` measures no time: multiply-adds and bytes of the clients that a trace really executes, beside the floor's.
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
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from floor import Executed, copy_rate, executed, floor_work, product_rate
from floor import Work as FloorWork
from torch import Tensor, nn

from provfl_cli.config.schema import Model
from provfl_cli.config.validate import provenance_preset
from provfl_cli.data.federated import Pictures
from provfl_cli.fusion.decomposition import Decomposition
from provfl_cli.fusion.fedavg import FedAvg
from provfl_cli.fusion.fuse import fuse
from provfl_cli.fusion.updates import ReturnedModels
from provfl_cli.imports import later
from provfl_cli.models.build import build
from provfl_cli.provenance import factors
from provfl_cli.provenance.depth import is_counted
from provfl_cli.provenance.settings import Provenance
from provfl_cli.provenance.state_dicts import RoundInMemory
from provfl_cli.provenance.targets import target_value
from provfl_cli.provenance.tracing import trace
from provfl_cli.store.new_round import begin_round, commit_round
from provfl_cli.store.rounds import CLIENTS, Metrics, Round, read_round
from provfl_cli.store.tensorfile import open_tensors, specs_of, write_slot

if TYPE_CHECKING:
    import transformers
else:
    transformers = later("transformers")  # only of the GPT

MODELS = ("lenet", "resnet18", "densenet121", "gpt")
WAYS = ("limit", "ours", "algorithm1")


def model_and_inputs(name: str) -> tuple[nn.Module, dict[str, Tensor]]:
    """The model at random weights, and a batch: 64 images (32 for DenseNet-121), or 16 texts of 64 tokens."""
    torch.manual_seed(0)
    if name == "gpt":
        settings = transformers.OpenAIGPTConfig(num_labels=10, pad_token_id=0)
        model = transformers.OpenAIGPTForSequenceClassification(settings)
        return model.eval(), {"input_ids": torch.randint(1, 40_000, (16, 64))}
    channels, size = (1, 28) if name == "lenet" else (3, 32)
    module = "lenet" if name == "lenet" else "torchvision"
    built = build(Model(f"provfl_cli.models.{module}.{name}", name), Pictures(channels, size), 10, 0)
    return built.eval(), {"": torch.randn(32 if name == "densenet121" else 64, channels, size, size)}


def stored_round(model: nn.Module, clients: int, folder: Path) -> Round:
    """A round of FedAvg on disk of all tensors of a model."""
    previous = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    return noisy_round(previous, frozenset(previous) - {name for name, _ in model.named_parameters()}, clients, folder)


def noisy_round(previous: dict[str, Tensor], buffers: frozenset[str], clients: int, folder: Path) -> Round:
    """A round of FedAvg on disk: each client is the model before with a little noise."""
    specs = specs_of(previous)
    temporary = begin_round(folder, 1, specs, clients)
    for k in range(clients):
        generator = torch.Generator().manual_seed(k)
        noisy = {
            name: tensor + 0.01 * torch.randn(tensor.shape, generator=generator)
            if tensor.is_floating_point()
            else tensor
            for name, tensor in previous.items()
        }
        write_slot(temporary / CLIENTS, noisy, k)
    examples = [100 + k for k in range(clients)]
    returned = ReturnedModels(previous, open_tensors(temporary / CLIENTS), examples, [1] * clients, buffers)
    fused = fuse(FedAvg(), returned, {})
    return commit_round(
        temporary,
        1,
        clients=range(clients),
        examples=examples,
        weights=fused.weights,
        previous=previous,
        state={},
        next_state={},
        decomposition=fused.decomposition,
        buffers=buffers,
        history=[Metrics(1, 0.0, 0.0, 0.0, clients, 0.0)],
    )


def forward(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """Logits."""
    output = model(batch[""]) if "" in batch else model(**batch)
    return output if isinstance(output, Tensor) else output.logits


def limit(model: nn.Module, batch: Mapping[str, Tensor]) -> None:
    """One batched forward and backward pass, gradients of the parameters included."""
    logits = forward(model, batch)
    target_value("centred", logits, logits.argmax(1)).sum().backward()
    model.zero_grad(set_to_none=True)


def layer_calls(model: nn.Module, single: Mapping[str, Tensor]) -> dict[str, tuple[nn.Module, Tensor, Tensor]]:
    """For one input, each counted layer by name, with what it received and the gradient of the logit in its output."""
    calls: dict[str, tuple[nn.Module, Tensor, Tensor]] = {}

    def keep(name: str, module: nn.Module, received: Tensor, output: Tensor) -> Tensor:
        output.retain_grad()
        calls[name] = (module, received.detach(), output)
        return output.clone()

    handles = [
        module.register_forward_hook(lambda m, args, output, name=name: keep(name, m, args[0], output))
        for name, module in model.named_modules()
        if is_counted(module)
    ]
    logits = forward(model, single)
    for handle in handles:
        handle.remove()
    target_value("logit", logits, logits.argmax(1)).sum().backward()
    model.zero_grad(set_to_none=True)
    return {name: (module, z, output.grad) for name, (module, z, output) in calls.items() if output.grad is not None}


def algorithm1(model: nn.Module, batch: Mapping[str, Tensor], clients: list[nn.Module]) -> Tensor:
    """The paper's Algorithm 1: raw contributions `[inputs, clients]`."""
    theirs = [dict(client.named_modules()) for client in clients]
    count = len(next(iter(batch.values())))
    result = torch.zeros(count, len(clients))
    for b in range(count):
        calls = layer_calls(model, {key: value[b : b + 1] for key, value in batch.items()})
        with torch.no_grad():
            for k, modules in enumerate(theirs):
                for depth, (name, (_, z, gradient)) in enumerate(calls.items()):
                    beta = 0.9 ** (len(calls) - 1 - depth)
                    result[b, k] += beta * (modules[name](z) * gradient).sum()
    return result


def client_models(name: str, stored: Round) -> list[nn.Module]:
    """Every client as a model of its own, as the artifact holds them."""
    stack = {key: stored.client_stack()[key] for key in stored.client_stack()}
    models = []
    for k in range(len(stored.clients)):
        model, _ = model_and_inputs(name)
        model.load_state_dict({key: tensor[k] for key, tensor in stack.items()})
        models.append(model.eval())
    return models


def ways(name: str, stored: Round, settings: Provenance, wanted: tuple[str, ...]) -> dict[str, Callable[[], object]]:
    """What is timed, ready to be called."""
    model, batch = model_and_inputs(name)
    inputs = batch.get("", batch)
    calls: dict[str, Callable[[], object]] = {}
    if "limit" in wanted:
        own, _ = model_and_inputs(name)
        own.load_state_dict(dict(stored.weights()))
        calls["limit"] = lambda: limit(own, batch)
    if "ours" in wanted:
        calls["ours"] = lambda: trace(model, inputs, stored, settings)
    if "algorithm1" in wanted:
        clients = client_models(name, stored)
        calls["algorithm1"] = lambda: algorithm1(model, batch, clients)
    return calls


def seconds(calls: Mapping[str, Callable[[], object]], repeat: int) -> dict[str, float]:
    """Medians, all ways in turn; Algorithm 1, which takes a hundred times as long, is run once."""
    lengths: dict[str, list[float]] = {way: [] for way in calls}
    for turn in range(repeat + 1):  # the first turn warms up
        for way, call in calls.items():
            if way == "algorithm1" and turn != 1:
                continue
            began = time.perf_counter()
            call()
            if turn:
                lengths[way].append(time.perf_counter() - began)
    return {way: statistics.median(values) for way, values in lengths.items()}


def anonymous_mb() -> float:
    """Anonymous resident memory of this process, MB (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024


def peak_mb(call: Callable[[], object]) -> float:
    """Peak of anonymous memory while `call` runs, MB, sampled every millisecond."""
    peak, done = [anonymous_mb()], threading.Event()

    def sample() -> None:
        while not done.wait(0.001):
            peak[0] = max(peak[0], anonymous_mb())

    watcher = threading.Thread(target=sample)
    watcher.start()
    call()
    done.set()
    watcher.join()
    return peak[0]


def measured_apart(name: str, folder: Path, way: str, threshold: str) -> float | None:
    """`peak_mb` in a process of its own; None where the system does not tell."""
    if not Path("/proc/self/status").exists():
        return None
    command = [sys.executable, __file__, "--memory", name, str(folder), way, threshold]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def calibrate() -> None:
    """Print the cost of both ways of contracting, in the units of `factors.outputs_are_cheaper`."""
    print("positions  clients  by outputs  by gradient   (nanoseconds per input and weight)")
    for positions, clients in ((1, 10), (1, 50), (1, 100), (4, 10), (4, 50), (16, 10), (16, 50), (64, 10)):
        left, right = torch.randn(64, 256, positions), torch.randn(64, 1, 1152, positions)
        weights = torch.randn(clients, 256, 1152)
        row = []
        for outputs in (True, False):
            cheaper, factors.outputs_are_cheaper = factors.outputs_are_cheaper, lambda *_, way=outputs: way
            factor = factors.Outer(left, right)
            call = lambda: factors.contract(factor, lambda rows, _: weights[:, rows], clients)  # noqa: B023, E731
            row.append(seconds({"contract": call}, 7)["contract"] * 1e9 / (64 * 256 * 1152))
            factors.outputs_are_cheaper = cheaper
        chosen = "outputs" if factors.outputs_are_cheaper(positions, clients) else "gradient"
        print(f"{positions:9d} {clients:8d} {row[0]:11.2f} {row[1]:12.2f}   chosen: {chosen}")


def least_work(model: nn.Module, batch: Mapping[str, Tensor], clients: int) -> FloorWork:
    """The floor of a trace of a round that holds the whole model."""
    count = len(next(iter(batch.values())))
    shared = {name: parameter.nbytes for name, parameter in model.named_parameters()}
    return floor_work(model, lambda: forward(model, batch), count, clients, shared)


def counted(name: str, clients: int, preset: str = "provfl", inputs: int | None = None) -> tuple[Executed, FloorWork]:
    """What a trace executes, once its model is known, and the floor; of the first `inputs` of the batch, None: all.

    The clients are one, which stands there as often as wanted: what is multiplied does not depend on the numbers.
    """
    model, batch = model_and_inputs(name)
    batch = {key: tensor[:inputs] for key, tensor in batch.items()}
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    sent = {key: t + 0.05 * torch.randn(t.shape) if t.is_floating_point() else t.clone() for key, t in before.items()}
    after = {key: tensor.clone() for key, tensor in sent.items()}
    stacked = {key: tensor.expand(clients, *tensor.shape) for key, tensor in sent.items()}
    shares = Decomposition(torch.full((clients,), 1 / clients, dtype=torch.float64))
    source = RoundInMemory(range(clients), shares, after, before, stacked)
    settings = provenance_preset(preset)
    call = lambda: trace(model, batch.get("", batch), source, settings)  # noqa: E731
    call()  # the first one compares the recorder with autograd
    done = executed(call, sent.values())
    return done, least_work(model, batch, clients)


def count(names: Sequence[str], clients: Sequence[int], preset: str) -> list[dict[str, Any]]:
    """Print what traces execute beside the floor, and return it by row."""
    titles = ("model", "clients", "executed, 1e9", "floor, 1e9", "ratio", "read, MB", "used, MB", "ratio")
    form = "{:>12} {:>7} {:>13} {:>10} {:>6} {:>9} {:>9} {:>6}"
    print(form.format(*titles))
    rows = []
    for name in names:
        for number in clients:
            done, least = counted(name, number, preset)
            ratios = done.products / least.products, done.bytes / least.used
            rows.append(
                {"model": name, "clients": number, "ratio": ratios[0], "read_ratio": ratios[1]}
                | {"executed": done.products, "floor": least.products, "read": done.bytes, "used": least.used}
                | {"forward": least.forward, "backward": least.backward, "contraction": least.contraction}
                | {"by_function": dict(done.by_function)}
            )
            gmacs = (f"{work.products / 1e9:.2f}" for work in (done, least))
            megabytes = (f"{size / 1e6:.0f}" for size in (done.bytes, least.used))
            print(form.format(name, number, *gmacs, f"{ratios[0]:.2f}", *megabytes, f"{ratios[1]:.2f}"), flush=True)
    return rows


def measured(name: str, clients: int, wanted: tuple[str, ...], arguments: argparse.Namespace) -> dict[str, Any]:
    """One row: seconds, then memory, of each way."""
    with tempfile.TemporaryDirectory() as folder:
        stored = stored_round(model_and_inputs(name)[0], clients, Path(folder))
        device = torch.device("cpu")
        rates = product_rate(device), copy_rate(device)
        took = seconds(ways(name, stored, provenance_preset(arguments.preset), wanted), arguments.repeat)
        asked = () if "memory" in arguments.skip else wanted
        memory = {way: measured_apart(name, Path(folder), way, arguments.preset) for way in asked}
    row: dict[str, Any] = {"model": name, "clients": clients}
    model, batch = model_and_inputs(name)
    row["inputs"] = len(next(iter(batch.values())))
    row |= {f"{way}_seconds": took.get(way) for way in WAYS}
    work = least_work(model, batch, clients)
    row["floor_seconds"] = work.seconds(*rates, beside=False)
    row |= {"multiply_adds_a_second": rates[0], "copied_bytes_a_second": rates[1], "load": os.getloadavg()[0]}
    row |= {"by_floor": took["ours"] / row["floor_seconds"], "gmacs": work.products / 1e9, "read_mb": work.bytes / 1e6}
    return row | {f"{way}_peak_mb": memory.get(way) for way in WAYS}


def _ratio(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a / b


def line(*cells: object) -> str:
    """Cells of a table row, in columns of the width of its headings."""
    texts = ["–" if cell is None else f"{cell:.3g}" if isinstance(cell, float) else str(cell) for cell in cells]
    widths = (12, 7, 8, 8, 12, 8, 10, 10, 10, 9, 9, 13)
    return " ".join(f"{text:>{width}}" for text, width in zip(texts, widths, strict=True))


def main() -> None:
    """Measure what the arguments ask for, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--clients", nargs="+", type=int, default=[10, 50, 100], help="GPT is measured with 10 only")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--skip", nargs="+", choices=("algorithm1", "memory"), default=[])
    parser.add_argument("--preset", default="provfl", help="a file of conf/provenance/")
    parser.add_argument("--json", type=Path, help="also write the rows there")
    parser.add_argument("--count", action="store_true", help="count what a trace executes beside the floor; no times")
    parser.add_argument("--calibrate", action="store_true", help="print the costs behind the choice of path, and stop")
    parser.add_argument("--memory", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.calibrate:
        return calibrate()
    if arguments.memory:
        name, folder, way, preset = arguments.memory
        call = ways(name, read_round(Path(folder), 1), provenance_preset(preset), (way,))[way]
        return print(peak_mb(call))

    if arguments.count:
        rows = count(arguments.models, arguments.clients, arguments.preset)
        if arguments.json:
            arguments.json.write_text(json.dumps(rows, indent=1) + "\n")
        return None

    machine = platform.processor() or platform.machine()
    load = os.getloadavg()[0]
    print(f"{machine}, {torch.get_num_threads()} threads, torch {torch.__version__}, load {load:.1f}")
    ratios = ("ours/limit", "ours/floor", "alg.1/ours")
    print(line("model", "clients", *(f"{way} s" for way in WAYS), "floor s", *ratios, *(f"{w} MB" for w in WAYS)))
    wanted = tuple(way for way in WAYS if way not in arguments.skip)
    rows = []
    for name in arguments.models:
        for clients in [10] if name == "gpt" else arguments.clients:
            row = measured(name, clients, wanted, arguments)
            rows.append(row)
            times = [row[f"{way}_seconds"] for way in WAYS]
            by = [_ratio(times[1], times[0]), row["by_floor"], _ratio(times[2], times[1])]
            memory = (row[f"{way}_peak_mb"] for way in WAYS)
            print(line(name, clients, *times, row["floor_seconds"], *by, *memory), flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")
    return None


if __name__ == "__main__":
    main()
