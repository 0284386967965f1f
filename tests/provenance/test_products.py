"""Adapters traced in terms of the product in which they act, against dense products by autograd."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from provfl_cli.cli import main
from provfl_cli.errors import InputError, RunError
from provfl_cli.fusion.decomposition import Decomposition, Multiplier
from provfl_cli.provenance import Contributions, from_state_dicts, trace, trace_targets
from provfl_cli.provenance.lineage import LineageRound
from provfl_cli.provenance.products import factor_pairs
from provfl_cli.provenance.settings import preset
from provfl_cli.provenance.state_dicts import RoundInMemory

from .federations import settings

EXAMPLES = (5, 3, 2)
SHARES = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
SCALE = 1.5
RANK = 2


class Adapted(nn.Module):
    """A linear layer with an adapter, as PEFT computes it; `dense` is what stands in the place of `s B A`."""

    def __init__(self, inputs: int, outputs: int, bias: bool = False) -> None:
        super().__init__()
        self.base_layer = nn.Linear(inputs, outputs)
        self.lora_A = nn.ModuleDict({"default": nn.Linear(inputs, RANK, bias=False)})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(RANK, outputs, bias=bias)})
        self.dense: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        base = self.base_layer(x)
        if self.dense is not None:
            bias = self.lora_B["default"].bias
            whole: Tensor = base + F.linear(x, self.dense)
            return whole + SCALE * bias if isinstance(bias, Tensor) else whole
        adapted: Tensor = base + self.lora_B["default"](self.lora_A["default"](x)) * SCALE
        return adapted


class Texts(nn.Module):
    """Two adapted layers over positions with an activation between, a norm, and a head that is shared whole."""

    def __init__(self, bias: bool = False) -> None:
        super().__init__()
        self.first = Adapted(6, 8, bias)
        self.norm = nn.LayerNorm(8)
        self.second = Adapted(8, 5)
        self.head = nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(torch.tanh(self.second(self.norm(torch.relu(self.first(x))))).mean(1))
        return logits


def model(bias: bool = False) -> Texts:
    torch.manual_seed(1)
    return Texts(bias).double().eval()


def inputs(count: int = 5) -> Tensor:
    return torch.randn(count, 3, 6, generator=torch.Generator().manual_seed(9), dtype=torch.float64)


def is_shared(name: str) -> bool:
    return "lora" in name or name.startswith(("head", "norm"))


def tensors(seed: int, like: Mapping[str, Tensor], scale: float = 0.3) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {n: t + scale * torch.randn(t.shape, generator=generator, dtype=t.dtype) for n, t in like.items()}


def round_of(network: nn.Module, count: int = 3) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
    before = {n: t.detach().clone() for n, t in network.state_dict().items() if is_shared(n)}
    return [tensors(seed, before) for seed in range(count)], before


def mean(clients: Sequence[Mapping[str, Tensor]], shares: Tensor) -> dict[str, Tensor]:
    return {n: sum(q * c[n] for q, c in zip(shares, clients, strict=True)) for n in clients[0]}


def dense_rows(
    network: Texts, clients: list[dict[str, Tensor]], before: dict[str, Tensor], shares: Tensor, of: str, x: Tensor
) -> tuple[np.ndarray, np.ndarray]:
    """By autograd of each input's centred logit in dense products and in all else; no layer decay, no threshold."""
    after, layers = mean(clients, shares), ("first", "second")

    def product(held: Mapping[str, Tensor], layer: str) -> Tensor:
        return SCALE * held[f"{layer}.lora_B.default.weight"] @ held[f"{layer}.lora_A.default.weight"]

    network = copy.deepcopy(network)
    network.load_state_dict(after, strict=False)
    dense = {layer: product(after, layer).requires_grad_() for layer in layers}
    for layer, matrix in dense.items():
        getattr(network, layer).dense = matrix
    own = {
        n: p
        for n, p in network.named_parameters()
        if is_shared(n) and not n.endswith(("A.default.weight", "B.default.weight"))
    }
    values = np.zeros((len(x), len(clients)))
    cross = np.zeros(len(x))
    for b in range(len(x)):
        logits = network(x[b : b + 1])[0]
        label = int(logits.argmax())
        y = logits[label] - torch.cat([logits[:label], logits[label + 1 :]]).mean()
        gradients = torch.autograd.grad(y, [*dense.values(), *own.values()])
        in_dense = dict(zip(dense, gradients[: len(dense)], strict=True))
        in_own = dict(zip(own, gradients[len(dense) :], strict=True))
        for k, client in enumerate(clients):
            for layer, g in in_dense.items():
                base = product(before, layer) if of == "updates" else 0.0
                values[b, k] += float((g * (product(client, layer) - base)).sum())
            for n, g in in_own.items():
                values[b, k] += float((g * (client[n] - (before[n] if of == "updates" else 0.0))).sum())
        for layer, g in in_dense.items():
            apart = sum(q * product(c, layer) for q, c in zip(shares, clients, strict=True))
            cross[b] += float((g * (product(after, layer) - apart)).sum())
    return values, cross


