"""A model without some clients: each way against the same done by hand, what is measured of it, and the command."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from provfl_cli.attribution.removed import Server, refused, taken_out
from provfl_cli.cli import main
from provfl_cli.comparison.repairs import averaged
from provfl_cli.config.faults import Faults
from provfl_cli.data.attackers import ScaledUpdate
from provfl_cli.errors import InputError
from provfl_cli.evaluation.repair import Quality, flip_success, membership, nearest, relative
from provfl_cli.fusion.fedavg import FedAvg
from provfl_cli.fusion.fedavgm import FedAvgM
from provfl_cli.fusion.fuse import Fusion
from provfl_cli.fusion.krum import Krum
from provfl_cli.fusion.privacy import NoPrivacy
from provfl_cli.provenance.shared_part import load_part
from provfl_cli.reporting.repair_page import page
from provfl_cli.results.folders import RunFolder
from provfl_cli.results.repair import Repair, Way
from provfl_cli.retraining.others import continued, from_the_beginning, is_trained, trained
from provfl_cli.run.open_run import open_run
from provfl_cli.store.rounds import Round

from .federations import CPU, make_config, make_data, train
from .lineages import Work, chain, composed_fusion, perturbed
from .retrainings import plain_model
from .runs import run

DOUBLE = torch.float64
START = {"w": torch.ones(3, 2, dtype=DOUBLE), "seen": torch.zeros(2, dtype=DOUBLE)}
BUFFERS = frozenset({"seen"})
MEMBERS = ((0, 1, 2, 3), (1, 2, 3), (0, 2, 4))  # who takes part in which round
Captured = pytest.CaptureFixture[str]


def examples_of(client: int) -> int:
    return 10 + 7 * client


def three_rounds(folder: Path, fusion: Fusion, decay: float | None = 1.0) -> list[Round]:
    """Rounds of random clients, some of whom pause."""

    def work(number: int, model: dict[str, Tensor], _: object) -> Work:
        members = MEMBERS[number - 1]
        return Work({k: (examples_of(k), perturbed(model, 0.3, 10 * number + k)) for k in members})

    return chain(folder, fusion, START, work, 3, decay, BUFFERS)


def server(fusion: Fusion) -> Server:
    return Server(fusion, NoPrivacy(), 0, lambda _: ())


def updates(stored: Round) -> dict[int, Tensor]:
    """What each client of a round changed."""
    stack, before = stored.client_stack()["w"], stored.previous()["w"]
    return {client: stack[position] - before for position, client in enumerate(stored.clients)}


def mean(values: Mapping[int, Tensor], clients: Sequence[int]) -> Tensor:
    """By examples."""
    total = sum(examples_of(client) for client in clients)
    return sum((examples_of(client) / total * values[client] for client in clients), torch.zeros(3, 2, dtype=DOUBLE))


def others(stored: Round, gone: tuple[int, ...]) -> list[int]:
    return [client for client in stored.clients if client not in gone]


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("gone", [(2,), (0, 3)])
def test_taking_out_subtracts_what_they_sent_with_their_shares(tmp_path: Path, gone: tuple[int, ...]) -> None:
    rounds = three_rounds(tmp_path, FedAvg())
    theirs = torch.zeros(3, 2, dtype=DOUBLE)
    for stored in rounds:
        sent, total = updates(stored), sum(map(examples_of, stored.clients))
        for client in {*gone} & {*stored.clients}:
            theirs += examples_of(client) / total * sent[client]
    expected = rounds[-1].weights()["w"] - theirs
    close(taken_out(rounds[-1], gone)["w"], expected)
    close(taken_out(rounds[-1], gone, rounds)["w"], expected)
    since = taken_out(rounds[-1], gone, rounds[1:])["w"]  # what they sent in the first round stays
    first = updates(rounds[0])
    kept = sum(examples_of(k) / sum(map(examples_of, MEMBERS[0])) * first[k] for k in {*gone} & {*MEMBERS[0]})
    close(since, expected + kept)


@pytest.mark.parametrize("name", ["fedavg", "fedavgm", "fedadam", "median"])
def test_without_everybody_the_model_is_the_initial_one_momentum_included(tmp_path: Path, name: str) -> None:
    rounds = three_rounds(tmp_path, composed_fusion(name))
    close(taken_out(rounds[-1], range(5))["w"], START["w"])


def test_momentum_belongs_to_nobody_where_rounds_alone_are_known(tmp_path: Path) -> None:
    rounds = three_rounds(tmp_path, FedAvgM())
    with pytest.raises(InputError, match="--how lineage: the server of round 2 has momentum"):
        taken_out(rounds[-1], (2,), rounds)


@pytest.mark.parametrize("first", [1, 2, 3])
@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_refusing_fuses_the_others_again_from_a_round_on(tmp_path: Path, momentum: float, first: int) -> None:
    fusion = FedAvgM(momentum) if momentum else FedAvg()
    rounds, gone = three_rounds(tmp_path, fusion), (2,)
    model, velocity = START["w"], torch.zeros(3, 2, dtype=DOUBLE)
    for stored in rounds:
        left = others(stored, gone) if stored.number >= first else list(stored.clients)
        velocity = momentum * velocity + mean(updates(stored), left)
        model = model + velocity
    close(refused(rounds[first - 1 :], gone, server(fusion))["w"], model)


def test_a_round_of_nobody_else_leaves_the_model_and_buffers_are_those_of_the_others(tmp_path: Path) -> None:
    rounds, gone = three_rounds(tmp_path, FedAvg()), (0, 2)
    buffers = {k: rounds[-1].client_stack()["seen"][at] for at, k in enumerate(rounds[-1].clients)}
    close(refused(rounds, gone, server(FedAvg()))["seen"], buffers[4])
    close(taken_out(rounds[-1], gone)["seen"], buffers[4])
    everybody = (0, 2, 4)  # of the last round
    for made in (refused(rounds[-1:], everybody, server(FedAvg())), taken_out(rounds[-1], everybody, rounds[-1:])):
        close(made["w"], rounds[-1].previous()["w"])
        close(made["seen"], rounds[-1].previous()["seen"])


def test_a_fusion_that_needs_more_clients_says_so(tmp_path: Path) -> None:
    rounds = three_rounds(tmp_path, Krum(attackers=0))
    with pytest.raises(InputError, match="--how refuse: round 3: fusion=krum: 2 clients returned"):
        refused(rounds[-1:], (0,), server(Krum(attackers=0)))


def test_retraining_is_an_independent_federation_without_the_client(tmp_path: Path) -> None:
    data, model = make_data(), plain_model()
    config = make_config(cache=str(tmp_path / "one"), rounds=2, batch_size=1000)
    smaller = from_the_beginning(config, data, (0, 4, 6))
    assert not is_trained(*smaller, model, CPU)
    made = trained(*smaller, model, CPU, lambda _: None)
    assert is_trained(*smaller, model, CPU)
    alone = replace(data, clients=tuple(client for client in data.clients if client.id != 2))
    (stored,), _ = train(tmp_path / "two", make_config(rounds=2, batch_size=1000), {2}, alone, plain_model())
    for name in made.weights:
        assert torch.equal(made.weights[name], stored.weights()[name])


def test_going_on_begins_with_the_model_and_without_those_who_attack_or_have_left(tmp_path: Path) -> None:
    attack = ScaledUpdate(clients=(4,), rounds=[1, -1], poison="none")
    config = make_config(
        cache=str(tmp_path), rounds=5, injection=attack, final_rate=0.5, leaves={6: 3}, joins={0: 2}, batch_size=1000
    )
    later, shares = continued(config, make_data(), (0, 4, 6), 2)
    assert [client.id for client in shares.clients] == [0, 4], "who has left is not asked again"
    assert later.federation.rounds == 2
    assert later.federation.learning_rate == config.federation.learning_rate / 2, "what it was at the end"
    assert not any(later.injection.attacks(4, number) for number in (1, 2))
    start = plain_model()
    load_part(start, perturbed(start.state_dict(), 1.0, 3))
    made = trained(later, shares, start, CPU, lambda _: None)
    first = plain_model().state_dict()
    for name, tensor in start.state_dict().items():
        moved = (made.weights[name] - tensor).norm()
        assert 0 < moved < 0.2 * (first[name] - tensor).norm(), "a little from where it began"


@given(st.lists(st.integers(0, 9), min_size=1, max_size=8), st.lists(st.integers(0, 9), min_size=1, max_size=8))
@settings(max_examples=30)
def test_membership_is_the_share_of_pairs_in_which_the_member_has_the_lower_loss(seen: Any, unseen: Any) -> None:
    pairs = [1.0 if a < b else 0.5 if a == b else 0.0 for a in seen for b in unseen]
    assert membership(np.array(seen, float), np.array(unseen, float)) == pytest.approx(np.mean(pairs))


def test_success_of_flips_is_over_inputs_of_labels_that_were_flipped() -> None:
    labels, predictions = np.array([1, 1, 2, 3, 0]), np.array([0, 1, 0, 3, 0])
    assert flip_success(labels, predictions, Faults((0,), ((1, 0), (2, 0), (0, 0)))) == pytest.approx(2 / 3)
    assert math.isnan(flip_success(labels, predictions, Faults((), ())))


def test_the_best_is_chosen_by_what_was_measured() -> None:
    right, broken, backdoored = Quality(0.9, 0.01), Quality(0.3, 0.0), Quality(0.95, 0.9)
    measured = {"refuse": backdoored, "lineage": broken, "finetune": right}
    assert nearest(measured, None)[0] == "finetune", "of those that let the fault succeed least the most accurate"
    assert nearest(measured, Quality(0.94, 0.85))[0] == "refuse", "nearest to retraining, whatever is wrong with it"
    assert nearest({"refuse": Quality(0.9), "lineage": Quality(0.8)}, None)[0] == "refuse"
    assert nearest({"refuse": Quality(0.9, agreement=0.7), "lineage": Quality(0.9, agreement=0.8)}, Quality(0.9))[
        0
    ] == ("lineage")
    assert nearest({"refuse": Quality()}, None) == ("", "")
    assert relative([(np.array([3.0, 0.0]), np.array([0.0, 4.0]))]) == pytest.approx(5 / 4)


def a_run(folder: Path, injection: str, seed: int) -> RunFolder:
    settings = {"injection": injection, "seed": seed}
    return RunFolder(folder, settings, frozenset(), {}, frozenset(settings), pd.DataFrame(), {}, {})


def a_repair(refused_to: float, retrained_to: float, success: float = 0.0) -> Repair:
    ways = (
        Way("refuse", "fused again", Quality(refused_to, success), 1.0),
        Way("lineage", missing="round 1 was not kept"),
        Way("retrain", "trained again", Quality(retrained_to, 0.0), 9.0),
    )
    return Repair({"0": 0}, (1, 3), Quality(0.5, 0.9), ways)


def test_a_table_of_many_holds_each_seed_against_its_own_retraining(tmp_path: Path) -> None:
    values = [("flip", 0, 0.8, 0.9, 0.0), ("flip", 1, 1.0, 0.9, 0.3), ("backdoor", 0, 0.7, 0.7, 0.0)]
    repairs = [(a_run(tmp_path, kind, seed), a_repair(*rest)) for kind, seed, *rest in values]
    keys, rows = averaged(repairs)
    assert keys == ("injection",)
    assert [(row.setting, row.way, row.seeds) for row in rows] == [
        (setting, way, seeds)
        for setting, seeds in ((("flip",), 2), (("backdoor",), 1))
        for way in ("as it is", "refuse", "retrain")
    ]
    flip = rows[1]
    assert flip.quality.accuracy == pytest.approx(0.9)
    assert flip.accuracy_gap == pytest.approx(0.0), "with its sign"
    assert flip.success_gap == pytest.approx(0.15)
    assert flip.gap == pytest.approx(0.3), "the worst of all"
    text = page(keys, rows, ["provfl repair x"], ["y: it failed"])
    assert "| flip | refuse | 0.900 | 15.0% | +0.0 | +15.0 | 30.0 | – | – | – | 1 | 2 |" in text
    assert "| flip | retrained | 0.900 | 0.0% | – | – | – |" in text
    assert "- not in it: y: it failed" in text


def about(path: Path) -> dict[str, Any]:
    """What a repaired model says of itself."""
    with safe_open(path, framework="pt") as file:
        found: dict[str, Any] = json.loads(file.metadata()["provfl"])
        return found


@pytest.mark.slow
def test_the_command_measures_each_way_and_writes_the_best(tmp_path: Path, capsys: Captured) -> None:
    run(tmp_path / "run", "injection=label_flip", "store.keep=all", cache=tmp_path / "cache")
    capsys.readouterr()
    everything = ["--how", "refuse,lineage,finetune,retrain", "--rounds", "1", "--json"]
    assert main(["repair", str(tmp_path / "run"), "--without", "faulty", *everything]) == 0
    told = json.loads(capsys.readouterr().out)
    ways = {way["name"]: way["quality"] for way in told["ways"]}
    assert list(ways) == ["refuse", "lineage", "finetune", "retrain"]
    assert told["without"] == [{"client": 0, "name": "0"}]
    assert told["compared_with_retraining"]
    assert ways["retrain"]["distance"] == 0
    assert ways["retrain"]["agreement"] == 1
    assert ways["retrain"]["success"] < told["before"]["success"]
    assert ways["refuse"]["distance"] > 0
    path = tmp_path / "run" / "repaired.safetensors"
    assert about(path)["how"] == told["best"]
    assert about(path)["without"] == ["0"]
    opened = open_run(tmp_path / "run")
    opened.model.load_state_dict(load_file(path))  # every tensor, under the names of the framework
    assert (
        main(
            [
                "repair",
                str(tmp_path / "run"),
                "--without",
                "0",
                "--how",
                "lineage",
                "--out",
                str(tmp_path / "a.safetensors"),
            ]
        )
        == 0
    )
    shown = capsys.readouterr().out
    assert "Not compared with retraining." in shown
    assert "not compared with retraining" in shown.split("\n", 2)[2]
    last = opened.round(3)
    for name, tensor in load_file(tmp_path / "a.safetensors").items():
        assert torch.equal(tensor, taken_out(last, (0,))[name])
    assert main(["repair", str(tmp_path / "run"), "--without", "0"]) == 0
    shown = capsys.readouterr().out
    assert "retrained " in shown, "it lies in the cache"
    table = tmp_path / "page.md"
    assert main(["repair", str(tmp_path), "--without", "faulty", "--how", "refuse", "--table", str(table)]) == 0
    assert "| refuse | " in table.read_text()
    shown = " ".join(shown.split())
    assert "it cannot undo earlier rounds: what they sent before round 3 stays" in shown


@pytest.mark.slow
def test_of_a_recording_the_round_is_fused_again_without_data(workspace: Path, capsys: Captured) -> None:
    before, sent = START["w"].float(), {"ada": 50, "bob": 30}
    models = {name: before + 0.1 * at + torch.arange(6).view(3, 2) for at, name in enumerate(sent)}
    after = (models["ada"] * 50 + models["bob"] * 30) / 80
    for name, tensor in {"before": before, "after": after, **models}.items():
        save_file({"w": tensor}, workspace / f"{name}.safetensors")
    clients = [f"{name}={name}.safetensors:{count}" for name, count in sent.items()]
    given = ["--global", "after.safetensors", "--previous", "before.safetensors", "--client", *clients]
    assert main(["import", *given, "--out", "made"]) == 0
    capsys.readouterr()
    assert main(["repair", "made", "--without", "ada", "--how", "refuse", "--out", "a.safetensors", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["best"] is None
    assert told["ways"][0]["quality"]["accuracy"] is None
    torch.testing.assert_close(load_file("a.safetensors")["w"], models["bob"])
    assert about(Path("a.safetensors"))["source"] == "import"
    assert main(["repair", "made", "--without", "ada", "--how", "lineage", "--out", "b.safetensors"]) == 0
    assert "how good that is was not measured" in " ".join(capsys.readouterr().out.split())
    torch.testing.assert_close(load_file("b.safetensors")["w"], after - 50 / 80 * (models["ada"] - before))
    for arguments, expected in {
        ("--how", "retrain"): "--how retrain: trains, and the clients' data of a recorded federation are not here",
        ("--without", "eve"): "--without eve: no such client",
        ("--without", "ada,bob"): "--without: names every client",
        ("--without", "faulty"): "--without faulty: no client is known to be",
        ("--from", "2"): "--from 2: there are rounds 1 to 1",
    }.items():
        assert main(["repair", "made", *(() if "--without" in arguments else ("--without", "ada")), *arguments]) == 2
        refusal = capsys.readouterr().err
        assert expected in refusal
        assert len(refusal.splitlines()) == 1
