"""The benchmark: tasks side by side, those not yet run named with their command, columns explained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from provfl_cli.cli import main
from provfl_cli.cli.tasks import experiment_of, write_tasks
from provfl_cli.comparison.benchmark import EXPLAINED, benchmark
from provfl_cli.comparison.headings import name_of_method
from provfl_cli.config.schema import Experiment
from provfl_cli.config.tree import variants
from provfl_cli.errors import InputError
from provfl_cli.evaluation.metrics import METRICS
from provfl_cli.evaluation.responses import RESPONSE_METRICS, TOKEN_METRICS
from provfl_cli.models.small_cnn import small_cnn
from provfl_cli.reporting.benchmark import metric_table, published_table, task_table, write_figure_again
from provfl_cli.reporting.benchmark_figure import drawn
from provfl_cli.results.folders import RunFolder, read_run
from tests.scored_runs import made

Captured = pytest.CaptureFixture[str]


def experiment(**changes: Any) -> Experiment:
    fields: dict[str, Any] = {
        "name": "compared",
        "shows": "Which is best?",
        "minutes": 1.0,
        "by": ["fusion"],
        "metrics": ["spearman_counts", "localization_accuracy"],
        "tasks": [["first"], ["second", "fusion=median"], ["third", "fusion=krum"]],
    }
    return Experiment(**{**fields, **changes})


def read(*folders: Path) -> list[RunFolder]:
    runs = [read_run(folder) for folder in folders]
    return [run for run in runs if isinstance(run, RunFolder)]


@pytest.fixture
def runs(tmp_path: Path) -> dict[str, list[RunFolder]]:
    first = [made(tmp_path / "first" / str(seed), {"provfl": 0.9, "random": 0.3}, (f"seed={seed}",)) for seed in (0, 1)]
    second = made(tmp_path / "second" / "0", {"provfl": 0.5, "cosine": 0.6}, ("seed=0",), "median")
    for folder, values in ((first[0], [0.7, 0.1]), (first[1], [0.9, -0.1]), (second, [0.2, 0.6])):
        scores = pd.read_csv(folder / "localization.csv")
        scores["spearman_counts"] = values
        scores.to_csv(folder / "localization.csv", index=False)
    return {"first": read(*first), "second": read(second)}


def test_tasks_stand_side_by_side_the_best_first(runs: dict[str, list[RunFolder]]) -> None:
    compared = benchmark(experiment(), runs)
    assert compared.missing == ("third",)
    table = metric_table(compared, "spearman_counts")
    assert table.headings == ("method", "first", "second")
    # provfl: (0.8 + 0.2) / 2, cosine: 0.6 alone, random: 0 alone
    assert [row[0] for row in table.rows] == ["cosine", "provfl", "random", "chance"]
    cells = {row[0]: row[1:] for row in table.rows}
    assert cells["provfl"][0].startswith("0.800")
    assert cells["provfl"][1].startswith("0.200")
    assert cells["cosine"] == ("–", cells["cosine"][1])
    described = {row[0]: row for row in task_table(compared).rows}
    assert described["first"][1] == "2"
    assert described["third"][1] == "not yet run"


def test_what_is_not_yet_run_is_named_with_its_command(runs: dict[str, list[RunFolder]], tmp_path: Path) -> None:
    assert runs  # below tmp_path
    said = write_tasks(tmp_path, tmp_path / "out", experiment(), "compared/smoke")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(
        name for name in said.replace(",", "").split() if name.startswith("compared.")
    )
    text = (tmp_path / "out" / "compared.md").read_text()
    assert "`provfl reproduce compared --scale smoke --task third`" in text
    assert "--task first" not in text
    assert f"`spearman_counts`: {EXPLAINED['spearman_counts']}." in text
    frame = pd.read_csv(tmp_path / "out" / "compared.csv")
    before = (tmp_path / "out" / "compared.png").read_bytes()
    write_figure_again(tmp_path / "again", experiment(), tmp_path / "out" / "compared.csv")
    assert (tmp_path / "again" / "compared.png").read_bytes() == before
    (mean,) = frame[
        (frame["task"] == "first") & (frame["method"] == "provfl") & (frame["metric"] == "spearman_counts")
    ]["mean"]
    assert mean == pytest.approx(0.8)


def test_cells_of_the_figure_hold_the_means(runs: dict[str, list[RunFolder]]) -> None:
    by_task, by_metric = drawn(benchmark(experiment(), runs)).axes
    assert by_task.images[0].get_array()[1].tolist() == pytest.approx([0.8, 0.2])
    assert by_metric.images[0].get_array()[1].tolist() == pytest.approx([0.5, 0.7])
    assert by_metric.images[0].get_array()[-1].tolist() == pytest.approx([0.0, 0.5])
    assert [label.get_text() for label in by_task.get_yticklabels()] == ["cosine", "provfl", "random", "chance"]


def test_nothing_has_been_run_yet(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no task has been run"):
        write_tasks(tmp_path, tmp_path / "out", experiment(), "compared")
    assert not (tmp_path / "out").exists()


def test_what_looks_at_all_rounds_says_so() -> None:
    assert name_of_method("provfl", "round") == "provfl"
    assert name_of_method("provfl", "lineage") == "lineage provfl"
    assert name_of_method("lineage_faithful", "lineage") == "lineage_faithful"


@pytest.mark.parametrize("tasks", [[[]], [["a b"]], [["same"], ["same"]]])
def test_wrong_tasks(tasks: list[list[str]]) -> None:
    with pytest.raises(InputError, match="begins with a name"):
        experiment(tasks=tasks)


def test_every_measure_of_the_benchmark_is_explained() -> None:
    own = experiment_of("benchmark")
    assert set(own.metrics) <= {*EXPLAINED}
    assert set(EXPLAINED) <= {*METRICS, *RESPONSE_METRICS, *TOKEN_METRICS, *own.metrics}
    assert set(experiment_of("protoken").metrics) <= {*EXPLAINED}
    assert variants("experiment", "benchmark") == ["paper", "smoke"]


def test_published_figures_stand_below_the_tasks() -> None:
    assert published_table(experiment()) is None
    reported = {"source": "a paper", "columns": ["setting", "named", "chance"], "rows": [["two of six", 0.9, None]]}
    table = published_table(experiment(published=reported))
    assert table is not None
    assert table.title == "Published: a paper"
    assert table.rows == (("two of six", "0.9", "–"),)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["benchmark", "--scale", "smoke", "--task", "digit"], "did you mean digits"),
        (["thresholds", "--task", "x"], "goes with an experiment of several tasks (benchmark, diagnosis, protoken)"),
        (["all", "--task", "x"], "goes with an experiment of several tasks"),
        (["benchmark", "--scale", "smoke", "hydra.sweep.dir=x"], "keeps its runs in outputs/reproduce/"),
    ],
)
def test_wrong_input(arguments: list[str], said: str, workspace: Path, capsys: Captured) -> None:
    assert main(["reproduce", *arguments]) == 2
    assert said in capsys.readouterr().err


def test_groups_that_do_not_divide_the_width() -> None:
    with pytest.raises(InputError, match=r"a multiple of model\.groups=4"):
        small_cnn(3, 10, 32, width=6)
