"""A run's page, end to end: what carried the top clients of its inputs, and what is answered while it is served."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from rich.console import Console

from provfl_cli.cli import main
from provfl_cli.errors import InputError
from provfl_cli.models.lenet import lenet
from provfl_cli.provenance.targets import target_value
from provfl_cli.reporting.page.traces import _spans, shown_inputs
from provfl_cli.results.folders import RunFolder, read_run
from provfl_cli.results.run import read_contents
from provfl_cli.run.live import LiveRun
from provfl_cli.run.open_run import open_run
from provfl_cli.run.query import Query, ask_one
from provfl_cli.store.rounds import Round, read_round
from tests.runs import SMALL

MEAN, DEVIATION = 0.3053, 0.3760  # as `dataset=digits` has it


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a run on digits, one round."""
    base = tmp_path_factory.mktemp("carried")
    small = [f"hydra.run.dir={base / 'run'}", f"store.cache={base / 'cache'}", "model=lenet", "federation.rounds=1"]
    assert main(["run", *SMALL, *small, "evaluation.max_inputs=6", "provenance.target=margin", "device=cpu"]) == 0
    return base / "run"


@pytest.mark.slow
def test_a_served_page_says_of_each_input_what_a_trace_says(folder: Path) -> None:
    opened = open_run(folder)
    answering = LiveRun(opened)
    told = answering.without(["0", "2"])
    changed = {one["input"]: (one["before"], one["after"]) for one in told["changed"]}
    assert (told["clients"], told["how"], told["inputs"]) == ([0, 2], "refuse", 6)
    for number in answering.inputs.numbers.tolist():
        asked = ask_one(opened, None, opened.inputs.numbered(number), Query(without=("0", "2")), Console(quiet=True))
        refused = next(each for each in asked.what_if if each.kind == "refuse")
        assert refused.probabilities is not None
        before, after = int(asked.probabilities.argmax()), int(refused.probabilities.argmax())
        assert changed.get(number, (before, before)) == (before, after)
    assert answering.without(["0", "1", "2"])["reason"].startswith("nobody is left")
    for words in ([], ["7"], ["0"] * 101):
        with pytest.raises(InputError):
            answering.without(words)


@pytest.mark.slow
def test_a_run_keeps_what_carried_the_top_clients(folder: Path) -> None:
    inputs = pd.read_parquet(folder / "inputs.parquet").set_index("input")
    rows = pd.read_parquet(folder / "contributions.parquet").query("method == 'provfl' and rank == 1")
    top = rows.drop_duplicates("input").set_index("input")["client"]
    assert inputs["carried_client"].to_dict() == top[inputs.index].to_dict()
    assert inputs["carried"].notna().all()
    number = int(inputs.index[0])
    with Image.open(io.BytesIO(inputs.loc[number, "carried"])) as picture:
        found = (np.asarray(picture, dtype=float) - 128) / 127
    measured = differences(read_round(folder / "rounds", 1), inputs.loc[number], found)
    for (row, column), value in measured.items():
        assert np.sign(value) == np.sign(found[row, column])
    ratios = [value / found[at] for at, value in measured.items()]
    assert np.ptp(ratios) < 0.25 * np.mean(ratios)
    run = read_run(folder)
    assert isinstance(run, RunFolder)
    shown, _ = shown_inputs(read_contents(run), list(inputs.index), 10_000_000)
    assert all(str(png).startswith("data:image/png;base64,") for png in shown["carried"])


def differences(stored: Round, shown: pd.Series, found: np.ndarray) -> dict[tuple[int, int], float]:
    """At the pixels that carried most, how the contribution of the client changes with the pixel."""
    with Image.open(io.BytesIO(shown["picture"])) as picture:
        pixels = torch.tensor(np.asarray(picture), dtype=torch.float64) / 255
    size = pixels.shape[-1]
    model = lenet(1, 10, size).double().eval()
    at = stored.clients.index(int(shown["carried_client"]))
    stack, before, after = stored.client_stack(), stored.previous(), stored.weights()

    def contribution(inputs: torch.Tensor) -> float:
        ends = []
        for sign in (1, -1):
            weights = {
                name: after[name].double() + sign * 1e-4 * (stack[name][at] - before[name]).double() for name in after
            }
            model.load_state_dict(weights)
            with torch.no_grad():
                ends.append(target_value("margin", model(inputs), torch.tensor([int(shown["prediction"])])))
        return float(ends[0] - ends[1]) / 2e-4

    strongest = np.argsort(-np.abs(found).ravel())[:4]
    result = {}
    for row, column in zip(*np.unravel_index(strongest, found.shape), strict=True):
        ends = []
        for sign in (1, -1):
            moved = pixels.clone()
            moved[row, column] += sign * 1e-3
            ends.append(contribution(((moved - MEAN) / DEVIATION)[None, None]))
        result[int(row), int(column)] = (ends[0] - ends[1]) / 2e-3
    return result


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("[[0, 3, 0.5], [3, 5, -1]]", [[0, 3, 0.5], [3, 5, -1.0]]),
        ("[[0, 3, 7]]", None),
        ("[[3, 0, 0.1]]", None),
        ('[["<b>", 1, 2]]', None),
        ("{}", []),
        ("[1]", None),
        ("[[0, 1e99, 0.1]]", []),
    ],
)
def test_parts_of_a_text_are_read_as_numbers_in_it_alone(text: str, kept: object) -> None:
    assert _spans(text) == kept


def test_parts_that_are_no_json_are_left_out() -> None:
    assert _spans("[[0, 1, NaN]]") is None
    assert _spans(json.dumps("x")) is None
