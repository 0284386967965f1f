"""`provfl run` on texts, from the command line to the last file; what it refuses, and how quickly."""

from __future__ import annotations

import hashlib
import io
import json
import re
import shlex
import time
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tokenizers
import torch
from rich.cells import cell_len

from provfl_cli.cli import main
from provfl_cli.config.compose import compose_jobs, validated
from provfl_cli.config.schema import Config
from provfl_cli.data.federated import FederatedData, Texts
from provfl_cli.data.load import federated_data
from provfl_cli.data.tokenizer import from_json
from provfl_cli.results.files import write_parquet
from provfl_cli.results.frames import input_frame
from provfl_cli.run.manifest import architecture, inputs_read, manifest, weights_from
from tests.federations import make_data
from tests.refusals import refusal
from tests.runs import FILES

SMALL = shlex.split(
    "dataset=languages model=gpt_mini partition=iid federation.clients=3 federation.rounds=2 federation.local_epochs=1"
    " partition.max_examples_per_client=150 dataset.max_test_examples=100 dataset.public_examples=300"
    " dataset.vocabulary=400 evaluation.max_inputs=20 evaluation.inputs=all"
)
TEXTS = ["[bold]no markup[/bold]", "\x1b[31mred\x00", "שלום", "日本", ""]


def text_data(**changes: Any) -> FederatedData:
    """A made federation whose test set is said to be texts."""
    data = make_data(clients=2, examples=5, test=len(TEXTS))
    shown = np.array(TEXTS, dtype=object)
    return replace(data, test=replace(data.test, shown=shown), form=Texts(400, 16, 0), tokenizer="{}", **changes)


# --- records


@pytest.mark.parametrize("chosen", [[0, 1, 2, 3, 4], [3], []])
def test_texts_are_recorded_as_they_are(chosen: list[int], tmp_path: Path) -> None:
    contributions = SimpleNamespace(probabilities=np.full((len(chosen), 10), 0.1), residuals=np.zeros(len(chosen)))
    frame = input_frame(1, np.array(chosen, dtype=int), np.zeros(len(chosen)), contributions, text_data())
    write_parquet(tmp_path / "inputs.parquet", frame)
    again = pd.read_parquet(tmp_path / "inputs.parquet")
    assert again["text"].tolist() == [TEXTS[index] for index in chosen]
    assert again["input"].tolist() == chosen


def test_the_manifest_says_what_a_text_model_reads_and_where_it_began() -> None:
    assert inputs_read(text_data()) == {
        "input": "text",
        "vocabulary": 400,
        "max_tokens": 16,
        "padding": 0,
        "tokenizer": "tokenizer.json",
        "tokenizer_sha256": hashlib.sha256(b"{}").hexdigest(),
    }
    assert weights_from(text_data().form, False) == "drawn from the seed"
    assert architecture(text_data().form, torch.nn.Linear(1, 1)) == {}
    versions = manifest(text_data(), torch.device("cpu"), {}, None)["versions"]
    assert versions["transformers"]
    assert versions["tokenizers"]
    assert weights_from(Texts(400, 16, 0, "/cache/gpt"), False) == "published: /cache/gpt"
    assert weights_from(make_data().form, False) == "drawn from the seed"
    assert weights_from(make_data().form, True) == "published"
    assert inputs_read(make_data()) == {"input": "image", "channels": 1, "image_size": 8}


# --- refused


