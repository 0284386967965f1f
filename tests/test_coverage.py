"""What a trace does not account for is said first, wherever its result is looked at; what it does is not mentioned."""

from __future__ import annotations

import json
from dataclasses import replace
from html import unescape
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import provfl_cli
from provfl_cli.cli import main
from provfl_cli.coverage import coverage_warning, recorded_warning
from provfl_cli.provenance import Contributions, from_state_dicts, trace
from provfl_cli.reporting.page.document import page
from provfl_cli.results.folders import RunFolder, read_run

from .lineages import perturbed
from .made_runs import whole_run

SAID = "parameters are not accounted for"
NASTY = "idle\x1b[2J\u202e"


class WithIdle(nn.Module):
    """A linear model of 30 + 70 parameters, of which the 70 take no part in the prediction."""

    def __init__(self, name: str = "idle") -> None:
        super().__init__()
        self.head = nn.Linear(9, 3)
        self.register_parameter(name, nn.Parameter(torch.ones(7, 10)))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(inputs)


def with_idle() -> nn.Module:
    """What `--model tests.test_coverage:with_idle` calls."""
    torch.manual_seed(0)
    return WithIdle()


def whole() -> nn.Module:
    """A model without such parameters."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(9, 3))


def traced(model: nn.Module) -> Contributions:
    before = model.state_dict()
    source = from_state_dicts([perturbed(before, 0.1, seed) for seed in range(3)], [1, 2, 3], before)
    return trace(model, torch.ones(2, 9), source)


@pytest.fixture
def recorded(workspace: Path) -> Path:
    """A working folder with two recorded federations, `made` of `with_idle` and `full` of `whole`, and `data`."""
    save_file({"inputs": torch.ones(2, 9), "labels": torch.tensor([0, 1])}, "data.safetensors")
    for folder, model in (("made", with_idle()), ("full", whole())):
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        save_file(before, "before.safetensors")
        clients = [perturbed(before, 0.1, seed) for seed in range(2)]
        for name, tensors in zip("ab", clients, strict=True):
            save_file(tensors, f"{name}.safetensors")
        save_file({name: (clients[0][name] + clients[1][name]) / 2 for name in before}, "after.safetensors")
        files = ["--global", "after.safetensors", "--previous", "before.safetensors", "--out", folder]
        assert main(["import", *files, "--client", "a=a.safetensors:1", "b=b.safetensors:1"]) == 0
    return workspace


def ask(folder: str, *more: str) -> int:
    model = {"made": "with_idle", "full": "whole"}[folder]
    return main(["trace", folder, "--model", f"tests.test_coverage:{model}", "--data", "data.safetensors", *more])


def test_the_line_names_share_and_parameters_and_stays_one_line() -> None:
    assert coverage_warning(1.0, []) == ""
    line = coverage_warning(0.3, [f"layer{number}.weight" for number in range(7)])
    assert line.startswith(f"70.0% of the model's {SAID}: layer0.weight, ")
    assert "layer4.weight and 2 more" in line
    assert "layer5" not in line
    assert coverage_warning(0.99999, ["b"]).startswith("less than 0.1% ")  # not 0.0%
    nasty = coverage_warning(0.5, [NASTY, "a\nb", "x" * 500])
    assert nasty.isprintable()
    assert len(nasty) < 400


@pytest.mark.parametrize("trace", [None, 7, {}, {"covered": "0.1"}, {"covered": True}, {"covered": 1.0}])
def test_manifests_that_say_nothing_of_it(trace: object) -> None:
    assert recorded_warning(trace) == ""


def test_the_result_itself_says_it_first() -> None:
    trace = traced(with_idle())
    assert trace.covered == pytest.approx(0.3)
    assert repr(trace).startswith(f"warning: 70.0% of the model's {SAID}: idle;")
    assert trace._repr_html_().index(SAID) < trace._repr_html_().index("Contributions of")
    assert trace.to_frame().attrs["warnings"] == list(trace.warnings)
    assert set(trace.to_frame()["covered"]) == {trace.covered}
    full = traced(whole())
    assert full.warnings == ()
    assert "not accounted" not in repr(full) + full._repr_html_()


def test_names_of_parameters_do_nothing_but_be_read() -> None:
    trace = traced(WithIdle(NASTY))
    assert "\x1b" not in repr(trace) + trace._repr_html_()
    assert "\u202e" not in repr(trace) + trace._repr_html_()


def test_a_trace_in_the_terminal_begins_with_it(recorded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert ask("made") == 0
    assert " ".join(capsys.readouterr().out.split()).startswith(f"warning: 70.0% of the model's {SAID}: idle;")
    assert ask("full") == 0
    assert "not accounted" not in capsys.readouterr().out


def test_json_holds_it_and_the_residual(recorded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for more in (["--json"], ["--out", "x.json"]):
        capsys.readouterr()
        assert ask("made", *more) == 0
        answer = json.loads(Path("x.json").read_text() if "--out" in more else capsys.readouterr().out)
        assert next(iter(answer)) == "warnings"
        assert SAID in answer["warnings"][0]
        (method,) = answer["methods"]
        assert method["covered"] == pytest.approx(0.3)
        assert set(method["uncovered"]) == {"idle"}
        assert 0 <= method["residual"] < 1e-4
    capsys.readouterr()
    assert ask("full", "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["warnings"] == []
    assert answer["methods"][0]["covered"] == 1.0


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_tables_hold_it_and_stderr_says_it(recorded: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    out = f"x.{kind}"
    methods = ["--method", "provfl", "data_size"]
    assert ask("made", "--inputs", "all", "--out", out, *methods) == 0
    said = capsys.readouterr()
    assert said.err.startswith(f"warning: 70.0% of the model's {SAID}: idle;")
    assert SAID not in said.out
    frame = pd.read_csv(out) if kind == "csv" else pd.read_parquet(out)
    own = frame["method"] == "provfl"
    assert frame.loc[own, "covered"].tolist() == pytest.approx([0.3] * int(own.sum()))
    assert set(frame.loc[own, "uncovered"]) == {"idle"}
    assert frame.loc[~own, ["covered", "uncovered"]].isna().all(axis=None)  # says nothing of other methods
    assert ask("full", "--out", out) == 0
    assert capsys.readouterr().err == ""
    frame = pd.read_csv(out) if kind == "csv" else pd.read_parquet(out)
    assert set(frame["covered"]) == {1.0}
    assert frame["uncovered"].isna().all()


@pytest.mark.slow
def test_the_page_of_a_recorded_federation_says_it(recorded: Path) -> None:
    where = ["--model", "tests.test_coverage:with_idle", "--data", "data.safetensors"]
    assert main(["report", "made", *where, "--out", "page.html"]) == 0
    written = unescape(Path("page.html").read_text())
    assert (
        written.index(f"70.0% of the model's {SAID}: idle")
        < written.index("Parameters accounted for")
        < written.index("</main>")
    )


@pytest.mark.slow
def test_a_figure_for_a_paper_says_it_beside(recorded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder, model in (("made", "with_idle"), ("full", "whole")):
        where = ["--model", f"tests.test_coverage:{model}", "--data", "data.safetensors"]
        capsys.readouterr()
        assert main(["figure", folder, "ranking", *where, "--out", "ranking.pdf"]) == 0
        said = capsys.readouterr().err
        assert said.startswith(f"warning: 70.0% of the model's {SAID}: idle") == (folder == "made")
        assert (SAID in said) == (folder == "made")


def incomplete(folder: Path) -> RunFolder:
    """A run folder that says that a third of the model is accounted for."""
    whole_run(folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["trace"] = {"covered": 0.3, "uncovered": {NASTY: "no rule", "<b>": "no rule"}}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    summary = json.loads((folder / "summary.json").read_text())
    (folder / "summary.json").write_text(json.dumps({**summary, "covered": 0.3}))
    run = read_run(folder)
    assert isinstance(run, RunFolder)
    return run


@pytest.mark.slow
def test_a_runs_page_and_data_frames_say_it(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_folder = incomplete(workspace / "run")
    written = unescape(page([run_folder]))
    assert written.index(f"70.0% of the model's {SAID}") < written.index("Parameters accounted for")
    assert "\x1b" not in written.partition("Parameters accounted for")[0]
    assert "<b>" not in page([run_folder]).partition("<main")[2].partition("Parameters accounted for")[0]
    assert main(["table", "run"]) == 0
    assert f"1 of 1 runs; in the worst 70.0% of the model's {SAID}" in " ".join(capsys.readouterr().out.split())
    run = provfl_cli.load_run("run")
    assert SAID in run.warnings[0]
    assert repr(run).startswith(f"warning: 70.0% of the model's {SAID}")
    assert run._repr_html_().index(SAID) < run._repr_html_().index("run")
    whole_run(workspace / "full")
    assert provfl_cli.load_run("full").warnings == ()
    assert SAID not in page([replace(run_folder, folder=workspace / "full")])


@pytest.mark.slow
def test_a_run_says_it_before_its_results(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(
            [
                "run", "experiment=smoke", "federation.rounds=1", "hydra.run.dir=run",
                "model._target_=tests.test_coverage.with_idle_lenet", "tracefl_beside=false",
            ]
        )
        == 0
    )  # fmt: skip
    out = " ".join(capsys.readouterr().out.split())
    assert out.index(SAID) < out.index("Who is responsible?")
    figures = json.loads(Path("run/summary.json").read_text())
    made_of = json.loads(Path("run/manifest.json").read_text())["trace"]
    assert figures["covered"] == made_of["covered"] < 1
    assert figures["uncovered"] == "idle"
    assert SAID in made_of["warnings"][0]
    assert SAID in Path("run/table.md").read_text()
    assert SAID in provfl_cli.load_run("run").warnings[0]


def with_idle_lenet(channels: int, classes: int, **_: object) -> nn.Module:
    """A model for the run above: something small with a parameter that nothing uses."""

    class Small(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(channels * 784, classes)
            self.idle = nn.Parameter(torch.ones(50))

        def forward(self, inputs: Tensor) -> Tensor:
            return self.head(inputs.flatten(1))

    return Small()