def traced(network: nn.Module, source: object, x: Tensor | None = None, **changed: object) -> Contributions:
    how = settings(**{"adapters": "product", "layer_decay": 1.0, **changed})
    return trace(copy.deepcopy(network), inputs() if x is None else x, source, how)  # type: ignore[arg-type]


def close(values: np.ndarray, expected: np.ndarray) -> bool:
    return bool(np.abs(values - expected).max() <= 1e-9 * max(1.0, np.abs(expected).max()))


@pytest.mark.parametrize("of", ["updates", "weights", "gradients"])
@pytest.mark.parametrize("bias", [False, True])
def test_contributions_are_those_of_dense_products(of: str, bias: bool) -> None:
    network = model(bias)
    clients, before = round_of(network)
    result = traced(network, from_state_dicts(clients, EXAMPLES, before), of=of)
    plain = "weights" if of == "weights" else "updates"
    values, cross = dense_rows(network, clients, before, SHARES, plain, inputs())
    assert close(result.values, values)
    assert close(result.rows["cross"], cross)
    assert np.abs(cross).min() > 1e-3  # it is no small number that is looked at
    assert result.residuals.max() < 1e-9
    assert result.covered == 1.0
    assert not any("product" in note for note in result.notes)


def test_shares_and_several_targets() -> None:
    network = model()
    clients, before = round_of(network)
    source = from_state_dicts(clients, EXAMPLES, before)
    how = settings(adapters="product", client_weighting="fusion", layer_decay=1.0)
    targets = [("centred", None), ("logit", [0, 1, 2, 3, 0])]
    first, second = trace_targets(copy.deepcopy(network), inputs(), source, how, targets)
    assert close(first.values, traced(network, source).values * SHARES.numpy())
    alone = trace(copy.deepcopy(network), inputs(), source, replace(how, target="logit"), [0, 1, 2, 3, 0])
    for kind in ("values", "rows"):
        both, single = getattr(second, kind), getattr(alone, kind)
        assert close(both["cross"], single["cross"]) if kind == "rows" else close(both, single)


def test_the_factors_are_another_question() -> None:
    """Each factor's own update, with the other as it is after fusion, counts the product's second order twice."""
    network = model()
    clients, before = round_of(network)
    source = from_state_dicts(clients, EXAMPLES, before)
    product, factors = traced(network, source), traced(network, source, adapters="factors")
    assert "cross" not in factors.rows
    assert np.abs(product.values - factors.values).max() > 1e-2