@pytest.mark.parametrize(
    ("choice", "says"),
    [
        ("dataset=mnist model=gpt_mini", ["model=gpt_mini reads text", "dataset=mnist", "lenet", "resnet18"]),
        ("dataset=languages model=lenet", ["model=lenet reads image", "dataset=languages", "gpt_mini", "distilbert"]),
        ("dataset=custom dataset.input=text dataset.path=texts.csv", ["model=lenet", "dataset=custom", "gpt_mini"]),
    ],
)
def test_a_model_that_reads_something_else(
    choice: str, says: list[str], workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    began = time.process_time()
    line = refusal(choice.split(), workspace, capsys)
    assert time.process_time() - began < 2, "nothing was loaded"
    assert all(part in line for part in says), line


# --- a whole run


def small_run(folder: Path, *overrides: str) -> Path:
    """A run on a few texts, in this process."""
    places = [f"hydra.run.dir='{folder}'", f"store.cache='{folder.with_name(folder.name + ' cache')}'"]
    assert main(["run", *SMALL, *places, *overrides]) == 0
    return folder


def small_config() -> Config:
    ((_, composed),) = compose_jobs(SMALL)
    return validated(composed)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """One small run, and what it printed."""
    printed = io.StringIO()
    with redirect_stdout(printed):
        folder = small_run(tmp_path_factory.mktemp("texts") / "run", "federation.learning_rate=0.003")
    return folder, printed.getvalue()


@pytest.mark.slow
def test_a_run_on_texts_leaves_its_files(finished: tuple[Path, str]) -> None:
    folder, _ = finished
    assert {path.name for path in folder.iterdir()} == {*FILES, "tokenizer.json"}
    summary, made_of = (json.loads((folder / name).read_text()) for name in ("summary.json", "manifest.json"))
    assert (summary["model"], summary["dataset"], summary["inputs"]) == ("gpt_mini", "languages", 20)
    assert summary["covered"] == 1
    assert made_of["trace"]["uncovered"] == {}
    assert summary["conservation_residual"] < 1e-4
    assert made_of["inputs"]["input"] == "text"
    assert made_of["inputs"]["vocabulary"] == 400
    assert made_of["inputs"]["tokenizer_sha256"] == hashlib.sha256((folder / "tokenizer.json").read_bytes()).hexdigest()
    assert made_of["model"] == {"name": "gpt_mini", "weights": "drawn from the seed"}


@pytest.mark.slow
def test_its_texts_can_be_read_and_tokenized_again(finished: tuple[Path, str]) -> None:
    folder, _ = finished
    inputs = pd.read_parquet(folder / "inputs.parquet")
    assert "picture" not in inputs
    assert len(inputs) == 20
    data = federated_data(small_config())
    assert isinstance(data.form, Texts)
    known = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    again = from_json((folder / "tokenizer.json").read_text())(inputs["text"].to_numpy(dtype=object))
    assert known.get_vocab_size() == data.form.vocabulary
    for text, number, tokens in zip(inputs["text"], inputs["input"], again, strict=True):
        (at,) = np.flatnonzero(data.test.indices == number)
        row = data.test.inputs[at]
        assert data.test.shown[at] == text
        assert row[row != data.form.padding].tolist() == known.encode(text).ids
        assert row[row != data.form.padding].tolist() == tokens[tokens != data.form.padding].tolist()
        label = int(data.test.labels[at])
        assert label == inputs.set_index("input")["label"][number]


@pytest.mark.slow
def test_its_texts_stand_in_the_console(finished: tuple[Path, str]) -> None:
    folder, printed = finished
    inputs = pd.read_parquet(folder / "inputs.parquet").set_index("input")["text"]
    shown = [int(number) for number in re.findall(r"^ *input (\d+)  predicted", printed, re.MULTILINE)]
    assert len(shown) == 3
    for number in shown:
        assert f"│ {inputs[number][:30]}" in printed
    assert "tokenizer.json" in printed
    assert "languages (" in printed
    assert not re.search(r"picture|image|pixel", printed)
    assert all(cell_len(line) <= 80 for line in printed.splitlines() if not line.startswith("  provfl "))


@pytest.mark.slow
def test_the_same_texts_give_the_same_bytes(finished: tuple[Path, str], tmp_path: Path) -> None:
    folder, _ = finished
    again = small_run(tmp_path / "again", "federation.learning_rate=0.003", "engine.workers=1")
    for name in ("tokenizer.json", "inputs.parquet", "contributions.parquet", "localization.csv"):
        assert (again / name).read_bytes() == (folder / name).read_bytes(), name
