"""Rounds that hold part of a model: adapters, a head, a body; everything else is a constant of the model."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from provfl_cli.errors import InputError
from provfl_cli.fusion.lineage_rows import Lineage, LineageRows
from provfl_cli.provenance import Contributions, from_state_dicts, preset, trace
from provfl_cli.provenance.lineage import LineageRound
from provfl_cli.provenance.shared_part import model_names

UPDATES = ("provfl", "faithful")


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 8), nn.ReLU(), nn.Linear(8, 3)
    ).eval()


def moved(tensors: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {n: t + (0.1 * torch.rand(t.shape, generator=generator)).to(t.dtype) for n, t in tensors.items()}


def part_and_whole(model: nn.Module, shared: Callable[[str], bool]) -> tuple[Contributions, Contributions, Tensor]:
    """A round of some tensors, and the same with all others in every client's state dict, both traced."""
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    before = {name: tensor for name, tensor in state.items() if shared(name)}
    clients = [moved(before, seed) for seed in range(1, 4)]
    inputs = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(9))
    few = from_state_dicts(clients, [1, 2, 3], before)
    every = from_state_dicts([{**state, **client} for client in clients], [1, 2, 3], state)
    return trace(copy.deepcopy(model), inputs, few), trace(copy.deepcopy(model), inputs, every), inputs


@pytest.mark.parametrize(
    "shared",
    [
        lambda name: name.startswith("6."),  # a head
        lambda name: not name.startswith("6."),  # a body without its head
        lambda name: not name.startswith("1."),  # all but the norms
        lambda name: name.endswith("bias"),  # biases of layers whose weights are constants
        lambda name: name == "4.weight",
    ],
)
def test_a_part_gives_the_numbers_of_the_whole(shared: Callable[[str], bool]) -> None:
    part, whole, _ = part_and_whole(network(), shared)
    assert np.abs(part.values - whole.values).max() <= 1e-6 * np.abs(whole.values).max()
    assert part.residuals.max() < 1e-5
    assert part.covered == 1.0
    assert part.predictions.tolist() == whole.predictions.tolist()
    parameters = dict(network().named_parameters())
    assert set(part.not_shared) == {name for name in parameters if not shared(name)}
    assert whole.not_shared == ()


def test_what_is_not_shared_is_said_and_kept(tmp_path: object) -> None:
    part, _, _ = part_and_whole(network(), lambda name: name.startswith("6."))
    assert "not shared by the clients" in part.notes[0]
    assert "0.weight" in part.notes[0]
    assert "not shared by the clients" in repr(part)
    assert "not shared by the clients" in part._repr_html_()
    path = f"{tmp_path}/part.safetensors"
    part.save(path)
    assert Contributions.load(path).not_shared == part.not_shared


def test_weights_of_constants_are_in_no_contribution() -> None:
    """With `of: weights` a whole-model round credits each client with its copy of the constants; a part does not."""
    model = nn.Linear(3, 2).eval()
    state = {n: t.clone() for n, t in model.state_dict().items()}
    clients = [moved({"bias": state["bias"]}, seed) for seed in (1, 2)]
    inputs = torch.randn(4, 3)
    found = trace(model, inputs, from_state_dicts(clients, [1, 3], {"bias": state["bias"]}), "tracefl", [0, 1, 0, 1])
    expected = [[float(client["bias"][c]) * 0.9**0 for client in clients] for c in (0, 1, 0, 1)]
    assert np.allclose(found.values, expected, atol=1e-6)


def test_constants_keep_their_settings() -> None:
    model = network().train()
    model[0].weight.requires_grad_(False)
    before = {"6.bias": model[6].bias.detach().clone()}
    trace(model, torch.randn(2, 1, 8, 8), from_state_dicts([moved(before, 1)], [1], before))
    assert model.training
    assert not model[0].weight.requires_grad
    assert model[4].weight.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 4)
        self.out = nn.Linear(4, 5, bias=False)
        self.out.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.out(self.embed(tokens).mean(1).tanh())


def test_a_tied_copy_that_was_not_stored_is_the_other() -> None:
    """safetensors keeps one of the names of a tied tensor, and not always the first."""
    model = Tied().eval()
    table = model.embed.weight.detach().clone()
    clients = [moved({"w": table}, seed)["w"] for seed in (1, 2)]
    tokens = torch.randint(0, 5, (3, 4))
    first, second = (
        trace(model, tokens, from_state_dicts([{n: c} for c in clients], [1, 1], {n: table}))
        for n in ("embed.weight", "out.weight")
    )
    assert np.array_equal(first.values, second.values)
    assert first.covered == second.covered == 1.0


WRAPPED = {
    "parallel": lambda name: f"module.{name}",
    "lightning": lambda name: f"model.{name}",
    "compiled": lambda name: f"_orig_mod.{name}",
    "both": lambda name: f"module._orig_mod.{name}",
    "two": lambda name: f"module.model.{name}",
}


