"""`provfl reproduce`: every experiment composes at every scale and runs through, and its table says what it should."""

from __future__ import annotations

import math
import tomllib
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hydra.types import RunMode

from provfl_cli.cli import main, reproduce
from provfl_cli.cli.reproduce import SCALES, experiments
from provfl_cli.comparison.reproduction import reproduction
from provfl_cli.config import extras
from provfl_cli.config.compose import _check, _expanded, hydra_session, parse
from provfl_cli.config.schema import Experiment
from provfl_cli.config.tree import groups, options, variants
from provfl_cli.config.validate import validated
from provfl_cli.errors import InputError
from provfl_cli.reporting.experiment_tables import tables, tidy, write_figure_again, write_reproduction
from provfl_cli.results.folders import RunFolder, read_run
from tests.conftest import REPOSITORY
from tests.scored_runs import made

Captured = pytest.CaptureFixture[str]
EXPERIMENTS = experiments()
NAMES = [experiment.name for experiment in EXPERIMENTS]
NAMED = (
    "fig1 fig2 fig3 fig4 fig5 fig6 table1 table2 table3 thresholds influence_ablation fusion_comparison heterogeneity "
    "participation baselines identical_clients rare_labels threshold_ablation cross_device overhead"
)


def experiment(**changes: Any) -> Experiment:
    fields: dict[str, Any] = {"name": "one", "shows": "What is it?", "minutes": 1.0, "by": ["fusion"]}
    return Experiment(**{**fields, **changes})


def read(*folders: Path) -> list[RunFolder]:
    runs = [read_run(folder) for folder in folders]
    return [run for run in runs if isinstance(run, RunFolder)]


@pytest.mark.slow
def test_all_experiments_are_there_and_listed(capsys: Captured) -> None:
    assert set(NAMED.split()) <= set(NAMES)
    for name in NAMES:
        assert name in options("experiment")
        assert variants("experiment", name) == ["paper", "smoke"]
    assert main(["reproduce"]) == 0
    text = capsys.readouterr().out
    assert all(f" {name} " in text for name in NAMES)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["thresold"], "did you mean thresholds"),
        (["thresholds", "--scale", "smal"], "did you mean small?"),
        (["thresholds", "--scael", "small"], "--scael: no such flag"),
        (["all", "--runs", "x"], "one experiment"),
        (["thresholds", "--runs", "nowhere"], "nowhere: no such folder"),
        (["thresholds", "--runs", "x", "--from", "y"], "one of them"),
        (["thresholds", "--from", "nowhere.csv"], "nowhere.csv: cannot be read"),
        (["thresholds", "--from", "nowhere.csv", "seed=1"], "seed=1: --from shows what is there"),
        (["all", "--from", "nowhere.csv"], "a folder with their tables"),
        (["thresholds", "--scale", "smoke", "federation.rounds=0"], "federation.rounds=0"),
    ],
)
def test_wrong_input(arguments: list[str], said: str, workspace: Path, capsys: Captured) -> None:
    assert main(["reproduce", *arguments]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"by": []},
        {"rounds": "some"},
        {"x": "elsewhere"},
        {"published": {"columns": ["a"], "rows": [[1]]}},
        {"published": {"source": "x", "columns": ["a"], "rows": [[1, 2]]}},
    ],
)
def test_a_wrong_experiment_block(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="experiment"):
        experiment(**wrong)


def test_methods_stand_side_by_side_and_published_figures_beside(tmp_path: Path) -> None:
    runs = read(
        made(tmp_path / "0", {"provfl": 0.9, "tracefl": 0.7}, ("seed=0",), "fedavg"),
        made(tmp_path / "1", {"provfl": 0.8, "tracefl": 0.7}, ("seed=1",), "fedavg"),
        made(tmp_path / "2", {"provfl": 0.6, "tracefl": 0.5}, ("seed=0",), "median"),
    )
    published = {
        "source": "a paper",
        "columns": ["fusion", "Theirs", "Rival"],
        "rows": [["fedavg", 1, 0.25], ["krum", 0.5, None]],
    }
    reproduced = reproduction(runs, experiment(published=published, methods=["tracefl", "provfl"]))
    (table,) = tables(reproduced)
    head = ("fusion", "seeds", "inputs", "global accuracy", "tracefl", "provfl", "chance")
    assert table.headings == (*head, "published: Theirs", "published: Rival")
    first, second, alone = table.rows
    assert first[0] == "fedavg"
    assert first[1:3] == ("2", "80"), "inputs of both seeds"
    assert first[4].startswith("0.700")
    assert first[5] == "0.850", "two seeds have no interval"
    assert first[6:] == ("0.500", "1.000", "0.250")
    assert second[0] == "median"
    assert second[-2:] == ("–", "–")
    assert alone == ("krum", "–", "–", "–", "–", "–", "–", "0.500", "–")
    frame = tidy(reproduced)
    theirs = frame[frame["method"].str.startswith("published")]
    assert dict(zip(theirs["method"] + theirs["fusion"], theirs["mean"], strict=True)) == {
        "published: Theirsfedavg": 1.0,
        "published: Rivalfedavg": 0.25,
        "published: Theirskrum": 0.5,
    }
    assert frame["mean"].notna().all()
    assert not reproduced.joined.absent


