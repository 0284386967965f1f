"""Lineage as methods: other presets and decays than the run's own, without training again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from provfl_cli.attribution.lineage import OverRounds
from provfl_cli.attribution.method import Case
from provfl_cli.config.compose import compose_jobs
from provfl_cli.config.validate import provenance_preset
from provfl_cli.errors import InputError, RunError
from provfl_cli.evaluation.fading import over_rounds
from provfl_cli.fusion.fedavg import FedAvg
from provfl_cli.provenance.lineage import lineage_decayed, lineage_round
from provfl_cli.provenance.tracing import trace
from provfl_cli.run.tracing import attributed
from provfl_cli.store.rounds import Round

from .cases import double_case, double_network
from .lineages import Work, chain, composed_fusion, perturbed
from .runs import run


def works(number: int, model: dict[str, Tensor], past: list[dict[str, Tensor]]) -> Work:
    """Other clients in every round, one of them late, one clipped, and noise."""
    clients = [client for client in range(5) if (client + number) % 4]
    sent = {client: (10 + client, perturbed(model, 0.1, 100 * number + client)) for client in clients}
    bases = {clients[1]: past[-1]} if past else {}
    return Work(sent, bases, {clients[0]: 0.7}, noise=0.01)


def made(folder: Path, fusion: str, decay: float) -> list[Round]:
    return chain(folder, composed_fusion(fusion), double_network().state_dict(), works, 4, decay)


def make_case(stored: Round) -> Case:
    return double_case(stored, provenance=replace(provenance_preset("provfl"), scope="lineage"))


@pytest.mark.parametrize("fusion", ["fedavg", "fedadam", "trimmed_mean"])
@pytest.mark.parametrize(("kept", "wanted"), [(1.0, 0.9), (1.0, 0.5), (0.8, 0.5), (0.8, 0.95), (0.8, 1.0)])
def test_another_decay_gives_what_training_with_it_would_have_kept(
    fusion: str, kept: float, wanted: float, tmp_path: Path
) -> None:
    stored = made(tmp_path / "kept", fusion, kept)
    expected = lineage_round(made(tmp_path / "wanted", fusion, wanted)[-1]).lineage
    found = lineage_decayed(stored[-1], stored[:-1], wanted).lineage
    assert replace(found.rows, held=()) == replace(expected.rows, held=())
    assert ("forgotten" in found.rows.kinds) == (wanted < 1)
    assert len(found.rows.clients) == 5
    assert {"noise", "stale"} <= set(found.rows.kinds)
    for name in expected.tensors:
        if not name.startswith(("velocity", "plain_velocity")):
            assert torch.allclose(found.tensors[name], expected.tensors[name], rtol=1e-10, atol=1e-13), name


def test_the_stored_decay_needs_no_other_round(tmp_path: Path) -> None:
    stored = made(tmp_path, "fedavg", 0.8)[-1]
    assert lineage_decayed(stored, [], 0.8).lineage.tensors is lineage_round(stored).lineage.tensors


def test_rounds_that_are_missing_are_told(tmp_path: Path) -> None:
    stored = made(tmp_path, "fedavg", 1.0)
    with pytest.raises(RunError, match=r"store\.keep=all"):
        lineage_decayed(stored[-1], stored[1:-1], 0.5)
    without = chain(tmp_path / "without", FedAvg(), double_network().state_dict(), works, 2, None)
    with pytest.raises(RunError, match=r"provenance\.scope=lineage"):
        lineage_decayed(without[-1], without[:-1], 0.5)


@pytest.mark.parametrize("preset", ["provfl", "faithful"])
def test_a_method_gives_what_a_run_with_that_preset_and_decay_gives(preset: str, tmp_path: Path) -> None:
    stored = made(tmp_path / "one", "fedavg", 1.0)[-1]
    other = made(tmp_path / "other", "fedavg", 0.5)[-1]
    case = make_case(stored)
    result = OverRounds("faded", preset, 0.5).attribute(case)
    classes = torch.from_numpy(case.classes)
    expected = trace(case.model, case.inputs, lineage_round(other), provenance_preset(preset), classes)
    assert result.values == pytest.approx(expected.values, rel=1e-6)
    assert result.rows["forgotten"] == pytest.approx(expected.rows["forgotten"], rel=1e-6)
    assert (result.scope, result.clients, result.target) == ("lineage", (0, 1, 2, 3, 4), expected_target(preset))
    assert (result.candidates == expected.candidates).all()


def expected_target(preset: str) -> str:
    return provenance_preset(preset).target


def test_several_lineages_stand_beside_each_other_in_a_frame(tmp_path: Path) -> None:
    case = make_case(made(tmp_path, "fedavg", 1.0)[-1])
    rivals = [OverRounds("a", "faithful"), OverRounds("b", "faithful", 0.5)]
    asked = attributed(case, [case.provenance], rivals, lineage_round(case.stored))
    assert set(asked.seconds) == {("provfl", "round"), ("provfl", "lineage"), ("a", "lineage"), ("b", "lineage")}
    rows = asked.rows[asked.rows["scope"] == "lineage"]
    clients = rows[rows["kind"] == "client"]
    for name in ("provfl", "a", "b"):
        assert set(clients.loc[clients["method"] == name, "client"]) == {0, 1, 2, 3, 4}
    assert set(rows[rows["kind"] == "forgotten"]["method"]) == {"b"}
    assert set(over_rounds(asked.rows)["method"]) == {"provfl"}
    assert len(over_rounds(asked.rows.head(0))) == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["attribution=[lineage_faithful]"], "provenance.scope=lineage"),
        (["attribution=[lineage_faithful_decay50]", "provenance.scope=lineage"], "store.keep=all"),
        (
            ["attribution=[lineage_provfl]", "provenance.scope=lineage", "attribution.lineage_provfl.preset=gradients"],
            "another preset",
        ),
        (
            ["attribution=[lineage_provfl]", "provenance.scope=lineage", "attribution.lineage_provfl.decay=0"],
            "above 0",
        ),
    ],
)
def test_what_cannot_be_traced_over_rounds_is_refused_before_training(
    argv: list[str], message: str, workspace: Path
) -> None:
    with pytest.raises(InputError, match=message):
        compose_jobs(argv)


@pytest.mark.slow
def test_a_run_traces_presets_and_decays_over_all_rounds_at_once(tmp_path: Path) -> None:
    names = [f"lineage_{preset}{decay}" for preset in ("provfl", "faithful") for decay in ("", "_decay90", "_decay50")]
    result = run(
        tmp_path / "run",
        "federation.clients=4",
        "federation.clients_per_round=2",
        "provenance.scope=lineage",
        "store.keep=all",
        f"attribution=[{','.join(names)}]",
    )
    scores = result.scores
    lineage = scores[scores["scope"] == "lineage"].set_index("method")
    assert set(lineage.index) == {"provfl", *names}
    contributions = result.frame("contributions")
    values = {
        name: rows.sort_values(["input", "kind", "client"])["contribution"].to_numpy()
        for name, rows in contributions[
            (contributions["scope"] == "lineage") & (contributions["kind"] == "client")
        ].groupby("method")
    }
    assert values["lineage_provfl"] == pytest.approx(values["provfl"])
    assert values["lineage_provfl_decay50"] != pytest.approx(values["provfl"], rel=0.01)
