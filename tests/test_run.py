"""`provfl run` from the command line to the last file, on real data."""

from __future__ import annotations

import math
from itertools import zip_longest
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.torch import load_file

from provfl_cli.cli import main
from provfl_cli.config.compose import compose_jobs, validated
from provfl_cli.config.schema import Config
from provfl_cli.config.tree import options
from provfl_cli.data.federated import Pictures
from provfl_cli.data.load import federated_data
from provfl_cli.models.build import build

from .runs import FILES, SMALL, Result, run

CONTRIBUTIONS = [  # design section 4
    "method", "scope", "target", "round", "input", "label", "prediction",
    "kind", "client", "contribution", "share", "rank", "tie",
]  # fmt: skip


def config_of(*overrides: str) -> Config:
    ((_, composed),) = compose_jobs([*SMALL, *overrides])
    return validated(composed)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for this module's runs; what is trained in its cache is shared by the tests that only trace."""
    return tmp_path_factory.mktemp("runs with ünusual names")


@pytest.fixture(scope="module")
def result(place: Path) -> Result:
    """One run that several tests look at."""
    return run(place / "result", "provenance.rounds=[1,3]", cache=place / "cache")


# --- the files of a run


def test_all_files_are_there(result: Result) -> None:
    assert {path.name for path in result.folder.iterdir()} == FILES
    assert sorted(path.name for path in (result.folder / ".hydra").iterdir()) == [
        "config.yaml",
        "hydra.yaml",
        "overrides.yaml",
    ]
    assert (result.folder / "rounds").is_symlink()
    assert result.stored == ["0001", "0003"]


def test_contributions_add_up(result: Result) -> None:
    frame = result.frame("contributions")
    assert list(frame.columns) == CONTRIBUTIONS
    assert set(frame["method"]) == {"provfl", "tracefl"}
    assert set(frame["round"]) == {1, 3}
    clients = frame[frame["kind"] == "client"]
    assert set(clients["client"]) == {0, 1, 2}
    for _, ranking in clients.groupby(["method", "scope", "round", "input"]):
        assert len(ranking) == 3
        assert ranking["share"].sum() == pytest.approx(1, abs=1e-9)
        raw = np.exp(ranking["contribution"] - ranking["contribution"].max())
        assert np.allclose(ranking["share"], raw / raw.sum())
        ordered = ranking.sort_values("rank")
        assert ordered["contribution"].is_monotonic_decreasing
        assert ordered["rank"].iloc[0] == 1
    others = frame[frame["kind"] != "client"]
    assert others[["client", "share", "rank", "tie"]].isna().all(axis=None)


def test_inputs_are_what_the_global_model_makes_of_the_test_set(result: Result) -> None:
    inputs = result.frame("inputs")
    config = config_of()
    data = federated_data(config)
    model = build(config.model, Pictures(1, 28), 10, config.seed)
    assert len(inputs) == 2 * 30
    for number in (1, 3):
        here = inputs[inputs["round"] == number]
        model.load_state_dict(load_file(result.folder / "rounds" / f"{number:04d}" / "global.safetensors"))
        predictions = model.eval()(data.test.inputs).argmax(1).numpy()
        at = [data.test.indices.tolist().index(index) for index in here["input"]]
        assert here["label"].tolist() == data.test.labels.numpy()[at].tolist()
        assert here["prediction"].tolist() == predictions[at].tolist()
        probabilities = np.stack(here["probabilities"].tolist())
        assert np.allclose(probabilities.sum(axis=1), 1, atol=1e-5)
        assert probabilities.argmax(axis=1).tolist() == here["prediction"].tolist()
        accuracy = (predictions == data.test.labels.numpy()).mean()
        assert result.metrics[number - 1]["accuracy"] == pytest.approx(accuracy)
    assert inputs["residual"].between(0, 1e-4).all()
    assert inputs["picture"].str[:4].eq(b"\x89PNG").all()
    assert "text" not in inputs
    traced = result.frame("contributions")[["round", "input", "label", "prediction"]].drop_duplicates()
    assert traced.merge(inputs, on=["round", "input", "label", "prediction"]).shape[0] == len(inputs) == len(traced)


