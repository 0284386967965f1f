"""What the terminal says around a run and a trace: `last`, the next step, what leaving out confirms, how far it is."""

from __future__ import annotations

import io
import json
import math
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from rich.console import Console

from provfl_cli.cli import main
from provfl_cli.cli.folder import called, named
from provfl_cli.errors import InputError
from provfl_cli.provenance.watched import traced_so_far, watched
from provfl_cli.reporting.answers import percent
from provfl_cli.reporting.progress import LONG, TraceProgress
from provfl_cli.results.answer import Effect
from provfl_cli.run.confirmed import apart, concluded, matter
from provfl_cli.run.learnt import near_chance
from provfl_cli.store.rounds import Metrics

from .runs import SMALL

Captured = pytest.CaptureFixture[str]


def ended(folder: Path, when: float) -> Path:
    """A run's folder as far as `last` looks at it."""
    (folder / ".hydra").mkdir(parents=True)
    (folder / "manifest.json").write_text("{}")
    os.utime(folder / "manifest.json", (when, when))
    return folder


def test_last_is_the_run_that_ended_last(workspace: Path) -> None:
    with pytest.raises(InputError, match="last: no run in outputs/"):
        named("last")
    ended(Path("outputs/2026-01-02/10-00-00"), 300.0)
    newest = ended(Path("outputs/multirun/2026-01-01/10-00-00/3"), 400.0)
    ended(Path("outputs/2026-01-03/11-00-00"), 200.0)
    ended(Path("outputs/cache/federations/abc"), 900.0)
    (Path("outputs/2026-01-04/12-00-00/.hydra")).mkdir(parents=True)  # begun, not ended
    assert named("last") == newest
    assert (called(newest.absolute()), called(Path("outputs/2026-01-02/10-00-00"))) == (
        "last",
        "outputs/2026-01-02/10-00-00",
    )
    Path("last").mkdir()
    assert named("last") == Path("last"), "a folder of that name is what is meant"
    assert called(newest) != "last"


@pytest.mark.parametrize("command", ["trace last", "report last", "table last", "figure last ranking --out a.pdf"])
def test_commands_that_open_runs_know_last(command: str, workspace: Path, capsys: Captured) -> None:
    assert main(command.split()) == 2
    assert "last: no run in outputs/" in capsys.readouterr().err


def effect(client: str, loss: float, now: float, says: str = "") -> Effect:
    return Effect(client, {"refuse": loss}, {"refuse": now}, {"refuse": says} if says else {})


@pytest.mark.parametrize(
    ("effects", "confirmed", "words"),
    [
        (
            [effect("0", 2.0, 0.07, "7"), effect("3", 0.01, 0.54, "1")],
            True,
            "confirmed: without client 0 it says 7 (the probability of 1 goes from 55.0% to 7.0%)",
        ),
        (
            [effect("0", 2.0, 0.07, "7"), effect("3", 3.0, 0.03, "8")],
            True,
            "confirmed: without client 0 it says 7 (the probability of 1 goes from 55.0% to 7.0%); "
            "so it does without 3",
        ),
        (
            [effect("0", 0.5, 0.33, "1"), effect("3", 0.1, 0.5, "1")],
            True,
            "confirmed: without client 0, the probability of 1 goes from 55.0% to 33.0%, more than without any other",
        ),
        (  # 3 costs more by less than the noise
            [effect("0", 0.5, 0.33, "1"), effect("3", 0.51, 0.33, "1")],
            True,
            "confirmed: without client 0, the probability of 1 goes from 55.0% to 33.0%, more than without any other",
        ),
        (
            [effect("0", 0.2, 0.45, "1"), effect("3", 0.9, 0.22, "1")],
            False,
            "confirmed in part: without client 0, the probability of 1 goes from 55.0% to 45.0%; "
            "without client 3, the probability of 1 goes from 55.0% to 22.0%",
        ),
        (
            [effect("0", 0.001, 0.55, "1"), effect("3", 0.9, 0.22, "8")],
            False,
            "not confirmed: without client 0, the probability of 1 stays at 55.0%; without client 3, it says 8",
        ),
        (
            [effect("0", 1e-5, 0.55, "1"), effect("3", 2e-5, 0.55, "1")],
            None,
            "not decided: without any one of them, the probability of 1 stays at 55.0%",
        ),
        (
            [effect("0", math.nan, math.nan), effect("3", 2.0, 0.1, "8")],
            None,
            "not decided: there is no model without 0",
        ),
    ],
)
def test_what_leaving_out_confirms(effects: list[Effect], confirmed: bool | None, words: str) -> None:
    conclusion = concluded(effects, "1", "1", 0.55, percent)
    assert conclusion is not None
    assert (conclusion.confirmed, conclusion.sentence) == (confirmed, words)


def test_what_hardly_pushes_does_not_count() -> None:
    values = np.array([10.0, -4.0, 0.3, -0.1])
    assert matter(values).tolist() == [True, True, False, False]
    differ = apart(values)
    assert differ(0, 1)
    assert not differ(2, 3)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_long_trace_says_what_is_left() -> None:
    out, clock = io.StringIO(), Clock()
    with TraceProgress(Console(file=out), 2, "Tracing round 3", clock) as progress, watched(progress):
        clock.now = 10.0
        traced_so_far(64, 128)
        assert out.getvalue() == "", "no line for what is soon over"
        clock.now = LONG + 1
        traced_so_far(128, 128)  # half of it: the first of two traces
        assert out.getvalue() == "tracing round 3: 128 of 128 inputs, 0:01:01 left\n"
        clock.now = 2 * LONG + 4
        traced_so_far(64, 128)  # of the second: three quarters
        assert "64 of 128 inputs, 0:00:41 left" in out.getvalue()
    traced_so_far(128, 128)  # nobody watches
    assert len(out.getvalue().splitlines()) == 2


@pytest.mark.parametrize(("accuracy", "warns"), [(0.26, True), (0.35, True), (0.45, False)])
def test_a_model_that_guesses_is_said_to(accuracy: float, warns: bool) -> None:
    """Labels 0 to 3, 25 of each: 0.25 is guessing, with a standard error of 0.043."""
    data = SimpleNamespace(evaluated=SimpleNamespace(labels=np.repeat(np.arange(4), [30, 25, 25, 20])), form=None)
    said = near_chance(Metrics(3, 1.0, accuracy, 1.0, 4, 0.0), data)  # type: ignore[arg-type]
    assert bool(said) == warns
    assert not warns or "scores 0.300" in said


@pytest.mark.slow
def test_a_sweep_says_one_line_a_job_and_a_run_what_comes_next(workspace: Path, capsys: Captured) -> None:
    assert main(["run", "-m", *SMALL, "federation.rounds=1", "seed=0,1", "store.cache=cache"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "2 jobs, a line for each when it has ended"
    jobs = [line for line in lines if line.startswith("job ")]
    assert [line.split()[1] for line in jobs] == ["0:", "1:"]
    assert all("accuracy " in line and "seed=" in line for line in jobs)
    assert len(lines) < 40, "no tables of single jobs"
    assert lines[-1].startswith("  provfl report outputs/multirun/")
    assert main(["run", *SMALL, "federation.rounds=1", "store.cache=cache"]) == 0
    assert "  provfl trace last --verify " in capsys.readouterr().out
    assert main(["trace", "last", "--verify", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["conclusion"].split(":")[0] in ("confirmed", "confirmed in part", "not confirmed", "not decided")
