"""Responses in a terminal, as JSON, in a table and on a page: letters stand below their tokens, text is text."""

from __future__ import annotations

import base64
import io
import json
import re
import unicodedata
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from provfl_cli.cli import main
from provfl_cli.errors import InputError
from provfl_cli.reporting.console import rounds
from provfl_cli.reporting.page.responses import shown_responses
from provfl_cli.reporting.progress import RoundProgress
from provfl_cli.reporting.rankings import example_rankings, show_rankings
from provfl_cli.reporting.response import as_json, show
from provfl_cli.reporting.spoken import Spoken, letters_of, top_clients
from provfl_cli.reporting.terminal import make_console
from provfl_cli.results.files import json_text
from provfl_cli.results.folders import RunFolder, read_run
from provfl_cli.results.response import Response, TracedTokens
from provfl_cli.results.run import RunContents, read_contents
from provfl_cli.results.tokens import token_frame, token_traces
from provfl_cli.run.asked_response import marked
from tests.made_responses import HOSTILE, TEXTS, made_response, spoken_run
from tests.page_data import page_data

WILD = st.text(st.characters(codec="utf-8"), max_size=12)


def printed(response: Response, width: int = 80) -> str:
    out = io.StringIO()
    make_console(out, width).print(show(response))
    return out.getvalue()


def opened(folder: Path) -> RunContents:
    run = read_run(folder)
    assert isinstance(run, RunFolder)
    return read_contents(run)


@pytest.mark.parametrize("width", [40, 80, 120])
def test_a_response_fits_the_terminal_and_reads_without_colour(width: int) -> None:
    said = printed(made_response(), width)
    assert max(map(cell_len, said.splitlines())) <= width
    assert "│ Das Land heißt Deutschland∎\n│ A──B────A─────A───────A───A\n" in said
    assert "A  client 1, 5 of 6 tokens" in said
    assert "B  client 0, 1 of 6 tokens" in said
    assert "the expected response" in said


def test_of_a_marked_piece_only_its_tokens_have_letters() -> None:
    said = printed(replace(made_response(), span=(1, 3)))
    assert "│ Das Land heißt Deutschland∎\n│    A────B─────             \n" in said
    assert "A  client 0, 1 of 2 tokens" in said
    assert "Who pushed “ Land heißt”" in said


def test_what_is_said_without_clients_stands_beside_its_cost() -> None:
    rows = {
        line.split()[0]: line for line in printed(made_response(), 120).split("Does it hold?")[1].splitlines() if line
    }
    assert "-20.25" in rows["1"]
    assert "+17" in rows["1"]
    assert "“No idea ␛[2J”" in rows["1"]
    assert "the same" in rows["0"]
    assert "does not work" in rows["2"]


