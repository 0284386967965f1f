"""`provfl run evaluation.counterfactual=retrain`, its two files, and `provfl trace RUN --verify retrain`."""

from __future__ import annotations

import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import provfl_cli
from provfl_cli.cli import main
from provfl_cli.federation.participation import rosters
from provfl_cli.federation.sharing import sharing_of
from provfl_cli.results.columns import run_table
from provfl_cli.results.folders import RunFolder, read_run
from provfl_cli.results.run import read_contents
from provfl_cli.retraining.designs import Retraining
from provfl_cli.retraining.train import retrained
from provfl_cli.run.private_part import to_complete

from .commands import Command, children, gone, wait_for
from .federations import make_config, make_data, make_model
from .retrainings import make_asked, make_whole
from .runs import SMALL, Result, run

pytestmark = pytest.mark.slow
Captured = pytest.CaptureFixture[str]
SETTINGS = [
    "federation.rounds=2", "federation.local_epochs=1", "evaluation.max_inputs=10", "partition=dirichlet",
    "partition.min_examples_per_client=10", "federation.clients=4", "evaluation.counterfactual=retrain",
]  # fmt: skip
DESIGNS = ["retrain.designs=[leave_one_out,halves,removal]", "retrain.subsets=6", "retrain.again=6", "retrain.top=2"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Result:
    base = tmp_path_factory.mktemp("retrained")
    return run(base / "first", *SETTINGS, *DESIGNS, "provenance.rounds=[1,2]", cache=base / "cache")


def log_odds(probabilities: np.ndarray, explained: np.ndarray) -> np.ndarray:
    own = np.stack(list(probabilities))[np.arange(len(explained)), explained]
    return np.log(own) - np.log1p(-own)


def test_what_is_written_fits_what_the_run_itself_has(made: Result) -> None:
    rows, answers = (run_table(made.folder / name) for name in ("retrainings.csv", "retrained.parquet"))
    everybody = sorted(map(int, made.manifest["clients"]["kept"]))
    assert rows["retraining"].tolist() == list(range(len(rows)))
    counted = rows["design"].value_counts().to_dict()
    assert 10 <= counted.pop("removal") <= 12, "of both rounds, which may have the same top clients"
    assert counted == {"full": 1, "leave_one_out": len(everybody), "halves": 12}
    kept = [tuple(map(int, text.split())) for text in rows["clients"]]
    assert kept[0] == tuple(everybody)
    assert all(len(subset) == len(everybody) // 2 for subset in np.array(kept, object)[rows["design"] == "halves"])
    assert rows["seed"].tolist().count(1) == 6
    assert rows["key"].iloc[0] == made.manifest["key"]
    assert rows.groupby(["clients", "seed"])["key"].nunique().max() == 1, "the same federation has one key"
    assert rows["key"].nunique() == len(set(zip(kept, rows["seed"], strict=True)))
    inputs = made.frame("inputs")
    assert len(answers) == len(rows) * len(inputs)
    for number in (1, 2):
        traced = inputs[inputs["round"] == number].sort_values("input")
        own = answers[(answers["round"] == number) & (answers["retraining"] == 0)].sort_values("input")
        assert own["prediction"].tolist() == traced["prediction"].tolist()
        expected = log_odds(traced["probabilities"].to_numpy(), traced["prediction"].to_numpy())
        np.testing.assert_allclose(own["value"], expected, atol=1e-4)
    assert rows["accuracy"].iloc[0] == pytest.approx(made.metrics[-1]["accuracy"])


def test_whose_removal_it_is_follows_the_mean_contribution(made: Result) -> None:
    rows, contributions = run_table(made.folder / "retrainings.csv"), made.frame("contributions")
    removed = set(rows[rows["removes"] == "provfl"]["clients"])
    truth, answers = pd.read_csv(made.folder / "retraining.csv"), run_table(made.folder / "retrained.parquet")
    everybody, planned = set(map(int, made.manifest["clients"]["kept"])), set[str]()
    for number in (1, 2):
        own = contributions[
            (contributions["method"] == "provfl")
            & (contributions["scope"] == "round")
            & (contributions["kind"] == "client")
            & (contributions["round"] == number)
            & contributions["contribution"].notna()
        ]
        means = own.groupby("client")["contribution"].mean().sort_values(ascending=False)
        for count in (1, 2):
            kept = " ".join(map(str, sorted(everybody - set(map(int, means.index[:count])))))
            planned.add(kept)
            here: Any = answers[answers["round"] == number].pivot(index="input", columns="retraining", values="value")
            row = rows[(rows["clients"] == kept) & (rows["seed"] == 0)]["retraining"].iloc[0]
            shown = truth.query(f"method == 'provfl' and scope == 'round' and round == {number}").set_index("metric")[
                "mean"
            ]
            assert shown[f"removal_margin_{count}"] == pytest.approx((here[0] - here[row]).mean(), abs=1e-6)
    assert removed == planned


def test_called_again_nothing_is_trained_and_other_commands_are_not_disturbed(
    made: Result, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = made.folder.parent
    before = sorted((base / "cache" / "federations").glob("*/rounds/*/round.json"))
    stamps = [path.stat().st_mtime_ns for path in before]
    again = run(base / "again", *SETTINGS, *DESIGNS, "provenance.rounds=[1,2]", cache=base / "cache")
    assert [path.stat().st_mtime_ns for path in before] == stamps
    assert sorted((base / "cache" / "federations").glob("*/rounds/*/round.json")) == before
    for name in ("retrainings.csv", "retrained.parquet"):
        assert (again.folder / name).read_bytes() == (made.folder / name).read_bytes()
    monkeypatch.chdir(base)
    loaded = provfl_cli.load_run("first")
    assert loaded.retrained is not None
    assert loaded.retrainings is not None
    assert set(loaded.retrained["retraining"]) == set(loaded.retrainings["retraining"])
    for command in (["table", "first"], ["report", "first"], ["trace", "first"]):
        assert main(command) == 0, command
    capsys.readouterr()


def test_one_prediction_is_verified_by_retraining(
    made: Result, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(made.folder.parent)
    entries = set((made.folder.parent / "cache" / "federations").iterdir())
    number = int(made.frame("inputs").query("round == 2")["input"].iloc[0])
    asked = ["trace", "first", "--input", str(number), "--verify", "retrain", "--json"]
    assert main(asked) == 0
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert {*(made.folder.parent / "cache" / "federations").iterdir()} == entries, "all of it is in the run's cache"
    rows, answers = (run_table(made.folder / name) for name in ("retrainings.csv", "retrained.parquet"))
    everybody = set(map(int, made.manifest["clients"]["kept"]))
    of_input = answers[(answers["round"] == 2) & (answers["input"] == number)].set_index("retraining")
    alone = rows[rows["design"] == "leave_one_out"].set_index("retraining")
    assert len(answer["verified"]) == len(everybody)
    for verified in answer["verified"]:
        kept = " ".join(str(client) for client in sorted(everybody - {int(verified["client"])}))
        found = of_input.loc[alone.index[alone["clients"] == kept][0]]
        share = verified["probability"]["retrain"]
        assert np.log(share) - np.log1p(-share) == pytest.approx(found["value"], abs=1e-4)
        assert int(verified["prediction"]["retrain"]) == found["prediction"]
        before = answer["probabilities"][answer["explained"]]
        assert verified["cost"]["retrain"] == pytest.approx(np.log(before) - np.log(share))
    assert {agreement["kind"] for agreement in answer["agreement"]} == {"retrain"}
    assert main(asked[:-1]) == 0
    assert "Trained again without each of the top clients" in capsys.readouterr().out


def test_a_killed_run_trains_only_what_is_missing(tmp_path: Path) -> None:
    few = [*SETTINGS, "retrain.designs=[leave_one_out]"]
    whole = run(tmp_path / "whole", *few, cache=tmp_path / "cache")
    rows = pd.read_csv(whole.folder / "retrainings.csv")
    gone = rows["key"].iloc[2]
    entry = tmp_path / "cache" / "federations" / gone
    stamps = {path: path.stat().st_mtime_ns for path in entry.parent.glob("*/rounds/*/round.json")}
    for path in entry.rglob("*"):  # as if it had been killed before this one
        if path.is_file():
            path.unlink()
    (entry / "rounds" / "0002").rmdir()
    again = run(tmp_path / "again", *few, cache=tmp_path / "cache")
    renewed = [path for path, stamp in stamps.items() if path.stat().st_mtime_ns != stamp]
    assert [path.parents[2].name for path in renewed] == [gone]
    name = "retrained.parquet"
    assert (again.folder / name).read_bytes() == (whole.folder / name).read_bytes()
    assert whole.manifest["seconds"]["retrain"] > 0


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (["retrain.designs=[all]", "federation.clients=12"], "all of 12 clients are 4,096 federations"),
        (["fusion=krum", "fusion.attackers=1", "retrain.designs=[halves]"], "halves: none of 10 can be trained"),
        (
            ["federation.share=body", "retrain.designs=[leave_one_out]"],
            "leave_one_out: 4 of 5 can be trained, its figures need 5 (the model is completed by what client",
        ),
        (["federation.share=body", "retrain.designs=[halves]"], "halves: 4 of 10 can be trained, its figures need 6"),
        (["federation.clients=3", "retrain.designs=[halves]"], "3 clients have 3 different ones, the score needs 6"),
        (
            ["federation.rounds=2", "federation.leaves={0:1,1:1,2:1}", "retrain.designs=[halves]"],
            "halves: 1 of 10 can be",
        ),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_trained(
    settings: list[str], says: str, workspace: Path, capsys: Captured
) -> None:
    assert main(["run", "dataset=digits", "partition=iid", "federation.clients=5", "hydra.run.dir=out",
                 "evaluation.counterfactual=retrain", *settings]) == 2  # fmt: skip
    said = capsys.readouterr()
    assert says in said.err
    assert not list(workspace.glob("outputs/cache/federations/*/rounds/*"))


def test_the_run_may_stand_behind_verify(made: Result, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(made.folder.parent)
    assert main(["trace", "--verify", "first", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["verified"][0]["cost"].keys() == {"refuse"}
    assert main(["trace", "first", "--verify=retrian"]) == 2
    assert "did you mean retrain?" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_killed_it_leaves_nobody_at_work_and_goes_on_where_it_was(tmp_path: Path) -> None:
    settings = [*SMALL, *SETTINGS, "federation.local_epochs=8", "retrain.workers=2", "store.cache=cache"]
    started = Command(tmp_path, "run", *settings, "hydra.run.dir=result")
    started.until_it_says("trained again:")
    workers = children(started.pid)
    os.kill(started.pid, signal.SIGKILL)
    assert started.wait() == -signal.SIGKILL
    assert len(workers) == 2
    assert wait_for(lambda: all(gone(pid) for pid in workers)), "an orphan goes on"
    there = {path: path.stat().st_mtime_ns for path in tmp_path.glob("cache/federations/*/rounds/0002/round.json")}
    assert len(there) >= 2
    again = run(tmp_path / "result", *settings, cache=tmp_path / "cache")
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in there.items())
    keys = {path.parents[2].name for path in there}
    assert keys < set(pd.read_csv(again.folder / "retrainings.csv")["key"])


def test_private_heads_are_scored_over_the_halves_that_hold_whose_model_it_is(tmp_path: Path, capsys: Captured) -> None:
    """The others are not tried, and it is said before the run trains and in its note."""
    heads = ["partition=iid", "federation.clients=6", "federation.share=body", "evaluation.client=2",
             "federation.rounds=1", "retrain.designs=[halves]", "retrain.subsets=20"]  # fmt: skip
    made = run(tmp_path / "heads", *SETTINGS, *heads, cache=tmp_path / "cache")
    said = " ".join(capsys.readouterr().out.split())
    before, after = said.split("Trained again", 1)
    assert "10 of 20 halves cannot be trained: the model is completed by what client 2 keeps for itself" in before
    assert "10 federations (10 halves)" in after
    assert "10 of 20 federations could not be trained again (the model is completed by what client 2" in after
    assert "LDS is over the 10 sets of clients that hold client 2" in after
    truth = pd.read_csv(made.folder / "retraining.csv")
    assert truth[truth["metric"] == "lds"]["subsets"].tolist()[0] == 10


def test_fewer_halves_than_asked_for_are_told_before_training(made: Result, capsys: Captured) -> None:
    settings = [
        *SETTINGS,
        "retrain.designs=[halves]",
        "retrain.subsets=9",
        "retrain.again=7",
        "provenance.rounds=[1,2]",
    ]
    run(made.folder.parent / "nine", *settings, cache=made.folder.parent / "cache")
    said = " ".join(capsys.readouterr().out.split())
    before, after = said.split("Trained again", 1)
    assert "retrain.subsets=9: 4 clients have 6 different halves" in before
    assert "12 federations (6 halves, 6 of them again with another seed)" in after


def test_where_nothing_was_measured_there_is_no_table_of_it(tmp_path: Path, capsys: Captured) -> None:
    """A label of one client alone that nobody predicts right: the twin causes nothing."""
    twin = ["injection=label_flip", "retrain.designs=[clean_twin]", "federation.rounds=1", "tracefl_beside=false",
            "evaluation.inputs=correct", "partition=iid"]  # fmt: skip
    made = run(tmp_path / "twin", *SETTINGS, *twin, cache=tmp_path / "cache")
    said = capsys.readouterr().out
    assert "1 federation (1 clean_twin)" in said
    assert "retrainings.csv" in said
    assert not (made.folder / "retraining.csv").exists()
    assert "retraining.csv" not in said
    read = read_run(made.folder)
    assert isinstance(read, RunFolder)
    assert read_contents(read).truth is None
    assert provfl_cli.load_run(made.folder).truth is None


def test_each_traced_round_is_completed_by_the_same_client_with_all_clients_and_without_some(tmp_path: Path) -> None:
    """Who completes the model of a round is the largest of those that have trained by then."""
    data, config = make_data(), make_config()
    largest = {client.id: len(client.labels) for client in data.clients}
    by_size = sorted(largest, key=lambda client: -largest[client])
    config = replace(config, federation=replace(config.federation, share="body", joins={by_size[0]: 2}))
    ids, examples = list(largest), list(largest.values())
    roster = rosters(config.federation, ids, examples, 0, 2)
    sharing = sharing_of(make_model(), config.federation, None)
    assert to_complete(sharing, None, largest, roster, {1, 2}) == {1: by_size[1], 2: by_size[0]}
    assert to_complete(sharing, 4, largest, roster, {2}) == {2: 4}
    whole = make_whole(tmp_path, model=make_model(), share="body")
    kept, (first, second) = (0, 2, 4), (make_asked(whole.data, number)[0] for number in (1, 2))
    answers = []
    for completing in ({1: 0, 2: 2}, {1: 2, 2: 2}, {1: 0, 2: 0}):
        with retrained(replace(whole, completing=completing), [first, second], [Retraining("all", kept, 0)], 1) as made:
            ((_, outcome),) = made
        answers.append(outcome.answers)
    np.testing.assert_array_equal(answers[0][2].values, answers[1][2].values)
    np.testing.assert_array_equal(answers[0][1].values, answers[2][1].values)
    assert not np.allclose(answers[0][1].values, answers[1][1].values)
