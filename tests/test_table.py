"""`provfl table`: runs joined by the settings in which they differ, seeds averaged, nothing left out in silence."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from scipy import stats

from provfl_cli.cli import COMMANDS, main
from provfl_cli.cli.completion import words
from provfl_cli.comparison.settings import differing
from provfl_cli.evaluation.intervals import wilson
from provfl_cli.results.folders import read_run, run_folders
from tests.conftest import REPOSITORY

from .scored_runs import made

Captured = pytest.CaptureFixture[str]


def table(capsys: Captured, *arguments: str) -> str:
    capsys.readouterr()
    assert main(["table", *arguments]) == 0
    return capsys.readouterr().out


def rows(capsys: Captured, *arguments: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(table(capsys, *arguments, "--format", "csv"))))


def wrong(capsys: Captured, *arguments: str) -> str:
    capsys.readouterr()
    assert main(["table", *arguments]) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    return error


def test_seeds_are_averaged_within_the_settings_that_differ(workspace: Path, capsys: Captured) -> None:
    for number, (fusion, seed, accuracy) in enumerate(
        [("fedavg", 0, 0.9), ("fedavg", 1, 0.8), ("fedavg", 2, 0.85), ("scaffold", 0, 0.7), ("scaffold", 1, 0.9)]
    ):
        made(workspace / "sweep" / str(number), {"provfl": accuracy}, (f"seed={seed}",), fusion)
    first, second = rows(capsys, "sweep")
    assert (first["fusion"], first["method"], first["seeds"], second["fusion"]) == ("fedavg", "provfl", "3", "scaffold")
    assert "learning_rate" not in " ".join(first), "brought by the option"
    # s = 0.05: as good as 0.85 * 0.15 / (0.05^2 / 3) = 153 inputs, fewer for knowing s from three; 120 there are
    low, high = wilson(0.85, 153 * (1.959964 / stats.t.ppf(0.975, 2)) ** 2)
    assert float(first["localization_accuracy"]) == pytest.approx(0.85)
    assert float(first["localization_accuracy_low"]) == pytest.approx(low, abs=1e-6)
    assert float(first["localization_accuracy_high"]) == pytest.approx(high, abs=1e-6)
    assert second["localization_accuracy_high"] == "", "of two seeds"
    assert float(first["chance_accuracy"]) == 0.5
    assert float(first["spearman_counts_chance"]) == 0
    assert float(first["global_accuracy"]) == 0.5, "of the last round"
    text = table(capsys, "sweep")
    assert f"0.850 [{low:.3f}, {high:.3f}]" in text
    assert "optimizer" not in text, "not said in these runs"
    assert "rounds: 5\n" in text
    assert "brought their own federation.learning_rate" in text
    assert max(map(len, text.splitlines())) <= 80
    own = [
        line
        for line in text.splitlines()
        if line.startswith(("fedavg", "scaffold")) and ("0.850" in line or "0.800" in line)
    ]
    places = {line.find("0.500", 40) for line in own} - {-1}
    assert len(places) == 1, "numbers stand below each other in each part"


def test_which_settings_differ(workspace: Path) -> None:
    def keys(*folders: Path) -> tuple[str, ...]:
        return differing([read_run(folder) for folder in folders]).keys  # type: ignore[misc]

    plain = made(workspace / "plain")
    threshold = made(workspace / "threshold", None, ("threshold=null", "seed=3"))
    assert keys(plain, threshold) == ("threshold",), "what follows from it and the seed are none of them"
    few = made(workspace / "few", None, ("partition.min_examples_per_label=3",))
    assert keys(plain, few) == ("partition.min_examples_per_label",)
    own = made(workspace / "own", None, ("evaluation.min_examples=3",))
    assert keys(plain, own) == ("evaluation.min_examples",), "set by hand where it follows elsewhere"
    cache = made(workspace / "cache", None, ("store.cache=elsewhere",))
    assert keys(plain, cache) == ()
    strong = made(workspace / "strong", None, ("federation.rounds=9",), "fedprox")
    assert keys(plain, strong) == ("fusion", "federation.rounds"), "beside the option what somebody set"
    weak = made(workspace / "weak", None, (), "fedprox")
    path = weak / ".hydra" / "config.yaml"
    path.write_text(path.read_text().replace("strength: 1.0", "strength: 0.5"))
    assert keys(plain, strong, weak) == ("fusion", "federation.rounds", "fusion.strength"), "same option, other value"
    joins = made(workspace / "joins", None, ("federation.joins={3: 2}",))
    assert keys(plain, joins) == ("federation.joins",)


def test_what_ls_says_of_folders_that_are_no_recordings(workspace: Path, capsys: Captured) -> None:
    made(workspace / "runs" / "fusion_run")
    for place, says in {
        "runs/fusion_run": ": is a run, no recorded federation: provfl trace runs/fusion_run, provfl report runs/",
        "runs": "has runs in it, no recorded federation: provfl table runs",
        "./fusio": "no such folder",
        "nowhere/fusion": "no such folder",
        "nowhere": "no such config group or folder",
    }.items():
        assert main(["ls", place]) == 2
        error = capsys.readouterr().err
        assert says in error
        assert "provfl ls fusion" not in error
        assert "did you mean" not in error


def test_methods_beside_are_one_setting(workspace: Path, capsys: Captured) -> None:
    suspicion = "{suspicion: {_target_: x.Suspicion, strictness: 1.0}}"
    two = "{suspicion: {_target_: x.Suspicion, strictness: 1.0}, cosine: {_target_: x.Cosine}}"
    strict = two.replace("1.0", "2.0")
    folders = [
        made(workspace / name, {"provfl": 0.5 + 0.1 * at}, (f"attribution={chosen}",))
        for at, (name, chosen) in enumerate({"none": "{}", "one": suspicion, "two": two, "strict": strict}.items())
    ]
    none, one, both, stricter = (read_run(folder) for folder in folders)
    assert differing([none, one, both]).keys == ("attribution",)  # type: ignore[list-item]
    assert differing([one, both]).keys == ("attribution",)  # type: ignore[list-item]
    assert differing([both, stricter]).keys == ("attribution.suspicion.strictness",)  # type: ignore[list-item]
    assert "_target_" not in table(capsys, "none", "one", "two")
    values = [row["attribution"] for row in rows(capsys, "none", "one", "two")]
    assert values == ["[]", "[suspicion]", "[cosine,suspicion]"]
    assert [row["attribution"] for row in rows(capsys, "none", "two", "--by", "attribution")] == values[::2]


def test_what_a_setting_is_made_of_is_shown_where_somebody_set_it(workspace: Path) -> None:
    runs = [read_run(made(workspace / name, None, (f"fusion._target_=x.{name}",))) for name in ("A", "B")]
    assert differing(runs).keys == ("fusion._target_",)  # type: ignore[arg-type]


@pytest.mark.slow
def test_by_averages_within_a_seed_first(workspace: Path, capsys: Captured) -> None:
    values = {(0.1, 0): 0.2, (0.1, 1): 0.4, (1.0, 0): 0.6, (1.0, 1): 1.0}
    for (alpha, seed), value in values.items():
        made(workspace / f"{alpha}-{seed}", {"provfl": value}, (f"partition.alpha={alpha}", f"seed={seed}"))
    (only,) = rows(capsys, ".", "--by", "fusion")
    assert (only["seeds"], only["runs"]) == ("2", "4")
    assert float(only["localization_accuracy"]) == pytest.approx(0.55)
    assert not any(name.endswith("_high") for name in only), "two seeds have no interval"
    assert "averaged over partition.alpha" in table(capsys, ".", "--by", "fusion")
    assert [row["partition.alpha"] for row in rows(capsys, ".", "--by", "alpha")] == ["0.1", "1.0"]
    assert [row["seed"] for row in rows(capsys, ".", "--by", "alpha,seed")] == ["0", "1", "0", "1"]


def test_the_same_run_twice_counts_once(workspace: Path, capsys: Captured) -> None:
    first = made(workspace / "first", {"provfl": 0.2})
    os.utime(first / "summary.json", (1, 1))
    made(workspace / "second", {"provfl": 0.6})
    (only,) = rows(capsys, "second", "first")
    assert (only["seeds"], float(only["localization_accuracy"])) == ("1", 0.6)
    assert "1 run of the same settings and seed" in table(capsys, ".")


def test_paired_differences(workspace: Path, capsys: Captured) -> None:
    pairs = [(0.9, 0.8), (0.8, 0.75), (0.95, 0.75)]
    for seed, (ours, theirs) in enumerate(pairs):
        made(workspace / str(seed), {"provfl": ours, "tracefl": theirs}, (f"seed={seed}",))
    (only,) = rows(capsys, ".", "--paired", "tracefl")
    differences = pd.Series([ours - theirs for ours, theirs in pairs])
    half = stats.t.ppf(0.975, 2) * differences.std(ddof=1) / 3**0.5
    assert (only["method"], only["pairs"]) == ("provfl", "3")
    assert float(only["localization_accuracy"]) == pytest.approx(differences.mean())
    assert float(only["localization_accuracy_low"]) == pytest.approx(differences.mean() - half)
    assert "chance_accuracy" not in only
    shown = f"+{differences.mean():.3f} [{differences.mean() - half:+.3f}, {differences.mean() + half:+.3f}]"
    assert shown in table(capsys, ".", "--paired", "tracefl")


def test_pairs_over_runs_of_the_same_federation(workspace: Path, capsys: Captured) -> None:
    made(workspace / "ours", {"provfl": 0.9})
    made(workspace / "theirs", {"faithful": 0.7}, ("threshold=0.5",))
    made(workspace / "elsewhere", {"faithful": 0.1}, ("federation.rounds=9",))
    (only,) = rows(capsys, ".", "--paired", "provfl")
    assert float(only["localization_accuracy"]) == pytest.approx(-0.2)
    assert "1 of 2 traces have no one trace by provfl" in table(capsys, ".", "--paired", "provfl")
    assert "on the same federation" in wrong(capsys, "elsewhere", "ours", "--paired", "provfl")
    assert "no other method" in wrong(capsys, "ours", "--paired", "provfl")


@pytest.mark.slow
def test_scopes_rounds_methods_metrics(workspace: Path, capsys: Captured) -> None:
    made(workspace / "both", scopes=("round", "lineage"), rounds=(1, 5))
    made(workspace / "one", None, ("threshold=0.5",))
    assert [row["scope"] for row in rows(capsys, "both")] == ["round", "lineage"] * 2
    assert "scope" not in rows(capsys, "both", "--scope", "lineage")[0]
    shown = table(capsys, ".", "--scope", "lineage")
    assert "one: not traced in scope lineage" in shown
    first = rows(capsys, "both", "--round", "1", "--scope", "round", "--method", "provfl", "--metric", "ndcg", "inputs")
    assert len(first) == 1
    assert float(first[0]["global_accuracy"]) == 0.1, "of that round"
    assert first[0]["conservation_residual"] == "", "known of the last only"
    assert list(first[0])[:6] == ["method", "seeds", "runs", "ndcg", "ndcg_chance", "inputs"]
    assert "one: round 1 was not traced (traced: 5)" in table(capsys, ".", "--round", "1")
    made(workspace / "faults", {"provfl": 1.0}, fault_inputs=9, fault_accuracy=0.75, fault_chance=0.25)
    assert rows(capsys, "faults")[0]["fault_chance"] == "0.25"


@pytest.mark.parametrize(
    ("epsilon", "text", "shown"),
    [(8.5, "epsilon 8.5", "8.5"), (None, "epsilon infinite, there is no noise", "inf"), (None, "epsilon unknown", "–")],
)
def test_epsilon(epsilon: float | None, text: str, shown: str, workspace: Path, capsys: Captured) -> None:
    assert "epsilon" not in table(capsys, str(made(workspace / "public")))
    for seed in (0, 1):
        made(workspace / f"dp{seed}", None, (f"seed={seed}",), summary={"epsilon": epsilon, "privacy": text})
    (line, *_) = [line for line in table(capsys, "dp0").splitlines() if "1.0e-07" in line]
    assert line.split()[-2] == shown
    assert rows(capsys, "dp0", "dp1")[0]["epsilon"] == {"–": ""}.get(shown, shown)


def test_what_is_not_in_it_is_named(workspace: Path, capsys: Captured) -> None:
    made(workspace / "sweep" / "0")
    failed = made(workspace / "sweep" / "2")
    (failed / "error.log").write_text(
        'Traceback (most recent call last):\n  File "x"\nprovfl_cli.errors.RunError: loss\n  is nan\n'
    )
    (made(workspace / "sweep" / "10") / "summary.json").unlink()
    (made(workspace / "sweep" / "11") / "localization.csv").write_text("")
    (workspace / "sweep" / "failures.json").write_text(
        json.dumps({"failures": [{"job": "seed=7", "message": "no such column", "folder": "3"}]})
    )
    lines = table(capsys, "sweep").splitlines()
    start = lines.index("not in the table: 4 runs")
    assert lines[start + 1] == "  sweep/2: failed: loss is nan"
    assert lines[start + 2].startswith("  sweep/10: not finished")
    assert "sweep/11: cannot be read" in " ".join(lines[start + 3 :])
    assert lines[-1] == "  seed=7: no such column"
    assert main(["table", "sweep", "--format", "csv"]) == 0
    assert "sweep/2" in capsys.readouterr().err, "a file of numbers stays one"
    assert "no run has ended well: sweep/2: failed: loss" in wrong(capsys, "sweep/2")


def test_wrong_input(workspace: Path, capsys: Captured) -> None:
    made(workspace / "run")
    assert "did you mean run?" in wrong(capsys, "rum")
    (workspace / "empty").mkdir()
    assert "no run in it" in wrong(capsys, "empty")
    assert "did you mean majority_accuracy" in wrong(capsys, "run", "--metric", "majority_acuracy")
    assert "did you mean provfl?" in wrong(capsys, "run", "--method", "provlf")
    assert "did you mean tracefl?" in wrong(capsys, "run", "--paired", "traecfl")
    assert "did you mean partition.alpha or" in wrong(capsys, "run", "--by", "partition.alhpa")
    assert "did you mean evaluation.min_examples" in wrong(capsys, "run", "--by", "evaluation.min_example")
    assert "no run has it" in wrong(capsys, "run", "--scope", "lineage")
    assert "did you mean lineage?" in wrong(capsys, "run", "--scope", "linage")
    assert "did you mean markdown?" in wrong(capsys, "run", "--format", "markdwn")
    assert "traced: 5" in wrong(capsys, "run", "--round", "4")
    assert "must be last" in wrong(capsys, "run", "--round", "first")
    assert "RUNS come first" in wrong(capsys, "--by", "fusion", "run")
    assert "one of them" in wrong(capsys, "run", "--tidy", "--format", "latex")
    assert "is a folder" in wrong(capsys, "run", "--out", "empty")


@pytest.mark.slow
def test_formats(workspace: Path, capsys: Captured) -> None:
    for number, path in enumerate(("a|b_c%", "[1,5]", "*")):
        made(workspace / str(number), None, (f"dataset.name='{path}'",))
    markdown = table(capsys, ".", "--format", "markdown")
    assert "| a\\|b_c% | provfl | 1 | 0.450 | 0.100 |" in markdown
    assert markdown.index("| majority |") < markdown.index("| holds label (saturates) |"), "last"
    assert "| :-- | :-- | --: |" in markdown
    latex = table(capsys, ".", "--format", "latex")
    assert r"a|b\_c\% & provfl & 1 & 0.450" in latex
    assert "\n{[}1,5] & provfl" in latex, "else an argument of the line's end before it"
    assert "\n{*} & provfl" in latex
    tidy = list(csv.DictReader(io.StringIO(table(capsys, ".", "--tidy", "--metric", "ndcg"))))
    assert list(tidy[0]) == ["dataset.name", "method", "metric", "mean", "low", "high", "seeds", "chance"]
    assert [row["metric"] for row in tidy[:3]] == ["ndcg", "global_accuracy", "conservation_residual"]
    assert float(tidy[0]["chance"]) == 0.7
    for name, expected in {
        "t.md": "**Joined runs**",
        "t.csv": "dataset.name,",
        "t.tex": "toprule",
        "t.txt": "──",
    }.items():
        assert f"6 rows -> out/{name}" in table(capsys, "0", "1", "2", "--out", f"out/{name}")
        assert expected in (workspace / "out" / name).read_text()


def test_many_settings_are_listed_above_the_table(workspace: Path, capsys: Captured) -> None:
    many = (
        "dataset.name=a_dataset_with_a_name_of_its_own",
        "federation.rounds=9",
        "threshold=0.5",
        "provenance.rounds=all",
    )
    made(workspace / "0")
    made(workspace / "1", None, many)
    lines = table(capsys, ".").splitlines()
    assert any(line.startswith("[2] name=a_dataset_with_a_name_of_its_own ") for line in lines)
    assert [line.split()[:2] for line in lines if "0.900" in line] == [["[1]", "provfl"], ["[2]", "provfl"]]
    assert max(map(len, lines)) <= 80


def test_runs_are_found_everywhere_once(workspace: Path) -> None:
    for name in ("day/10", "day/9", "day/sweep/1"):
        made(workspace / name)
    (workspace / "day" / "10" / "rounds").symlink_to(workspace / "day", target_is_directory=True)
    (workspace / "day" / "multirun.yaml").write_text("{}")
    folders = run_folders([Path("day/10"), Path("day"), Path("day/multirun.yaml")])
    assert [str(path) for path in folders] == ["day/10", "day/9", "day/sweep/1"]


def test_completion_and_example(workspace: Path, capsys: Captured) -> None:
    made(workspace / "outputs" / "multirun" / "x" / "0")
    assert words("table", "outputs/m") == ["outputs/multirun/"]
    assert "--paired" in words("table", "outputs --p")
    assert main(COMMANDS["table"][1].split()[1:]) == 0


@pytest.mark.slow
def test_the_table_needs_no_torch(workspace: Path) -> None:
    made(workspace / "run")
    code = "import sys; from provfl_cli.cli import main; main(['table', 'run']); sys.exit('torch._C' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    assert subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True).returncode == 0


@pytest.mark.slow
def test_a_real_sweep_ends_with_its_table(workspace: Path, capsys: Captured) -> None:
    small = (
        "dataset=digits partition=iid federation.clients=3 federation.rounds=1 federation.local_epochs=1 "
        "partition.max_examples_per_client=null dataset.max_test_examples=40 evaluation.max_inputs=10 "
        "evaluation.inputs=all"
    )
    assert main(["run", "-m", *small.split(), "seed=0,1", "partition.min_examples_per_client=5,1000"]) == 2
    captured = capsys.readouterr()
    (sweep,) = workspace.glob("outputs/multirun/*/*")
    written = (sweep / "table.md").read_text()
    assert "The jobs of the sweep" in captured.out
    assert "not in the table: 2 runs" in written
    assert "seed=0 partition.min_examples_per_client=1000:" in written
    assert "min_examples" in json.loads((sweep / "failures.json").read_text())["failures"][0]["message"]
    assert "2 of 4 jobs failed" in captured.err
    whole = pd.read_csv(sweep / "table.csv")
    assert set(whole["method"]) == {"provfl", "tracefl"}
    assert (whole["seeds"] == 2).all()
    assert whole["localization_accuracy"].between(0, 1).all()
    assert main(["table", str(sweep)]) == 0
    assert "seed=1 partition.min_examples_per_client=1000" in capsys.readouterr().out, (
        "known after their folders are gone"
    )