@pytest.mark.slow
def test_files_of_an_experiment(tmp_path: Path) -> None:
    runs = read(
        *(
            made(tmp_path / f"{seed}{value}", overrides=(f"seed={seed}", f"threshold={value}"), rounds=(4, 5))
            for seed in (0, 1)
            for value in (0.0, 0.5, 4.0)
        )
    )
    reproduced = reproduction(runs, experiment(by=["threshold"], x="threshold", rounds="each", facet="round"))
    written = write_reproduction(tmp_path / "out", reproduced, "provfl reproduce one")
    assert sorted(written) == sorted(path.name for path in (tmp_path / "out").iterdir())
    text = (tmp_path / "out" / "one.md").read_text()
    assert "provfl reproduce one" in text
    assert "What is it?" in text
    assert "| 4.0 | 5 | 2 |" in text
    before = [(tmp_path / "out" / name).read_bytes() for name in written]
    write_reproduction(tmp_path / "out", reproduced, "provfl reproduce one")
    assert before == [(tmp_path / "out" / name).read_bytes() for name in written], "the same bytes"
    again = write_figure_again(tmp_path / "again", reproduced.experiment, tmp_path / "out" / "one.csv")
    assert sorted(again) == ["one.pdf", "one.png"]
    for name in again:
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "out" / name).read_bytes(), "from the CSV alone"


def test_pooled_rounds_weigh_by_inputs(tmp_path: Path) -> None:
    folder = made(tmp_path / "run", {"provfl": 0.9}, rounds=(4, 5))
    scores = pd.read_csv(folder / "localization.csv")
    scores["inputs"] = [30, 10]
    scores["localization_accuracy"] = [1.0, 0.2]
    scores["fault_inputs"] = [1, 4]
    scores["fault_accuracy"] = [1.0, 0.5]
    scores["fault_chance"] = 0.1
    scores["spearman_counts"] = [math.nan, 0.4]
    scores.to_csv(folder / "localization.csv", index=False)
    metrics = ["localization_accuracy", "fault_accuracy", "spearman_counts", "fault_inputs"]
    reproduced = reproduction(read(folder), experiment(by=["threshold"], rounds="pooled", metrics=metrics))
    means = reproduced.joined.frame.set_index("metric")["mean"]
    assert means["localization_accuracy"] == pytest.approx((30 * 1.0 + 10 * 0.2) / 40)
    assert means["fault_accuracy"] == pytest.approx((1 * 1.0 + 4 * 0.5) / 5)
    assert means["spearman_counts"] == pytest.approx(0.4)
    assert means["inputs"] == 40
    assert means["fault_inputs"] == 5


def test_seconds_of_each_method(tmp_path: Path) -> None:
    folder = made(tmp_path / "run", summary={"seconds_provfl": 2.0, "seconds_tracefl": 1.0})
    reproduced = reproduction(read(folder), experiment(by=["threshold"], metrics=["seconds", "ms_per_input"]))
    frame = reproduced.joined.frame.set_index(["method", "metric"])["mean"]
    assert frame["provfl", "seconds"] == 2.0
    assert frame["provfl", "ms_per_input"] == pytest.approx(2000 / 40)
    assert frame["tracefl", "seconds"] == 1.0


def test_seconds_of_the_last_round_are_not_those_of_all_rounds_together(tmp_path: Path) -> None:
    folder = made(tmp_path / "run", {"provfl": 0.9}, rounds=(4, 5), summary={"seconds_provfl": 2.0})
    metrics = ["localization_accuracy", "seconds", "ms_per_input"]
    pooled, last = (
        reproduction(read(folder), experiment(by=["threshold"], rounds=rounds, metrics=metrics))
        .joined.frame.set_index("metric")["mean"]
        .to_dict()
        for rounds in ("pooled", "last")
    )
    assert last["ms_per_input"] == pytest.approx(2000 / 40)
    assert pooled["inputs"] == 80
    assert math.isnan(pooled.get("seconds", math.nan))
    assert math.isnan(pooled.get("ms_per_input", math.nan))


