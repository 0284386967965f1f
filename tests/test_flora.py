"""FLoRA: products of clients' adapters are summed exactly, kept as factors, and traced as what was summed."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from provfl_cli.attribution.counterfactual import logits
from provfl_cli.attribution.method import Case
from provfl_cli.attribution.norms import update_norms
from provfl_cli.cli import main
from provfl_cli.config.chosen_fusion import chosen_fusion
from provfl_cli.config.lora import Lora
from provfl_cli.config.validate import provenance_preset
from provfl_cli.errors import InputError, RunError
from provfl_cli.federation import round as federation_round
from provfl_cli.federation.client import batches
from provfl_cli.fusion.adapters import SideBySide, adapter_pairs, merged, merged_name, row_of
from provfl_cli.fusion.flora import Flora
from provfl_cli.fusion.fuse import fuse
from provfl_cli.fusion.privacy import NoPrivacy
from provfl_cli.fusion.updates import ReturnedModels
from provfl_cli.provenance import trace
from provfl_cli.provenance.merged import load_merged, load_round
from provfl_cli.provenance.tracing import FORMER
from provfl_cli.provenance.workers import work
from provfl_cli.seeds import derived_seed, generator
from provfl_cli.store.matching_tensors import check_tensors
from provfl_cli.store.rounds import Round
from tests.adapted import RUN, adapter_config, agrees, of, ran, without_dropout
from tests.federations import CPU, content, make_texts, train
from tests.fusions import made_of, whole_shares
from tests.refusals import refusal
from tests.text_networks import some_texts

if find_spec("peft") is None:
    pytest.skip("no peft: pip install 'provfl[peft]'", allow_module_level=True)

ADAPTERS = ("fusion=flora", "model.adapter=lora")
SCALE = 16 / 2  # alpha over rank
TEXTS = (3, 12, 5)


def network(kind: str = "openai-gpt", **changes: Any) -> nn.Module:
    return without_dropout(of(kind, **{"rank": 2, **changes}))


def trained(folder: Path, rounds: int, kind: str = "openai-gpt", workers: int = 2, **changes: Any) -> list[Round]:
    """All rounds of a federation of four clients with adapters of rank 2."""
    lora = {"rank": 2, **changes}
    config = adapter_config(fusion=Flora(), lora=Lora(**lora))
    config = replace(
        config,
        federation=replace(config.federation, rounds=rounds),
        engine=replace(config.engine, workers=workers),
    )
    stored, _ = train(folder, config, set(range(1, rounds + 1)), make_texts(), network(kind, **changes))
    return stored


@pytest.fixture(scope="module")
def rounds(tmp_path_factory: pytest.TempPathFactory) -> list[Round]:
    return trained(tmp_path_factory.mktemp("flora"), 3)


def shares(stored: Round, left: list[int] | None = None) -> Tensor:
    """By examples, of the clients that are left."""
    counts = torch.tensor(stored.examples, dtype=torch.float64)
    if left is not None:
        counts *= torch.tensor([float(client in left) for client in range(len(counts))], dtype=torch.float64)
    return counts / counts.sum()


def base_of(model: nn.Module, name: str) -> tuple[str, bool]:
    """The name of the dense weight that an adapter, called by its B, is beside; and whether it is stored turned."""
    layer = name.partition(".lora_B.")[0]
    return f"{layer}.base_layer.weight", type(model.get_submodule(f"{layer}.base_layer")).__name__ == "Conv1D"


def dense(model: nn.Module, name: str, product: Tensor) -> Tensor:
    """What a product of factors adds to the dense weight, as that is stored."""
    return SCALE * (product.T if base_of(model, name)[1] else product)


def without_adapters(model: nn.Module) -> dict[str, Tensor]:
    """Its tensors in float64, whose adapters add nothing."""
    state = {name: tensor.double() for name, tensor in model.state_dict().items()}
    return {name: torch.zeros_like(tensor) if "lora_B" in name else tensor for name, tensor in state.items()}


def dense_state(model: nn.Module, stored: Round, q: Tensor) -> dict[str, Tensor]:
    """The round's model written out: dense weights, and everything beside the adapters averaged with these shares."""
    sent, state = stored.as_sent().client_stack(), without_adapters(model)
    former, pairs = stored.merged(), adapter_pairs(sent)
    for second, first in pairs.items():
        total = torch.einsum("k,kor,kri->oi", q, sent[second].double(), sent[first].double())
        if former:
            total += former[merged_name(second)].double() @ former[merged_name(first)].double()
        state[base_of(model, second)[0]] += dense(model, second, total)
    beside = [name for name in sent if name not in {*pairs, *pairs.values()}]
    assert beside
    return state | {name: torch.tensordot(q, sent[name].double(), 1) for name in beside}