def test_layers_sum_to_the_contributions(result: Result) -> None:
    layers = result.frame("layers")
    assert set(layers["layer"]) == {"conv1", "conv2", "fc1", "fc2", "fc3"}
    assert (layers["active_neurons"] <= layers["neurons"]).all()
    assert (layers.query("layer == 'conv1'")["active_neurons"] < 28 * 28 * 6).all(), "threshold 0 leaves neurons out"
    summed = layers.groupby(["round", "input", "client"])["contribution"].sum()
    own = result.frame("contributions").query("method == 'provfl' and scope == 'round' and kind == 'client'")
    whole = own.set_index(["round", "input", "client"])["contribution"].loc[summed.index]
    assert np.allclose(summed, whole, rtol=1e-4, atol=1e-6)


def test_the_summary_is_the_last_round_scored_anew(result: Result) -> None:
    summary = result.summary
    counts = {client.id: client.label_counts for client in federated_data(config_of()).clients}
    own = result.frame("contributions").query("method == 'provfl' and scope == 'round' and round == 3 and rank == 1")
    hits = [counts[client][label] >= 10 for client, label in zip(own["client"], own["label"], strict=True)]
    chance = [np.mean([held[label] >= 10 for held in counts.values()]) for label in own["label"]]
    assert summary["localization_accuracy"] == pytest.approx(np.mean(hits))
    assert summary["chance_accuracy"] == pytest.approx(np.mean(chance))
    assert 0 <= summary["majority_accuracy"] <= summary["localization_accuracy"]
    assert -1 <= summary["spearman_counts"] <= 1
    assert summary["global_accuracy"] == result.metrics[-1]["accuracy"] > 0.2  # chance: 0.1
    assert 0 <= summary["conservation_residual"] < 1e-4
    assert summary["conservation_residual"] >= result.frame("inputs").query("round == 3")["residual"].max()
    assert (summary["engine"], summary["round"], summary["inputs"], summary["covered"]) == ("local", 3, 30, 1.0)
    assert summary["train_seconds"] > 0
    assert summary["cached_train_seconds"] == 0
    assert summary["trace_seconds"] > 0
    row = result.scores.query("method == 'provfl' and round == 3").iloc[0]
    for name in ("localization_accuracy", "chance_accuracy", "majority_accuracy", "spearman_counts"):
        assert row[name] == pytest.approx(summary[name])
    whole = result.scores.query("scope == 'lineage' and round == 3").iloc[0]
    assert summary["lineage_majority_accuracy"] == pytest.approx(whole["majority_accuracy"])
    traces = [("provfl", "round"), ("provfl", "lineage"), ("tracefl", "round")]
    assert list(zip(result.scores["method"], result.scores["scope"], strict=True)) == 2 * traces


def test_tables_show_chance_and_where_the_data_came_from(result: Result) -> None:
    text = (result.folder / "table.md").read_text()
    head = next(line for line in text.splitlines() if "| accuracy |" in line)
    assert head.split(" | ").index("chance") == head.split(" | ").index("accuracy") + 1
    assert text.rstrip().endswith("embedded, all 1,797; 3 clients, 3 rounds, sgd")
    for trace in ("tracefl | round | 3", "provfl | round | 1", "provfl | lineage | 1"):
        assert text.count(f"| {trace} |") == 3, "whom mispredictions are blamed on"
    assert "Planted faults" not in text
    assert "embedded, all 1,797" in (result.folder / "table.tex").read_text()