def test_one_step_of_the_global_model_is_what_clients_and_cross_add_up_to() -> None:
    """What fusion changed in a linear model: no activation stands between, so that the logits differ by just that."""

    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = Adapted(6, 4)

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.layer(x)
            return logits

    torch.manual_seed(2)
    network, x = Plain().double().eval(), inputs()[:, 0]
    clients, before = round_of(network)
    result = traced(network, from_state_dicts(clients, EXAMPLES, before), x, client_weighting="fusion", target="logit")
    logits = []
    for held in (before, mean(clients, SHARES)):
        filled = copy.deepcopy(network)
        filled.load_state_dict(held, strict=False)
        logits.append(filled(x)[range(len(x)), result.predictions].detach().numpy())
    assert close(result.values.sum(1) + result.rows["cross"], logits[1] - logits[0])


@pytest.mark.parametrize("of", ["updates", "weights"])
def test_cross_is_zero_where_products_can_be_averaged(of: str) -> None:
    network = model()
    clients, before = round_of(network)
    same = [{n: clients[0][n] if "lora_A" in n else t for n, t in client.items()} for client in clients]
    result = traced(network, from_state_dicts(same, EXAMPLES, before), of=of)
    assert np.abs(result.rows["cross"]).max() < 1e-12
    alone = traced(network, from_state_dicts(clients[:1], [4], before), of=of)
    assert np.abs(alone.rows["cross"]).max() < 1e-12
    assert np.abs(traced(network, from_state_dicts(clients, EXAMPLES, before), of=of).rows["cross"]).max() > 1e-3


def test_with_the_first_factor_frozen_the_product_is_what_the_factors_are() -> None:
    network = model()
    clients, before = round_of(network)
    same = [{n: before[n] if "lora_A" in n else t for n, t in client.items()} for client in clients]
    source = from_state_dicts(same, EXAMPLES, before)
    assert close(traced(network, source).values, traced(network, source, adapters="factors").values)
    short = [{n: t for n, t in client.items() if "lora_A" not in n} for client in same]
    part = from_state_dicts(short, EXAMPLES, {n: t for n, t in before.items() if "lora_A" not in n})
    network.load_state_dict(before, strict=False)
    result = traced(network, part)
    assert close(result.values, traced(network, source).values)
    assert any("changes nothing: the round holds no LoRA layer with both" in note for note in result.notes)


def test_the_threshold_masks_what_the_second_factor_puts_out() -> None:
    """The first layer's neurons that ReLU turns off pass no gradient, and those above the threshold are chosen."""
    network = model()
    clients, before = round_of(network)
    source = from_state_dicts(clients, EXAMPLES, before)
    whole, masked = traced(network, source), traced(network, source, threshold=0.4)
    assert close(traced(network, source, threshold=0.0).values, whole.values - behind_tanh(network, clients, before))
    assert "first.lora_B.default" in masked.masked_layers
    assert masked.residuals.max() < 1e-9
    assert not close(masked.values, whole.values)


def behind_tanh(network: Texts, clients: list[dict[str, Tensor]], before: dict[str, Tensor]) -> np.ndarray:
    """What threshold 0 leaves out: the second layer's neurons with a negative sum."""
    network = copy.deepcopy(network)
    network.load_state_dict(mean(clients, SHARES), strict=False)
    x = inputs()
    z = network.norm(torch.relu(network.first(x))).detach()
    a = network.second(z).detach().requires_grad_()
    logits = network.head(torch.tanh(a).mean(1))
    labels = logits.argmax(1)
    y = sum(l[c] - torch.cat([l[:c], l[c + 1 :]]).mean() for l, c in zip(logits, labels.tolist(), strict=True))  # noqa: E741
    (g,) = torch.autograd.grad(y, a)
    g = g * (a <= 0)
    A, B = "second.lora_A.default.weight", "second.lora_B.default.weight"
    out = [SCALE * (c[B] @ c[A] - before[B] @ before[A]) for c in clients]
    return torch.stack([((z @ matrix.T) * g).sum((1, 2)) for matrix in out], 1).numpy()


