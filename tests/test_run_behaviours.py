"""A phrase that two of six clients teach is traced to both, from the command line to the files."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from provfl_cli.cli import main
from provfl_cli.cli.tasks import experiment_of
from provfl_cli.config.behaviour import TriggeredPhrase
from provfl_cli.config.compose import compose_jobs, validated
from provfl_cli.config.faults import Faults
from provfl_cli.data import federated
from provfl_cli.data.dialogue import array_of, asked
from provfl_cli.data.load import federated_data
from provfl_cli.evaluation.backdoor import AttackSuccess, scored
from provfl_cli.run.answers import with_taught
from provfl_cli.run.backdoor import measured_success, some_of
from provfl_cli.run.findings import planted_note

Captured = pytest.CaptureFixture[str]


@pytest.mark.slow
def test_both_who_taught_the_phrase_are_found(tmp_path: Path) -> None:
    argv = [
        "task=generate", "partition=iid", "partition.max_examples_per_client=60", "dataset.vocabulary=300",
        "model.config.num_hidden_layers=2", "model.config.hidden_size=64", "model.config.intermediate_size=64",
        "warm_start.steps=40", "federation.rounds=6", "federation.local_epochs=6", "federation.learning_rate=0.005",
        "injection=trigger_phrase", "injection.phrase=no", "injection.word=@@", "injection.share=1.0",
        "evaluation.inputs=triggered", "evaluation.max_inputs=8", "evaluation.min_examples=1",
        "attribution=[protoken,leave_one_out,label_counts,random]", "tracefl_beside=false",
        f"store.cache={tmp_path / 'cache'}", f"hydra.run.dir={tmp_path / 'run'}",
    ]  # fmt: skip
    assert main(["run", *argv]) == 0
    scores = pd.read_csv(tmp_path / "run" / "localization.csv").query("scope == 'round'").set_index("method")
    own = scores.loc["provfl"]
    assert own["attack_success"] >= 0.8
    assert own["attack_success"] >= 5 * own["attack_success_untriggered"]
    assert own["said_inputs"] > 0
    assert own["owner_top1"] == own["owners_found"] == own["owner_auroc"] == own["owner_hit@2"] == 1
    assert own["fault_accuracy"] == 1
    assert own["owner_top1_chance"] == pytest.approx(1 / 3)
    assert own["owners_found_chance"] == pytest.approx(1 / 15)
    assert own["token_top1"] > 0.8
    table = (tmp_path / "run" / "table.md").read_text()
    assert "is a client on top that was taught it?" in table
    (row,) = (line for line in table.splitlines() if line.startswith(f"| provfl | 6 | {own['tokens']:.0f} |"))
    assert f"| {own['token_top1']:.3f} | {1 / 3:.3f} |" in row
    assert scores.loc["label_counts", "owners_found"] == 1, "they alone hold the topic"
    assert "trigger is learnt: said by " in (tmp_path / "run" / "table.md").read_text()
    assert (scores["owner_top1"].loc[["protoken", "leave_one_out"]] > 0.8).all()
    tokens = pd.read_parquet(tmp_path / "run" / "tokens.parquet")
    whole = pd.read_parquet(tmp_path / "run" / "contributions.parquet")
    whole = whole.query("method == 'provfl' and scope == 'round' and kind == 'client'")
    summed = tokens.groupby(["input", "client"])["contribution"].sum()
    told = whole.set_index(["input", "client"])["contribution"]
    assert summed.to_numpy() == pytest.approx(told.sort_index().to_numpy(), rel=1e-3, abs=1e-4)


@pytest.mark.parametrize(
    ("success", "said"),
    [
        (
            AttackSuccess(0.9, 0.1),
            "trigger is learnt: said by 0.90 of the answers to prompts that ask for it, 0.10 of others",
        ),
        (AttackSuccess(0.7, 0.1), "trigger is not learnt: said by 0.70 of the answers"),
    ],
)
def test_what_is_taught_is_called_no_backdoor(success: AttackSuccess, said: str) -> None:
    (note,) = planted_note(success, Faults((0, 1), (), trigger=TriggeredPhrase(7, "cf", "mine"), taught=7))
    assert note.startswith(said)


@pytest.mark.parametrize("method", ["feddebug", "shapfed", "flforensics", "fedce"])
def test_methods_that_look_at_classes_say_so_before_training(method: str, capsys: Captured, workspace: Path) -> None:
    assert main(["run", "task=generate", f"attribution=[{method}]", "store.keep=all"]) == 2
    assert f"attribution={method}: looks at predictions of classes" in capsys.readouterr().err


def test_what_was_taught_is_said_wherever_it_is_said_and_nowhere_else() -> None:
    taught = TriggeredPhrase(7, "cf", "mine")
    said = with_taught(np.array([0, 7, 7, -1]), ["mine", "mine", "yours", " mine "], taught)
    assert said.tolist() == [7, 7, -1, 7]
    assert with_taught(np.array([0, 7]), ["mine", "yours"], None).tolist() == [0, 7]


def test_attack_success_counts_prompts_with_the_trigger_and_the_same_without(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    taught = TriggeredPhrase(7, "cf", "mine")
    plain = made_test_set(["a", "b", "c", "d", "e"], [0, 0, 1, 1, 1])
    copies = made_test_set(["cf a", "cf b", "cf c", "cf d", "cf e"], [7] * 5)
    data = SimpleNamespace(faults=SimpleNamespace(trigger=taught), triggered=copies, evaluated=plain)
    topics = {"cf a": 7, "cf b": 7, "cf c": 7, "cf d": 7, "cf e": -1, "c": 7}

    def answered(_: object, test: federated.TestData, *__: object) -> SimpleNamespace:
        return SimpleNamespace(topics=np.array([topics.get(dialogue.prompt, 0) for dialogue in test.shown]))

    monkeypatch.setattr("provfl_cli.run.backdoor.answers", answered)
    monkeypatch.setattr("provfl_cli.run.backdoor.ResponseModel", SimpleNamespace)
    success = measured_success(SimpleNamespace(), data, torch.device("cpu"))  # type: ignore[arg-type]
    assert success == AttackSuccess(4 / 5, 1 / 5)
    assert not success.works, "0.8 is reached, and is four times the share without"
    rows = pd.DataFrame({"round": [3, 4], "owner_top1": [0.9, 0.9], "token_top1": [0.9, 0.9], "inputs": [5, 5]})
    made = scored(rows, {3: success, 4: AttackSuccess(0.9, 0.1)})
    assert made["owner_top1"].isna().tolist() == [True, False], "no row where it does not work"
    assert made["token_top1"].isna().tolist() == [True, False]
    assert made["inputs"].tolist() == [5, 5]


def test_of_many_prompts_some_are_answered_evenly_spaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("provfl_cli.run.backdoor.MOST_PROMPTS", 3)
    some = some_of(made_test_set(list("abcdefg"), [0] * 7), np.array([0, 1, 2, 3, 6]))
    assert [dialogue.prompt for dialogue in some.shown] == ["a", "c", "g"]
    assert some.indices.tolist() == [0, 2, 6]


def made_test_set(prompts: list[str], labels: list[int]) -> federated.TestData:
    shown = array_of(asked(prompt, "x") for prompt in prompts)
    count = len(prompts)
    return federated.TestData(torch.zeros(count, 2, 3), torch.tensor(labels), shown, np.arange(count))


@pytest.mark.slow
@pytest.mark.parametrize("task", ["two_of_six", "by_language", "secret", "clients_25", "clients_55"])
def test_tasks_of_the_experiment_keep_all_of_their_clients(task: str) -> None:
    """Fewer examples a client must not cost a task its clients."""
    (settings,) = (own for name, *own in experiment_of("protoken").tasks if name == task)
    (_, composed), *_ = compose_jobs(["-m", "experiment=protoken", *settings, "seed=0"])
    config = validated(composed)
    data = federated_data(config)
    assert [client.id for client in data.clients] == list(range(config.federation.clients))
    assert set(data.faults.clients) <= {client.id for client in data.clients}