def test_the_manifest_says_what_the_run_was_made_of(result: Result) -> None:
    manifest = result.manifest
    assert manifest["dataset"]["fingerprint"]
    assert (manifest["dataset"]["source"], manifest["dataset"]["train_examples"]) == ("embedded", 1437)
    assert set(manifest["clients"]["kept"]) == {"0", "1", "2"}
    assert {name: manifest["inputs"][name] for name in ("input", "channels", "image_size")} == {
        "input": "image",
        "channels": 1,
        "image_size": 28,
    }
    assert manifest["model"] == {"name": "lenet", "weights": "drawn from the seed"}
    assert manifest["seconds"]["total"] >= manifest["seconds"]["train"] > 0
    assert manifest["trace"]["masked_layers"] == ["conv1", "conv2", "fc1", "fc2"]
    assert [row["round"] for row in result.metrics] == [1, 2, 3]
    assert all(math.isfinite(row["loss"]) and row["clients"] == 3 for row in result.metrics)


# --- choices


@pytest.mark.slow
def test_the_cache_is_used_and_the_same_files_come_of_it(result: Result, place: Path) -> None:
    again = run(place / "again", "provenance.rounds=[1,3]", cache=place / "cache")
    assert again.summary["train_seconds"] == 0
    assert again.summary["cached_train_seconds"] > 0
    assert again.content() == result.content()
    assert again.metrics == result.metrics


