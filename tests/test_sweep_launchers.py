"""Sweeps on other launchers than Hydra's own: joblib's processes here; the others are named where they are missing."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from provfl_cli.cli import main

SMALL = ("experiment=smoke", "federation.rounds=1", "federation.local_epochs=1", "tracefl_beside=false")


@pytest.mark.slow
def test_a_sweep_on_joblib_goes_on_past_a_failed_job(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    sweep = ["run", "-m", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "hydra.sweep.dir=sweep", *SMALL]
    assert main([*sweep, "federation.learning_rate=0.01,1e6"]) == 1
    assert "1 of 2 jobs failed" in capsys.readouterr().err
    assert json.loads((workspace / "sweep" / "0" / "summary.json").read_text())["inputs"] == 40
    (failure,) = json.loads((workspace / "sweep" / "failures.json").read_text())["failures"]
    assert "diverged" in failure["message"]
    assert "| provfl | 1 |" in (workspace / "sweep" / "table.md").read_text()


@pytest.mark.parametrize(
    ("launcher", "package", "extra"),
    [
        ("joblib", "hydra_plugins.hydra_joblib_launcher", "joblib"),
        ("submitit_slurm", "hydra_plugins.hydra_submitit_launcher", "submitit"),
        ("ray", "hydra_plugins.hydra_ray_launcher", "ray"),
    ],
)
def test_a_missing_launcher_names_its_extra(
    launcher: str, package: str, extra: str, workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        there = importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:
        there = False
    if there:
        pytest.skip(f"{package} is installed")
    assert main(["run", "-m", f"hydra/launcher={launcher}", *SMALL, "seed=0,1"]) == 2
    assert f"provfl[{extra}]" in capsys.readouterr().err