def of_dense(state: Mapping[str, Tensor], tokens: Tensor, kind: str = "openai-gpt") -> Tensor:
    model = network(kind).double().eval()
    model.load_state_dict(state)
    with torch.no_grad():
        scores: Tensor = model(tokens)
    return scores


# --- the sum


def test_a_round_is_the_dense_sum_of_what_a_plain_loop_trains(rounds: list[Round]) -> None:
    """Two rounds worked by hand: the products are added to the base as it is, and everybody starts again."""
    model, data = network(), make_texts()
    config = adapter_config().federation
    counts = [len(client.labels) for client in data.clients]
    base = copy.deepcopy(model.state_dict())
    start = {name: tensor for name, tensor in model.named_parameters() if tensor.requires_grad}
    current = {name: tensor.detach().clone() for name, tensor in start.items()}
    pairs = adapter_pairs(current)
    assert len(pairs) == 8
    for number, stored in enumerate(rounds[:2], 1):
        handed = stored.as_sent().previous()
        assert set(handed) == set(current)
        for name in current:
            if number == 1 or name not in pairs.values():
                assert torch.allclose(handed[name], current[name], atol=1e-6), name
            current[name] = handed[name].clone()
        sums = {name: torch.zeros_like(current[name], dtype=torch.float64) for name in current}
        products = {name: torch.zeros(1, dtype=torch.float64) for name in pairs}
        for client, count in zip(data.clients, counts, strict=True):
            model.load_state_dict({**base, **current})
            weights = [weight for weight in model.parameters() if weight.requires_grad]
            optimizer = torch.optim.SGD(weights, config.learning_rate, config.momentum)
            torch.manual_seed(derived_seed(0, "client", number, client.fingerprint))
            order = generator(0, "order", number, client.fingerprint)
            lengths = (client.inputs != 0).sum(1)
            model.train()
            for _ in range(config.local_epochs):
                for batch in batches(count, config.batch_size, order, lengths):
                    optimizer.zero_grad()
                    functional.cross_entropy(model(client.inputs[batch]), client.labels[batch]).backward()
                    optimizer.step()
            own = {name: tensor.double() for name, tensor in model.state_dict().items()}
            share = count / sum(counts)
            for name in current:
                sums[name] += share * own[name]
            for second, first in pairs.items():
                products[second] = products[second] + share * own[second] @ own[first]
        for second in pairs:
            name = base_of(model, second)[0]
            moved = dense(model, second, products[second])
            assert moved.abs().max() > 1e-4
            base[name] = (base[name].double() + moved).float()
        current |= {name: sums[name].float() for name in sums if "lora_" not in name}
        after, start_of_next = stored.next_server_state(), stored.as_sent().weights()
        for second, first in pairs.items():
            name = base_of(model, second)[0]
            total = after[merged_name(second)].double() @ after[merged_name(first)].double()
            kept = network().state_dict()[name].double() + dense(model, second, total)
            assert (kept - base[name].double()).abs().max() <= 1e-6, (number, name)
            assert not start_of_next[second].any()
            assert not torch.equal(start_of_next[first], stored.as_sent().previous()[first]), "drawn anew"
        for name in current:
            if "lora_" not in name:
                assert (start_of_next[name] - current[name]).abs().max() <= 1e-6, name


