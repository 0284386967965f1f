"""The example job in NVFlare's simulator, recorded, traced, and compared with leaving clients out by hand."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from provfl_cli.cli.report import main as report
from provfl_cli.cli.trace import main as trace
from provfl_cli.store.recorded import read_recorded
from provfl_cli.store.rounds import Round, read_round, stored_rounds

pytest.importorskip("nvflare", reason="the extra nvflare is not installed")
pytestmark = pytest.mark.slow
APP = Path(__file__).parent / "nvflare_app"
SECONDS = 500  # after which anything has failed; a quiet machine needs twenty
INPUTS = range(0, 24, 2)


def simulated(script: str, workspace: Path) -> Path:
    """Run a job of the app; returns the folder of its recording."""
    environment = {**os.environ, "PYTHONPATH": str(APP.parents[1]), "OMP_NUM_THREADS": "1"}
    log = workspace / "job.log"
    with log.open("wb") as out:
        job = subprocess.Popen(
            [sys.executable, script, str(workspace)],
            cwd=APP,
            env=environment,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = job.wait(SECONDS)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            with suppress(ProcessLookupError):
                os.killpg(job.pid, signal.SIGKILL)
    assert code == 0, log.read_text()[-4000:]
    assert "2 rounds recorded in" in log.read_text()
    return workspace / "digits" / "server" / "simulate_job" / "provenance"


def log_odds(weights: dict[str, torch.Tensor], pixels: torch.Tensor, target: int) -> float:
    """How far a model prefers a class to all others together."""
    import task  # type: ignore[import-not-found]

    net = task.Net()
    net.load_state_dict(weights)
    with torch.no_grad():
        chance = net(pixels[None])[0].double().softmax(0)[target]
    return float(torch.log(chance / (1 - chance)))


def without(stored: Round, client: int | None) -> dict[str, torch.Tensor]:
    """The average of a round, of all clients but that one, as anybody would compute it."""
    steps = np.array(stored.examples, dtype=float)
    if client is not None:
        steps[client] = 0
    stack = stored.client_stack()
    return {
        name: torch.from_numpy(np.average(stack[name].double().numpy(), axis=0, weights=steps)).float()
        for name in stack
    }


def contributions(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """What `provfl trace` says of one input, by the method `faithful`."""
    capsys.readouterr()
    assert trace([*arguments, "--method", "faithful", "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("script", ["job.py", "gather.py"])
def test_a_job_is_recorded_and_traced_as_leaving_clients_out_says(
    script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = simulated(script, tmp_path)
    monkeypatch.syspath_prepend(APP)
    import task

    assert stored_rounds(folder / "rounds") == [1, 2]
    federation = read_recorded(folder)
    assert federation is not None
    assert federation.clients == {number: f"site-{number + 1}" for number in range(4)}
    assert federation.labels == tuple(map(str, range(10)))
    first, stored = (read_round(folder / "rounds", number) for number in (1, 2))
    assert all(torch.equal(first.weights()[name], stored.previous()[name]) for name in stored.previous())
    assert stored.examples == tuple(2 * -(-len(task.train_data(number, 4)[0]) // 32) for number in range(4))
    whole = without(stored, None)
    assert all(torch.allclose(whole[name], stored.weights()[name], atol=1e-6) for name in whole)

    pixels, _ = task.test_data()
    arguments = [str(folder), "--model", "task:Net", "--data", "task:test_data"]
    agreement = []
    for index in INPUTS:
        said = contributions([*arguments, "--input", str(index)], capsys)
        ours = {client["client"]: client["contribution"] for client in said["methods"][0]["clients"]}
        target = int(said["explained"])
        all_together = log_odds(whole, pixels[index], target)
        losses = [all_together - log_odds(without(stored, client), pixels[index], target) for client in range(4)]
        agreement.append(spearmanr([ours[client] for client in range(4)], losses).statistic)
    assert np.mean(agreement) > 0.95
    page = tmp_path / "page.html"
    assert report([*arguments, "--out", str(page)]) == 0
    assert "297 inputs in 2 rounds" in capsys.readouterr().out
    assert "ProvenanceRecorder" in page.read_text(encoding="utf-8")


def test_the_example_job_changes_fewer_than_ten_lines() -> None:
    rows = [row for file in APP.glob("*.py") for row in file.read_text().splitlines()]
    marked = [row for row in rows if row.rstrip().endswith("# ProvFL")]
    assert 0 < len(marked) < 10
    assert not any("provfl" in row.lower() for row in rows if row not in marked)
