"""The same numbers on a GPU as on the CPU: training, fusion, tracing and retraining. Skipped where there is none.

`PROVFL_TEST_DEVICE=cpu` runs what is here on the CPU, to try the tests themselves.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import nn

from provfl_cli.errors import RunError
from provfl_cli.fusion.fuse import fuse
from provfl_cli.fusion.updates import ReturnedModels
from provfl_cli.provenance import preset, trace, transfer
from provfl_cli.provenance.lineage import lineage_round
from provfl_cli.provenance.outputs import Inputs
from provfl_cli.provenance.settings import Provenance
from provfl_cli.provenance.stack import Source
from provfl_cli.provenance.state_dicts import RoundInMemory, from_state_dicts
from provfl_cli.store.rounds import read_round

from .provenance.federations import federation, perturbed, settings

DEVICE = torch.device(os.environ.get("PROVFL_TEST_DEVICE", "cuda"))
LABELS: dict[str, Any] = {"num_labels": 5, "pad_token_id": 0}
ON_GPU = DEVICE.type == "cuda"
pytestmark = pytest.mark.skipif(ON_GPU and not torch.cuda.is_available(), reason="there is no CUDA GPU here")


@pytest.fixture(autouse=True)
def _memory() -> Iterator[None]:
    """What a test has taken of the GPU's memory is given back."""
    yield
    if ON_GPU:
        torch.cuda.empty_cache()


def lenet() -> tuple[nn.Module, Inputs]:
    from provfl_cli.models.lenet import lenet as made

    return made(1, 10, 28), torch.randn(12, 1, 28, 28)


def resnet() -> tuple[nn.Module, Inputs]:
    from provfl_cli.models.torchvision import resnet18

    return resnet18(3, 10, 32), torch.randn(8, 3, 32, 32)


def gpt() -> tuple[nn.Module, Inputs]:
    sizes: dict[str, Any] = {"vocab_size": 200, "n_positions": 32, "n_embd": 48, "n_layer": 3, "n_head": 4}
    small = transformers.OpenAIGPTConfig(**sizes, **LABELS)
    model = transformers.OpenAIGPTForSequenceClassification(small)
    return model, {"input_ids": torch.randint(1, 200, (6, 20))}


MADE = {"lenet": lenet, "resnet18": resnet, "gpt": gpt}


def made(name: str) -> tuple[nn.Module, Inputs]:
    torch.manual_seed(0)
    model, inputs = MADE[name]()
    return model.eval(), inputs


def close(here: np.ndarray, there: np.ndarray, tolerance: float = 1e-4) -> None:
    """Equal but for rounding, relative to the largest of each input; `here` is not all zeros."""
    scale = np.abs(there).max(axis=-1, keepdims=True)
    assert (scale > 0).all()
    worst = float((np.abs(here - there) / scale).max())
    assert worst < tolerance, worst


def both(model: nn.Module, inputs: Inputs, source: Source, chosen: Provenance | str) -> tuple[np.ndarray, np.ndarray]:
    """Contributions traced on the GPU, and on the CPU."""
    there = trace(copy.deepcopy(model), inputs, source, chosen)
    here = trace(copy.deepcopy(model).to(DEVICE), inputs, source, chosen)
    assert here.residuals.max() < 1e-4
    assert here.notes == there.notes
    np.testing.assert_array_equal(here.predictions, there.predictions)
    return here.values, there.values


@pytest.mark.slow
@pytest.mark.parametrize("ways", ["faithful", "tracefl"])
@pytest.mark.parametrize("name", list(MADE))
def test_a_trace_is_that_of_the_cpu(name: str, ways: str) -> None:
    model, inputs = made(name)
    source, _ = federation(model, clients=5, scale=0.02)
    close(*both(model, inputs, source, ways))


@pytest.mark.slow
@pytest.mark.parametrize("memory", [4, 40])
def test_blocks_in_turn_change_nothing(monkeypatch: pytest.MonkeyPatch, memory: int) -> None:
    """Many blocks of each layer go through the two pieces of memory, and none is overwritten while it is read."""
    monkeypatch.setattr("provfl_cli.provenance.stack.SMALL", 256)
    monkeypatch.setattr(transfer, "LEAST", 1 << 12)
    model, inputs = made("resnet18")
    source, _ = federation(model, clients=12, scale=0.02)
    usual = trace(copy.deepcopy(model).to(DEVICE), inputs, source, "faithful")
    for _ in range(2):
        own = replace(preset("faithful"), memory_mb=memory, batch_size=8)
        close(trace(copy.deepcopy(model).to(DEVICE), inputs, source, own).values, usual.values, 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, torch.float16])
def test_adapters_of_a_frozen_model(stored: torch.dtype) -> None:
    """In half precision they are copied to the GPU as they are stored, and what rounding took is a row."""
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"vocab_size": 100, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
    small = transformers.LlamaConfig(**sizes, num_attention_heads=4, **LABELS)
    base = transformers.LlamaForSequenceClassification(small)
    lora = peft.LoraConfig(r=8, task_type="SEQ_CLS", target_modules="all-linear")
    model = peft.get_peft_model(base, lora).eval()
    shared = {name: tensor.clone() for name, tensor in peft.get_peft_model_state_dict(model).items()}
    before = {name: tensor.to(stored) for name, tensor in perturbed(shared, 0.05, 1).items()}
    source = from_state_dicts([perturbed(before, 0.02, 2 + k) for k in range(6)], [10, 20, 30, 40, 50, 60], before)
    inputs = {"input_ids": torch.randint(1, 100, (5, 12))}
    for adapters in ("factors", "product"):
        close(*both(model, inputs, source, replace(preset("faithful"), adapters=adapters)))