@pytest.mark.parametrize("colours", ["", "truecolor", "NO_COLOR"])
def test_a_hostile_response_is_text_in_the_terminal(colours: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    if colours:
        for name, value in {"FORCE_COLOR": "1", "TERM": "xterm", "COLORTERM": "truecolor"}.items():
            monkeypatch.setenv(name, value)
    if colours == "NO_COLOR":
        monkeypatch.setenv("NO_COLOR", "1")
    said = printed(made_response(HOSTILE))
    backgrounds = re.findall(r"\x1b\[[0-9;]*48;2;[0-9;]*m", said)
    assert bool(backgrounds) is (colours == "truecolor")
    plain = re.sub(r"\x1b\[[0-9;]*m", "", said)
    assert "\x1b" not in plain
    assert "\u202e" not in plain
    assert "␛[31mred" in plain
    assert "alert(3)" in plain
    assert "\x1b[31mred" not in said


def test_a_hostile_response_is_text_in_json() -> None:
    text = json_text(as_json(made_response(HOSTILE)))
    assert "\x1b" not in text
    assert "\u202e" not in text
    read = json.loads(text)
    assert read["response"] == "".join(HOSTILE)
    assert [token["text"] for token in read["tokens"]] == list(HOSTILE)
    assert read["tokens"][1]["contributions"] == pytest.approx({"0": 2.5, "1": 1.5, "2": 0.3})
    assert read["verified"][0] == {
        "kind": "refuse", "without": ["1"], "log_probability": -20.25, "cost": 17.0, "says": "No idea \x1b[2J",
    }  # fmt: skip


@given(st.lists(WILD, min_size=1, max_size=12), st.integers(8, 60), st.data())
@settings(max_examples=60, deadline=None)
def test_every_letter_stands_below_the_first_column_of_its_token(texts: list[str], width: int, data: Any) -> None:
    best = data.draw(st.lists(st.integers(0, 2), min_size=len(texts), max_size=len(texts)))
    values = np.eye(3)[best]
    tokens = TracedTokens(tuple(range(len(texts))), tuple(texts), False, np.zeros(len(texts)), values)
    letters = letters_of([tokens])
    out = io.StringIO()
    make_console(out, width).print(Spoken(tokens, letters))
    lines = out.getvalue().split("\n")[:-1]
    assert not any(unicodedata.category(char) in ("Cc", "Cs") for line in lines for char in line)
    above, below = lines[::2], lines[1::2]
    assert [cell_len(line) for line in above] == [cell_len(line) for line in below]
    read = [char for line in below for char in line[2:] if char != "─"]
    assert read == [letters[one] for one in best]


def test_nobody_is_on_top_of_what_everybody_pushed_against() -> None:
    assert top_clients(np.array([[-1.0, -2.0], [0.0, 0.0], [-1.0, 0.5]])).tolist() == [-1, -1, 1]


@pytest.mark.parametrize(
    ("span", "tokens", "exact"),
    [
        ("Das", (0, 1), True), (" Land heißt", (1, 3), True), ("Deutschland", (3, 5), False), ("land", (4, 5), True),
        ("Das Land heißt Deutschland", (0, 5), True),
    ],
)  # fmt: skip
def test_a_marked_piece_is_the_tokens_that_it_lies_in(span: str, tokens: tuple[int, int], exact: bool) -> None:
    assert marked(TEXTS, span) == (tokens, exact)


def test_parts_of_a_character_belong_to_a_marked_piece() -> None:
    assert marked(["a", "", "é", "b"], "é") == ((1, 3), True)
    with pytest.raises(InputError, match="is not in the response"):
        marked(["a", "b"], "ba")


def test_tokens_are_read_back_in_whatever_order() -> None:
    values = np.random.default_rng(0).normal(size=(5, 3))
    frame = token_frame(
        4, "round", "margin", np.array([7, 7, 7, 2, 2]), np.array([0, 1, 2, 0, 1]), np.arange(5),
        ["a", "", "é", "b", ""], (1, 5, 8), values,
    )  # fmt: skip
    ((key, trace),) = token_traces(frame.sample(frac=1, random_state=0))
    assert key == (4, "round", "margin")
    assert trace.clients.tolist() == [1, 5, 8]
    assert trace.responses[7].texts == ("a", "", "é")
    np.testing.assert_array_equal(trace.responses[2].values, values[3:])
    with pytest.raises(ValueError, match="not one contribution"):
        dict(token_traces(frame.drop(index=3)))
    with pytest.raises(ValueError, match="are missing"):
        dict(token_traces(frame[frame["position"] != 1]))


@pytest.mark.slow
def test_a_page_holds_the_tokens_as_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = spoken_run(tmp_path / "run")
    recorded = dict(token_traces(pd.read_parquet(folder / "tokens.parquet")))[5, "round", "centred"]
    assert main(["report", str(folder), "--out", str(tmp_path / "page.html")]) == 0
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert page.count("<script") == 3
    assert "<img src=x" not in page
    shown = page_data(page)["tokens"]
    assert shown["clients"] == [0, 1, 2, 3, 4]
    response = shown["responses"]["4"]
    assert response["prompt"] == "<b>Germany</b> 4 in German:"
    assert response["texts"][0] == HOSTILE[0]
    assert response["texts"][1] == "␛[31mred"
    assert "\u202e" not in response["texts"][2]
    values = np.frombuffer(base64.b64decode(response["map"]), np.int8).reshape(len(TEXTS), 5) / 127 * response["most"]
    np.testing.assert_allclose(values, recorded.responses[4].values, atol=response["most"] / 127)


def test_what_has_no_room_on_a_page_is_said(tmp_path: Path) -> None:
    contents = opened(spoken_run(tmp_path / "run", inputs=4))
    shown, told = shown_responses(contents, [0, 2, 4, 6], cells=65)
    assert shown is not None
    assert list(shown["responses"]) == [0, 2]
    assert "the tokens of 2 responses are not in this page" in told[0]


def test_tokens_of_a_run_are_a_data_frame_and_wrong_ones_are_named(tmp_path: Path) -> None:
    folder = spoken_run(tmp_path / "run", inputs=4)
    frame = pd.read_parquet(folder / "tokens.parquet")
    assert opened(folder).spoken
    frame.assign(text=7).to_parquet(folder / "tokens.parquet")
    contents = opened(folder)
    assert not contents.spoken
    assert any("tokens.parquet column text holds 7" in note for note in contents.notes)


@pytest.mark.parametrize(
    ("prediction", "expected", "said"),
    [
        (0, True, "about Danish, the expected response  top"),
        (0, False, "about Danish, not the expected response  top"),  # its topic is right: what was said need not be
        (1, False, "about Danish, not the expected response: Dutch  top"),
        (-1, False, "about Danish, not the expected response: nothing that is taught  top"),
    ],
)
def test_the_console_calls_no_response_right_for_its_topic(prediction: int, expected: bool, said: str) -> None:
    row = {"input": 7, "kind": "client", "client": 0, "label": 0, "prediction": prediction, "contribution": 1.0}
    trace = pd.DataFrame([{**row, "share": 1.0, "rank": 1, "tie": False}])
    counts = {0: np.array([5, 0])}
    rankings = example_rankings(trace, counts, ["Danish", "Dutch"], {7: "Peru"}, expected={7: expected})
    console = Console(width=120, file=io.StringIO(), record=True)
    console.print(show_rankings(rankings))
    assert said in console.export_text()


def test_the_accuracy_of_responses_is_called_exact_match() -> None:
    console = Console(width=80, file=io.StringIO(), record=True)
    progress, measured = RoundProgress(console), {"accuracy": 0.25, "loss": 1.5, "perplexity": 4.48}
    progress.round_started(1, 1, 2)
    progress.round_finished(1, measured)
    console.print(rounds([{"round": 1, "clients": 2, "seconds": 1.0, **measured}]))
    text = console.export_text()
    assert "exact match 0.250, perplexity 4.48" in text
    assert text.count("exact match") == 2
    assert "accuracy" not in text