@pytest.mark.parametrize("changed", [{"batch_size": 1}, {"batch_size": 2}, {"memory_mb": 1}, {"shards": 2}])
def test_any_batches_and_shards_give_the_same(changed: dict[str, object]) -> None:
    network = model()
    clients, before = round_of(network)
    source = from_state_dicts(clients, EXAMPLES, before)
    x = inputs(9)
    result, whole = traced(network, source, x, **changed), traced(network, source, x)
    assert close(result.values, whole.values)
    assert close(result.rows["cross"], whole.rows["cross"])


def test_blocks_of_ranks_and_positions_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    network = model()
    clients, before = round_of(network)
    source = from_state_dicts(clients, EXAMPLES, before)
    whole = traced(network, source)
    monkeypatch.setattr("provfl_cli.provenance.products.BLOCK_NUMBERS", 20)
    result = traced(network, source)
    assert close(result.values, whole.values)
    assert close(result.rows["cross"], whole.rows["cross"])


def test_layer_weights_and_chosen_layers_are_those_of_the_second_factor() -> None:
    network = model()
    clients, before = round_of(network)
    source = from_state_dicts(clients, EXAMPLES, before)
    how = settings(adapters="product", layer_decay=1.0)
    plain = trace(copy.deepcopy(network), inputs(), source, how, layer_sample=5)
    decayed = trace(copy.deepcopy(network), inputs(), source, replace(how, layer_decay=0.5), layer_sample=5)
    parts, halved = ({layer.layer: layer.contributions for layer in result.layers} for result in (plain, decayed))
    assert "first.lora_B.default" in parts
    assert "first.lora_A.default" not in parts
    assert close(sum(parts.values()), plain.values)  # type: ignore[arg-type]
    assert close(halved["second.lora_B.default"], 0.5 * parts["second.lora_B.default"])  # before the head
    assert close(halved["first.lora_B.default"], 0.5**5 * parts["first.lora_B.default"])  # A, B, norm, base, A, B, head


def test_half_precision_has_a_row_for_what_rounding_changed() -> None:
    network = model().float()
    clients, before = round_of(network)
    narrow = [{n: t.to(torch.bfloat16) for n, t in held.items()} for held in (*clients, before)]
    exact = mean([{n: t.double() for n, t in client.items()} for client in narrow[:-1]], SHARES)
    after = {n: t.to(torch.bfloat16) for n, t in exact.items()}
    x = inputs().float()
    result = traced(network, from_state_dicts(narrow[:-1], EXAMPLES, narrow[-1], after), x, client_weighting="fusion")
    assert result.residuals.max() < 1e-4
    assert np.abs(result.rows["rounding"]).max() > 0
    # The same round without rounding: `cross` and `rounding` are apart.
    wide = [{n: t.float() for n, t in held.items()} for held in narrow]
    unrounded = traced(network, from_state_dicts(wide[:-1], EXAMPLES, wide[-1]), x, client_weighting="fusion")
    assert np.abs(result.rows["cross"] - unrounded.rows["cross"]).max() < 0.1 * np.abs(unrounded.rows["cross"]).max()


def test_another_model_than_the_average_fails() -> None:
    """`cross` is computed from what clients sent, not from what is left over: a wrong statement is seen."""
    network = model()
    clients, before = round_of(network)
    with pytest.raises(RunError, match="conservation fails"):
        traced(network, from_state_dicts(clients, EXAMPLES, before, clients[0]))


