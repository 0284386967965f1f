"""`provfl report`: one file that holds all, shows what was recorded, and lets nothing from data become markup."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from provfl_cli.cli import main
from provfl_cli.reporting.page.document import safe_json
from provfl_cli.reporting.page.sweeps import curves
from provfl_cli.reporting.page.traces import shown_traces
from provfl_cli.results import label_counts
from provfl_cli.results.folders import RunFolder, read_run
from provfl_cli.results.run import read_contents
from tests.made_runs import LABELS, METRICS, whole_run
from tests.scored_runs import made

Captured = pytest.CaptureFixture[str]


class Elements(HTMLParser):
    """Start tags, their attributes, and the text of each script."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.inside = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.inside = tag == "script"
        if self.inside:
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.scripts[-1] += data

    def handle_endtag(self, tag: str) -> None:
        self.inside = False


def opened(folder: Path) -> Any:
    run = read_run(folder)
    assert isinstance(run, RunFolder)
    return read_contents(run)


def report(capsys: Captured, *arguments: str) -> tuple[Elements, dict[str, Any], str]:
    """The page, the data in it, and what the command said."""
    assert main(["report", *arguments, "--out", "page.html"]) == 0
    elements = Elements(Path("page.html").read_text(encoding="utf-8"))
    return elements, json.loads(elements.scripts[0]), capsys.readouterr().out


def ids(elements: Elements) -> list[str]:
    return [str(attributes["id"]) for _, attributes in elements.tags if "id" in attributes]


@pytest.mark.slow
def test_one_run_is_one_file_with_every_section(workspace: Path, capsys: Captured) -> None:
    whole_run(workspace / "run", rounds=(4, 5), scopes=("round", "lineage"), faulty=(1,))
    elements, data, said = report(capsys, "run")
    assert said.startswith("1 run -> page.html (")
    names = ids(elements)
    assert len(names) == len(set(names))
    sections = [name for name in names if re.fullmatch(r"[a-z]+-0", name)]
    named = "verdict summary rounds map clients client inputs lineage methods settings"
    assert sections == [f"{name}-0" for name in named.split()]
    links = {str(attributes["href"])[1:] for tag, attributes in elements.tags if tag == "a" and "href" in attributes}
    links = {link for link in links if not link.startswith(("client-", "input-"))}  # the script shows these
    assert links <= set(names)
    (run,) = data["runs"]
    assert [(trace["method"], trace["scope"], trace["round"]) for trace in run["traces"][:3]] == [
        ("provfl", "round", 5), ("provfl", "lineage", 5), ("tracefl", "round", 5),
    ]  # fmt: skip
    assert {trace["round"] for trace in run["traces"]} == {4, 5}
    assert run["clients"]["suspicion"]["inputs"] == 3
    assert sum(run["clients"]["suspicion"]["on_top"]) == pytest.approx(3)
    assert run["lineage"][0]["rounds"] == [4, 5]


@pytest.mark.slow
def test_the_page_asks_for_nothing_and_runs_only_its_own_scripts(workspace: Path, capsys: Captured) -> None:
    whole_run(workspace / "run")
    elements, _, _ = report(capsys, "run")
    for tag, attributes in elements.tags:
        assert tag not in ("link", "iframe", "object", "embed", "base", "form")
        assert not any(name.startswith("on") for name in attributes), (tag, attributes)
        assert not attributes.get("src", ""), (tag, attributes)
    policy = next(
        str(content["content"]) for tag, content in elements.tags if "http-equiv" in content and tag == "meta"
    )
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert "connect-src" not in rules
    assert "http" not in policy
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in elements.scripts[1:]]
    assert rules["script-src"].split() == [f"'sha256-{digest}'" for digest in hashes]


@pytest.mark.slow
@pytest.mark.parametrize("texts", [False, True])
def test_words_from_data_stay_words(workspace: Path, capsys: Captured, texts: bool) -> None:
    whole_run(workspace / "run", texts=texts)
    elements, data, _ = report(capsys, "run")
    assert [tag for tag, _ in elements.tags if tag == "script"] == ["script"] * 3
    assert "img" not in {tag for tag, _ in elements.tags}
    assert tuple(data["runs"][0]["labels"]) == LABELS
    page = Path("page.html").read_text(encoding="utf-8")
    assert "<script>alert" not in page
    assert "<img src=x" not in page
    assert "<b>fc" not in page