@pytest.mark.slow
def test_a_round_that_was_not_kept_is_trained_again(
    result: Result, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    every = run(place / "every", "provenance.rounds=all", cache=place / "cache")
    shown = capsys.readouterr().out
    assert "round 2 was not kept: trained again from round 1" in shown
    assert every.summary["train_seconds"] > 0
    assert every.stored == ["0001", "0002", "0003"]
    frame = every.frame("contributions")
    kept = frame[frame["round"] != 2].reset_index(drop=True)
    pd.testing.assert_frame_equal(kept, result.frame("contributions"))


@pytest.mark.slow
@pytest.mark.parametrize("which", ["correct", "wrong"])
def test_which_predictions_are_traced(which: str, result: Result, place: Path) -> None:
    inputs = run(place / which, f"evaluation.inputs={which}", cache=place / "cache").frame("inputs")
    assert len(inputs) > 10
    assert (inputs["label"].eq(inputs["prediction"]) == (which == "correct")).all()


@pytest.mark.slow
def test_few_inputs(place: Path, result: Result) -> None:
    few = run(place / "few", "evaluation.max_inputs=3", cache=place / "cache")
    assert len(few.frame("inputs")) == few.summary["inputs"] == 3
    assert set(few.frame("layers")["input"]) == set(few.frame("inputs")["input"])


@pytest.mark.slow
def test_no_prediction_to_trace_is_no_failure(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    none = ["evaluation.inputs=correct", "evaluation.min_examples=1000", "tracefl_beside=false"]
    empty = run(place / "empty", *none, cache=place / "cache")
    assert "no correct prediction to trace" in capsys.readouterr().out
    assert empty.summary["localization_accuracy"] is None
    assert {path.name for path in empty.folder.iterdir()} == FILES
    assert list(empty.frame("contributions").columns) == CONTRIBUTIONS


@pytest.mark.slow
def test_predictions_whose_label_nobody_holds_are_counted(place: Path) -> None:
    data = federated_data(config_of())
    most = np.stack([client.label_counts for client in data.clients]).max(axis=0)
    least = int(np.median(most)) + 1  # some labels are held so often, some are not
    unheld = int((most < least)[data.test.labels.numpy()].sum())
    every = ["evaluation.inputs=all", f"evaluation.min_examples={least}"]
    result = run(place / "unheld", *every, cache=place / "cache")
    assert 0 < unheld < len(data.test.labels)
    assert result.summary["no_holder"] == unheld
    assert (result.scores["no_holder"] == unheld).all()


@pytest.mark.slow
def test_thresholds_of_a_sweep_share_one_training(place: Path) -> None:
    def sweep(name: str) -> list[Result]:
        places = [f"hydra.sweep.dir='{place / name}'", f"store.cache='{place / 'sweep cache'}'"]
        assert main(["run", "-m", *SMALL, *places, "evaluation.max_inputs=10", "threshold=null,0.0,0.5,1.0"]) == 0
        assert {path.name for path in (place / name).iterdir() if path.is_dir()} == set("0123")
        return [Result(place / name / str(number)) for number in range(4)]

    first, again = sweep("sweep"), sweep("sweep again")
    assert first[0].summary["train_seconds"] > 0
    assert all(member.summary["train_seconds"] == 0 for member in [*first[1:], *again])
    assert all(member.summary["cached_train_seconds"] > 0 for member in [*first[1:], *again])
    assert [member.summary["threshold"] for member in first] == [None, 0.0, 0.5, 1.0]
    assert [member.content() for member in first] == [member.content() for member in again]
    own = [member.frame("contributions").query("method == 'provfl'")["contribution"].to_numpy() for member in first]
    beside = [member.frame("contributions").query("method == 'tracefl'")["contribution"].to_numpy() for member in first]
    assert np.array_equal(own[0], own[1]), "under ReLU threshold 0 leaves out what is 0 anyway"
    assert not np.allclose(own[1], own[2], rtol=1e-2)
    assert not np.allclose(own[2], own[3], rtol=1e-2)
    assert all(np.array_equal(beside[0], values) for values in beside), "a threshold of its own"


@pytest.mark.slow
def test_a_flipping_client_is_found(place: Path) -> None:
    flipped = run(place / "flipped", "injection=label_flip", "injection.clients=[1]", "evaluation.inputs=faults")
    row = flipped.scores.query("method == 'provfl'").iloc[0]
    assert row["fault_inputs"] >= 10
    assert row["fault_accuracy"] > 0.9
    assert row["fault_chance"] == pytest.approx(1 / 3)
    assert row["newcomer_chance"] == 0, "everybody takes part in every round"
    assert flipped.summary["fault_accuracy"] == row["fault_accuracy"]
    assert flipped.manifest["clients"]["faulty"] == [1]
    assert "Planted faults" in (flipped.folder / "table.md").read_text()


@pytest.mark.slow
def test_the_only_holder_of_a_label_is_found(place: Path) -> None:
    exclusive = run(
        place / "exclusive", "injection=exclusive_label", "injection.client=2", "injection.label=6",
        "federation.rounds=10", "evaluation.inputs=correct",
    )  # fmt: skip
    top = exclusive.frame("contributions").query("method == 'provfl' and label == 6 and rank == 1")
    assert len(top)
    assert (top["client"] == 2).all()


USUAL = {"fusion": "fedavg", "injection": "none", "partition": "iid", "provenance": "provfl"}
"""What every other test here runs with."""


# Run through in test_adapters, test_flora, test_backdoors and test_run_behaviours.
WORDS = ("backdoor_word", "backdoor_word_long", "backdoor_word_long_two", "backdoor_word_long_four")
OF_TEXTS = ("ffa_lora", "flora", *WORDS, "trigger_phrase", "secret", "refusal")
IN_TWO_ROUNDS = "injection.rounds=[-1] injection.epochs=1"
EXTRA = {
    "partition=by_domain": "federation.clients=10",  # one a digit
    "injection=scaled_update": "injection.factor=2",  # 10 of seven clients overshoots, and training diverges
    **{f"injection=backdoor_{name}": IN_TWO_ROUNDS for name in ("earlier", "last", "two", "four")},
    **{
        f"injection=backdoor_{name}": f"{IN_TWO_ROUNDS} injection.factor=2"
        for name in ("long", "long_two", "long_four")
    },
}


def unusual(group: str) -> list[str]:
    return [f"{group}={name}" for name in options(group) if name not in (USUAL[group], *OF_TEXTS)]


def together(*groups: str) -> list[str]:
    """All unusual options of these groups, one of each in a run, with the settings that some cannot do without."""
    rows = [[*filter(None, row)] for row in zip_longest(*map(unusual, groups))]
    return [" ".join([*row, *(EXTRA[option] for option in row if option in EXTRA)]) for row in rows]


@pytest.mark.slow
@pytest.mark.parametrize(
    "choice",
    [
        *together("partition", "provenance"),
        *(f"{choice} federation.clients=7" for choice in together("fusion", "injection")),
        "federation.optimizer=adam federation.learning_rate=0.001",
        "federation.clients_per_round=2 store.keep=all seed=2147483647",
        "model=resnet18 federation.rounds=1 partition.max_examples_per_client=33 partition.min_examples_per_label=1",
        "provenance.threshold_scale=minmax threshold=0.2",
        "provenance.layers=[Linear] provenance.layer_decay=1",
    ],
)
def test_every_option_runs_through(choice: str, place: Path) -> None:
    """Two rounds of one epoch: a server that keeps a state goes on from it, and no more is needed to run through."""
    method = choice.partition("provenance=")[2].partition(" ")[0] or "provfl"
    little = ["federation.rounds=2", "federation.local_epochs=1", "evaluation.max_inputs=4"]
    done = run(place / choice.replace("/", " "), *little, *choice.split(), cache=place / "cache")
    assert done.summary["method"] == method
    assert 0 <= done.summary["localization_accuracy"] <= 1
    assert done.summary["conservation_residual"] < 1e-4
    assert set(done.frame("contributions")["method"]) == {method, "tracefl"}


@pytest.mark.slow
def test_the_smoke_experiment_runs_through(place: Path) -> None:
    where = [f"hydra.run.dir='{place / 'smoke'}'", f"store.cache='{place / 'cache'}'"]
    assert main(["run", "experiment=smoke", *where]) == 0
    assert (place / "smoke" / "summary.json").exists()


# --- data and models beside the small ones


@pytest.mark.slow
def test_mnist_from_a_folder_with_fedprox(place: Path, shared_data: Path) -> None:
    done = run(
        place / "mnist", "dataset=mnist", f"dataset.path={shared_data / 'mnist'}", "fusion=fedprox",
        "partition=dirichlet", "partition.min_examples_per_client=20", "federation.clients=6",
    )  # fmt: skip
    assert done.manifest["dataset"]["train_examples"] == 8000
    assert "10,000 examples from" in (done.folder / "table.md").read_text()
    assert (done.summary["fusion"], done.summary["dataset"]) == ("fedprox", "mnist")
    assert done.summary["conservation_residual"] < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("model", ["resnet18", "densenet121"])
def test_large_models_on_cifar10(model: str, place: Path, shared_data: Path) -> None:
    done = run(
        place / model, "dataset=cifar10", f"dataset.path={shared_data / 'cifar10'}", f"model={model}",
        "federation.rounds=1", "federation.local_epochs=1", "partition.max_examples_per_client=33",
        "partition.min_examples_per_label=1", "dataset.max_test_examples=20", "evaluation.max_inputs=4",
    )  # fmt: skip
    assert done.summary["inputs"] == 4
    assert done.summary["conservation_residual"] < 1e-4
    assert done.summary["covered"] == 1
    assert done.manifest["trace"]["not_attributed_buffers"], "running statistics"


# --- the same bytes, whatever happens


@pytest.mark.slow
def test_the_number_of_workers_changes_no_byte(place: Path) -> None:
    runs = [
        run(
            place / f"workers {count}",
            f"engine.workers={count}",
            "provenance.rounds=[1,3]",
            "federation.clients=5",
            "federation.local_epochs=1",
        )
        for count in (1, 2, 3)
    ]
    assert all(member.summary["train_seconds"] > 0 for member in runs), "trained, each on its own"
    assert runs[0].content() == runs[1].content() == runs[2].content()
    assert {"0003/clients.safetensors", "contributions.parquet", "localization.csv"} <= set(runs[0].content())
