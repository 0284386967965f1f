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


@pytest.mark.slow
@pytest.mark.skipif(find_spec("submitit") is None, reason="needs hydra-submitit-launcher")
def test_jobs_of_submitit_share_one_training(tmp_path: Path) -> None:
    """Both trace the same federation at the same time: one trains it, under a lease, the other waits for it."""
    overrides = ["experiment=smoke", "federation.rounds=2", "threshold=0,0.5", "hydra.sweep.dir=sweep"]
    shared = ["store.lock=lease", "provenance.shards=2", "engine.workers=1", f"store.cache={tmp_path / 'cache'}"]
    done = subprocess.run(
        [sys.executable, "-m", "provfl_cli", "run", "-m", "hydra/launcher=submitit_local", *overrides, *shared],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "sweep" / "table.csv").exists()
    found = [json.loads((tmp_path / "sweep" / job / "summary.json").read_text()) for job in "01"]
    assert sorted(one["train_seconds"] > 0 for one in found) == [False, True]
    assert found[0]["global_accuracy"] == found[1]["global_accuracy"]
    assert (tmp_path / "cache" / "federations" / ".locks").read_text() == "lease"
    assert list((tmp_path / "cache" / "federations").glob("*/leases/*")) == []
