"""Suspicion of clients: robust z by hand, what is measured, who is named, and that nobody can be."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console
from safetensors.torch import save_file
from torch import Tensor, nn

from provfl_cli.attribution.suspects import Score, suspicion_of
from provfl_cli.attribution.suspicion import ClientSuspicion, measured, suspicion
from provfl_cli.cli import main
from provfl_cli.config.compose import compose_jobs
from provfl_cli.config.validate import provenance_preset
from provfl_cli.errors import InputError
from provfl_cli.fusion.fedavg import FedAvg
from provfl_cli.provenance.targets import target_value
from provfl_cli.reporting.suspicion import table
from provfl_cli.results.columns import run_table
from provfl_cli.store.rounds import Round

from .cases import double_case, double_network, small_gpt, small_net
from .lineages import Work, chain, perturbed
from .runs import run

HIGH = Score("high", "high", threshold=3.0, least=0.0)
LENGTH = Score("length", "both", threshold=3.0, least=0.1, logarithm=True)


def z_of(score: Score, *values: float) -> list[float]:
    z: list[float] = suspicion_of(range(len(values)), {score: np.array(values)}).z[0].tolist()
    return z


def test_robust_z_by_hand() -> None:
    spread = 1.4826  # the median is 3, the distances 2, 1, 0, 1, 97: their median is 1
    expected = np.array([-2, -1, 0, 1, 97]) / spread
    assert z_of(HIGH, 1, 2, 3, 4, 100) == pytest.approx(expected)
    assert z_of(replace(HIGH, suspicious="low"), 1, 2, 3, 4, 100) == pytest.approx(-expected)
    assert z_of(replace(HIGH, suspicious="both"), 1, 2, 3, 4, 100) == pytest.approx(np.abs(expected))
    assert z_of(replace(HIGH, least=10.0), 1, 2, 3, 4, 100) == pytest.approx(np.array([-2, -1, 0, 1, 97]) / 10)


def test_lengths_are_compared_by_their_logarithms() -> None:
    z = z_of(LENGTH, 1, 1, 1, 10, 0.1)
    assert z[3] == pytest.approx(z[4])
    assert z[3] == pytest.approx(np.log(10) / 0.1)
    assert z_of(LENGTH, 1, 1, 1, 1, 0)[4] == pytest.approx(np.log(1e6) / 0.1), "nothing at all is a millionth"
    assert z_of(LENGTH, 0, 0, 0, 0, 0) == [0] * 5, "nobody did anything"


def test_equal_clients_are_not_told_apart() -> None:
    assert z_of(replace(HIGH, least=0.5), 2, 2, 2, 2, 2) == [0] * 5
    assert suspicion_of(range(5), {replace(HIGH, least=0.5): np.full(5, 2.0)}).said == "nobody"


def test_a_suspect_is_above_a_threshold_of_any_score() -> None:
    other = replace(HIGH, name="other", suspicious="low")
    values = {HIGH: np.array([1, 2, 3, 4, 100.0]), other: np.array([1, 2, 3, 4, -100.0])}
    found = suspicion_of([7, 5, 9, 2, 4], values)
    assert found.suspects == (4,)
    assert found.said == "4"
    assert found.degrees == pytest.approx((found.z / 3.0).max(axis=0), abs=1e-12)
    assert suspicion_of([7, 5, 9, 2, 4], values, strictness=50).suspects == ()
    frame = found.frame(3)
    assert frame.columns.tolist() == ["round", "client", "score", "value", "z", "suspect"]
    assert len(frame) == 10
    row = frame[(frame["client"] == 4) & (frame["score"] == "other")].iloc[0]
    assert (row["round"], row["value"], row["suspect"]) == (3, -100.0, True)
    assert frame["suspect"].sum() == 2


def test_of_few_clients_nobody_is_suspected() -> None:
    found = suspicion_of(range(4), {HIGH: np.array([1, 1, 1, 100.0])})
    assert found.suspects == ()
    assert found.said is None
    assert found.frame(1)["suspect"].isna().all()
    assert np.isnan(found.z).all()
    assert (found.degrees == 0).all()


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.floats(-1e6, 1e6), min_size=5, max_size=30), st.floats(0.01, 100), st.floats(-1e3, 1e3))
def test_units_do_not_matter(values: list[float], factor: float, shift: float) -> None:
    plain = z_of(replace(HIGH, least=1.0), *values)
    moved = z_of(replace(HIGH, least=factor), *(factor * value + shift for value in values))
    assert moved == pytest.approx(plain, rel=1e-3, abs=1e-3)


def crowd(odd: int | None = None, how: str = "") -> Any:
    """Seven clients that learn much the same; one may scale its update, do nothing, or go another way."""

    def work(number: int, model: dict[str, Tensor], past: list[dict[str, Tensor]]) -> Work:
        sent = {}
        for client in range(7):
            own = perturbed(perturbed(model, 0.05, number), 0.02, 10 * number + client)
            if client == odd:
                factor = {"scaled": 10.0, "idle": 0.0, "against": -1.0}[how]
                own = {name: model[name] + factor * (own[name] - model[name]) for name in own}
            sent[client] = (10 + client, own)
        return Work(sent)

    return work


def made(folder: Path, work: Any) -> Round:
    return chain(folder, FedAvg(), double_network().state_dict(), work, 2)[-1]


def unlabelled(count: int = 60) -> Tensor:
    return torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(6), dtype=torch.float64)


def test_what_is_measured_is_what_it_says(tmp_path: Path) -> None:
    stored = made(tmp_path, crowd())
    inputs = unlabelled()
    case = double_case(stored, double_network(nn.Tanh), labels=np.full(5, 9))
    found = {score.name: values for score, values in measured(case, inputs).items()}
    assert set(found) == {"entropy", "disagreement", "margin", "norm", "direction"}
    model = double_network(nn.Tanh)
    names = [name for name, _ in model.named_parameters()]
    stack, previous = stored.client_stack(), stored.previous()
    moved = torch.stack([torch.cat([(stack[name][k] - previous[name]).flatten() for name in names]) for k in range(7)])
    model.load_state_dict(dict(stored.weights()))
    predicted = model(inputs).argmax(1)
    value = target_value("margin", model(inputs), predicted).mean()
    gradient = torch.cat([g.flatten() for g in torch.autograd.grad(value, list(model.parameters()))])
    assert found["margin"] == pytest.approx((moved @ gradient).numpy(), rel=1e-6)
    for k in range(7):
        model.load_state_dict({name: stack[name][k] for name in stack})
        logits = model(inputs).detach()
        entropy = torch.distributions.Categorical(logits=logits).entropy().mean()
        assert found["entropy"][k] == pytest.approx(float(entropy), rel=1e-9)
        assert found["disagreement"][k] == pytest.approx(float((logits.argmax(1) != predicted).double().mean()))
        assert found["norm"][k] == pytest.approx(float(moved[k].norm()))
        others = moved.sum(0) - moved[k]
        assert found["direction"][k] == pytest.approx(float(torch.cosine_similarity(moved[k], others, dim=0)))
    assert found["disagreement"].max() > 0


@pytest.mark.parametrize(
    ("how", "by"), [("scaled", {"norm"}), ("idle", {"norm", "direction"}), ("against", {"direction"})]
)
def test_a_client_unlike_the_others_is_named_and_nobody_else(how: str, by: set[str], tmp_path: Path) -> None:
    case = double_case(made(tmp_path, crowd(3, how)), unlabelled=unlabelled)
    found = suspicion(case)
    assert found.suspects == (3,)
    above = {score.name for score, z in zip(found.scores, found.z[:, 3], strict=True) if z > score.threshold}
    assert by <= above
    result = ClientSuspicion().attribute(case)
    assert (result.values.argmax(1) == 3).all()
    assert (result.values > 1).sum() == len(result.values)
    assert result.note == "suspected in round 2: 3"
    assert ClientSuspicion(strictness=1e5).attribute(case).note == "suspected in round 2: nobody"


def test_among_equals_nobody_is_named(tmp_path: Path) -> None:
    assert suspicion(double_case(made(tmp_path, crowd()), unlabelled=unlabelled)).suspects == ()


def test_no_label_and_no_class_is_looked_at(tmp_path: Path) -> None:
    stored = made(tmp_path, crowd(2, "against"))
    plain = suspicion(double_case(stored, unlabelled=unlabelled))
    other = double_case(stored, unlabelled=unlabelled, labels=np.full(5, 3), classes=np.full(5, 7))
    assert (suspicion(other).values == plain.values).all()


def test_inputs_are_drawn_from_the_seed(tmp_path: Path) -> None:
    case = double_case(made(tmp_path, crowd()), unlabelled=unlabelled)
    few, again = suspicion(case, 20), suspicion(case, 20)
    assert (few.values == again.values).all()
    assert (few.values[0] != suspicion(replace(case, seed=1), 20).values[0]).all()
    everything = suspicion(replace(case, unlabelled=None, inputs=unlabelled()))
    assert (everything.values == suspicion(case).values).all(), "where there are none beside, the traced ones will do"


def test_models_without_classes_have_length_and_direction(tmp_path: Path) -> None:
    output = replace(provenance_preset("provfl"), target="output")
    case = double_case(made(tmp_path, crowd(3, "scaled")), provenance=output)
    found = suspicion(case)
    assert [score.name for score in found.scores] == ["norm", "direction"]
    assert found.suspects == (3,)


def test_a_single_client_is_not_compared(tmp_path: Path) -> None:
    model = double_network().state_dict()
    (stored,) = chain(tmp_path, FedAvg(), model, lambda *_: Work({0: (9, perturbed(model, 0.1, 1))}), 1)
    result = ClientSuspicion().attribute(double_case(stored))
    assert not result.candidates.any()
    assert "1 clients are too few" in result.note


def test_the_terminal_marks_what_is_above_a_threshold(tmp_path: Path) -> None:
    found = suspicion(double_case(made(tmp_path, crowd(3, "scaled")), unlabelled=unlabelled))
    console = Console(width=80, no_color=True, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(table(found))
    text = console.export_text()
    assert "suspected: 3" in text
    (row,) = (line for line in text.splitlines() if line.strip().startswith("3 "))
    assert "*" in row
    assert text.count("*") == row.count("*") + 1  # the legend
    console.print(table(suspicion_of(range(4), {HIGH: np.array([1, 1, 1, 100.0])})))
    assert "too few" in console.export_text()


@pytest.mark.slow
def test_a_run_writes_and_shows_whom_it_suspects(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = run(
        tmp_path / "run",
        "federation.clients=7",
        "federation.clients_per_round=6",
        "injection=free_rider",
        "injection.clients=[2]",
        "provenance.rounds=all",
        "attribution=[suspicion]",
    )
    frame = run_table(result.folder / "suspicion.csv")
    assert set(frame["round"]) == {1, 2, 3}
    assert (frame.groupby("round")["client"].nunique() == 6).all()
    named = frame[frame["suspect"]].groupby("round")["client"].unique().map(list).to_dict()
    took_part = frame[frame["client"] == 2]["round"].unique().tolist()
    assert took_part
    assert all(2 in named[number] for number in took_part)
    last = ", ".join(map(str, sorted(named.get(3, [])))) or "nobody"
    assert result.summary["suspects"] == last
    assert f"suspected: {last}" in capsys.readouterr().out
    scores = result.scores.set_index(["method", "round"])
    assert ("suspicion", 3) in scores.index


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        (["federation.clients=4"], "clients"),
        (["federation.clients=9", "federation.clients_per_round=4"], "clients_per_round"),
    ],
)
def test_too_few_clients_are_refused_before_training(settings: list[str], key: str, workspace: Path) -> None:
    with pytest.raises(InputError, match=f"there are 4.*federation.{key}=5 or more"):
        compose_jobs(["attribution=[suspicion]", *settings])


@pytest.mark.slow
def test_of_clients_that_were_not_compared_nothing_is_said(tmp_path: Path) -> None:
    dropped = ["federation.dropout=0.9", "federation.clients=5", "attribution=[suspicion]"]
    result = run(tmp_path / "run", *dropped)
    assert result.summary["suspects"] is None
    frame = run_table(result.folder / "suspicion.csv")
    assert frame["suspect"].isna().all()
    assert frame["z"].isna().all()


@pytest.mark.slow
def test_an_opened_run_is_asked_again_over_what_it_traced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = run(
        tmp_path / "run", "federation.clients=6", "injection=free_rider", "injection.clients=[2]", "store.keep=all"
    )
    capsys.readouterr()
    methods = ("suspicion", "label_counts", "shapfed", "fedce", "fldetector", "flforensics", "protoken")
    assert main(["trace", str(result.folder), "--method", *methods]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "suspected in round 3: 2" in said
    assert all(name in said for name in methods)
    assert main(["trace", str(result.folder), "--method", "lineage_faithful"]) == 2
    assert "provenance.scope=lineage" in capsys.readouterr().err


@pytest.mark.slow
def test_clients_of_a_recording_are_suspected_by_their_names(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = small_net().state_dict()
    names = ("ada", "bob", "cyd", "dan", "eve", "fay")
    sent = [perturbed(perturbed(before, 0.1, 1), 0.02, 10 + at) for at in range(6)]
    sent[4] = {name: before[name] + 20 * (sent[4][name] - before[name]) for name in before}
    after = {name: sum(client[name].double() for client in sent) / 6 for name in before}
    for name, tensors in {"before": before, "after": after, **dict(zip(names, sent, strict=True))}.items():
        save_file({key: torch.as_tensor(tensor).float() for key, tensor in tensors.items()}, f"{name}.safetensors")
    files = [f"{name}={name}.safetensors:10" for name in names]
    whole = ["--global", "after.safetensors", "--previous", "before.safetensors"]
    assert main(["import", *whole, "--client", *files, "--out", "made"]) == 0
    capsys.readouterr()
    where = ["--model", "tests.cases:small_net", "--data", "tests.cases:small_data"]
    assert main(["trace", "made", *where, "--method", "suspicion"]) == 0
    assert "suspected in round 1: eve" in " ".join(capsys.readouterr().out.split())


def test_clients_that_read_texts_are_compared(tmp_path: Path) -> None:
    model = small_gpt().double()
    start = model.state_dict()

    def work(*_: Any) -> Work:
        sent = {k: (9, perturbed(perturbed(start, 0.02, 1), 0.005, 10 + k)) for k in range(6)}
        sent[2] = (9, perturbed(start, 0.2, 2))
        return Work(sent)

    (stored,) = chain(tmp_path, FedAvg(), start, work, 1)
    tokens = torch.randint(1, 30, (40, 8), generator=torch.Generator().manual_seed(1))
    case = double_case(stored, model, inputs=tokens[:5], classes=np.arange(5) % 4, unlabelled=lambda: tokens)
    found = suspicion(case)
    assert [score.name for score in found.scores] == ["entropy", "disagreement", "margin", "norm", "direction"]
    assert np.isfinite(found.values).all()
    assert found.suspects == (2,)