@pytest.mark.parametrize(
    ("inputs", "said"), [({"lines": ["2 of 9 are blank"]}, ("2 of 9 are blank",)), ([], ()), (None, ())]
)
def test_a_page_says_how_the_pictures_were_read(workspace: Path, inputs: object, said: tuple[str, ...]) -> None:
    file = whole_run(workspace / "run") / "manifest.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "inputs": {"pictures": inputs}}))
    assert opened(workspace / "run").notes == said


def test_json_survives_a_page() -> None:
    text = safe_json({"a": "</script><!-- & \u2028\u2029", "b": float("nan"), "c": [float("inf"), 1.5]})
    assert not set(text) & set("<>&\u2028\u2029")
    assert json.loads(text) == {"a": "</script><!-- & \u2028\u2029", "b": None, "c": [None, 1.5]}


@pytest.mark.slow
def test_a_trace_is_shown_as_it_was_recorded(workspace: Path) -> None:
    whole_run(workspace / "run")
    run = opened(workspace / "run")
    shown, told = shown_traces(run, 10_000)
    assert told == []
    own, trace = shown[0], run.traces[0][1]
    frame = pd.read_parquet("run/contributions.parquet").query("method == 'provfl' and kind == 'client'")
    for at, number in enumerate(own["inputs"]):
        rows = frame[frame["input"] == number].sort_values(["rank", "contribution"], ascending=[True, False])
        assert [own["clients"][place] for place in own["top"][at]][2:] == rows["client"].tolist()[2:6]
        np.testing.assert_allclose(own["value"][at], rows["contribution"][:6], rtol=1e-3)
        np.testing.assert_allclose(own["share"][at], rows["share"][:6], atol=1e-4)
        assert own["rank"][at] == rows["rank"].tolist()[:6]
    assert own["tied"][0] == 2
    assert own["tied"][1] == 1
    cells = np.frombuffer(base64.b64decode(own["map"]), dtype=np.int8).reshape(trace.contributions.shape)
    largest = np.abs(trace.contributions).max(axis=1, keepdims=True)
    np.testing.assert_allclose(cells / 127, trace.contributions / largest, atol=0.005)
    assert list(own["rest"]) == ["momentum"]
    assert len(own["rest"]["momentum"]) == len(own["inputs"])


def test_of_many_inputs_a_sample_is_taken_evenly_over_labels_and_told(workspace: Path) -> None:
    whole_run(workspace / "run", inputs=60, rounds=(4, 5))
    shown, told = shown_traces(opened(workspace / "run"), 2 * 5 * 30)
    assert [len(trace["inputs"]) for trace in shown] == [30, 30]
    assert shown[0]["inputs"] == shown[1]["inputs"]
    assert np.bincount(shown[0]["label"]).tolist() == [10, 10, 10]
    assert told[0].startswith("30 of the 60 traced inputs are in this page")
    assert told[1] == "inputs of round 4 are not in it"


@pytest.mark.slow
def test_what_is_not_there_is_left_out(workspace: Path, capsys: Captured) -> None:
    made(workspace / "bare", **METRICS)
    elements, data, _ = report(capsys, "bare")
    names = ids(elements)
    assert "summary-0" in names
    assert "methods-0" in names
    assert not {"map-0", "inputs-0", "lineage-0"} & set(names)
    assert data["runs"][0]["traces"] == []
    pd.DataFrame({"method": ["provfl"], "scope": "round", "target": "logit", "round": [5], "ndcg": [0.5]}).to_csv(
        workspace / "bare" / "localization.csv", index=False
    )
    elements, data, _ = report(capsys, "bare")  # a file without the usual metrics
    assert data["runs"][0]["scores"] == [{"method": "provfl", "scope": "round", "round": 5}]
    page = Path("page.html").read_text(encoding="utf-8")
    assert "Ranking: does it follow" in page
    assert "Localization: is the top client" not in page
    assert "figure-methods-0" not in page
    whole_run(workspace / "run")
    (workspace / "run" / "contributions.parquet").write_bytes(b"no parquet")
    (workspace / "run" / "clients.csv").unlink()
    elements, data, _ = report(capsys, "run")
    assert "contributions.parquet cannot be read" in Path("page.html").read_text(encoding="utf-8")
    assert data["runs"][0]["clients"]["counts"] is None
    assert "map-0" not in ids(elements)


