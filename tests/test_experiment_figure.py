"""The figure of an experiment says what its table says: values, intervals, chance, n, and which curves hide others."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from provfl_cli.cli import main
from provfl_cli.cli.reproduce import experiments
from provfl_cli.comparison.curves import picture, read
from provfl_cli.config.schema import Experiment
from provfl_cli.errors import InputError
from provfl_cli.evaluation.ranges import range_of
from provfl_cli.reporting.experiment_figure import WIDTH, drawn
from provfl_cli.reporting.experiment_marks import CHANCE, looks, scale_of
from provfl_cli.reporting.figure_files import COLOURS
from tests.conftest import REPOSITORY

RESULTS = REPOSITORY / "outputs" / "paper"
X = "partition.alpha"


def experiment(**changes: Any) -> Experiment:
    fields: dict[str, Any] = {"name": "one", "shows": "What is it?", "minutes": 1.0, "by": [X], "x": X}
    return Experiment(**{**fields, **changes})


def row(method: str, mean: float, at: object = 1, low: float = math.nan, high: float = math.nan, **more: Any) -> Any:
    metric = more.pop("metric", "localization_accuracy")
    seeds, chance = more.pop("seeds", 3), more.pop("chance", 0.25)
    return {
        X: at, **more, "method": method, "metric": metric, "mean": mean, "low": low, "high": high, "seeds": seeds,
        "chance": chance,
    }  # fmt: skip


def inputs(method: str, mean: float, at: object = 1, seeds: int = 3) -> Any:
    return row(method, mean, at, metric="inputs", seeds=seeds, chance=math.nan)


def caption(figure: Figure) -> str:
    return " ".join(figure.get_supxlabel().split())


def bars(axes: Axes) -> list[tuple[float, float]]:
    """Low and high ends of the vertical bars."""
    made = [lines for lines in axes.collections if isinstance(lines, LineCollection)]
    segments = [np.asarray(line) for lines in made for line in lines.get_segments() if len(line)]
    return [(float(line[0, 1]), float(line[1, 1])) for line in segments]


def along(line: Line2D, axis: int) -> list[float]:
    """Where the points of a line are on the horizontal (0) or vertical (1) axis."""
    return [float(value) for value in np.atleast_1d(np.asarray(line.get_data()[axis], dtype=float))]


def curve(axes: Axes, name: str) -> list[tuple[float, float]]:
    (line,) = [line for line in axes.get_lines() if line.get_label() == name]
    return list(zip(along(line, 0), along(line, 1), strict=True))


def test_an_interval_is_drawn_from_its_low_to_its_high_end() -> None:
    rows = [row("provfl", 0.9, 1, 0.5, 0.95), row("provfl", 0.5, 2, 0.25, 0.6)]
    (axes,) = drawn(experiment(), pd.DataFrame(rows)).axes
    assert bars(axes) == [(0.5, 0.95), (0.25, 0.6)]


def test_an_interval_beyond_the_scale_is_cut_there_and_that_is_said() -> None:
    rows = [row("provfl", 0.9, 1, 0.7, 1.1), row("provfl", 0.1, 2, -0.4, 0.6)]
    figure = drawn(experiment(), pd.DataFrame(rows))
    assert bars(figure.axes[0]) == [(0.7, 1.0), (0.0, 0.6)]
    assert "cut where the scale ends (no cap)" in caption(figure)
    caps = [line for line in figure.axes[0].get_lines() if line.get_marker() == "_"]
    assert sorted(value for line in caps for value in along(line, 1)) == [0.6, 0.7]
    inside = drawn(experiment(), pd.DataFrame([row("provfl", 0.8, 1, 0.7, 0.9)]))
    assert "cut" not in caption(inside)


def test_two_seeds_have_no_interval() -> None:
    rows = [row("provfl", 0.5, 1, 0.1, 0.9, seeds=2), row("provfl", 0.5, 2, 0.4, 0.6)]
    figure = drawn(experiment(), pd.DataFrame(rows))
    assert bars(figure.axes[0]) == [(0.4, 0.6)]
    assert "none for fewer than three" in caption(figure)
    alone = drawn(experiment(), pd.DataFrame(rows[:1]))
    assert bars(alone.axes[0]) == []
    assert "No intervals: fewer than three seeds." in caption(alone)


@pytest.mark.parametrize(("high", "said"), [(0.8, "95% t intervals"), (0.75, "95% Wilson intervals")])
def test_the_caption_says_what_the_intervals_are(high: float, said: str) -> None:
    assert said in caption(drawn(experiment(), pd.DataFrame([row("provfl", 0.6, 1, 0.4, high)])))


def test_many_rounds_have_bands_and_few_have_bars() -> None:
    def of(rounds: int) -> Figure:
        rows = [row("provfl", 0.5, low=0.4, high=0.6, round=number) for number in range(1, rounds + 1)]
        frame = pd.DataFrame(rows).drop(columns=X)
        return drawn(experiment(x="round", rounds="each"), frame)

    many, few = of(80), of(8)
    (band,) = [made for made in many.axes[0].collections if isinstance(made, PolyCollection)]
    heights = np.asarray(band.get_paths()[0].vertices)[:, 1]
    assert (heights.min(), heights.max()) == (0.4, 0.6)
    assert bars(many.axes[0]) == []
    assert "Bands: 95%" in caption(many)
    assert len(bars(few.axes[0])) == 8
    assert "Bars: 95%" in caption(few)


def test_the_caption_counts_inputs_over_all_seeds() -> None:
    rows = [row("provfl", 1.0, at) for at in (1, 2)] + [inputs("provfl", 100 / 3, 1), inputs("provfl", 50, 2)]
    assert "Each point: 100 to 150 inputs of 3 seeds." in caption(drawn(experiment(), pd.DataFrame(rows)))
    faults = [row("provfl", 1.0, metric="fault_accuracy", seeds=2), row("provfl", 3, metric="fault_inputs", seeds=3)]
    said = caption(drawn(experiment(metrics=["fault_accuracy"]), pd.DataFrame([*faults, inputs("provfl", 80)])))
    assert "Each point: 9 inputs with the fault's mistake of 2 seeds." in said
    caused = [row("provfl", 1.0, metric="caused_accuracy", seeds=2), row("provfl", 4, metric="caused_inputs", seeds=2)]
    said = caption(drawn(experiment(metrics=["caused_accuracy"]), pd.DataFrame(caused)))
    assert "Each point: 8 inputs whose prediction the fault caused of 2 seeds." in said


def test_curves_on_one_another_are_named_and_their_marks_stand_side_by_side() -> None:
    rows = [row(method, mean, at) for method, mean in (("provfl", 1.0), ("tracefl", 1.0)) for at in (1, 2)]
    frame = pd.DataFrame([*rows, row("random", 0.2, 1), row("random", 0.1, 2)])
    figure = drawn(experiment(), frame)
    assert "provfl and tracefl coincide in localization accuracy." in caption(figure)
    assert "random" not in caption(figure)
    ours, theirs = curve(figure.axes[0], "provfl"), curve(figure.axes[0], "tracefl")
    assert all(first[0] < other[0] for first, other in zip(ours, theirs, strict=True))
    assert max(abs(at - place) for at, place in zip((ours[0][0], theirs[1][0]), (1, 2), strict=True)) < 0.35
    apart = drawn(experiment(), frame.assign(mean=frame["mean"] - 0.1 * (frame["method"] == "tracefl")))
    assert "coincide" not in caption(apart)
    near = drawn(experiment(), frame.assign(mean=frame["mean"] - 0.004 * (frame["method"] == "tracefl")))
    assert "provfl and tracefl all but coincide (within 0.005) in localization accuracy." in caption(near)


def test_curves_that_are_the_same_under_other_settings_are_one() -> None:
    rows = [
        row(method, mean + 0.01 * at * (scope == "lineage") * decay, at, scope=scope, **{"provenance.decay": decay})
        for method, mean, scope in (("provfl", 0.9, "round"), ("provfl", 0.5, "lineage"), ("tracefl", 0.8, "round"))
        for decay in (1.0, 0.8)
        for at in (1, 2)
    ]
    frame = pd.DataFrame(rows)[[X, "provenance.decay", "method", "scope", *list(row("a", 1.0))[2:]]]
    shown = picture(experiment(), frame)
    assert [made.name for made in shown.panels[0].curves] == [
        "provfl (scope round)",
        "provfl (decay 1, scope lineage)",
        "provfl (decay 0.8, scope lineage)",
        "tracefl (scope round)",
    ]


def test_the_global_accuracy_of_others_stands_in_a_panel_of_its_own() -> None:
    rows = [row("provfl", 0.9), row("provfl", 0.4, metric="global_accuracy", chance=math.nan)]
    theirs = [
        row("published: TraceFL", 0.99, seeds=math.nan, chance=math.nan),
        row("published: global accuracy", 0.97, seeds=math.nan, chance=math.nan),
    ]
    frame = pd.DataFrame([*rows, *theirs])
    (where, model) = drawn(experiment(metrics=["localization_accuracy", "global_accuracy"]), frame).axes
    assert [y for _, y in curve(where, "published: TraceFL")] == [0.99]
    assert [y for _, y in curve(model, "published: global accuracy")] == [0.97]
    assert [y for _, y in curve(model, "global model")] == [0.4]
    assert "published: global accuracy" not in {line.get_label() for line in where.get_lines()}
    (only,) = drawn(experiment(), frame).axes
    assert "published: global accuracy" not in {line.get_label() for line in only.get_lines()}, "in the table alone"


def test_the_global_accuracy_has_one_curve_a_setting_and_none_a_scope() -> None:
    rows = [
        row("provfl", mean, scope=scope, decay=decay, metric=metric)
        for scope in ("round", "lineage")
        for decay, accuracy in ((1, 0.4), (2, 0.5))
        for metric, mean in (("localization_accuracy", 0.9 if scope == "round" else 0.8), ("global_accuracy", accuracy))
    ]
    chosen = experiment(by=[X, "decay"], metrics=["localization_accuracy", "global_accuracy"])
    (_, model) = drawn(chosen, pd.DataFrame(rows)).axes
    assert [y for _, y in curve(model, "global model (decay 1)")] == [0.4]
    assert [y for _, y in curve(model, "global model (decay 2)")] == [0.5]
    assert {name for line in model.get_lines() if (name := str(line.get_label())).startswith("global")} == {
        "global model (decay 1)",
        "global model (decay 2)",
    }


def test_a_published_figure_for_all_values_is_a_line_across() -> None:
    rows = [row("provfl", 0.9, at) for at in (1, 2)] + [row("published: TraceFL", 0.95, "", chance=math.nan)]
    (axes,) = drawn(experiment(), pd.DataFrame(rows)).axes
    (line,) = [line for line in axes.get_lines() if "over all alphas" in str(line.get_label())]
    assert set(along(line, 1)) == {0.95}


def test_counts_have_whole_marks_and_numbers_of_different_size_even_steps() -> None:
    rows = [row("provfl", 0.9, at) for at in ("1", "2", "3.0")]
    figure = drawn(experiment(), pd.DataFrame(rows))
    figure.canvas.draw()
    assert [text.get_text() for text in figure.axes[0].get_xticklabels()] == ["1", "2", "3"]
    assert scale_of(("0.001", "0.01", "1"), 100).places == {"0.001": 0, "0.01": 1, "1": 2}
    assert scale_of(("null", "0", "2"), 100).even
    assert scale_of(("5", "10", "20"), 100).places == {"5": 5, "10": 10, "20": 20}


def test_rows_of_methods_with_chance_and_published_figures() -> None:
    rows = [
        row("provfl", 0.9, "a", 0.8, 1.2), row("random", 0.3, "a"), row("provfl", 0.5, "b", chance=0.5),
        row("published: TraceFL", 0.7, "b", seeds=math.nan, chance=math.nan),
    ]  # fmt: skip
    figure = drawn(experiment(x=None), pd.DataFrame(rows))
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.get_yticklabels()] == ["provfl", "random", "provfl", "random", "TraceFL"]
    greys = [line for line in axes.get_lines() if line.get_color() == CHANCE]
    assert [set(along(line, 0)) for line in greys] == [{0.25}, {0.5}]
    assert {text.get_text() for text in axes.texts} == {"Dirichlet alpha: a", "Dirichlet alpha: b", "–"}
    (bar,) = [made for made in axes.collections if isinstance(made, LineCollection) and len(made.get_segments()[0])][:1]
    assert np.asarray(bar.get_segments()[0])[:, 0].tolist() == [0.8, 1.0]
    assert "Hollow, names slanted: published." in caption(figure)


def test_methods_differ_in_more_than_colour() -> None:
    names = ["provfl", "tracefl", *(f"m{number}" for number in range(12))]
    marks = {(look.marker, look.hollow) for name, look in looks(names).items() if name in names}
    assert len(marks) == len(names)
    assert looks(names[::-1])["provfl"].colour == COLOURS[0]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a,b\n1,2\n", "it has no column method"),
        ("alpha,method,metric,mean,low,high,seeds,chance\n1,provfl,x,many,,,1,\n", "could not convert"),
        ("", "No columns"),
    ],
)
def test_a_wrong_table(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "one.csv").write_text(text)
    with pytest.raises(InputError, match=said):
        read(tmp_path / "one.csv")


def test_a_table_without_what_is_drawn() -> None:
    with pytest.raises(InputError, match=r"no column partition\.alpha"):
        drawn(experiment(), pd.DataFrame([row("provfl", 1.0)]).drop(columns=X))
    with pytest.raises(InputError, match="no ndcg"):
        drawn(experiment(metrics=["ndcg"]), pd.DataFrame([row("provfl", 1.0)]))


@pytest.mark.parametrize("metric", ["localization_accuracy", "fault_share", "hit@3", "duplicate_ties", "newcomer_top"])
def test_shares_go_from_0_to_1(metric: str) -> None:
    assert range_of(metric) == (0, 1)
    assert range_of("spearman_counts") == (-1, 1)
    assert range_of("seconds") == (0, math.inf)


@pytest.mark.slow
def test_every_figure_of_the_results_is_drawn_from_its_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: dict[str, tuple[Experiment, Figure]] = {}

    def keeping(asked: Experiment, frame: pd.DataFrame) -> Figure:
        made[asked.name] = asked, drawn(asked, frame)
        return made[asked.name][1]

    monkeypatch.setattr("provfl_cli.reporting.experiment_tables.drawn", keeping)
    monkeypatch.setattr("provfl_cli.reporting.experiment_tables.write_figure", lambda *_: None)
    assert main(["reproduce", "all", "--from", str(RESULTS), "--out", str(tmp_path)]) == 0, capsys.readouterr().err
    of_tasks = {experiment.name for experiment in experiments() if experiment.tasks}  # drawn otherwise
    assert {path.stem for path in RESULTS.glob("*.png")} - of_tasks == set(made)
    for name, (asked, figure) in made.items():
        table = pd.read_csv(RESULTS / f"{name}.csv", keep_default_na=False, na_values=[""])
        means = table[table["metric"].isin(asked.metrics)]["mean"].to_numpy()
        for axes in figure.axes:
            lines = [line for line in axes.get_lines() if line.get_marker() not in ("", "None", "_", "|")]
            values = [value for line in lines for value in along(line, 1 if asked.x else 0)]
            assert values
            assert np.abs(np.subtract.outer(values, means)).min(axis=1).max() < 1e-12, "drawn, and in no table"
        assert figure.get_size_inches()[0] == WIDTH
        assert " seed" in caption(figure)
        assert "inputs" in caption(figure)