@pytest.mark.parametrize("kind", ["openai-gpt", pytest.param("bert", marks=pytest.mark.slow)])
def test_the_model_of_a_round_is_the_dense_one(kind: str, rounds: list[Round], tmp_path: Path) -> None:
    """In every round, one after the other and back, in one and the same model."""
    tokens, stored = some_texts(0, TEXTS), rounds if kind == "openai-gpt" else trained(tmp_path, 2, kind)
    model = network(kind).eval()
    for each in (*stored, *reversed(stored)):
        load_round(model, each)
        with torch.no_grad():
            own = model(tokens)
        expected = of_dense(dense_state(network(kind), each, shares(each)), tokens, kind)
        assert (own - expected).abs().max() < 1e-5
    test = make_texts().evaluated
    for each in stored:  # what the clients' processes have said of it
        scores = of_dense(dense_state(network(kind), each, shares(each)), test.inputs, kind)
        assert float(functional.cross_entropy(scores, test.labels)) == pytest.approx(each.metrics.loss, rel=1e-5)
    last = stored[-1]
    started = network(kind)  # what the next round starts from: all is in the base
    after = {name: last.next_server_state()[name] for name in last.next_server_state()}
    load_merged(started, after)
    started.load_state_dict(dict(last.as_sent().weights()), strict=False)
    with torch.no_grad():
        assert (
            started.eval()(tokens) - of_dense(dense_state(network(kind), last, shares(last)), tokens, kind)
        ).abs().max() < 1e-5


@pytest.mark.slow
def test_what_is_stored_are_factors_and_their_size_follows_the_rank(tmp_path: Path) -> None:
    """A layer of 16 by 64 numbers: three rounds of four clients of rank 1 are 12 columns, never 16 by 64."""
    targets = ["c_fc"]
    stored = trained(tmp_path, 5, rank=1, targets=targets, alpha=8)
    sizes = []
    for each in stored:
        check_tensors(each)
        rank = min(16, 4 * each.number)
        state = each.next_server_state()
        assert {tuple(tensor.shape) for tensor in state.values()} == {(rank, 16), (64, rank)}
        assert len(each.merged()) == (0 if each.number == 1 else 4)
        sent = each.as_sent()
        assert all(1 in tensor.shape for name, tensor in sent.weights().items() if "lora_" in name)
        assert all(1 in tensor.shape[1:] for name, tensor in sent.client_stack().items() if "lora_" in name)
        assert not any("base_layer" in name for name in (*state, *sent.weights(), *sent.client_stack()))
        sizes.append((each.folder / "next_server_state.safetensors").stat().st_size)
    assert sizes[1] - sizes[0] == pytest.approx(2 * 4 * (16 + 64) * 4, abs=200)
    assert sizes[3] - sizes[4] == pytest.approx(0, abs=200), "as many columns as the narrow side has, and no more"


@given(st.integers(1, 5), st.integers(1, 3), st.integers(1, 6), st.integers(1, 6), st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_factors_side_by_side_are_the_average_of_the_products(
    clients: int, rank: int, inputs: int, outputs: int, seed: int
) -> None:
    random = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random, dtype=torch.float64)

    a, b = "q.lora_A.default.weight", "q.lora_B.default.weight"
    previous = {"bias": draw(3), b: torch.zeros(outputs, rank, dtype=torch.float64), a: draw(rank, inputs)}
    sent = {"bias": draw(clients, 3), b: draw(clients, outputs, rank), a: draw(clients, rank, inputs)}
    examples = torch.randint(1, 9, (clients,), generator=random).tolist()
    returned = ReturnedModels(previous, sent, examples, [1] * clients, frozenset())
    fused = fuse(Flora(), returned, {})
    q = torch.tensor(examples, dtype=torch.float64) / sum(examples)
    product = torch.einsum("k,kor,kri->oi", q, sent[b], sent[a])
    assert torch.allclose(fused.weights[b] @ fused.weights[a], product)
    assert torch.allclose(fused.weights["bias"], q @ sent["bias"])

    # The statement that every fusion makes holds for the factors side by side.
    stack, before = SideBySide(sent, adapter_pairs(sent)), {**previous, a: fused.weights[a]}
    before[b] = torch.zeros_like(fused.weights[b])
    wide = replace(returned, previous=before, clients=stack)
    assert fused.decomposition.products
    made = made_of(wide, whole_shares(fused.decomposition, wide), {})
    assert all(torch.allclose(made[name], fused.weights[name]) for name in made)
    for name in sent:
        assert all(torch.equal(row_of(stack, name, client), stack[name][client]) for client in range(clients))

    # And several rounds' factors, however many, have the product that they add up to.
    state: dict[str, Tensor] = {}
    for count in range(1, 4):
        state = merged(state, fused.weights)
        whole = state[merged_name(b)] @ state[merged_name(a)]
        assert torch.allclose(whole, count * product, atol=1e-9)
        assert len(state[merged_name(a)]) == min(count * clients * rank, inputs, outputs)