@pytest.mark.slow
def test_state_dicts_that_are_on_the_gpu_are_a_round() -> None:
    """They are fused in the CPU's memory, as those of the CPU are: a card does not hold a copy of every client."""
    model, inputs = made("lenet")
    on_cpu, models = federation(model, clients=4)
    there = [{name: tensor.to(DEVICE) for name, tensor in sent.items()} for sent in models]
    before = {name: tensor.to(DEVICE) for name, tensor in on_cpu.before.items()}
    source = from_state_dicts(there, [10, 20, 30, 40], before)
    for name, tensor in source.weights().items():
        assert tensor.device.type == "cpu"
        torch.testing.assert_close(tensor, on_cpu.weights()[name], rtol=1e-6, atol=1e-7)
    here = trace(copy.deepcopy(model).to(DEVICE), inputs, source, "faithful")
    close(here.values, trace(model, inputs, on_cpu, "faithful").values)


@pytest.mark.slow
@pytest.mark.parametrize("fusion", ["fedavg", "median", "trimmed_mean", "krum", "fedavgm", "norm_clipping"])
def test_every_form_of_a_fusion(fusion: str) -> None:
    """Shares, masks of coordinates, clip factors and momentum: each goes to the GPU in another way."""
    pytest.importorskip("omegaconf")
    from .fusions import configured

    model, inputs = made("lenet")
    plain, _ = federation(model, clients=6)
    buffers = frozenset(set(plain.before) - {name for name, _ in model.named_parameters()})
    returned = ReturnedModels(plain.before, plain.stacked, [10] * 6, [1] * 6, buffers)
    fused = fuse(configured(fusion), returned, {})
    source = RoundInMemory(range(6), fused.decomposition, fused.weights, plain.before, plain.stacked)
    close(*both(model, inputs, source, settings(batch_size=5)))


@pytest.mark.slow
def test_products_are_exact_whatever_the_caller_allows() -> None:
    """TF32 keeps 10 bits of each factor: contributions would not add up."""
    model, inputs = made("resnet18")
    source, _ = federation(model, clients=3, scale=0.02)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        close(*both(model, inputs, source, "faithful"))
        assert torch.get_float32_matmul_precision() == "high"
        assert torch.backends.cudnn.allow_tf32
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.slow
@pytest.mark.skipif(not ON_GPU, reason="a CPU's memory cannot be bounded so")
def test_memory_that_runs_out_is_met_with_less_at_a_time() -> None:
    model, _ = made("resnet18")
    source, _ = federation(model, clients=4, scale=0.02)
    inputs = torch.randn(256, 3, 64, 64)
    there = copy.deepcopy(model).to(DEVICE)
    usual = trace(there, inputs, source, settings(batch_size=16)).values
    torch.cuda.empty_cache()
    card = torch.cuda.current_device()  # what bounds memory takes no device without its number
    total = torch.cuda.get_device_properties(card).total_memory
    held = torch.cuda.memory_allocated(card)
    try:
        torch.cuda.set_per_process_memory_fraction((held + 1500 * 2**20) / total, card)
        close(trace(there, inputs, source, settings(memory_mb=1_000_000)).values, usual)
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction((held + 8 * 2**20) / total, card)
        with pytest.raises(RunError, match=r"too little memory left for the trace of a single input: .*device=cpu"):
            trace(there, inputs, source, settings(memory_mb=1_000_000))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, card)
        torch.cuda.empty_cache()


RUN = [
    "dataset=digits", "partition=iid", "federation.clients=4", "federation.rounds=3", "federation.local_epochs=3",
    "federation.learning_rate=0.05", "partition.max_examples_per_client=200", "dataset.max_test_examples=200",
    "evaluation.max_inputs=20", "evaluation.inputs=all", f"device={DEVICE.type}", "provenance.scope=lineage",
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", *(["bfloat16"] if ON_GPU else [])])
def test_a_federation_learns_and_is_traced(workspace: Path, capsys: pytest.CaptureFixture[str], precision: str) -> None:
    """From the command line; over all rounds too, and the last round's lineage is traced as on the CPU."""
    pytest.importorskip("flwr_datasets")
    from .adapted import agrees, ran

    result = ran(workspace / "run", *RUN, f"federation.precision={precision}")
    assert result.summary["global_accuracy"] > 0.6
    assert result.summary["conservation_residual"] < 1e-4
    agrees(workspace / "run", capsys)
    stored = read_round(workspace / "run" / "rounds", 3)
    from provfl_cli.models.lenet import lenet as network

    model, inputs = network(1, 10, 28).eval(), torch.rand(8, 1, 28, 28)
    if set(dict(model.named_parameters())) <= set(stored.weights()):
        close(*both(model, inputs, lineage_round(stored), "faithful"))
        close(*both(model, inputs, stored, "faithful"))


@pytest.mark.slow
def test_federations_are_trained_again_on_the_gpu(tmp_path: Path) -> None:
    """Every subset of four clients, two rounds: the answers are those of the CPU."""
    pytest.importorskip("omegaconf")
    from .retrainings import all_subsets, make_whole, outcomes

    plan = all_subsets()
    there = outcomes(make_whole(tmp_path / "cpu"), plan)
    here = outcomes(replace(make_whole(tmp_path / "gpu"), device=DEVICE), plan)
    assert here.keys() == there.keys()
    for training, outcome in there.items():
        for number, answer in outcome.answers.items():
            np.testing.assert_allclose(here[training].answers[number].values, answer.values, rtol=1e-3, atol=1e-3)