@pytest.mark.parametrize("wrapper", WRAPPED)
def test_names_are_matched_through_wrappers(wrapper: str) -> None:
    model = network()
    state = {n: t.clone() for n, t in model.state_dict().items() if t.is_floating_point()}
    clients = [{**moved({n: t for n, t in state.items() if "running" not in n}, seed)} for seed in (1, 2)]
    clients = [{**state, **client} for client in clients]
    inputs = torch.randn(3, 1, 8, 8)
    plain = trace(copy.deepcopy(model), inputs, from_state_dicts(clients, [1, 1], state))
    called = [{WRAPPED[wrapper](n): t for n, t in tensors.items()} for tensors in (*clients, state)]
    found = trace(copy.deepcopy(model), inputs, from_state_dicts(called[:-1], [1, 1], called[-1]))
    assert np.array_equal(found.values, plain.values)


def test_both_sides_may_be_wrapped() -> None:
    model = network()
    before = {n: t.clone() for n, t in model.state_dict().items() if n.startswith("6.")}
    clients = [moved(before, seed) for seed in (1, 2)]
    inputs = torch.randn(3, 1, 8, 8)
    plain = trace(copy.deepcopy(model), inputs, from_state_dicts(clients, [1, 1], before))
    sent = [{f"model.{n}": t for n, t in tensors.items()} for tensors in (*clients, before)]
    source = from_state_dicts(sent[:-1], [1, 1], sent[-1])
    assert np.array_equal(trace(nn.DataParallel(model), inputs, source).values, plain.values)


def test_shards_take_a_round_under_other_names() -> None:
    before = {f"module.{n}": t.clone() for n, t in network().state_dict().items() if n.startswith("6.")}
    source = from_state_dicts([moved(before, seed) for seed in (1, 2)], [1, 1], before)
    inputs = torch.randn(5, 1, 8, 8)
    settings = replace(preset("provfl"), batch_size=2)
    whole, parts = (trace(network(), inputs, source, replace(settings, shards=shards)) for shards in (1, 2))
    assert np.array_equal(whole.values, parts.values)


@pytest.mark.parametrize("front", ["", "module."])
def test_a_part_over_all_rounds(front: str) -> None:
    """Two rounds of a head: the lineage credits what both have sent, under the model's names or a wrapper's."""
    before = {f"{front}{n}": t.clone() for n, t in network().state_dict().items() if n.startswith("6.")}
    steps = [
        [{n: m - before[n] for n, m in moved(before, seed).items()} for seed in seeds] for seeds in ((1, 2), (3, 4))
    ]
    sums = [{n: sum(step[k][n] for step in steps) for n in before} for k in range(2)]
    after = {n: t + sum(0.5 * client[n] for client in sums) for n, t in before.items()}
    rows = LineageRows(clients=(0, 1), kinds=(), used=(0, 1), last=(2, 2), decay=1.0)
    tensors = {f"weighted/{n}": torch.stack([0.5 * client[n] for client in sums]) for n in before}
    tensors |= {f"plain/{n}": torch.stack([client[n] for client in sums]) for n in before}
    inputs = torch.randn(3, 1, 8, 8)
    found = trace(network(), inputs, LineageRound(after, Lineage(rows, before, tensors)), "faithful", [0, 1, 2])
    single = from_state_dicts([{n: before[n] + client[n] for n in before} for client in sums], [1, 1], before)
    assert np.allclose(
        found.values, trace(network(), inputs, single, "faithful", [0, 1, 2]).values, rtol=1e-4, atol=1e-6
    )
    assert found.not_shared == tuple(n for n, _ in network().named_parameters() if not n.startswith("6."))


def test_tied_tensors_that_differ_in_the_round_are_refused() -> None:
    model = Tied().eval()
    table = model.embed.weight.detach().clone()
    client = {"embed.weight": table + 0.1, "out.weight": table - 0.1}
    source = from_state_dicts([client], [1], {"embed.weight": table, "out.weight": table})
    with pytest.raises(InputError, match=r"embed\.weight and out\.weight are the same tensor in the model"):
        trace(model, torch.randint(0, 5, (3, 4)), source)


def test_layers_of_which_nothing_is_shared_are_refused() -> None:
    before = {n: t.clone() for n, t in network().state_dict().items() if n.startswith("0.")}
    source = from_state_dicts([moved(before, 1)], [1], before)
    with pytest.raises(InputError, match="clients share no parameter of these layers"):
        trace(network(), torch.randn(2, 1, 8, 8), source, replace(preset("provfl"), layers="last"))


