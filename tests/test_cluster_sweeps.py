"""Sweeps whose jobs a launcher starts in processes of its own, as on a cluster."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("submitit") is None, reason="needs hydra-submitit-launcher"),
]


def sweep(folder: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    """A sweep on submitit's processes, in `folder`/sweep."""
    own = ["hydra/launcher=submitit_local", "hydra.sweep.dir=sweep", f"store.cache={folder / 'cache'}"]
    return subprocess.run(
        [sys.executable, "-m", "provfl_cli", "run", "-m", "engine.workers=1", *own, *overrides],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def test_jobs_of_submitit_share_one_training(tmp_path: Path) -> None:
    """Both trace the same federation at the same time: one trains it, under a lease, the other waits for it."""
    overrides = ["experiment=smoke", "federation.rounds=2", "threshold=0,0.5"]
    shared = ["store.lock=lease", "provenance.shards=2"]
    done = sweep(tmp_path, *overrides, *shared)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "sweep" / "table.csv").exists()
    summaries = [json.loads((tmp_path / "sweep" / job / "summary.json").read_text()) for job in "01"]
    assert sorted(summary["train_seconds"] > 0 for summary in summaries) == [False, True]
    assert summaries[0]["global_accuracy"] == summaries[1]["global_accuracy"]
    assert (tmp_path / "cache" / "federations" / ".locks").read_text() == "lease"
    assert list((tmp_path / "cache" / "federations").glob("*/leases/*")) == []


def test_a_job_that_is_killed_leaves_the_table_of_the_others(tmp_path: Path) -> None:
    dies = ["+hydra.callbacks.killed._target_=tests.failing.Killed", "+hydra.callbacks.killed.seed=1"]
    done = sweep(tmp_path, "experiment=smoke", "federation.rounds=1", "seed=0,1", *dies)
    assert done.returncode == 1
    assert "hydra/launcher=submitit_local: gave up" in done.stderr
    assert "Traceback" not in done.stderr.replace("traceback", "")
    table = (tmp_path / "sweep" / "table.md").read_text()
    assert "gave up" in table
    rows = (tmp_path / "sweep" / "table.csv").read_text().splitlines()
    assert len(rows) > 1
    assert (tmp_path / "sweep" / "0" / "summary.json").exists()
    assert json.loads((tmp_path / "sweep" / "failures.json").read_text())["failures"][0]["folder"] == ""
