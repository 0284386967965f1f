#!/usr/bin/env python
"""How fast a trace is on a GPU, in seconds and as a share of what the card does at its best, within a few minutes.

    scripts/bench_gpu.py --json gpu.jsonl --seconds 240

A line of JSON for each case as soon as it is there, the most wanted first; what no time is left for says so. All ways
of one run: one large product and one large copy (the card's peaks), a forward and backward pass (`pass`), the trace.
Times are medians of `--repeat`, with the card synchronised before the clock is read, after a first trace whose time is
given apart (it compares the recorder with autograd). `floor` is the time of the least work at those peaks: products, or
the clients' bytes over the bus, whichever takes longer.

Rounds of 10 clients lie on disk. Of more clients there are 20 different ones in shared memory, which is mapped over and
over: all their bytes go over the bus, as if they were all different, and fit into no cache.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import math
import mmap
import os
import statistics
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import peft
import torch
import transformers
from bench_provenance import forward, limit, model_and_inputs, noisy_round
from floor import copy_rate, floor_work, now, product_rate
from torch import Tensor, nn

from provfl_cli.fusion.decomposition import Decomposition
from provfl_cli.provenance import factors, preset, stack, torch_modes, tracing
from provfl_cli.provenance.state_dicts import RoundInMemory
from provfl_cli.provenance.tracing import trace

DISTINCT = 20  # clients that are different where there are more than 10
PAGE = mmap.PAGESIZE
Rows = Iterator[dict[str, Any]]


# -- models ------------------------------------------------------------------------------------------------------------


def billion(tiny: bool, device: torch.device) -> tuple[nn.Module, dict[str, Tensor]]:
    """A LLaMA of 1.04 billion random parameters with LoRA adapters on queries and values, and 16 texts of 64 tokens."""
    sizes: dict[str, Any] = {
        "vocab_size": 32_000,
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
    }
    sizes |= {"num_attention_heads": 32, "num_key_value_heads": 8}
    if tiny:
        sizes |= {
            "vocab_size": 300,
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
        }
        sizes |= {"num_key_value_heads": 2}
    torch.manual_seed(0)
    with device:
        base = transformers.LlamaForSequenceClassification(
            transformers.LlamaConfig(**sizes, num_labels=10, pad_token_id=0)
        )
    lora = peft.LoraConfig(r=8, task_type="SEQ_CLS", target_modules=["q_proj", "v_proj"])
    model = peft.get_peft_model(base, lora).to(device).eval()
    return model, {"input_ids": torch.randint(1, sizes["vocab_size"], (16, 64))}


def made(name: str, tiny: bool, device: torch.device) -> tuple[nn.Module, dict[str, Tensor], dict[str, Tensor]]:
    """The model on the device, a batch, and the tensors that clients share."""
    if name == "llama1b":
        model, batch = billion(tiny, device)
        shared = peft.get_peft_model_state_dict(model)
    else:
        model, batch = model_and_inputs("lenet" if tiny else name)
        if tiny and name == "gpt":
            small = transformers.OpenAIGPTConfig(n_embd=48, n_layer=2, n_head=4, vocab_size=300, num_labels=10)
            small.pad_token_id = 0
            model = transformers.OpenAIGPTForSequenceClassification(small).eval()
            batch = {"input_ids": torch.randint(1, 300, (16, 64))}
        model = model.to(device)
        shared = model.state_dict()
    return model, batch, {name: tensor.detach().cpu().clone() for name, tensor in shared.items()}


# -- rounds ------------------------------------------------------------------------------------------------------------


def tiled(different: Tensor, times: int) -> Tensor:
    """`[D, …]` of the CPU as `[D * times, …]`, mapped again and again where its bytes fill whole pages."""
    shape = (len(different) * times, *different.shape[1:])
    size = different.nbytes
    if size % PAGE or not hasattr(os, "memfd_create"):
        return different.repeat(times, *(1,) * (different.dim() - 1))
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    file = os.memfd_create("clients")
    os.ftruncate(file, size)
    both, fixed, private = mmap.PROT_READ | mmap.PROT_WRITE, 0x10, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    start = libc.mmap(None, size * times, 0, private, -1, 0)
    for turn in range(times):
        place = libc.mmap(start + turn * size, size, both, mmap.MAP_SHARED | fixed, file, 0)
        if place != start + turn * size:
            raise OSError(ctypes.get_errno(), "mmap")
    os.close(file)
    numbers = math.prod(shape)
    held = (ctypes.c_char * (size * times)).from_address(start)
    whole = torch.frombuffer(held, dtype=different.dtype, count=numbers).view(shape)
    whole[: len(different)].copy_(different)
    return whole


def in_memory(before: dict[str, Tensor], clients: int, dtype: torch.dtype, device: torch.device) -> RoundInMemory:
    """A round of FedAvg of clients that have equal shares, in shared memory."""
    times = max(1, clients // DISTINCT)
    count = clients // times
    generator = torch.Generator(device).manual_seed(1)
    after, stacked = {}, {}
    for name, tensor in before.items():
        start = tensor.to(device)
        if not tensor.is_floating_point():
            after[name], stacked[name] = tensor, tensor.expand(clients, *tensor.shape)
            continue
        noise = torch.randn(count, *tensor.shape, generator=generator, device=device)
        sent = (start + 0.01 * noise).to(dtype)
        after[name] = sent.double().mean(0).float().cpu()
        stacked[name] = tiled(sent.cpu(), times)
        del noise, sent
    shares = torch.full((clients,), 1 / clients, dtype=torch.float64)
    return RoundInMemory(range(clients), Decomposition(shares), after, before, stacked)


def on_disk(model: nn.Module, before: dict[str, Tensor], clients: int, folder: str) -> Any:
    """A stored round."""
    parameters = {name for name, _ in model.named_parameters()}
    buffers = frozenset(name for name, _ in model.named_buffers()) & before.keys() - parameters
    return noisy_round(before, buffers, clients, Path(folder))


# -- measuring ---------------------------------------------------------------------------------------------------------


def median_of(call: Callable[[], object], device: torch.device, repeat: int, most: float) -> tuple[float, int]:
    """Median seconds of so many calls, as far as `most` seconds allow, and of how many; one at least."""
    lengths: list[float] = []
    while len(lengths) < repeat and (not lengths or sum(lengths) + lengths[-1] < most):
        began = now(device)
        call()
        lengths.append(now(device) - began)
    return statistics.median(lengths), len(lengths)


def rounded(value: Any) -> Any:
    return float(f"{value:.4g}") if isinstance(value, float) else value


class Bench:
    """The device, its peaks, what is left of the time, and where lines go."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.device, self.tiny, self.repeat = torch.device(arguments.device), arguments.tiny, arguments.repeat
        self.began, self.seconds, self.cap = time.perf_counter(), arguments.seconds, arguments.cap
        self.file = arguments.json.open("w") if arguments.json else None
        self.settings = preset("provfl")
        self.peaks: dict[str, float] = {}

    def left(self) -> float:
        return self.seconds - (time.perf_counter() - self.began)

    def say(self, **row: Any) -> None:
        line = json.dumps({key: rounded(value) for key, value in row.items()})
        print(line, flush=True)
        if self.file:
            self.file.write(line + "\n")
            self.file.flush()

    def free(self) -> None:
        import gc

        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)

    def peak_mb(self) -> float | None:
        return torch.cuda.max_memory_allocated(self.device) / 2**20 if self.device.type == "cuda" else None

    # -- cases ---------------------------------------------------------------------------------------------------------

    def card(self) -> None:
        """What the card is, and its peaks: products and copies."""
        device, gpu = self.device, self.device.type == "cuda"
        size = 512 if self.tiny else 0
        self.peaks = {
            "product": product_rate(device, size=size),
            "up": copy_rate(device, "up"),
            "gather": copy_rate(device, "gather"),
            "here": copy_rate(device),
        }
        more = {}
        if gpu:
            more["bfloat16_tflops"] = 2e-12 * product_rate(device, torch.bfloat16)
            torch.backends.cuda.matmul.allow_tf32 = True
            more["tf32_tflops"] = 2e-12 * product_rate(device)
            torch.backends.cuda.matmul.allow_tf32 = False
        self.say(
            case="card",
            name=torch.cuda.get_device_name(device) if gpu else "cpu",
            torch=torch.__version__,
            cores=os.cpu_count(),
            threads=torch.get_num_threads(),
            load=os.getloadavg()[0],
            float32_tflops=2e-12 * self.peaks["product"],
            **more,
            copy_on_card_gb_s=2e-9 * self.peaks["here"],
            copy_to_card_gb_s=1e-9 * self.peaks["up"],
            gather_gb_s=1e-9 * self.peaks["gather"],
        )

    def measure(self, case: str, model: nn.Module, batch: Mapping[str, Tensor], source: Any, **more: Any) -> None:
        """Seconds, share of the peaks and memory of a trace."""
        device, clients = self.device, len(source.clients)
        inputs = batch.get("", batch)
        there = {key: tensor.to(device) for key, tensor in batch.items()}
        count = len(next(iter(there.values())))
        took_pass = median_of(lambda: limit(model, there), device, 3, 5)[0]
        took_pass = median_of(lambda: limit(model, there), device, self.repeat, 5)[0]
        peft_names = {n.replace(".default.", "."): n for n, _ in model.named_parameters()}
        sent = source.client_stack()
        shared = {peft_names.get(n, n): sent[n][0].nbytes for n in sent if n in peft_names}
        work = floor_work(model, lambda: forward(model, there), count, clients, shared)
        self.free()
        held = torch.cuda.memory_allocated(device) / 2**20 if device.type == "cuda" else None
        began = now(device)
        result = trace(model, inputs, source, self.settings)
        first = now(device) - began
        cap = min(self.cap, max(self.left() - 5, 0.1))
        took, times = median_of(lambda: trace(model, inputs, source, self.settings), device, self.repeat, cap)
        on_card = next(iter(sent.values())).device.type == device.type
        up = self.peaks["here"] if on_card else min(self.peaks["up"], self.peaks["gather"])
        floor = work.seconds(self.peaks["product"], up, beside=device.type == "cuda")
        self.say(
            case=case,
            clients=clients,
            inputs=count,
            parameters=sum(p.numel() for p in model.parameters()),
            shared_mb=sum(shared.values()) / 1e6,
            **more,
            pass_seconds=took_pass,
            first_seconds=first,
            seconds=took,
            repeats=times,
            floor_seconds=floor,
            by_floor=took / floor,
            by_pass=took / took_pass,
            gmacs=work.products / 1e9,
            product_share=work.products / took / self.peaks["product"],
            read_gb_s=1e-9 * work.bytes / took,
            read_share=work.bytes / took / up,
            peak_mb=self.peak_mb(),
            model_mb=held,
            residual=float(result.residuals.max()),
            notes=[note[:60] for note in result.notes],
        )

    def traces(self, name: str, clients: int, dtype: torch.dtype = torch.float32, disk: bool = False) -> None:
        """A model with so many clients."""
        model, batch, before = made(name, self.tiny, self.device)
        kind = str(dtype).rpartition(".")[2]
        with tempfile.TemporaryDirectory() if disk else nullcontext("") as folder:
            source = on_disk(model, before, clients, folder) if disk else in_memory(before, clients, dtype, self.device)
            self.measure(name, model, batch, source, stored=kind, where="disk" if disk else "memory")

    def variants(self, name: str = "resnet18", clients: int = 100) -> None:
        """The same trace without overlap, with TF32, with other blocks, and of clients that are on the card."""
        model, batch, before = made(name, self.tiny, self.device)
        source = in_memory(before, clients, torch.float32, self.device)
        inputs = batch.get("", batch)
        usual = trace(model, inputs, source, self.settings).values
        opened = stack.Stack.open
        prepared = tracing.open_setup

        def with_blocks(numbers: int) -> Callable[..., Any]:
            def setup(*of: Any) -> Any:
                made_setup = prepared(*of)
                return replace(made_setup, stack=replace(made_setup.stack, numbers=numbers))

            return setup

        there = {n: t.to(self.device) for n, t in source.stacked.items()}
        resident = replace(source, stacked=there)

        def timed(variant: str, own: Any = source) -> None:
            result = trace(model, inputs, own, self.settings)
            took, times = median_of(lambda: trace(model, inputs, own, self.settings), self.device, self.repeat, 4)
            off = abs(result.values - usual).max() / abs(usual).max()
            self.say(
                case=f"{name} variant", variant=variant, clients=clients, seconds=took, repeats=times,
                difference=float(off), residual=float(result.residuals.max()),
            )  # fmt: skip

        timed("as it is")
        timed("clients on the card", resident)
        with patched(stack.Stack, "open", staticmethod(lambda *a, **k: replace(opened(*a, **k), transfer=None))):
            timed("no copies beside products")
        for numbers in (1 << 22, 1 << 24, 1 << 27):
            with patched(tracing, "open_setup", with_blocks(numbers)):
                timed(f"blocks of {numbers * 4 >> 20} MB")
        for outputs in (True, False):
            with patched(factors, "outputs_are_cheaper", lambda *_, way=outputs: way):
                timed(f"{'outputs' if outputs else 'gradient'} always", resident)
        with patched(torch_modes, "exact_products", nullcontext):
            torch.backends.cuda.matmul.allow_tf32 = True
            try:
                timed("TF32 allowed", resident)
            except Exception as error:
                self.say(case=f"{name} variant", variant="TF32 allowed", error=str(error)[:150])
            finally:
                torch.backends.cuda.matmul.allow_tf32 = False
        many = torch.randn(512 if not self.tiny else 96, *inputs.shape[1:])  # type: ignore[union-attr]
        self.measure(f"{name}, many inputs", model, {"": many}, source, stored="float32", where="memory")

    def calibration(self) -> None:
        """Both ways of contracting, nanoseconds per input and weight."""
        outs = 64 if self.tiny else 512
        for positions, clients in ((1, 10), (1, 100), (4, 10), (4, 50), (16, 10), (16, 50), (64, 10), (64, 100)):
            left = torch.randn(64, outs, positions, device=self.device)
            right = torch.randn(64, 1, 1152, positions, device=self.device)
            weights = torch.randn(clients, outs, 1152, device=self.device)
            row: dict[str, Any] = {}
            for outputs in (True, False):
                with patched(factors, "outputs_are_cheaper", lambda *_, way=outputs: way):
                    factor = factors.Outer(left, right)
                    call = lambda: factors.contract(factor, lambda rows, _: weights[:, rows], clients, 1 << 25)  # noqa: B023, E731
                    call()
                    took = median_of(call, self.device, 7, 2)[0]
                row["outputs" if outputs else "gradient"] = took * 1e9 / (64 * outs * 1152)
            chosen = factors.outputs_are_cheaper(positions, clients, self.device.type)
            self.say(
                case="calibration",
                positions=positions,
                clients=clients,
                **row,
                chosen="outputs" if chosen else "gradient",
            )

    def training(self, compiled: bool) -> None:
        """Milliseconds of a training step of ResNet-18 with 64 images, by how it is computed."""
        model, batch, _ = made("resnet18", self.tiny, self.device)
        inputs, labels = batch[""].to(self.device), torch.randint(10, (len(batch[""]),), device=self.device)
        model.train()
        optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)

        def step(called: Any, dtype: torch.dtype | None) -> None:
            with torch.autocast(self.device.type, dtype) if dtype else nullcontext():
                loss = torch.nn.functional.cross_entropy(called(inputs), labels)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

        kinds: list[tuple[str, Any, torch.dtype | None]] = [
            ("float32", model, None),
            ("bfloat16", model, torch.bfloat16),
        ]
        if compiled:
            kinds = [("bfloat16, compiled", torch.compile(model), torch.bfloat16)]
        for kind, called, dtype in kinds:
            began = now(self.device)
            step(called, dtype)
            first = now(self.device) - began

            def ten(called: Any = called, dtype: torch.dtype | None = dtype) -> None:
                for _ in range(10):
                    step(called, dtype)

            ten()
            took = median_of(ten, self.device, self.repeat, 10)[0]
            self.say(case="training step", variant=kind, milliseconds=took * 100, first_seconds=first)

    def profile(self) -> None:
        """Where the time of a trace goes: into `profile.txt` beside the lines."""
        from torch.profiler import ProfilerActivity, profile

        model, batch, before = made("resnet18", self.tiny, self.device)
        source = in_memory(before, 100, torch.float32, self.device)
        inputs = batch.get("", batch)
        trace(model, inputs, source, self.settings)
        gpu = self.device.type == "cuda"
        with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if gpu else [])]) as seen:
            trace(model, inputs, source, self.settings)
            now(self.device)
        averages = seen.key_averages()
        tables = [averages.table(sort_by=f"self_{kind}_time_total", row_limit=20, max_name_column_width=60)
                  for kind in ("cpu", *(("cuda",) if gpu else ()))]  # fmt: skip
        if self.file:
            Path(self.file.name).with_name("profile.txt").write_text("\n".join(tables))
        self.say(case="profile", written=bool(self.file))


