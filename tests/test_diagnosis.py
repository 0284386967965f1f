"""Who is behind mistakes: judged scores, the sentence, what is stored; and `provfl diagnose` end to end."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from provfl_cli.cli import main
from provfl_cli.evaluation.verdict import CHARGES, Measured, judged, standing_out
from provfl_cli.results import diagnosis
from provfl_cli.results.diagnosis import ClientScore, Diagnosis, Suspect
from provfl_cli.results.wrong import WrongContent
from provfl_cli.run.sentence import sentence_of

CLIENTS = tuple(range(10))
EVEN = np.linspace(-1, 1, 10)


def measured(score: str, values: np.ndarray, number: int = 8, usual: np.ndarray | None = None) -> Measured:
    return Measured(score, number, CLIENTS, values, usual)


def with_one(client: int, value: float) -> np.ndarray:
    values = EVEN.copy()
    values[client] = value
    return values


def named(*scores: Measured) -> list[int]:
    rounds: dict[int, list[Measured]] = {}
    for score in scores:
        rounds.setdefault(score.round, []).append(score)
    return [each.client for each in standing_out({number: judged(found) for number, found in rounds.items()})]


@pytest.mark.parametrize(("score", "value"), [("entropy", 30.0), ("loss", 1e6), ("direction", -30.0), ("top", 30.0)])
def test_who_is_far_on_the_suspicious_side_is_named_and_nobody_else(score: str, value: float) -> None:
    assert named(measured(score, with_one(4, value) if score != "loss" else np.exp(with_one(4, 15.0)))) == [4]
    assert named(measured(score, EVEN if score != "loss" else np.exp(EVEN))) == []
    assert named(measured(score, with_one(4, -value) if score != "loss" else np.exp(with_one(4, -15.0)))) == []


def test_a_threshold_is_met_where_the_robust_z_is() -> None:
    values = np.array([0, 1, 2, 3, 4, 5, 6, 7, 8, 0.0])
    limit = CHARGES["top"].score.threshold
    for times, expected in ((1.01, [9]), (0.99, [])):
        values[9] = np.inf
        centre = np.median(values)
        spread = 1.4826 * np.median(np.abs(values - centre))
        values[9] = centre + times * limit * spread
        assert named(measured("top", values)) == expected


def test_a_push_counts_only_beyond_what_is_usual() -> None:
    pushes = with_one(2, 30.0)
    assert named(measured("push", pushes)) == [2]
    assert named(measured("push", pushes, usual=np.zeros(10))) == [2]
    assert named(measured("push", pushes, usual=pushes - EVEN)) == []  # on other inputs of the class it does the same


def test_away_from_the_others_and_narrow_is_named_each_alone_is_not() -> None:
    away, narrow = with_one(0, -5.0), with_one(0, -3.0)
    assert named(measured("direction", away), measured("narrow", narrow)) == [0]
    assert named(measured("direction", away), measured("narrow", EVEN)) == []
    assert named(measured("direction", EVEN), measured("narrow", narrow)) == []


def test_unsure_and_against_what_is_right_is_named_each_alone_is_not() -> None:
    """Of the spread of `EVEN`, 0.82: 5.2 is a z of 6.3."""
    high = with_one(0, 5.2)
    assert named(measured("entropy", high), measured("against", high), measured("swap", EVEN)) == [0]
    assert named(measured("entropy", high), measured("against", EVEN), measured("swap", EVEN)) == []
    assert named(measured("entropy", EVEN), measured("against", high), measured("swap", with_one(0, 4.0))) == []


def test_an_earlier_round_names_only_who_is_far_beyond_the_threshold() -> None:
    assert named(measured("norm", np.full(10, 1.0)), measured("norm", np.r_[1e9, np.ones(9)], 5)) == [0]
    assert named(measured("norm", np.full(10, 1.0)), measured("norm", np.r_[1e9, np.ones(9)], 2)) == []
    assert named(measured("norm", np.full(10, 1.0)), measured("norm", np.r_[np.exp(2.0), np.ones(9)], 5)) == []
    found = standing_out(
        {
            number: judged([measured("norm", np.r_[9e9, np.ones(9)] if number > 3 else np.ones(10), number)])
            for number in range(1, 9)
        }
    )
    assert [(each.client, each.since) for each in found] == [(0, 4)]


def test_few_clients_are_not_compared() -> None:
    four = Measured("entropy", 1, (0, 1, 2, 3), np.array([0, 0, 0, 1e9]))
    assert not standing_out({1: judged([four])})
    five = Measured("entropy", 1, (0, 1, 2, 3, 4), np.array([0, 0, 0, 0, 1.0]))
    assert not standing_out({1: judged([five])})  # z 8.3, above the threshold of ten clients


def suspect(client: int, inputs: int, corrected: int | None = 0, name: str | None = None) -> Suspect:
    return Suspect(client, name, 8.0, ("why",), inputs, corrected, 0, None, None)


def found(*suspects: Suspect, **more: object) -> Diagnosis:
    whole = Diagnosis("131 mistakes", 131, 5, 10, suspects, 0.68, 0.74, 90, 0, "", (), {0: 97, 3: 34})
    return replace(whole, **more)  # type: ignore[arg-type]


def test_the_sentence_says_who_for_how_much_and_what_is_without() -> None:
    assert sentence_of(found(suspect(0, 97)), "mistake", True) == (
        "Client 0 is behind 97 of 131 mistakes; without it 90 of them are right and nothing else changes "
        "(accuracy 0.68 → 0.74)."
    )
    two = sentence_of(found(suspect(3, 34), suspect(0, 97, name="alice"), broken=1), "mistake", True)
    assert two.startswith("Clients alice and 3 are behind 131 of 131 mistakes; without them 90 of them are right and 1")
    assert "stands out, but is behind 1 of 131" in sentence_of(found(suspect(4, 1)), "mistake", True)
    nobody = sentence_of(found(corrected=None, accuracy_after=None), "mistake", True)
    assert nobody == "Nobody stands out among 10 clients; client 0 is on top of the most: 97 of 131 mistakes."


def test_what_is_written_is_read_and_nothing_else_is(tmp_path: Path) -> None:
    whole = found(suspect(0, 97), scores=(ClientScore("entropy", 0, 1.0, None, 7.0, 5),), notes=("a",), changed=95)
    assert diagnosis.read(tmp_path) is None
    diagnosis.write(tmp_path, whole)
    assert diagnosis.read(tmp_path) == whole
    content = json.loads((tmp_path / diagnosis.FILE).read_text())
    for name, value in (("suspects", {}), ("accuracy_before", "1"), ("tops", {"x": 1}), ("sentence", None)):
        with pytest.raises(WrongContent, match=name):
            diagnosis.from_json(content | {name: value})


@pytest.mark.slow
def test_a_client_that_replaces_the_model_is_named_by_run_and_by_diagnose(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    settings = ["dataset=digits", "partition=iid", "federation.clients=6", "federation.rounds=2", "store.keep=all"]
    attack = ["injection=scaled_update", "injection.clients=[2]", "injection.rounds=[-1]"]
    cache = f"store.cache={tmp_path / 'cache'}"
    assert main(["run", *settings, *attack, "federation.learning_rate=0.05", cache, f"hydra.run.dir={run}"]) == 0
    stored = diagnosis.read(run)
    assert stored is not None
    assert [each.client for each in stored.suspects] == [2]
    assert stored.suspects[0].faulty
    assert stored.accuracy_after is not None
    assert stored.accuracy_before is not None
    assert stored.accuracy_after > stored.accuracy_before
    capsys.readouterr()
    assert main(["diagnose", str(run), "--since", "2", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert [each["client"] for each in answer["suspects"]] == [2]
    assert {"client", "name", "score", "inputs", "corrected"} <= set(answer["suspects"][0])
    assert "that round 1 had right" in answer["question"]
    assert main(["diagnose", str(run)]) == 0
    assert capsys.readouterr().out.startswith("Client 2 is behind")
    for wrong, said in (
        (["--label", "x"], "no such label"),
        (["--since", "3"], "the last round looked at is 2"),
        (["--wrong", "--label", "1"], "one of them at a time"),
        (["--inputs", "nowhere.csv"], "no such file or folder"),
        (["--model", "lenet"], "for recorded federations"),
    ):
        assert main(["diagnose", str(run), *wrong]) == 2
        assert said in capsys.readouterr().err
