#!/usr/bin/env python
"""What a trace of a response costs beside ProToken's procedure, for the same layers, in one run.

    scripts/bench_responses.py --model small medium --clients 6 25 --repeat 3

A LLaMA at random weights, clients near it in a round on disk, and responses of `--tokens` tokens to prompts of
`--prompt` tokens, one or several at a time. Timed in turn, medians of `--repeat`:

- *ours*: `trace_responses`, from the clients' file, a row for each token;
- *ProToken's*: its procedure (arXiv 2601.19672, and the authors' code) with all clients' models in memory, for each
  token one pass of the global model over all tokens before it, one backward pass to all parameters from the token's
  logit, and each client's copy of each chosen module on what the global one was given, multiplied with the gradient;
- *the same, frozen*: without the gradients of parameters, which it has no use for.

*last layers* are those of the paper, the feed-forward parts of the last blocks and the head; *all layers* every module
that has parameters, for which both give the same numbers: the script compares them. Seconds are those of all cores, of
one thread; memory is the peak of anonymous resident memory of a fresh process, libraries included.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from bench_provenance import peak_mb, stored_round
from torch import Tensor, nn

from provfl_cli.provenance import preset, trace_responses
from provfl_cli.responses import pack
from provfl_cli.store.rounds import read_round

MODELS: dict[str, dict[str, int]] = {
    "small": {"hidden_size": 96, "intermediate_size": 192, "num_hidden_layers": 3, "vocab_size": 512},
    "medium": {"hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 6, "vocab_size": 4096},
}
BLOCKS = 1  # last blocks that are looked at, of the three or six; three of eighteen in the authors' code
LAYERS = ("last layers", "all layers")
WAYS = ("ours", "ProToken's", "the same, frozen")


class Responses(nn.Module):
    """A language model as a trace takes it: `[n, 2, T]` to logits `[n, T, vocabulary]`."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits of the token behind each position."""
        logits: Tensor = self.network(input_ids=inputs[:, 0]).logits
        return logits