@pytest.mark.slow
def test_the_list_says_which_experiments_need_an_extra(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    assert {experiment.name: experiment.extras for experiment in experiments() if experiment.extras} == {
        "fig4": ("privacy",),
        "table2": ("privacy",),
    }
    monkeypatch.setattr(reproduce, "installed", lambda extra: False)
    assert main(["reproduce"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line.strip()}
    assert "privacy *" in lines["table2"]
    assert "privacy *" in lines["fig4"]
    assert "privacy" not in lines["table1"]


@pytest.mark.slow
def test_all_leaves_out_what_needs_an_extra_that_is_not_there(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    started: list[str] = []
    monkeypatch.setattr(reproduce, "_one", lambda experiment, *_: started.append(experiment.name) or 0)
    monkeypatch.setattr(reproduce, "installed", lambda extra: extra != "privacy")
    assert main(["reproduce", "all", "--scale", "smoke"]) == 0
    said = capsys.readouterr().out
    assert set(NAMES) - set(started) == {"fig4", "table2"}
    assert "experiment table2: left out, it needs an extra: pip install 'provfl[privacy]'" in said
    assert f"{len(NAMES) - 2} of {len(NAMES) - 2} experiments done" in said


def test_an_experiment_needs_the_extras_of_what_it_sweeps_over(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    text = "defaults: [override /tracker: wandb]\nhydra: {sweeper: {params: {privacy: 'none,central_dp', seed: 0}}}\n"
    (tmp_path / "made.yaml").write_text(text)
    where = extras.option_file
    monkeypatch.setattr(
        extras, "option_file", lambda group, name: tmp_path / "made.yaml" if name == "made" else where(group, name)
    )
    assert extras.of_experiment("made") == ("privacy", "wandb")


def test_every_extra_that_an_option_names_is_one_of_the_package() -> None:
    named = {extras.of_option(group, option) for group in groups() for option in options(group)} - {None}
    declared = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert {"privacy", "flower", "wandb", "medmnist"} <= named <= set(extras.PACKAGES)
    assert set(extras.PACKAGES) <= set(declared["optional-dependencies"])


@pytest.mark.slow
@pytest.mark.parametrize("scale", SCALES[1:])
@pytest.mark.parametrize("name", NAMES)
def test_every_scale_composes(name: str, scale: str, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROVFL_DATA", str(workspace))
    for data in ("mnist", "cifar10"):
        (workspace / data).mkdir()
    asked = f"experiment={name}" if scale == "small" else f"experiment={name}/{scale}"
    args = parse([asked])
    with hydra_session(args) as hydra:
        _, job = next(_expanded(hydra, hydra.compose_config("config", args.overrides, RunMode.MULTIRUN)))
        _check(hydra, job, {})
        config = validated(job)
    assert config.experiment is not None
    assert config.experiment.name == name


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_experiment_runs(
    name: str, tmp_path_factory: pytest.TempPathFactory, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path_factory.getbasetemp() / "experiments"
    place.mkdir(exist_ok=True)
    monkeypatch.chdir(place)
    monkeypatch.setattr(reproduce, "experiments", lambda: EXPERIMENTS)  # read once, not before each of them
    assert main(["reproduce", name, "--scale", "smoke", "--out", "out"]) == 0, capsys.readouterr().err
    frame = pd.read_csv(place / "out" / f"{name}.csv")
    if name == "diagnosis":  # a row a federation, and no figure
        assert set(frame["task"]) == {"scaled_1", "clean"}
        assert (frame["found"] + frame["missed"] == frame["planted"].notna()).all()
        assert all((place / "out" / f"{name}.{end}").stat().st_size > 200 for end in ("md", "tex"))
        return
    ours = frame[~frame["method"].str.startswith("published")]
    settings = [
        column
        for column in ours
        if column not in ("method", "scope", "target", "metric", "mean", "low", "high", "seeds", "chance")
    ]
    assert len(ours[["method", *settings]].drop_duplicates()) > 1
    assert ours["mean"].notna().all()
    of_models = ("global_accuracy", "clean_twin_accuracy")
    scored = ours[ours["metric"].str.contains("accuracy") & ~ours["metric"].isin(of_models)]
    assert scored["chance"].notna().all()
    assert ((scored["chance"] >= 0) & (scored["chance"] <= 1)).all()
    for end in ("md", "tex", "png", "pdf"):
        assert (place / "out" / f"{name}.{end}").stat().st_size > 200
