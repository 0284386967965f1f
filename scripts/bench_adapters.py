#!/usr/bin/env python
"""What a trace of adapters costs beside one forward and backward pass that trains them, in one run.

    scripts/bench_adapters.py --targets q_proj v_proj --clients 10 --repeat 7

A LLaMA of 100 million parameters at random weights gets LoRA adapters of PEFT, a round of them is stored on disk, and
three things are timed in turn, medians of `--repeat`: the *pass* (one batched forward and backward pass, gradients of
the adapters alone, as training would compute them), the *trace* of the same inputs, and the *first trace* of a model,
which also compares the recorder with autograd. Memory is the peak of anonymous resident memory of a fresh process for
each, model and libraries included; in brackets what is added to that of a process that has loaded them. On a machine
that does other work too, the seconds of all cores are what can be compared.
"""

from __future__ import annotations

import argparse
import copy
import gc
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import peft
import torch
import transformers
from bench_provenance import anonymous_mb, limit, noisy_round, peak_mb
from torch import Tensor, nn

from provfl_cli.config.validate import provenance_preset
from provfl_cli.provenance.tracing import trace
from provfl_cli.store.rounds import read_round

WAYS = ("pass", "trace", "first trace")
ALL_LINEAR = "all-linear"


def model_and_inputs(targets: list[str], texts: int, tokens: int) -> tuple[nn.Module, dict[str, Tensor]]:
    """The model with adapters at random weights, and a batch of texts."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=1000,
        hidden_size=768,
        intermediate_size=2560,
        num_hidden_layers=12,
        num_attention_heads=12,
        num_labels=10,
        pad_token_id=0,
    )
    base = transformers.LlamaForSequenceClassification(config)
    adapter = peft.LoraConfig(
        r=8, task_type="SEQ_CLS", target_modules=ALL_LINEAR if targets == [ALL_LINEAR] else targets
    )
    model = peft.get_peft_model(base, adapter).eval()
    return model, {"input_ids": torch.randint(1, 1000, (texts, tokens))}


def calls(folder: Path, arguments: argparse.Namespace, wanted: tuple[str, ...]) -> dict[str, Callable[[], object]]:
    """What is timed, ready to be called."""
    model, batch = model_and_inputs(arguments.targets, arguments.texts, arguments.tokens)
    stored, settings = read_round(folder, 1), provenance_preset(arguments.preset)
    ready: dict[str, Callable[[], object]] = {}
    if "pass" in wanted:
        own = model if len(wanted) == 1 else copy.deepcopy(model)
        ready["pass"] = lambda: limit(own, batch)
    if "trace" in wanted:
        ready["trace"] = lambda: trace(model, batch, stored, settings)
    if "first trace" in wanted:
        unseen = [model] if len(wanted) == 1 else [copy.deepcopy(model) for _ in range(arguments.repeat + 1)]
        ready["first trace"] = lambda: trace(unseen.pop(), batch, stored, settings)
    return ready


def seconds(ready: dict[str, Callable[[], object]], repeat: int) -> dict[str, tuple[float, float]]:
    """Medians of seconds passed and of seconds of all cores, all ways in turn; the first turn warms up."""
    lengths: dict[str, list[tuple[float, float]]] = {way: [] for way in ready}
    for turn in range(repeat + 1):
        for way, call in ready.items():
            began = time.perf_counter(), time.process_time()
            call()
            if turn:
                lengths[way].append((time.perf_counter() - began[0], time.process_time() - began[1]))
    return {
        way: (statistics.median(wall for wall, _ in pairs), statistics.median(cores for _, cores in pairs))
        for way, pairs in lengths.items()
    }


def memory_apart(folder: Path, way: str, arguments: argparse.Namespace) -> tuple[float, float]:
    """Peak of anonymous memory in a process of its own, MB, and how much of it the call has added."""
    command = [sys.executable, __file__, "--memory", str(folder), way, "--targets", *arguments.targets]
    for option in ("texts", "tokens", "preset"):
        command += [f"--{option}", str(getattr(arguments, option))]
    peak, before = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-2:]
    return float(peak), float(peak) - float(before)


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--targets", nargs="+", default=["q_proj", "v_proj"], help="layers; or all-linear")
    parser.add_argument("--clients", type=int, default=10)
    parser.add_argument("--texts", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=64, help="of each text")
    parser.add_argument("--repeat", type=int, default=7)
    parser.add_argument("--preset", default="provfl", help="a file of conf/provenance/")
    parser.add_argument("--memory", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory:
        folder, way = arguments.memory
        call = calls(Path(folder), arguments, (way,))[way]
        gc.collect()
        before = anonymous_mb()
        return print(peak_mb(call), before)

    print(f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    model, _ = model_and_inputs(arguments.targets, 1, 1)
    shared = {name: tensor.clone() for name, tensor in peft.get_peft_model_state_dict(model).items()}
    parameters = sum(parameter.numel() for parameter in model.parameters())
    adapters = sum(tensor.numel() for tensor in shared.values())
    print(
        f"{parameters / 1e6:.1f} million parameters, {adapters / 1e6:.2f} million shared, {arguments.clients} clients"
    )
    del model
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        noisy_round(shared, frozenset(), arguments.clients, folder)
        disk = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6
        print(f"disk of a round: {disk:.1f} MB")
        memory = {way: memory_apart(folder, way, arguments) for way in WAYS}
        took = seconds(calls(folder, arguments, WAYS), arguments.repeat)
    print(f"{'':12} {'seconds':>8} {'ratio':>6} {'of cores':>8} {'ratio':>6} {'peak MB (added)':>16} {'ratio':>6}")
    for way in WAYS:
        cells = [f"{took[way][at]:8.2f} {took[way][at] / took['pass'][at]:6.2f}" for at in (0, 1)]
        peak, added = memory[way]
        print(f"{way:12}", *cells, f"{f'{peak:,.0f} ({added:,.0f})':>16} {peak / memory['pass'][0]:6.2f}")
    return None


if __name__ == "__main__":
    main()