@pytest.mark.slow
def test_several_runs_have_a_table_curves_and_a_comparison(workspace: Path, capsys: Captured) -> None:
    for number, (threshold, seed) in enumerate([(t, s) for t in ("null", "0.0", "0.5") for s in (0, 1)]):
        overrides = (f"threshold={threshold}", f"seed={seed}")
        accuracy = {"provfl": 0.5 + 0.1 * number}
        made(workspace / "sweep" / str(number), accuracy, overrides, summary={"method": "provfl"}, **METRICS)
    failed = workspace / "sweep" / "6"
    failed.mkdir()
    (failed / "error.log").write_text("Traceback\nValueError: <i>broken</i>\n")
    elements, data, said = report(capsys, "sweep")
    assert {"all-table", "all-curves", "all-compare"} <= set(ids(elements))
    assert "6 runs -> page.html" in said
    assert "not in it: sweep/6: failed: ValueError" in said
    (curve,) = data["curves"]
    assert (curve["key"], curve["values"], curve["numeric"]) == ("threshold", ["null", "0.0", "0.5"], False)
    line = next(row for row in curve["lines"] if row["metric"] == "localization_accuracy")
    assert line["mean"] == pytest.approx([0.55, 0.75, 0.95])
    assert line["chance"] == [0.5, 0.5, 0.5]
    assert len(data["compared"]) == 6
    assert data["compared"][2]["settings"]["threshold"] == "0.0"
    page = Path("page.html").read_text(encoding="utf-8")
    assert "&lt;i&gt;broken" in page
    assert "<i>broken" not in page


def test_curves_put_numbers_in_order(workspace: Path) -> None:
    runs = [
        read_run(made(workspace / str(at), {"provfl": 0.9}, (f"threshold={value}",)))
        for at, value in enumerate((10, 9, 0.5))
    ]
    (curve,) = curves([run for run in runs if isinstance(run, RunFolder)])
    assert curve["values"] == ["0.5", "9", "10"]
    assert curve["numeric"]


def test_settings_that_change_together_are_confounded(workspace: Path) -> None:
    def curve_of(name: str, *settings: tuple[str, str, int]) -> dict[str, list[str]]:
        runs = [
            read_run(made(workspace / f"{name}{at}", {"provfl": 0.9}, (f"threshold={t}", f"seed={s}"), f))
            for at, (t, f, s) in enumerate(settings)
        ]
        return {curve["key"]: curve["with"] for curve in curves([run for run in runs if isinstance(run, RunFolder)])}

    crossed = [(t, f, s) for t in ("0.0", "0.5") for f in ("fedavg", "krum") for s in (0, 1)]
    assert curve_of("crossed", *crossed) == {"fusion": [], "threshold": []}
    apart = curve_of("apart", ("0.0", "fedavg", 0), ("0.5", "krum", 0))
    assert apart == {"fusion": ["threshold"], "threshold": ["fusion"]}
    assert curve_of("seeds", ("0.0", "fedavg", 0), ("0.5", "fedavg", 1)) == {"threshold": ["seed"]}


def test_label_counts_read_back(tmp_path: Path) -> None:
    counts = {0: np.array([3, 0, 2]), 7: np.array([0, 0, 9])}
    label_counts.frame(counts).to_csv(tmp_path / "clients.csv", index=False)
    read = label_counts.read(tmp_path / "clients.csv", 3)
    assert {client: row.tolist() for client, row in read.items()} == {0: [3, 0, 2], 7: [0, 0, 9]}
    with pytest.raises(ValueError, match="beyond the 2"):
        label_counts.read(tmp_path / "clients.csv", 2)


def test_wrong_words_are_answered_in_one_line(workspace: Path, capsys: Captured) -> None:
    whole_run(workspace / "run")
    for arguments, words in (
        ([], "provfl report outputs/DATE/TIME"),
        (["nowhere"], "no such folder"),
        (["run", "--out", "run"], "is a folder"),
        (["run", "--out", "page.pdf"], "must end in .html"),
    ):
        assert main(["report", *arguments]) == 2
        error = capsys.readouterr().err
        assert words in error
        assert len(error.splitlines()) == 1


@pytest.mark.slow
def test_a_thousand_clients_and_two_thousand_inputs_stay_below_15_mb(workspace: Path, capsys: Captured) -> None:
    whole_run(workspace / "big", 1000, 2000, tuple(map(str, range(10))), size=32, methods=("provfl",))
    _, data, _ = report(capsys, "big")
    assert (workspace / "page.html").stat().st_size < 15e6
    (trace,) = data["runs"][0]["traces"]
    assert (len(trace["clients"]), len(trace["inputs"])) == (1000, 2000)