@contextmanager
def patched(where: Any, name: str, value: Any) -> Iterator[None]:
    """Something else in place of an attribute."""
    before = where.__dict__[name]
    setattr(where, name, value)
    try:
        yield
    finally:
        setattr(where, name, before)


CASES: dict[str, tuple[float, Callable[[Bench], None]]] = {  # how many seconds have to be left; the most wanted first
    "resnet18 10": (10, lambda b: b.traces("resnet18", 10, disk=True)),
    "resnet18 100": (10, lambda b: b.traces("resnet18", 100)),
    "resnet18 1000": (20, lambda b: b.traces("resnet18", 1000)),
    "gpt 10": (10, lambda b: b.traces("gpt", 10)),
    "llama1b 10": (15, lambda b: b.traces("llama1b", 10, disk=True)),
    "llama1b 1000": (15, lambda b: b.traces("llama1b", 1000)),
    "densenet121 10": (10, lambda b: b.traces("densenet121", 10, disk=True)),
    "densenet121 100": (10, lambda b: b.traces("densenet121", 100)),
    "gpt 100": (25, lambda b: b.traces("gpt", 100)),
    "llama1b 100": (10, lambda b: b.traces("llama1b", 100)),
    "densenet121 1000": (20, lambda b: b.traces("densenet121", 1000)),
    "calibration": (5, lambda b: b.calibration()),
    "variants": (25, lambda b: b.variants()),
    "training": (10, lambda b: b.training(False)),
    "lenet 1000": (5, lambda b: b.traces("lenet", 1000)),
    "profile": (12, lambda b: b.profile()),
    "gpt 1000": (50, lambda b: b.traces("gpt", 1000, torch.bfloat16)),
    "compiled": (45, lambda b: b.training(True)),
}


def main() -> int:
    """Run the cases in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--seconds", type=float, default=240, help="no case begins that may not end in so many")
    parser.add_argument("--cap", type=float, default=8, help="seconds of repeated traces of one case, at most")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--tiny", action="store_true", help="tiny models, to try the script")
    parser.add_argument("--json", type=Path, help="lines go there too")
    bench = Bench(parser.parse_args())
    names = parser.parse_args().cases
    bench.card()
    failed = 0
    for name in names:
        needed, case = CASES[name]
        if bench.left() < needed and not bench.tiny:
            bench.say(case=name, skipped=f"{bench.left():.0f} s left")
            continue
        began = time.perf_counter()
        try:
            case(bench)
        except Exception as error:
            failed += 1
            bench.say(case=name, error=f"{type(error).__name__}: {error}"[:300], where=traceback.format_exc()[-1500:])
        bench.free()
        bench.say(case=name, whole_seconds=time.perf_counter() - began, left=bench.left())
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