def made(name: str) -> Responses:
    """The model, its weights from the seed."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(num_attention_heads=6, num_key_value_heads=6, use_cache=False, **MODELS[name])
    return Responses(transformers.LlamaForCausalLM(config).eval())


def responses(name: str, prompt: int, tokens: int, count: int) -> Tensor:
    """Responses, packed."""
    random = torch.Generator().manual_seed(1)
    texts = torch.randint(2, MODELS[name]["vocab_size"], (count, prompt + tokens), generator=random).tolist()
    return pack([text[:prompt] for text in texts], [text[prompt:] for text in texts], 0)


def modules_of(model: nn.Module, layers: str) -> dict[str, nn.Module]:
    """The modules that the procedure looks at."""
    named = dict(model.named_modules())
    if layers == "all layers":
        return {name: m for name, m in named.items() if any(True for _ in m.parameters(recurse=False))}
    blocks = model.network.model.layers  # type: ignore[union-attr]
    last = range(len(blocks) - BLOCKS, len(blocks))  # type: ignore[arg-type]
    return {name: named[name] for name in (*(f"network.model.layers.{k}.mlp" for k in last), "network.lm_head")}


def protoken(model: Responses, clients: list[Responses], inputs: Tensor, layers: str, frozen: bool) -> np.ndarray:
    """ProToken's contributions before its softmax, `[tokens, clients]`."""
    chosen = modules_of(model, layers)
    theirs = [modules_of(client, layers) for client in clients]
    received: dict[str, Tensor] = {}
    gradients: dict[str, Tensor] = {}

    def watch(name: str, module: nn.Module) -> list[Any]:
        def forward(_: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
            received[name] = args[0].detach()
            output = output if output.requires_grad else output.requires_grad_()
            output.register_hook(lambda gradient: gradients.__setitem__(name, gradient.detach()))
            return output

        return [module.register_forward_hook(forward)]

    model.requires_grad_(not frozen)
    positions = (inputs[:, 1] >= 0).nonzero().tolist()
    values = np.zeros((len(positions), len(clients)))
    for row, (number, column) in enumerate(positions):
        model.zero_grad(set_to_none=True)
        handles = [handle for name, module in chosen.items() for handle in watch(name, module)]
        logits = model(inputs[number : number + 1, :, : column + 1])[0, -1]
        logits[int(inputs[number, 1, column])].backward()
        for handle in handles:
            handle.remove()
        with torch.no_grad():
            for name, gradient in gradients.items():
                for k, modules in enumerate(theirs):
                    values[row, k] += float(torch.dot(modules[name](received[name]).flatten(), gradient.flatten()))
    model.requires_grad_(False)
    return values


def ready(
    name: str, folder: Path, way: str, layers: str, count: int, arguments: argparse.Namespace
) -> Callable[[], np.ndarray]:
    """What is timed, ready to be called."""
    stored, model = read_round(folder, 1), made(name)
    inputs = responses(name, arguments.prompt, arguments.tokens, count)
    if way == "ours":
        wanted = replace(preset("tracefl"), layer_decay=1.0, layers="all")
        if layers == "last layers":
            last = MODELS[name]["num_hidden_layers"]
            wanted = replace(wanted, layers=[*(f"layers.{k}.mlp" for k in range(last - BLOCKS, last)), "lm_head"])
        return lambda: trace_responses(model, inputs, stored, wanted).tokens.values
    model.load_state_dict(dict(stored.weights()))
    clients = [made(name) for _ in stored.clients]
    for k, client in enumerate(clients):
        client.load_state_dict({key: stack[k] for key, stack in stored.client_stack().items()})
        client.requires_grad_(False)
    return lambda: protoken(model, clients, inputs, layers, way != "ProToken's")


def seconds(calls: dict[str, Callable[[], object]], repeat: int) -> dict[str, float]:
    """Medians of the seconds of all cores, all ways in turn; the first turn warms up."""
    lengths: dict[str, list[float]] = {way: [] for way in calls}
    for turn in range(repeat + 1):
        for way, call in calls.items():
            began = time.process_time()
            call()
            if turn:
                lengths[way].append(time.process_time() - began)
    return {way: statistics.median(values) for way, values in lengths.items()}


def memory_apart(name: str, folder: Path, way: str, layers: str, arguments: argparse.Namespace) -> float:
    """Peak of anonymous memory in a process of its own, for one response, MB."""
    command = [sys.executable, __file__, "--memory", name, str(folder), way, layers]
    command += ["--prompt", str(arguments.prompt), "--tokens", str(arguments.tokens)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def compared(name: str, folder: Path, clients: int, layers: str, arguments: argparse.Namespace) -> None:
    """Print the rows of one model, number of clients and choice of layers."""
    ways = ("ours",) if clients == 1 else WAYS[:2]
    memory = {} if arguments.no_memory else {w: memory_apart(name, folder, w, layers, arguments) for w in ways}
    for way, peak in memory.items():
        print(f"{name} | {layers} | {clients} | memory of {way} | {peak:,.0f} MB", flush=True)
    for count in arguments.responses if clients > 1 else ():
        calls = {way: ready(name, folder, way, layers, count, arguments) for way in WAYS}
        if layers == "all layers":
            ours, theirs = calls["ours"](), calls["ProToken's"]()
            print(f"largest difference of contributions: {np.abs(ours - theirs).max() / np.abs(theirs).max():.1e}")
        took = seconds(calls, arguments.repeat)
        cells = [f"{way} {took[way] / count:.3f} s (x {took[way] / took['ours']:.1f})" for way in WAYS]
        print(f"{name} | {layers} | {clients} | {count} responses | " + " | ".join(cells), flush=True)


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", default=["small"], choices=[*MODELS])
    parser.add_argument("--clients", nargs="+", type=int, default=[1, 6, 25])
    parser.add_argument("--prompt", type=int, default=14, help="tokens of the prompt")
    parser.add_argument("--tokens", type=int, default=16, help="of the response")
    parser.add_argument("--responses", nargs="+", type=int, default=[1, 16], help="traced at a time")
    parser.add_argument("--layers", nargs="+", default=LAYERS, choices=LAYERS)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--memory", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.memory:
        name, folder, way, layers = arguments.memory
        return print(peak_mb(lambda: ready(name, Path(folder), way, layers, 1, arguments)()))

    print(f"{platform.processor() or platform.machine()}, 1 thread, torch {torch.__version__}; seconds a response")
    for name in arguments.model:
        parameters = sum(parameter.numel() for parameter in made(name).parameters())
        print(f"{name}: {parameters / 1e6:.2f} million parameters")
        for clients in arguments.clients:
            with tempfile.TemporaryDirectory() as place:
                stored_round(made(name), clients, Path(place))
                for layers in arguments.layers:
                    compared(name, Path(place), clients, layers, arguments)
    return None


if __name__ == "__main__":
    main()
