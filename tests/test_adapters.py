"""Low-rank adapters of text models: what is trained, what a round holds, and what the federation makes of it."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from provfl_cli.cli import main
from provfl_cli.config import extras, schema
from provfl_cli.config.lora import Lora
from provfl_cli.config.validate import provenance_preset
from provfl_cli.data.federated import Pictures
from provfl_cli.errors import InputError
from provfl_cli.federation.client import batches
from provfl_cli.federation.sharing import sharing_of
from provfl_cli.fusion.ffa_lora import FfaLora
from provfl_cli.fusion.trimmed_mean import TrimmedMean
from provfl_cli.models.build import build
from provfl_cli.provenance import trace
from provfl_cli.seeds import derived_seed, generator
from provfl_cli.store.rounds import Round
from tests.adapted import COMMON, RUN, adapter_config, agrees, of, ran, without_dropout
from tests.federations import make_config, make_texts, train
from tests.refusals import refusal
from tests.text_networks import FORM, SMALL, some_texts, text_model

if find_spec("peft") is None:
    pytest.skip("no peft: pip install 'provfl[peft]'", allow_module_level=True)

PICTURES = [*COMMON, "dataset=digits", "model=lenet"]


def trained(folder: Path, model: nn.Module, **changes: Any) -> Round:
    (stored,), _ = train(folder, adapter_config(**changes), data=make_texts(), model=model)
    return stored


@pytest.mark.parametrize("kind", SMALL)
def test_the_first_model_is_the_network_itself_and_only_adapters_and_head_are_trained(kind: str) -> None:
    plain, model = build(text_model(kind), FORM, 10, 0).eval(), of(kind).eval()
    tokens = some_texts(0)
    assert torch.equal(plain(tokens), model(tokens))
    weights = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert all("lora_" in name or "modules_to_save" in name for name in weights)
    assert any("lora_A" in name for name in weights)
    heads = {name.partition(".")[0] for name, _ in plain.network.named_parameters()} - {plain.network.base_model_prefix}
    kept = {name.split(".")[3] for name in weights if "modules_to_save" in name}
    assert kept == heads
    sharing = sharing_of(model, make_config().federation, "lora")
    assert set(sharing.shared) == weights
    assert sharing.private == ()
    assert set(sharing.frozen) == set(model.state_dict()) - weights
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name in weights:
                weight.add_(0.1)
    assert not torch.allclose(plain(tokens), model(tokens))


def test_settings_reach_the_adapters() -> None:
    rank = of("gpt2", rank=3, alpha=6, targets=["c_attn"], dora=True)
    layers = {name for name, _ in rank.named_parameters() if "lora_A" in name}
    assert len(layers) == 2
    assert all(".c_attn." in name for name in layers)
    assert all(weight.shape[0] == 3 for name, weight in rank.named_parameters() if "lora_A" in name)
    assert any("lora_magnitude_vector" in name for name, _ in rank.named_parameters())

    def scale(model: nn.Module) -> float:
        return next(module.scaling["default"] for module in model.modules() if hasattr(module, "lora_A"))

    assert scale(rank) == 2.0
    assert scale(of("gpt2", rank=4, alpha=6, rslora=True)) == 3.0
    a, b = of("gpt2").state_dict(), of("gpt2").state_dict()
    assert all(torch.equal(a[name], b[name]) for name in a), "drawn from the seed"


@pytest.mark.slow
def test_a_federation_of_adapters_is_a_plain_loop_of_peft(tmp_path: Path) -> None:
    """FedIT: PEFT's model and torch's optimizer, A and B averaged apart; a round holds these and the head alone."""
    model, data = of("openai-gpt", rank=4), make_texts()
    without_dropout(model)
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    stored = trained(tmp_path, model, lora=Lora(rank=4))
    names = [name for name, weight in model.named_parameters() if weight.requires_grad]
    assert set(stored.weights()) == set(names) == set(stored.client_stack()) == set(stored.previous())

    settings = adapter_config().federation
    current = {name: start[name] for name in names}
    counts = [len(client.labels) for client in data.clients]
    for number in (1, 2):
        sums = {name: torch.zeros_like(start[name], dtype=torch.float64) for name in names}
        for client, count in zip(data.clients, counts, strict=True):
            model.load_state_dict({**start, **current})
            weights = [weight for weight in model.parameters() if weight.requires_grad]
            optimizer = torch.optim.SGD(weights, settings.learning_rate, settings.momentum)
            torch.manual_seed(derived_seed(0, "client", number, client.fingerprint))
            order = generator(0, "order", number, client.fingerprint)
            lengths = (client.inputs != 0).sum(1)
            model.train()
            for _ in range(settings.local_epochs):
                for batch in batches(count, settings.batch_size, order, lengths):
                    optimizer.zero_grad()
                    functional.cross_entropy(model(client.inputs[batch]), client.labels[batch]).backward()
                    optimizer.step()
            for name in names:
                sums[name] += count / sum(counts) * model.state_dict()[name].double()
        current = {name: total.float() for name, total in sums.items()}
    for name, tensor in stored.weights().items():
        assert (tensor - current[name]).abs().max() <= 1e-6, name
    moved = [name for name in names if not torch.equal(current[name], start[name])]
    assert len(moved) == len(names)


@pytest.mark.slow
def test_rounds_of_adapters_give_the_numbers_of_rounds_of_the_whole_model(tmp_path: Path) -> None:
    """The same training with `share=all`: weights and contributions agree, and the frozen weights are as they were."""
    part = trained(tmp_path / "part", of("bert"))
    config = adapter_config()
    whole = trained(tmp_path / "whole", of("bert"), federation=replace(config.federation, share="all"))
    frozen = set(whole.weights()) - set(part.weights())
    start = of("bert").state_dict()
    assert all(torch.equal(whole.weights()[name], start[name]) for name in frozen)
    assert all(torch.equal(tensor, whole.weights()[name]) for name, tensor in part.weights().items())
    tokens, preset = some_texts(0, (3, 12, 5)), provenance_preset("provfl")
    few, many = (trace(of("bert"), tokens, stored, preset) for stored in (part, whole))
    assert np.abs(few.values - many.values).max() <= 1e-6 * np.abs(many.values).max()
    assert few.residuals.max() < 1e-5
    assert few.covered == 1.0
    assert set(few.not_shared) <= frozen
    assert many.not_shared == ()

    def size(stored: Round) -> int:
        return sum(file.stat().st_size for file in stored.folder.glob("*.safetensors"))

    shared = sum(tensor.nbytes for tensor in part.weights().values())
    assert size(part) < 6 * shared + 6 * 100 * len(part.weights())  # of four clients, before and after; names
    assert size(part) < size(whole) / 2


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"dora": True}, marks=pytest.mark.slow),
        pytest.param({"rslora": True, "alpha": 4}, marks=pytest.mark.slow),
        {"targets": ["c_proj", "c_fc"]},
    ],
)
def test_every_kind_of_adapter_is_traced(settings: dict[str, Any], tmp_path: Path) -> None:
    stored = trained(tmp_path, of("openai-gpt", **settings), lora=Lora(**settings))
    answer = trace(of("openai-gpt", **settings), some_texts(0, (3, 12, 5)), stored, provenance_preset("provfl"))
    assert answer.residuals.max() < 1e-4
    assert np.abs(answer.values).max() > 0


@pytest.mark.slow
def test_with_a_frozen_the_product_of_the_averages_is_the_average_of_the_products(tmp_path: Path) -> None:
    """FFA-LoRA has nothing left over; adapters that are averaged apart (FedIT) have."""
    model = of("openai-gpt", freeze_a=True)
    start = model.state_dict()
    stored = trained(tmp_path / "ffa", model, lora=Lora(freeze_a=True), fusion=FfaLora())
    assert not any("lora_A" in name for name in stored.weights())
    assert any("lora_B" in name for name in stored.weights())

    def left_over(stored: Round) -> float:
        weights, stack = stored.weights(), stored.client_stack()
        shares = torch.tensor(stored.examples).double() / sum(stored.examples)
        apart = 0.0
        for name in (name for name in weights if "lora_B" in name):
            other = name.replace("lora_B", "lora_A")
            a = stack[other].double() if other in weights else start[other].double().expand(4, *start[other].shape)
            products = (shares.view(-1, 1, 1) * (stack[name].double() @ a)).sum(0)
            mean = weights[other].double() if other in weights else start[other].double()
            apart = max(apart, float((weights[name].double() @ mean - products).abs().max() / products.abs().max()))
        return apart

    assert left_over(stored) < 1e-6
    assert left_over(trained(tmp_path / "fedit", of("openai-gpt"))) > 1e-5


@pytest.mark.slow
def test_another_fusion_takes_a_and_b_apart(tmp_path: Path) -> None:
    stored = trained(tmp_path, of("openai-gpt"), fusion=TrimmedMean())
    assert all(tensor.isfinite().all() for tensor in stored.weights().values())
    assert all("lora_" in name or "modules_to_save" in name for name in stored.weights())


@pytest.mark.slow
def test_a_private_head_beside_shared_adapters(tmp_path: Path) -> None:
    config = adapter_config()
    federation = replace(config.federation, share=["adapters", "!head"])
    stored = trained(tmp_path, of("openai-gpt"), federation=federation)
    assert all("lora_" in name for name in stored.weights())
    assert len(list((stored.folder.parent.parent / "private" / "0002").glob("*.safetensors"))) == 4


@pytest.mark.slow
def test_what_cannot_have_adapters_is_refused_in_one_line(
    workspace: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = schema.Model("provfl_cli.models.lenet.lenet", "lenet", adapter="lora")
    with pytest.raises(InputError, match=r"for the text models of transformers, not model=lenet"):
        build(pictures, Pictures(1, 28), 10, 0)
    with pytest.raises(InputError, match=r"lora.targets: c_atn is no linear layer of model=small, did you mean c_attn"):
        of("gpt2", targets=["c_atn"])
    texts = ["dataset=languages", "model=gpt_mini"]
    assert "needs adapters: model.adapter=lora" in refusal([*texts, "fusion=ffa_lora"], workspace, capsys)
    assert "needs adapters: model.adapter=lora" in refusal(["federation.share=adapters"], workspace, capsys)
    adapters = [*texts, "model.adapter=lora"]
    free = refusal([*adapters, "fusion=ffa_lora", "lora.freeze_a=false"], workspace, capsys)
    assert "whose A is frozen" in free
    assert "model.adapter" in refusal([*texts, "model.adapter=lorra"], workspace, capsys)
    assert "lora.rank" in refusal([*texts, "model.adapter=lora", "lora.rank=0"], workspace, capsys)
    monkeypatch.setattr("provfl_cli.checks.find_spec", lambda name: None if name == "peft" else object())
    assert "pip install 'provfl[peft]'" in refusal([*texts, "model.adapter=lora"], workspace, capsys)
    assert extras.PACKAGES["peft"] == ("peft",)


# --- from the command line


@pytest.mark.slow
def test_a_run_with_adapters_is_traced_reported_and_opened_again(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = ran(workspace / "run", *RUN, "model.adapter=lora", "lora.rank=4", "fusion=ffa_lora")
    assert "tokens_embed.weight" in result.summary["not_shared"]
    assert result.summary["covered"] == 1.0
    assert result.summary["conservation_residual"] < 1e-4
    assert "are not shared by the clients" in " ".join(capsys.readouterr().out.split())
    assert len(result.manifest["trace"]["not_shared"]) > 10
    agrees(result.folder, capsys)
    manifest = json.loads((result.folder / "manifest.json").read_text())
    assert len(manifest["model"]["frozen_sha256"]) == 64


@pytest.mark.slow
def test_a_frozen_bert_whose_head_is_shared(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = "model.config={num_hidden_layers: 1, hidden_size: 32, num_attention_heads: 2, intermediate_size: 64}"
    bert = [*(text for text in RUN if text != "model=gpt_mini"), "model=bert", "model.pretrained=false", small]
    result = ran(workspace / "run", *bert, "federation.share=head")
    (stored,) = (result.folder / "rounds").glob("0002")
    assert sum(file.stat().st_size for file in stored.glob("*.safetensors") if "lineage" not in file.name) < 20_000
    assert "embeddings" in result.summary["not_shared"]
    agrees(result.folder, capsys)


@pytest.mark.slow
def test_a_run_whose_heads_are_private_says_whose_model_it_traces(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures = [*PICTURES, "federation.share=body"]
    most = ran(workspace / "most", *pictures)
    out = " ".join(capsys.readouterr().out.split())
    client = max(most.manifest["clients"]["kept"].items(), key=lambda kept: kept[1])[0]
    assert f"the model traced is that of client {client}: 2 tensors of it are private" in out
    assert "fc3" in most.summary["not_shared"]
    agrees(most.folder, capsys)
    other = ran(workspace / "other", *pictures, f"evaluation.client={(int(client) + 1) % 4}")
    a, b = (run.frame("contributions").set_index(["input", "client", "kind"]) for run in (most, other))
    assert not np.allclose(a["contribution"].to_numpy()[:4], b["contribution"].to_numpy()[:4])
    agrees(other.folder, capsys)
    chosen = str((int(client) + 1) % 4)
    number, answers = str(most.frame("contributions")["input"].iloc[0]), []
    for folder, options in ((most.folder, ["--client", chosen]), (other.folder, []), (most.folder, [])):
        assert main(["trace", str(folder), "--input", number, "--json", *options]) == 0
        answers.append(json.loads(capsys.readouterr().out))
    values = [[row["contribution"] for row in answer["methods"][0]["clients"]] for answer in answers]
    assert values[0] == pytest.approx(values[1], rel=1e-5)
    assert values[0] != pytest.approx(values[2], rel=1e-2)
    for word, said in (("9", "--client 9: no such client"), ("mine", "no such client")):
        assert main(["trace", str(most.folder), "--client", word]) == 2
        assert said in " ".join(capsys.readouterr().err.split())
    assert main(["run", *PICTURES, "evaluation.client=1"]) == 2
    assert "nothing of the model is private" in " ".join(capsys.readouterr().err.split())