def test_fusions_of_which_products_cannot_be_told_apart_are_refused() -> None:
    network = model()
    clients, before = round_of(network)
    good = from_state_dicts(clients, EXAMPLES, before)
    name = "first.lora_A.default.weight"
    half = Multiplier(torch.full((3,), 0.5, dtype=torch.float64))
    wrong = [
        (Decomposition(SHARES, {name: half}), "takes A and B not by one share"),
        (Decomposition(SHARES, {}, {"momentum": {name: before[name]}}), r"came from no client \(momentum\)"),
    ]
    for parts, reason in wrong:
        source = RoundInMemory(good.clients, parts, good.weights(), before, dict(good.client_stack()))
        with pytest.raises(InputError, match=rf"{reason}.*provenance\.adapters=factors"):
            traced(network, source)
    with pytest.raises(InputError, match=r"scope=lineage.*provenance\.adapters=factors"):
        settings(adapters="product", scope="lineage")
    with pytest.raises(InputError, match=r"provenance\.adapters"):
        settings(adapters="products")
    gone = RoundInMemory(good.clients, Decomposition(0.5 * SHARES), good.weights(), before, dict(good.client_stack()))
    with pytest.raises(InputError, match=r"do not add up to 1.*provenance\.adapters=factors"):
        traced(network, gone, of="weights")
    with pytest.raises(InputError, match=r"over all rounds.*provenance\.scope=round"):
        factor_pairs(LineageRound({}, None), before, "updates")  # type: ignore[arg-type]
    # Of other tensors it does not matter, nor what a server that computes in a coarser type has rounded.
    lost = tensors(7, {n: torch.zeros_like(t) for n, t in before.items()}, 0.01)
    coarse = {n: t + lost[n] for n, t in good.weights().items()}
    rounded = Decomposition(SHARES, {}, {"rounding": lost})
    result = traced(network, RoundInMemory(good.clients, rounded, coarse, before, dict(good.client_stack())))
    assert result.residuals.max() < 1e-9
    assert np.abs(result.rows["rounding"]).max() > 1e-4
    head = Decomposition(
        SHARES, {"head.bias": Multiplier(torch.ones(3, dtype=torch.float64), 2 * torch.ones(4).double())}
    )
    after = {
        **good.weights(),
        "head.bias": before["head.bias"] + 2 * (good.weights()["head.bias"] - before["head.bias"]),
    }
    result = traced(network, RoundInMemory(good.clients, head, after, before, dict(good.client_stack())))
    assert result.residuals.max() < 1e-9


class Late(RoundInMemory):
    """A round whose first client started from another model."""

    def bases(self) -> dict[int, Mapping[str, Tensor]]:
        return {0: self.previous()}


class Moved(RoundInMemory):
    """A round whose clients were moved by control variates."""

    def corrections(self) -> Mapping[str, Tensor]:
        return {name: torch.zeros_like(stack) for name, stack in self.client_stack().items()}


@pytest.mark.parametrize(("kind", "of"), [(Late, "updates"), (Late, "weights"), (Moved, "gradients")])
def test_clients_that_did_not_train_from_the_model_before_are_refused(kind: type[RoundInMemory], of: str) -> None:
    network = model()
    clients, before = round_of(network)
    good = from_state_dicts(clients, EXAMPLES, before)
    source = kind(good.clients, good.decomposition, good.weights(), before, dict(good.client_stack()))
    with pytest.raises(InputError, match=r"provenance\.adapters=product.*provenance\.adapters=factors"):
        traced(network, source, of=of)
    if kind is Moved:
        assert close(traced(network, source, of="updates").values, traced(network, good).values)


class Overlapping(nn.Module):
    """An adapter whose B reads something else than what A puts out: its transpose, in the same memory."""

    def __init__(self, turned: bool) -> None:
        super().__init__()
        self.lora_A = nn.Linear(6, 3, bias=False)
        self.lora_B = nn.Linear(3, 4, bias=False)
        self.turned = turned

    def forward(self, x: Tensor) -> Tensor:
        a = self.lora_A(x)
        logits: Tensor = self.lora_B(a.transpose(1, 2) if self.turned else a).mean(1)
        return logits


@pytest.mark.parametrize("turned", [False, True])
def test_a_second_factor_that_reads_something_else_is_no_product(turned: bool) -> None:
    torch.manual_seed(3)
    network = Overlapping(turned).double().eval()
    clients, before = round_of(network)
    source = from_state_dicts(clients, EXAMPLES, before)
    result = traced(network, source)
    assert result.residuals.max() < 1e-9
    assert any("in no LoRA layer does B read" in note for note in result.notes) == turned
    assert close(result.values, traced(network, source, adapters="factors").values) == turned
    assert (np.abs(result.rows["cross"]).max() > 1e-3) == (not turned)


