"""What a page says first: counts of votes, what a diagnosis found, and nothing that was not measured."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from provfl_cli.evaluation.contributions import Trace, ranks
from provfl_cli.evaluation.said_first import said, said_first
from provfl_cli.reporting.page.swept import swept
from provfl_cli.reporting.page.verdict import verdict
from provfl_cli.results import diagnosis
from provfl_cli.results.diagnosis import Diagnosis, Suspect
from provfl_cli.results.folders import RunFolder, read_run
from provfl_cli.results.run import RunContents, read_contents
from tests.made_runs import whole_run


def opened(folder: Path) -> RunContents:
    run = read_run(folder)
    assert isinstance(run, RunFolder)
    return read_contents(run)


def trace(top: list[int], labels: list[int], predictions: list[int], clients: int = 8) -> Trace:
    """Of each input the client that is on top; `without` is right without it, and unchanged without others."""
    values = np.tile(np.linspace(0.3, 0.1, clients), (len(top), 1))
    values[np.arange(len(top)), top] = 2.0
    without = np.tile(np.array(predictions)[:, None], (1, clients))
    without[np.arange(len(top)), top] = labels
    return Trace(
        np.arange(len(top)) * 3,
        np.array(labels),
        np.array(predictions),
        np.arange(clients) + 10,
        values,
        ranks(values),
        without,
    )


def test_votes_are_those_of_wrong_predictions_and_ties_share_one() -> None:
    of = trace([2] * 9 + [0, 1, 3, 4] + [5] * 6, [1] * 13 + [0] * 6, [0] * 19)  # the last six are right
    tied = Trace(of.inputs, of.labels, of.predictions, of.clients, of.contributions.copy(), of.rank.copy(), of.without)
    tied.rank[0, 7] = 1
    first = said_first(tied, None)
    assert first is not None
    assert (first.kind, first.inputs, first.chance) == ("wrong", 13, 13 / 8)
    assert {voted.client: voted.inputs for voted in first.most} == {12: 8.5, 10: 1, 11: 1, 13: 1, 14: 1, 17: 0.5}
    (only,) = first.standing_out
    assert (only.client, only.says, only.says_inputs, only.corrected) == (12, 0, 9, None)


def test_what_was_measured_without_the_client_is_said() -> None:
    of = trace([2] * 9 + [0, 1, 3, 4], [1] * 13, [0] * 13)
    first = said_first(of, of)
    assert first is not None
    assert first.standing_out[0].corrected == 9
    text = said(first, {12: "bank"}, {0: "cat"})
    assert text == (
        "Client bank is on top of 9 of 13 mistakes (a client drawn at random: 1.6), 9 of which say cat; "
        "without it 9 of them are right."
    )


@pytest.mark.parametrize(
    ("of", "words"),
    [
        (trace([0, 1, 2, 3, 4, 5], [0] * 6, [0] * 6), "All 6 traced predictions are right, and nobody stands out"),
        (trace([0, 1, 2, 3, 4, 5], [1] * 6, [0] * 6), "Nobody stands out behind 6 mistakes: client 10 is on top"),
        (trace([0, 0, 0, 0, 0, 1], [1] * 6, [0] * 6, 2), "Of 2 clients, too few to say who is unlike the others"),
        (trace([3], [-1], [0]), "Client 13 pushed this prediction most, of 8 clients."),
        (trace([3] * 4 + [0, 1], [-1] * 6, [0] * 6), "Nobody stands out behind 6 predictions"),
    ],
)
def test_where_nobody_stands_out_it_is_said(of: Trace, words: str) -> None:
    first = said_first(of)
    assert first is not None
    assert said(first, {}, {}).startswith(words)


def test_votes_accuse_nobody_and_a_diagnosis_does(tmp_path: Path) -> None:
    folder = whole_run(tmp_path / "run", clients=6, inputs=60, faulty=(1,))
    votes = verdict(opened(folder))
    assert votes.question == "Who is behind 15 mistakes?"
    assert not votes.diagnosed
    assert not any(one.accused for one in votes.clients)
    assert (votes.now[0][0], votes.now[0][1].rpartition(" ")[0]) == ("Measure it", "provfl diagnose")
    suspect = Suspect(1, "<b>", 9.0, ("predictions unsure",), 12, 11, 0, 2, True)
    found = Diagnosis("15 mistakes", 15, 5, 6, (suspect,), 0.7, 0.8, 11, 0, "Client 1 did it.")
    diagnosis.write(folder, found)
    told = verdict(opened(folder))
    assert told.sentence == "Client 1 did it."
    (named,) = told.clients
    assert (named.client, named.name, named.accused, named.planted) == (1, "<b>", True, True)
    assert named.bar == pytest.approx((12 / 15, 1 / 6))
    assert "without it 11 of 15 are right, and no right one becomes wrong" in named.lines
    assert told.now[0][1].endswith("--without 1")
    together = swept([votes, told], ["first", "second"], [(1,), (1,)], 2, ())
    assert together.sentences[0] == "Of 1 run diagnosed, a client stands out in 1."
    assert [line.who for line in together.lines] == ["not diagnosed", "<b>"]


def test_a_damaged_diagnosis_is_left_out_and_said(tmp_path: Path) -> None:
    folder = whole_run(tmp_path / "run")
    (folder / diagnosis.FILE).write_text('{"sentence": 3}')
    contents = opened(folder)
    assert contents.diagnosis is None
    assert any("diagnosis.json cannot be read" in note for note in contents.notes)