class Narrow(nn.Module):
    """A frozen base in 8 bits, widened in forward, and a head."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.base = nn.Parameter(torch.randn(8, 6).to(dtype), requires_grad=False)
        self.head = nn.Linear(8, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(torch.relu(inputs @ self.base.to(inputs.dtype).T))


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.int8, torch.bfloat16])
def test_constants_may_be_of_any_type(dtype: torch.dtype) -> None:
    model, wide = Narrow(dtype), Narrow(dtype)
    wide.base = nn.Parameter(wide.base.float())
    before = {n: t.clone() for n, t in model.state_dict().items() if n.startswith("head")}
    source = from_state_dicts([moved(before, seed) for seed in (1, 2)], [1, 1], before)
    inputs = torch.randn(3, 6)
    assert np.allclose(trace(model, inputs, source).values, trace(wide, inputs, source).values, rtol=1e-5)


def test_whole_numbers_alone_are_refused() -> None:
    model = nn.Sequential(nn.Linear(4, 3))
    model.register_parameter("steps", nn.Parameter(torch.tensor([1, 2]), requires_grad=False))
    steps = {"steps": torch.tensor([1, 2])}
    with pytest.raises(InputError, match="whole numbers alone"):
        trace(model, torch.randn(2, 4), from_state_dicts([steps], [1], steps))


def test_adapters_that_are_switched_off_are_refused() -> None:
    peft = pytest.importorskip("peft")
    settings = peft.LoraConfig(r=2, target_modules=["0", "2"], init_lora_weights=False)
    model = peft.get_peft_model(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3)), settings).eval()
    before = {n: t.clone() for n, t in peft.get_peft_model_state_dict(model).items()}
    source = from_state_dicts([moved(before, seed) for seed in (1, 2)], [1, 1], before)
    assert trace(nn.DataParallel(model), torch.randn(2, 4), source).covered == 1.0
    model.merge_adapter()
    with pytest.raises(InputError, match="adapters that are merged or switched off"):
        trace(model, torch.randn(2, 4), source)


def test_peft_names_are_matched() -> None:
    front = "base_model.model.layers.0.q"
    own = [
        f"{front}.base_layer.weight",
        f"{front}.lora_A.default.weight",
        f"{front}.lora_B.default.weight",
        f"{front}.lora_magnitude_vector.default.weight",
        "base_model.model.embed.lora_embedding_A.default",
        "base_model.model.score.original_module.weight",
        "base_model.model.score.modules_to_save.default.weight",
    ]
    stored = [
        f"{front}.lora_A.weight",
        f"{front}.lora_B.weight",
        f"{front}.lora_magnitude_vector",
        "base_model.model.embed.lora_embedding_A",
        "base_model.model.score.weight",
    ]
    assert model_names(stored, own, "model", "rounds") == dict(zip(stored, [*own[1:5], own[6]], strict=True))
    assert model_names(["layers.0.q.weight"], own, "model", "rounds") == {"layers.0.q.weight": own[0]}


def test_two_adapters_are_not_guessed_between() -> None:
    own = ["q.lora_A.first.weight", "q.lora_A.second.weight"]
    with pytest.raises(InputError, match=r"may be its q\.lora_A\.first\.weight or its q\.lora_A\.second\.weight"):
        model_names(["q.lora_A.weight"], own, "model", "rounds")


@pytest.mark.parametrize(
    ("tensors", "reason"),
    [
        ({"7.weight": torch.zeros(3, 8)}, r"7\.weight \(of 1\), which the model has not"),
        ({"6.weight": torch.zeros(4, 8)}, r"6\.weight is \[3, 8\] in the model and \[4, 8\]"),
        ({"1.running_mean": torch.zeros(4)}, "holds no parameter of the model"),
        ({"weight": torch.zeros(3, 8)}, "which the model has not"),
    ],
)
def test_another_model_is_refused(tensors: dict[str, Tensor], reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        trace(network(), torch.randn(2, 1, 8, 8), from_state_dicts([tensors], [1], tensors))


@pytest.mark.slow
def test_adapters_of_peft_give_the_numbers_of_whole_models() -> None:
    peft = pytest.importorskip("peft")
    from transformers import AutoModelForSequenceClassification, LlamaConfig

    torch.manual_seed(0)
    settings = LlamaConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, vocab_size=50, pad_token_id=0
    )
    base = AutoModelForSequenceClassification.from_config(settings)
    for dora in (False, True):
        adapter = peft.LoraConfig(r=2, task_type="SEQ_CLS", target_modules="all-linear", use_dora=dora)
        model = peft.get_peft_model(copy.deepcopy(base), adapter).eval()
        before = moved({n: t.detach() for n, t in peft.get_peft_model_state_dict(model).items()}, 5)
        clients = [moved(before, seed) for seed in (1, 2, 3)]

        def whole(tensors: dict[str, Tensor], model: nn.Module = model) -> dict[str, Tensor]:
            filled = copy.deepcopy(model)
            peft.set_peft_model_state_dict(filled, {n: t.clone() for n, t in tensors.items()})
            return {n: t.clone() for n, t in filled.state_dict().items()}

        tokens = torch.randint(1, 50, (4, 6))
        inputs = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
        part = from_state_dicts(clients, [1, 2, 3], before)
        every = from_state_dicts([whole(client) for client in clients], [1, 2, 3], whole(before))
        for name in UPDATES:
            few, all_of_it = (trace(copy.deepcopy(model), inputs, source, name) for source in (part, every))
            assert np.abs(few.values - all_of_it.values).max() <= 1e-6 * np.abs(all_of_it.values).max()
            assert few.covered == 1.0
            assert not any("lora" in constant for constant in few.not_shared)
