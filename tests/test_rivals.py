"""Ports of others' methods: each against what its paper says, written out over whole vectors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from provfl_cli.attribution.client_models import cosines_to_others, update_products
from provfl_cli.attribution.fedce import FedCE
from provfl_cli.attribution.fldetector import FLDetector, hessian_times
from provfl_cli.attribution.flforensics import FLForensics
from provfl_cli.attribution.label_counts import LabelCounts
from provfl_cli.attribution.protoken import ProToken, chosen_modules
from provfl_cli.attribution.provenance import traced
from provfl_cli.attribution.shapfed import ShapFed
from provfl_cli.attribution.static_weights import StaticWeights
from provfl_cli.config.compose import compose_jobs
from provfl_cli.config.validate import provenance_preset
from provfl_cli.errors import InputError
from provfl_cli.fusion.fedavg import FedAvg
from provfl_cli.store.rounds import Round

from .cases import double_case, double_network, small_gpt
from .lineages import Work, chain, perturbed
from .runs import run


def everybody(number: int, model: dict[str, Tensor], past: list[dict[str, Tensor]]) -> Work:
    """Four clients in every round, each of which goes its own way, and a little elsewhere every time."""
    sent = {}
    for client in range(4):
        own = perturbed(perturbed(model, 0.05 * (client + 1), client), 0.02, 10 * number + client)
        sent[client] = (10 + 5 * client, own)
    return Work(sent)


def some(number: int, model: dict[str, Tensor], past: list[dict[str, Tensor]]) -> Work:
    """The same without one client in each round but the first; one is late."""
    whole = everybody(number, model, past)
    sent = {client: one for client, one in whole.sent.items() if number == 1 or client != number % 4}
    return Work(sent, {max(sent): past[-1]} if past else {})


def rounds_of(folder: Path, work: Any = everybody, rounds: int = 4) -> list[Round]:
    return chain(folder, FedAvg(), double_network().state_dict(), work, rounds)


def flat(state: Any) -> np.ndarray:
    """All tensors of a model as one vector."""
    return torch.cat([tensor.double().flatten() for tensor in state.values()]).numpy()


def vectors(stored: Round) -> dict[int, np.ndarray]:
    """`W_k - V_k` by client."""
    stack = {name: stored.client_stack()[name] for name in stored.weights()}
    bases = [flat(stored.bases().get(at, stored.previous())) for at in range(len(stored.clients))]
    own = [flat({name: tensor[at] for name, tensor in stack.items()}) for at in range(len(stored.clients))]
    return {client: own[at] - bases[at] for at, client in enumerate(stored.clients)}


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


NAMES = [name for name, _ in double_network().named_parameters()]


def test_update_products_are_inner_products(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("provfl_cli.fusion.updates.BLOCK_NUMBERS", 100)
    stored = rounds_of(tmp_path, some)[-1]
    moved = np.stack(list(vectors(stored).values()))
    assert update_products(stored, NAMES).numpy() == pytest.approx(moved @ moved.T, rel=1e-10)


def test_cosines_are_with_the_others_alone() -> None:
    moved = np.random.default_rng(0).normal(size=(5, 9))
    shares = np.array([0.1, 0.2, 0.3, 0.15, 0.25])
    moved[3] = 0
    products = torch.from_numpy(moved @ moved.T)
    plain, weighted = cosines_to_others(products), cosines_to_others(products, torch.from_numpy(shares))
    for client in range(5):
        rest = [other for other in range(5) if other != client]
        for found, weights in ((plain, np.ones(5)), (weighted, shares)):
            expected = 0.0 if client == 3 else cosine(moved[client], weights[rest] @ moved[rest])
            assert float(found[client]) == pytest.approx(expected, abs=1e-12)
    alone = np.zeros((3, 4))
    alone[1] = 1.0
    assert cosines_to_others(torch.from_numpy(alone @ alone.T)).tolist() == [0, 0, 0], "nobody else moved"


def test_label_counts_are_those_of_the_predicted_class(tmp_path: Path) -> None:
    stored = rounds_of(tmp_path, some)[-1]  # without client 0
    counts = {client: np.arange(10) * (client + 1) for client in range(4)}
    result = LabelCounts().attribute(double_case(stored, label_counts=counts))
    assert result.values.tolist() == [[k * (client + 1) for client in (1, 2, 3)] for k in range(5)]
    unknown = LabelCounts().attribute(double_case(stored))
    assert not unknown.candidates.any()
    assert "not known" in unknown.note


def test_an_update_norm_does_not_count_examples(tmp_path: Path) -> None:
    stored = rounds_of(tmp_path)[-1]
    lengths = [float(np.linalg.norm(moved)) for moved in vectors(stored).values()]
    shares = np.array([10, 15, 20, 25]) / 70
    case = double_case(stored)
    assert StaticWeights("update_norm", weighted=False).attribute(case).values[0] == pytest.approx(lengths)
    assert StaticWeights().attribute(case).values[0] == pytest.approx(lengths * shares)


# -- ShapFed -------------------------------------------------------------------------------------------------------


def class_rows(stored: Round, label: int) -> dict[int, np.ndarray]:
    """What each client changed in a row of the last layer, and in its bias."""
    rows = {}
    for at, client in enumerate(stored.clients):
        base = stored.bases().get(at, stored.previous())
        weight = stored.client_stack()["3.weight"][at, label] - base["3.weight"][label]
        bias = stored.client_stack()["3.bias"][at, label] - base["3.bias"][label]
        rows[client] = np.append(weight.numpy(), bias.numpy())
    return rows


@pytest.mark.parametrize("memory", [0.0, 0.5])
def test_shapfed_is_the_cosine_of_a_classes_row_with_the_mean(memory: float, tmp_path: Path) -> None:
    stored = rounds_of(tmp_path, some)
    case = double_case(stored[-1], classes=np.array([3, 0, 9, 3, 5]))
    result = ShapFed(memory=memory).attribute(case)
    for row, label in enumerate(case.classes):
        kept: dict[int, float] = {}
        for each in stored if memory else stored[-1:]:
            rows = class_rows(each, label)
            total = sum(each.examples)
            mean = sum(n / total * rows[client] for client, n in zip(each.clients, each.examples, strict=True))
            for client in each.clients:
                new = cosine(rows[client], np.asarray(mean))
                kept[client] = memory * kept[client] + (1 - memory) * new if client in kept else new
        expected = [kept[client] for client in stored[-1].clients]
        assert result.values[row] == pytest.approx(expected, rel=1e-9)
    assert (result.values[0] == result.values[3]).all()
    assert result.candidates.all()


def test_shapfed_needs_a_row_for_each_class(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 1)).double()
    (stored,) = chain(tmp_path, FedAvg(), model.state_dict(), everybody, 1)
    result = ShapFed().attribute(double_case(stored, model, classes=np.zeros(5, dtype=np.int64)))
    assert not result.candidates.any()
    assert "a row for each class" in result.note


# -- FedCE ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("combine", ["times", "plus"])
def test_fedce_is_direction_and_error_without_the_client(combine: str, tmp_path: Path) -> None:
    stored = rounds_of(tmp_path, some)
    unlabelled = torch.randn(200, 1, 8, 8, generator=torch.Generator().manual_seed(8), dtype=torch.float64)
    case = double_case(stored[-1], unlabelled=lambda: unlabelled)
    found = FedCE(combine=combine).attribute(case).values
    apart, errors = dict[int, list[float]](), dict[int, list[float]]()
    model = double_network()
    for each in stored:
        moved, total = vectors(each), sum(each.examples)
        shares = {client: n / total for client, n in zip(each.clients, each.examples, strict=True)}
        model.load_state_dict(dict(each.weights()))
        before = model(unlabelled).argmax(1)
        for at, client in enumerate(each.clients):
            others = sum(shares[other] * moved[other] for other in moved if other != client)
            apart.setdefault(client, []).append(1 - cosine(moved[client], np.asarray(others)))
            without = {
                name: (tensor - shares[client] * each.client_stack()[name][at]) / (1 - shares[client])
                for name, tensor in each.weights().items()
            }
            model.load_state_dict(without)
            errors.setdefault(client, []).append(float((model(unlabelled).argmax(1) != before).double().mean()))
    first, second = (np.array([np.mean(terms[c]) for c in stored[-1].clients]) for terms in (apart, errors))
    assert (second > 0).all(), "an error of 0 would prove nothing"
    first, second = first / first.sum(), second / second.sum()
    whole = first * second if combine == "times" else first + second
    assert found == pytest.approx(np.tile(whole / whole.sum(), (5, 1)), rel=1e-9)
    for name, tensor in case.model.state_dict().items():
        assert torch.equal(tensor, stored[-1].weights()[name]), "the global model is back in place"


def test_fedce_of_a_single_client_ranks_nobody(tmp_path: Path) -> None:
    model = double_network().state_dict()
    (stored,) = chain(tmp_path, FedAvg(), model, lambda *_: Work({0: (9, perturbed(model, 0.1, 1))}), 1)
    assert not FedCE().attribute(double_case(stored)).candidates.any()


# -- FLDetector ----------------------------------------------------------------------------------------------------


def bfgs(moves: np.ndarray, changes: np.ndarray) -> np.ndarray:
    """The BFGS Hessian, one rank-two update after the other (Nocedal and Wright 2006, 6.19), from `sigma I`."""
    sigma = changes[-1] @ moves[-1] / (moves[-1] @ moves[-1])
    hessian: np.ndarray = sigma * np.eye(moves.shape[1])
    for s, y in zip(moves, changes, strict=True):
        along = hessian @ s
        hessian = np.asarray(hessian - np.outer(along, along) / (s @ along) + np.outer(y, y) / (y @ s))
    return hessian


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_the_hessians_product_is_that_of_bfgs_written_out(steps: int) -> None:
    random = np.random.default_rng(steps)
    factor = random.normal(size=(6, 6))
    moves = random.normal(size=(steps, 6))
    changes = moves @ (factor @ factor.T + np.eye(6))
    v = random.normal(size=6)
    sigma, a, b = hessian_times(moves @ moves.T, moves @ changes.T, moves @ v, changes @ v, changes[-1] @ moves[-1])
    assert sigma * v + a @ moves + b @ changes == pytest.approx(bfgs(moves, changes) @ v, rel=1e-8)


def test_fldetector_scores_are_distances_from_what_was_foretold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("provfl_cli.fusion.updates.BLOCK_NUMBERS", 100)
    stored = rounds_of(tmp_path, rounds=5)
    window = 2
    found = FLDetector(window=window).attribute(double_case(stored[-1]))
    begins = [flat(each.previous()) for each in stored]
    server = [flat(each.previous()) - flat(each.weights()) for each in stored]
    means = []
    for at in (3, 4):  # the last two rounds, from 0
        steps = range(max(1, at - window), at)
        moves = np.stack([begins[t] - begins[t - 1] for t in steps])
        changes = np.stack([server[t] - server[t - 1] for t in steps])
        sigma, a, b = hessian_times(
            moves @ moves.T,
            moves @ changes.T,
            moves @ (begins[at] - begins[at - 1]),
            changes @ (begins[at] - begins[at - 1]),
            changes[-1] @ moves[-1],
        )
        foretold = sigma * (begins[at] - begins[at - 1]) + a @ moves + b @ changes
        now, before = vectors(stored[at]), vectors(stored[at - 1])
        distances = np.array([np.linalg.norm(-before[k] + foretold + now[k]) for k in range(4)])
        means.append(distances / distances.sum())
    assert found.values == pytest.approx(np.tile(np.mean(means, 0), (5, 1)), rel=1e-6)
    assert found.candidates.all()


def test_fldetector_names_who_changes_its_mind(tmp_path: Path) -> None:
    def work(number: int, model: dict[str, Tensor], past: list[dict[str, Tensor]]) -> Work:
        sent = {k: (10, perturbed(perturbed(model, 0.05, k), 0.001, 100 * number + k)) for k in range(6)}
        sent[2] = (10, perturbed(model, 0.05, 1000 + number))  # as long, but elsewhere every time
        return Work(sent)

    stored = rounds_of(tmp_path, work, 6)
    assert set(FLDetector().attribute(double_case(stored[-1])).values.argmax(1)) == {2}


def test_fldetector_ranks_who_was_there_before(tmp_path: Path) -> None:
    result = FLDetector().attribute(double_case(rounds_of(tmp_path / "some", some)[-1]))
    assert result.candidates.tolist() == [True, True, False], "client 3 was away in round 3"
    assert "1 of the clients not in two rounds in a row" in result.note
    early = FLDetector().attribute(double_case(rounds_of(tmp_path / "early", rounds=2)[-1]))
    assert not early.candidates.any()
    assert "3 rounds in a row" in early.note


# -- FLForensics ---------------------------------------------------------------------------------------------------


def test_flforensics_is_the_loss_that_updates_took_away(tmp_path: Path) -> None:
    stored = rounds_of(tmp_path, some)
    case = double_case(stored[-1], double_network(nn.Tanh))
    result = FLForensics().attribute(case)
    assert (result.scope, result.clients) == ("lineage", (0, 1, 2, 3))
    model = double_network(nn.Tanh)
    expected = np.zeros((5, 4))
    for each in stored:
        model.load_state_dict(dict(each.previous()))
        for row, picture in enumerate(case.inputs):
            loss = nn.functional.cross_entropy(model(picture[None]), torch.tensor([row]))
            found = dict(zip(NAMES, torch.autograd.grad(loss, list(model.parameters())), strict=True))
            gradient = flat({name: found[name] for name in each.weights()})
            for client, moved in vectors(each).items():
                expected[row, client] -= gradient @ moved / np.linalg.norm(moved) / len(each.clients)
    assert result.values == pytest.approx(expected, rel=1e-5, abs=1e-8)
    assert result.candidates.all()


# -- ProToken ------------------------------------------------------------------------------------------------------


def test_protoken_is_gradient_times_every_clients_activations(tmp_path: Path) -> None:
    stored = rounds_of(tmp_path, some)[-1]
    model = double_network(nn.Tanh)
    case = double_case(stored, model)
    found = ProToken(blocks=1).attribute(case)
    model.load_state_dict(dict(stored.weights()))
    stack = stored.client_stack()
    for row, picture in enumerate(case.inputs):
        z = picture.flatten()
        a = model[1](z).detach().requires_grad_()  # type: ignore[index]
        hidden = torch.tanh(a)
        (g,) = torch.autograd.grad(model[3](hidden)[row], [a])  # type: ignore[index]
        for client in range(3):
            first = stack["1.weight"][client] @ z + stack["1.bias"][client]
            last = stack["3.weight"][client] @ hidden + stack["3.bias"][client]
            assert found.values[row, client] == pytest.approx(float(((g * first).sum() + last[row]).detach()), rel=1e-9)
    head = ProToken(blocks=0).attribute(case).values
    settings = replace(
        provenance_preset("tracefl"), layers="last", layer_decay=1.0
    )  # a linear layer: what a trace of weights gives
    assert head == pytest.approx(traced(case, settings).values, rel=1e-9)
    assert found.target == "logit"


def test_protoken_looks_at_the_feed_forward_parts_of_the_last_blocks() -> None:
    model = small_gpt()
    names = list(chosen_modules(model, 1))
    assert len(names) == 2
    assert names[0].endswith(".mlp")
    assert names[1] == "network.score"
    every = list(chosen_modules(model, 1000))
    assert len(every) > 2
    assert every[-2:] == names
    convolutions = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Conv2d(2, 2, 3), nn.Flatten(), nn.Linear(8, 3)
    )
    assert list(chosen_modules(convolutions, 1)) == ["2", "4"]
    assert list(chosen_modules(convolutions, 9)) == ["0", "2", "4"]


def test_protoken_of_a_transformer_is_the_same_input_by_input(tmp_path: Path) -> None:
    model = small_gpt().double()

    def work(*_: Any) -> Work:
        return Work({k: (9, perturbed(model.state_dict(), 0.02, k)) for k in range(3)})

    (stored,) = chain(tmp_path, FedAvg(), model.state_dict(), work, 1)
    tokens = torch.randint(1, 30, (40, 8), generator=torch.Generator().manual_seed(1))  # more than a batch
    case = double_case(stored, model, inputs=tokens, classes=np.arange(40) % 4, numbers=np.arange(40))
    whole = ProToken(blocks=2).attribute(case).values
    one = replace(case, inputs=tokens[35:36], classes=case.classes[35:36], numbers=np.arange(1))
    assert whole[35:36] == pytest.approx(ProToken(blocks=2).attribute(one).values, rel=1e-9)
    assert len({tuple(row) for row in np.argsort(whole).tolist()}) > 1
    assert not any(module._forward_hooks for module in model.modules())


# -- configuration and run -----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["attribution=[fldetector]", "federation.rounds=2"], r"federation\.rounds=3 or more"),
        (["attribution=[fldetector]"], r"store\.keep=all"),
        (["attribution=[flforensics]"], r"store\.keep=all"),
        (["attribution=[fedce]"], r"store\.keep=all"),
        (["attribution=[shapfed]"], r"store\.keep=all"),
        (["attribution=[fedce]", "store.keep=all", "attribution.fedce.combine=minus"], "accepted: plus, times"),
        (["attribution=[shapfed]", "attribution.shapfed.memory=1"], "below 1"),
        (["attribution=[protoken]", "attribution.protoken.blocks=-1"], "0 or more"),
    ],
)
def test_what_cannot_work_is_refused_before_training(argv: list[str], message: str, workspace: Path) -> None:
    with pytest.raises(InputError, match=message):
        compose_jobs(argv)


RIVALS = ("label_counts", "update_norm", "protoken", "fedce", "shapfed", "fldetector", "flforensics", "suspicion")


@pytest.mark.slow
def test_a_run_compares_the_rivals(tmp_path: Path) -> None:
    result = run(
        tmp_path / "run",
        "store.keep=all",
        "federation.clients=6",
        "federation.clients_per_round=5",
        f"attribution=[{','.join(RIVALS)}]",
    )
    scores = result.scores.set_index("method")
    assert set(RIVALS) <= set(scores.index)
    assert scores.loc["flforensics", "scope"] == "lineage"
    assert result.summary["suspects"] == "nobody" or result.summary["suspects"][0].isdigit()
