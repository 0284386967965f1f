"""A federation that is continued from its folder, or killed, ends with the same bytes, whatever its server keeps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from provfl_cli.config.validate import provenance_preset
from provfl_cli.federation import events
from provfl_cli.fusion.fedadam import FedAdam
from provfl_cli.fusion.fedavg import FedAvg
from provfl_cli.fusion.fedavgm import FedAvgM
from provfl_cli.fusion.privacy import CentralDP
from provfl_cli.fusion.scaffold import Scaffold
from tests.federations import content, make_config, train

LINEAGE = replace(provenance_preset("provfl"), scope="lineage", lineage_decay=0.9)
LATE: dict[str, Any] = {"stragglers": 0.5, "straggler_delay": 2, "dropout": 0.2, "clients_per_round": 3}
SETTINGS: dict[str, dict[str, Any]] = {
    "server momentum and accumulators": {"fusion": FedAvgM(), "provenance": LINEAGE},
    "adaptive steps and late work": {"fusion": FedAdam(), "provenance": LINEAGE, **LATE},
    "control variates": {
        "momentum": 0.0,
        "straggler_work": "partial",
        "stragglers": 0.5,
        "fusion": Scaffold(),
        "provenance": LINEAGE,
    },
    "adaptive clipping": {
        "fusion": FedAvg(),
        "privacy": CentralDP(noise_multiplier=0.1, adaptive=True),
        "provenance": LINEAGE,
        "sampling": "markov",
        "clients_per_round": 3,
        "leaves": {6: 2},
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SETTINGS)
def test_continued_from_disk_the_bytes_are_those_of_an_unbroken_run(name: str, tmp_path: Path) -> None:
    """Momentum, control variates, accumulators, late work, clip norms: a round holds all that the next needs."""
    changes = SETTINGS[name]
    train(tmp_path / "unbroken", make_config(rounds=5, **changes))
    for rounds in (1, 2, 4, 5):  # as if it had been stopped after each
        train(tmp_path / "broken", make_config(rounds=rounds, **changes))
    unbroken, broken = content(tmp_path / "unbroken"), content(tmp_path / "broken")
    last = {file: data for file, data in unbroken.items() if "0005/" in file}
    assert len(last) >= 6
    assert all(broken[file] == data for file, data in last.items())


@pytest.mark.slow
def test_rounds_stored_without_accumulators_are_trained_again_to_the_same_weights(tmp_path: Path) -> None:
    train(tmp_path, make_config(rounds=2))
    before = {file: data for file, data in content(tmp_path).items() if file.endswith("0002/global.safetensors")}
    _, seen = train(tmp_path, make_config(rounds=2, provenance=LINEAGE))
    after = content(tmp_path)
    assert sum(isinstance(event, events.RoundFinished) for event in seen) == 2
    assert before
    assert all(after[file] == data for file, data in before.items())
    assert any(file.endswith("0002/lineage.safetensors") for file in after)
