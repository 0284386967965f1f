"""What is shown of retraining: tables of a run, joined tables, the page, and a run that is scored from end to end."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from provfl_cli.cli import main
from provfl_cli.comparison.join import TableQuery, join
from provfl_cli.evaluation.against_truth import COLUMNS
from provfl_cli.reporting.page.summary import figures
from provfl_cli.reporting.tables import localization_tables
from provfl_cli.reporting.truth_tables import truth_tables
from provfl_cli.results.columns import TRUTH, run_table
from provfl_cli.results.folders import RunFolder, read_run
from provfl_cli.results.run import read_contents

from .made_runs import whole_run
from .scored_runs import made

NAN = float("nan")


def rows(*given: tuple[Any, ...]) -> pd.DataFrame:
    """Rows of `retraining.csv`: method, scope, metric, mean, low, high, chance, subsets."""
    made_of = [
        (method, scope, "centred", 5, metric, mean, low, high, chance, 30, subsets)
        for method, scope, metric, mean, low, high, chance, subsets in given
    ]
    return pd.DataFrame(made_of, columns=list(COLUMNS))


TRUE = rows(
    ("provfl", "round", "lds", 0.75, 0.6, 0.85, 0.0, 60),
    ("provfl", "round", "spearman_retrain", 0.61, 0.5, 0.7, 0.0, 10),
    ("provfl", "round", "top1_retrain", 0.4, 0.3, 0.5, 0.1, 10),
    ("provfl", "round", "removal_margin_1", 1.5, 1.0, 2.0, 0.25, 1),
    ("provfl", "round", "removal_flips_1", 0.5, 0.4, 0.6, 0.125, 1),
    ("provfl", "lineage", "lds", 0.8, 0.7, 0.9, 0.0, 60),
    ("random", "round", "lds", 0.01, -0.1, 0.1, 0.0, 60),
    ("another_seed", "retrained", "lds", 0.73, NAN, NAN, 0.0, 20),
    ("datamodel", "retrained", "lds", 0.84, 0.8, 0.9, 0.0, 60),
    ("largest_clients", "retrained", "removal_margin_1", 0.75, 0.5, 1.0, 0.25, 1),
)


def test_tables_of_a_run() -> None:
    subsets, without, removal = truth_tables(TRUE)
    assert subsets.headings == ("method", "scope", "inputs", "subsets", "LDS", "95%")
    assert subsets.rows == (
        ("provfl", "round", "30", "60", "0.750", "0.60 to 0.85"),
        ("provfl", "lineage", "30", "60", "0.800", "0.70 to 0.90"),
        ("random", "round", "30", "60", "0.010", "-0.10 to 0.10"),
        ("(another training seed)", "–", "30", "20", "0.730", "–"),
        ("(a datamodel of other subsets)", "–", "30", "60", "0.840", "0.80 to 0.90"),
    )
    assert without.headings[2:] == ("Spearman", "95%", "top-1", "95%", "chance")
    assert without.rows == (("provfl", "round", "0.610", "0.50 to 0.70", "0.400", "0.30 to 0.50", "0.100"),)
    assert removal.headings[2:] == ("margin, top 1", "flips, top 1")
    assert removal.rows == (
        ("provfl", "round", "1.500", "0.500"),
        ("(largest clients)", "–", "0.750", "–"),
        ("(random clients)", "–", "0.250", "0.125"),
    )
    (alone,) = truth_tables(rows(("provfl", "round", "caused_accuracy", 0.9, 0.8, 0.95, 0.1, 1)))
    assert alone.title.startswith("Caused by what was planted")
    assert alone.rows == (("provfl", "30", "0.900", "0.80 to 0.95", "0.100", "–", "–"),)


def test_retraining_comes_first_and_label_holding_last(tmp_path: Path) -> None:
    run = read_run(made(tmp_path / "run", rounds=(4, 5)))
    assert isinstance(run, RunFolder)
    titles = [table.title for table in localization_tables(run.scores, TRUE)]
    assert titles[0].startswith("Retrained with some clients")
    assert titles[-1].startswith("Localization (saturates)")
    earlier = localization_tables(run.scores[run.scores["round"] == 4], TRUE)
    assert not any(table.title.startswith("Retrained") for table in earlier)
    assert len(localization_tables(run.scores.head(0), TRUE)) == 2


def test_a_joined_table_has_it_first(tmp_path: Path) -> None:
    runs = [
        read_run(made(tmp_path / str(seed), {"provfl": 0.9}, (f"seed={seed}",), lds=lds, removal_flips_1=0.5,
                      removal_flips_1_random=0.25))
        for seed, lds in enumerate((0.7, 0.8, 0.75))
    ]  # fmt: skip
    folders = [run for run in runs if isinstance(run, RunFolder)]
    joined = join(folders, TableQuery())
    assert joined.metrics[0] == "lds"
    assert joined.metrics.index("localization_accuracy") == joined.metrics.index("global_accuracy") - 1
    frame = joined.frame.set_index("metric")
    assert frame.at["lds", "chance"] == 0
    lds: Any = frame.loc["lds"]
    assert -1 <= lds["low"] < 0.75 < lds["high"] <= 1
    removed = join(folders, TableQuery(metrics=("removal_flips_1",))).frame.set_index("metric")
    assert removed.at["removal_flips_1", "chance"] == 0.25


def test_a_page_shows_it(tmp_path: Path) -> None:
    folder = whole_run(tmp_path / "run")
    summary = json.loads((folder / "summary.json").read_text())
    (folder / "summary.json").write_text(json.dumps(summary | {"lds": 0.75, "spearman_leave_one_out": 0.9}))
    TRUE.to_csv(folder / TRUTH, index=False)
    run = read_run(folder)
    assert isinstance(run, RunFolder)
    opened = read_contents(run)
    assert opened.truth is not None
    pd.testing.assert_frame_equal(opened.truth, TRUE, check_dtype=False)
    headings = [figure.heading for figure in figures(opened)]
    assert headings[0] == "Retrained with others (LDS)"
    assert "Agreement with same-round fusion" in headings


@pytest.mark.slow
def test_a_run_is_scored_against_its_retrainings(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = [
        "dataset=digits", "federation.clients=4", "federation.rounds=1", "federation.local_epochs=1",
        "evaluation.max_inputs=12", "evaluation.counterfactual=retrain", "retrain.designs=[leave_one_out,all]",
        "attribution=[random]", "partition.alpha=0.5",
    ]  # fmt: skip
    assert main(["run", *settings, "hydra.run.dir=run"]) == 0
    said = capsys.readouterr().out
    assert said.index("Retrained with some clients") < said.index("Localization (saturates)")
    truth = run_table(workspace / "run" / TRUTH).set_index(["method", "metric"])
    assert {"provfl", "tracefl", "random", "datamodel"} <= set(truth.index.get_level_values("method"))
    listed = pd.read_csv(workspace / "run" / "retrainings.csv", dtype={"clients": str})
    values: Any = pd.read_parquet(workspace / "run" / "retrained.parquet").pivot(
        index="input", columns="retraining", values="value"
    )
    contributions = pd.read_parquet(workspace / "run" / "contributions.parquet")
    own = contributions[(contributions["method"] == "provfl") & (contributions["kind"] == "client")]
    each: Any = own.pivot(index="input", columns="client", values="contribution")
    every = listed[listed["design"] == "all"]
    kept = [set(map(int, text.split())) if isinstance(text, str) else set() for text in every["clients"]]
    by_hand = [
        stats.spearmanr(
            [sum(each.at[number, client] for client in clients) for clients in kept],
            [values.at[number, retraining] for retraining in every["retraining"]],
        ).statistic
        for number in values.index
    ]
    row: Any = truth.loc[("provfl", "lds")]
    assert row["mean"] == pytest.approx(np.mean(by_hand), abs=1e-6)
    assert (row["inputs"], row["subsets"]) == (len(values), len(every))
    summary = json.loads((workspace / "run" / "summary.json").read_text())
    assert summary["lds"] == pytest.approx(row["mean"])
    assert main(["table", "run", "--format", "csv"]) == 0
    (line, *_) = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert float(line["lds"]) == pytest.approx(row["mean"])