@pytest.mark.parametrize("dora", [False, True])
def test_adapters_of_peft(dora: bool) -> None:
    peft = pytest.importorskip("peft")
    from transformers import AutoModelForSequenceClassification, LlamaConfig

    torch.manual_seed(0)
    shape = LlamaConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2, vocab_size=50, pad_token_id=0
    )
    base = AutoModelForSequenceClassification.from_config(shape)
    adapter = peft.LoraConfig(
        r=2, task_type="SEQ_CLS", target_modules="all-linear", use_dora=dora, lora_alpha=5, lora_dropout=0.1
    )
    network = peft.get_peft_model(base, adapter).double().eval()
    before = tensors(5, {n: t.detach() for n, t in peft.get_peft_model_state_dict(network).items()}, 0.1)
    clients = [tensors(seed, before, 0.2) for seed in range(3)]
    tokens = {"input_ids": torch.randint(1, 50, (3, 6))}
    source = from_state_dicts(clients, EXAMPLES, before)
    result = trace(network, tokens, source, settings(adapters="product", client_weighting="fusion"))
    assert result.residuals.max() < 1e-9
    assert np.abs(result.rows["cross"]).max() > 1e-6
    assert any("norm that DoRA divides by" in note for note in result.notes) == dora


def test_adapters_of_other_layers_are_traced_as_factors() -> None:
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    network = nn.Sequential(nn.Embedding(9, 6), nn.Conv1d(4, 3, 2), nn.Flatten(), nn.Linear(15, 4))
    adapter = peft.LoraConfig(r=2, target_modules=["0", "1", "3"])
    network = peft.get_peft_model(network, adapter).double().eval()
    before = tensors(5, {n: t.detach() for n, t in peft.get_peft_model_state_dict(network).items()}, 0.1)
    clients = [tensors(seed, before, 0.2) for seed in range(3)]
    tokens = torch.randint(0, 9, (3, 4))
    source = from_state_dicts(clients, EXAMPLES, before)
    result = traced(network, source, tokens)
    assert result.residuals.max() < 1e-9
    (note,) = [note for note in result.notes if "traced apart" in note]
    assert "lora_embedding_A" in note
    assert "model.1.lora_A" in note
    assert "model.3" not in note


def adapted() -> nn.Module:
    """What `--model` of the command calls."""
    return model().float()


def texts() -> dict[str, Tensor]:
    """What `--data` of the command calls."""
    return {"inputs": inputs().float(), "labels": torch.zeros(5, dtype=torch.int64)}


def test_the_command_traces_a_recording_in_terms_of_products(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    network = adapted()
    clients, before = round_of(network)
    stored = {"before": before, "after": mean(clients, SHARES.float()), **dict(zip("abc", clients, strict=True))}
    for name, held in stored.items():
        save_file({n: t.contiguous() for n, t in held.items()}, f"{name}.safetensors")
    senders = [f"{name}={name}.safetensors:{count}" for name, count in zip("abc", EXAMPLES, strict=True)]
    files = ["--global", "after.safetensors", "--previous", "before.safetensors", "--client", *senders]
    assert main(["import", *files, "--out", "made"]) == 0
    where = ["--model", f"{__name__}:adapted", "--data", f"{__name__}:texts", "--json"]
    answers = {}
    for terms in ("factors", "product"):
        capsys.readouterr()
        assert main(["trace", "made", *where, "--adapters", terms, "--method", "faithful"]) == 0
        answers[terms] = json.loads(capsys.readouterr().out)["methods"][0]
    assert "cross" not in answers["factors"]["rest"]
    source = from_state_dicts(clients, EXAMPLES, before)
    how = replace(preset("faithful"), adapters="product")
    result = trace(network, inputs().float(), source, how)
    assert answers["product"]["rest"]["cross"] == pytest.approx(result.rows["cross"][0], rel=1e-3)