# --- who did it


def dense_contributions(kind: str, stored: Round, tokens: Tensor) -> np.ndarray:
    """By autograd, input by input, in the dense weights of the fused model: the margin's gradient times each part."""
    sent, model = stored.as_sent().client_stack(), network(kind).double().eval()
    before = stored.as_sent().previous()
    q, pairs = shares(stored), adapter_pairs(sent)
    weights = stored.weights()  # as they are stored, rounded
    state = dense_state(network(kind), stored, q)
    for second, first in pairs.items():
        exact = torch.einsum("k,kor,kri->oi", q, sent[second].double(), sent[first].double())
        own = weights[second].double() @ weights[first].double() - exact
        state[base_of(model, second)[0]] += dense(model, second, own)
    beside = [name for name in sent if name not in {*pairs, *pairs.values()}]
    model.load_state_dict(state | {name: weights[name].double() for name in beside})
    own = dict(model.named_parameters())
    for parameter in own.values():
        parameter.requires_grad_(True)
    values = np.zeros((len(tokens), len(q)))
    for b in range(len(tokens)):
        scores = model(tokens[b : b + 1])[0]
        label = int(scores.argmax())
        others = torch.cat([scores[:label], scores[label + 1 :]])
        target = scores[label] - others.logsumexp(0)
        names = [*(base_of(model, second)[0] for second in pairs), *beside]
        gradients = dict(zip(names, torch.autograd.grad(target, [own[name] for name in names]), strict=True))
        for k in range(len(q)):
            for second, first in pairs.items():
                part = dense(model, second, sent[second][k].double() @ sent[first][k].double())
                values[b, k] += float(q[k] * (gradients[base_of(model, second)[0]] * part).sum())
            for name in beside:
                moved = sent[name][k].double() - before[name].double()
                values[b, k] += float(q[k] * (gradients[name] * moved).sum())
    return values


@pytest.mark.parametrize("number", [1, 3])
@pytest.mark.parametrize("adapters", ["factors", "product"])
def test_contributions_are_those_of_the_products_in_the_dense_weights(
    number: int, adapters: str, rounds: list[Round]
) -> None:
    stored, tokens = rounds[number - 1], some_texts(0, TEXTS)
    preset = replace(provenance_preset("faithful"), adapters=adapters)
    expected = dense_contributions("openai-gpt", stored, tokens)
    answer = trace(network().double(), tokens, stored, preset)
    assert np.abs(answer.values - expected).max() <= 1e-9 * max(1.0, np.abs(expected).max())
    assert np.abs(expected).max() > 1e-3
    assert answer.residuals.max() < 1e-9
    assert "cross" not in answer.rows
    assert (FORMER in answer.notes) == (number > 1)
    assert answer.covered == 1.0
    assert not any("lora_" in name for name in answer.not_shared)
    single = trace(network(), tokens, stored, preset)
    assert single.residuals.max() < 1e-4
    assert np.abs(single.values - expected).max() <= 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize("preset", ["provfl", "tracefl", "equations", "gradients"])
