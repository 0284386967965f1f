"""Runs and contributions in notebooks: data frames, and HTML in which nothing that came from data is markup."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import fields
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import provfl_cli
from provfl_cli.cli import main
from provfl_cli.errors import InputError
from provfl_cli.markup import Markup, cell, table
from provfl_cli.provenance import Contributions
from provfl_cli.results.notebook import FRAMES, RunResults
from tests.conftest import REPOSITORY
from tests.runs import SMALLEST

SCRIPT = "<script>alert(1)</script>"


class Texts(HTMLParser):
    """Collects texts and tags."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.tags: list[str] = []
        self.feed(html)

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)


def contributions(inputs: int = 7, clients: int = 12) -> Contributions:
    values = np.random.default_rng(0).normal(size=(inputs, clients))
    used = np.ones(clients, dtype=bool)
    used[3] = False
    values[:, 3] = 99.0
    return Contributions(
        tuple(range(clients)), used, values, {SCRIPT: np.full(inputs, -0.5)}, np.arange(inputs),
        np.full((inputs, 10), 0.1, dtype=np.float32), np.zeros(inputs), (), (), 1.0, {}, (), (),
    )  # fmt: skip


def test_contributions_are_ranked_tables() -> None:
    answer = contributions()
    read = Texts(answer._repr_html_())
    assert "script" not in read.tags
    assert SCRIPT in read.texts
    assert read.tags.count("table") == 5
    assert any("2 more inputs" in text for text in read.texts)
    first = answer.values[0].copy()
    first[3] = -np.inf
    best = int(first.argmax())
    rows = read.texts[read.texts.index("share") + 1 :]
    assert rows[0] == str(best)
    assert rows[1] == f"{first[best]:.4g}"
    share = np.exp(first[best]) / np.exp(first).sum()
    assert rows[2] == f"{share:.1%}"
    assert "99" not in rows  # a client that fusion did not use is not ranked
    assert Texts(contributions(inputs=0)._repr_html_()).tags.count("table") == 0


def test_cells_are_escaped_once() -> None:
    assert cell(SCRIPT) == "&lt;script&gt;alert(1)&lt;/script&gt;"
    assert cell(Markup("<b>x</b>")) == "<b>x</b>"
    assert Texts(table((SCRIPT,), [(SCRIPT,)], SCRIPT)).texts == [SCRIPT] * 3


def test_a_run_shows_its_figures_and_runs_nothing(tmp_path: Path) -> None:
    frame = pd.DataFrame({"method": [SCRIPT], "round": [1], "localization_accuracy": [0.5]})
    empty = pd.DataFrame()
    settings = {"dataset.name": SCRIPT, "model.name": "lenet"}
    summary = {"localization_accuracy": 0.75, "chance_accuracy": 0.25, "global_accuracy": None}
    run = RunResults(tmp_path, empty, empty, empty, frame, empty, empty, summary, settings, (SCRIPT,))
    read = Texts(run._repr_html_())
    assert "script" not in read.tags
    assert SCRIPT in read.texts
    assert read.texts[read.texts.index("localization accuracy (saturates)") :][:3] == [
        "localization accuracy (saturates)",
        "0.75",
        "0.25",
    ]
    assert "accuracy of the global model" not in read.texts


def test_the_documentation_names_what_a_run_has() -> None:
    text = (REPOSITORY / "provfl_cli" / "results" / "README.md").read_text()
    paragraph = text[text.index("**Notebooks.**") :].partition("\n\n")[0]
    named = set(re.findall(r"`(\w+)`", paragraph))
    assert named == {field.name for field in fields(RunResults)}
    frames = {field.name for field in fields(RunResults) if "DataFrame" in str(field.type)}
    assert set(FRAMES) == frames


@pytest.mark.slow
def test_suspects_are_true_false_or_not_known(workspace: Path) -> None:
    more = ["dataset.name=digits", "federation.clients=5", "attribution=[suspicion]", "hydra.run.dir=run"]
    assert main(["run", *SMALLEST, *more]) == 0
    frame = provfl_cli.load_run("run").suspicion
    assert frame is not None
    assert frame[frame["suspect"]]["client"].isin(range(5)).all()
    assert frame["suspect"].dtype == "boolean"


@pytest.mark.slow
def test_a_run_as_data_frames(workspace: Path) -> None:
    assert main(["run", "experiment=smoke", "federation.rounds=2", "hydra.run.dir=run"]) == 0
    run = provfl_cli.load_run("run")
    assert len(run.contributions) == run.summary["inputs"] * 3 * 4 + len(
        run.contributions.query("kind != 'client'")
    )  # a method over one round and over all, one beside it, four clients
    assert set(run.inputs["input"]) == set(run.contributions["input"])
    assert run.metrics["round"].tolist() == [1, 2]
    assert run.metrics["accuracy"].iloc[-1] == pytest.approx(run.summary["global_accuracy"])
    assert {"layer", "active_neurons"} <= set(run.layers)
    assert set(run.participation["client"]) == set(range(4))
    assert run.localization["method"].tolist() == ["provfl", "provfl", "tracefl"]
    assert run.settings["federation.rounds"] == 2
    assert run.labels == tuple("0123456789")
    shown = repr(run)
    assert len(shown) < 1000
    assert "PNG" not in shown  # nor any other picture: they are in a column of bytes
    assert isinstance(run.inputs["picture"].iloc[0], bytes)
    assert "localization accuracy (saturates)" in Texts(run._repr_html_()).texts
    Path("run/contributions.parquet").write_bytes(b"broken")
    with pytest.raises(InputError, match="cannot be read"):
        provfl_cli.load_run("run")


def test_what_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        provfl_cli.load_run(tmp_path / "nowhere")
    with pytest.raises(InputError, match="not finished"):
        provfl_cli.load_run(tmp_path)


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = "import sys, provfl_cli; sys.exit(bool({'torch', 'pandas', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