def test_every_preset_conserves_and_the_rank_is_only_a_faster_way(
    preset: str, rounds: list[Round], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Contracted with the factors side by side, as any weights, the same comes out."""
    tokens, stored, how = some_texts(0, TEXTS), rounds[2], provenance_preset(preset)
    fast = trace(network(), tokens, stored, how, layer_sample=2)
    assert fast.residuals.max() < 1e-4
    assert fast.unchecked == ()
    monkeypatch.setattr(work, "summed_pairs", lambda source: {})
    slow = trace(network(), tokens, stored, how, layer_sample=2)
    assert slow.residuals.max() < 1e-4
    if how.of == "updates":
        assert np.abs(fast.values - slow.values).max() <= 1e-5 * np.abs(slow.values).max()
    assert [layer.layer for layer in fast.layers if "lora_B" in layer.layer]


def test_shards_give_the_same(rounds: list[Round]) -> None:
    tokens, how = some_texts(0, TEXTS), replace(provenance_preset("provfl"), batch_size=1)
    alone = trace(network(), tokens, rounds[1], replace(how, shards=1))
    spread = trace(network(), tokens, rounds[1], replace(how, shards=2))
    assert np.array_equal(alone.values, spread.values)
    assert np.array_equal(alone.residuals, spread.residuals)


def test_a_client_that_was_forgotten_is_noticed(rounds: list[Round]) -> None:
    """Weights and clients that do not belong together do not conserve."""
    stored = rounds[1]
    wrong = replace(stored, example_weights=tuple(reversed(stored.example_weights)))
    object.__setattr__(wrong, "_fused", stored.weights())
    with pytest.raises(RunError, match="conservation fails"):
        trace(network(), some_texts(0, TEXTS), wrong, "faithful")


def case(stored: Round, tokens: Tensor) -> Case:
    model = network()
    load_round(model, stored)
    with torch.no_grad():
        classes = model.eval()(tokens).argmax(1).numpy()
    numbers = np.arange(len(tokens))
    return Case(
        model, tokens, numbers, classes, classes, stored, Flora(), NoPrivacy(), None,
        provenance_preset("provfl"), 0, CPU,
    )  # fmt: skip


def test_leaving_clients_out_is_the_dense_sum_without_them(rounds: list[Round]) -> None:
    stored, tokens = rounds[2], some_texts(0, TEXTS)
    coalitions: list[tuple[int, ...]] = [(), (0,), (1, 3), (2,), ()]
    refused = list(logits(case(stored, tokens), "refuse", coalitions))
    withheld = list(logits(case(stored, tokens), "withhold", coalitions))
    plain = network()
    for coalition, without, back in zip(coalitions, refused, withheld, strict=True):
        left = [client for client in range(4) if client not in coalition]
        assert without is not None
        assert back is not None
        expected = of_dense(dense_state(plain, stored, shares(stored, left)), tokens)
        assert (without - expected).abs().max() < 1e-5, coalition
        kept = dense_state(plain, stored, shares(stored) * torch.tensor([float(k in left) for k in range(4)]))
        before = stored.as_sent().previous()
        gone = float(sum(shares(stored)[client] for client in coalition))
        for name in before:
            if "lora_" not in name:  # a head that is withheld stays where it was
                kept[name] += gone * before[name].double()
        assert (back - of_dense(kept, tokens)).abs().max() < 1e-5, coalition
    assert (refused[1] - refused[0]).abs().max() > 1e-4  # type: ignore[operator]
    (nobody,) = logits(case(stored, tokens), "refuse", [range(4)])
    assert nobody is not None


def test_norms_of_updates_are_those_of_the_products(rounds: list[Round]) -> None:
    stored = rounds[2]
    sent, before = stored.as_sent().client_stack(), stored.as_sent().previous()
    pairs = adapter_pairs(sent)
    squares = torch.zeros(4, dtype=torch.float64)
    for second, first in pairs.items():
        squares += (sent[second].double() @ sent[first].double()).square().sum((1, 2))
    for name in sent:
        if "lora_" not in name:
            squares += (sent[name].double() - before[name].double()).flatten(1).square().sum(1)
    assert torch.allclose(update_norms(stored, list(sent), weighted=False), squares.sqrt())


# --- a run


class Killed(BaseException):
    """As if the process had been killed: nothing is tidied up."""


@pytest.mark.slow
def test_any_number_of_workers_and_any_stop_give_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = trained(tmp_path / "one", 3, workers=1)
    trained(tmp_path / "two", 3, workers=2)
    one, two = content(tmp_path / "one"), content(tmp_path / "two")
    assert one == two
    assert len(whole) == 3

    def killed(*arguments: Any, **named: Any) -> Iterator[None]:
        raise Killed

    trained(tmp_path / "killed", 1)
    with monkeypatch.context() as broken:
        broken.setattr(federation_round, "commit_round", killed)
        with pytest.raises(Killed):
            trained(tmp_path / "killed", 3)
    assert list((tmp_path / "killed").rglob(".0002.partial/next_server_state.safetensors"))
    trained(tmp_path / "killed", 3)
    killed_content = content(tmp_path / "killed")
    last = {file: data for file, data in one.items() if "0003/" in file}
    assert len(last) >= 6
    assert all(killed_content[file] == data for file, data in last.items())


def test_what_does_not_go_together_is_refused_before_training(
    workspace: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    texts = ["dataset=languages", "model=gpt_mini", "fusion=flora"]
    adapters = [*texts, "model.adapter=lora"]

    def refused(*words: str) -> str:
        return refusal([*adapters, *words], workspace, capsys)

    assert "fusion=flora: needs adapters: model.adapter=lora" in refusal(texts, workspace, capsys)
    assert "sums products of both factors" in refused("lora.freeze_a=true")
    assert "lora.dora=false" in refused("lora.dora=true")
    assert "privacy=none" in refused("privacy=local_dp")
    assert "provenance.scope=round" in refused("provenance.scope=lineage")
    assert "federation.share=null" in refused("federation.share=all")
    assert "straggler_work=partial" in refused("federation.stragglers=0.5")
    assert "federation.mode=sync" in refused("federation.mode=fedbuff", "federation.clients_per_round=2")
    for method in ("fedce", "shapfed", "fldetector", "flforensics"):
        assert f"attribution={method}: compares updates entry by entry" in refused(f"attribution=[{method}]")
    with pytest.raises(InputError, match=r"fusion=flora: .* recorded rounds do not hold"):
        chosen_fusion(["flora"])
    config = adapter_config(fusion=Flora(), lora=Lora(rank=2))
    apart = replace(config, federation=replace(config.federation, share=["adapters", "!*.h.1.*lora_B*"]))
    with pytest.raises(InputError, match=r"A and B are shared: .*h\.1.*lora_B.* is not shared"):
        train(tmp_path, apart, data=make_texts(), model=network())


def test_factors_of_former_rounds_that_do_not_fit_are_refused(rounds: list[Round]) -> None:
    good = dict(rounds[1].merged())
    name = next(name for name in good if "lora_B" in name)
    with pytest.raises(RunError, match="are no pairs"):
        load_merged(network(), {name: good[name]})
    with pytest.raises(RunError, match="do not fit"):
        load_merged(network(), {**good, name: good[name][:, 1:]})
    with pytest.raises(RunError, match="no adapted layer"):
        load_merged(network(), {part.replace("h.0", "h.7"): tensor for part, tensor in good.items()})
    model = network()
    plain = set(model.state_dict())
    load_merged(model, good)
    assert set(model.state_dict()) == plain | set(good)
    load_merged(model, {})
    assert set(model.state_dict()) == plain


@pytest.mark.slow
def test_a_run_of_texts_is_localized_beside_chance_and_opened_again(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    others = "attribution=[leave_one_out,cosine]"
    result = ran(workspace / "run", *RUN, *ADAPTERS, "lora.rank=4", "store.keep=all", others)
    assert result.summary["covered"] == 1.0
    assert result.summary["conservation_residual"] < 1e-4
    scores = result.scores.set_index("method")
    assert {"localization_accuracy", "chance_accuracy"} <= set(scores.columns)
    assert {"provfl", "leave_one_out", "cosine"} <= set(scores.index)
    assert set(result.frame("contributions")["kind"]) == {"client"}
    agrees(result.folder, capsys)
    asked = str(result.frame("contributions")["input"].iloc[0])
    for number in ("1", "2"):
        assert main(["trace", str(result.folder), "--input", asked, "--round", number]) == 0
    assert FORMER in " ".join(capsys.readouterr().out.split())


@pytest.mark.slow
def test_flowers_workers_train_the_same(tmp_path: Path, workspace: Path) -> None:
    pytest.importorskip("flwr")
    own, flowers = (
        ran(
            workspace / name,
            *RUN,
            "fusion=flora",
            "model.adapter=lora",
            f"engine={name}",
            f"store.cache={tmp_path / name}",
        )
        for name in ("local", "flower")
    )
    for name in ("clients", "global", "next_server_state"):
        a, b = (result.folder / "rounds" / "0002" / f"{name}.safetensors" for result in (own, flowers))
        assert a.read_bytes() == b.read_bytes()
