"""A fusion from outside the package, whose clients keep a state of its own, in a run like any other."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import provfl_cli
from provfl_cli.cli import main
from provfl_cli.config import compose
from provfl_cli.errors import InputError
from provfl_cli.store.tensorfile import open_tensors

FUSION = """
from dataclasses import dataclass
from provfl_cli.fusion.plain import ByExamples

@dataclass(frozen=True)
class Remembering(ByExamples):
    '''Clients keep where their steps have led them in all rounds, and are pulled back by a part of it (FedDyn).'''

    strength: float = 0.1
    whole_gradient = False

    @property
    def client_state(self):
        return self

    def correction(self, control, own):
        return [self.strength * k for k in own]

    def renewed(self, control, own, start, end, rates, gradient):
        assert gradient is None
        return [k + (y - x) / rates for k, x, y in zip(own, start, end)]

    def control_shares(self, examples):
        return [1 / len(examples)] * len(examples)
"""
CHOSEN = ("experiment=smoke", "fusion._target_=my_fusion.Remembering", "+fusion.strength=0.25")


@pytest.fixture
def outside(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (workspace / "my_fusion.py").write_text(FUSION)
    monkeypatch.syspath_prepend(str(workspace))
    return workspace


@pytest.mark.slow
def test_a_fusion_of_ones_own_with_client_state(outside: Path) -> None:
    plain = ["federation.optimizer=sgd", "federation.momentum=0", "federation.learning_rate=0.05"]
    sizes = ["federation.rounds=2", "store.keep=all", "federation.clients_per_round=3", "engine.workers=2"]
    traced = ["provenance=gradients", "attribution=[leave_one_out]", "hydra.run.dir=run"]
    assert main(["run", *CHOSEN, *plain, *sizes, *traced]) == 0
    run = provfl_cli.load_run("run")
    assert {"client", "control"} <= set(run.contributions.query("method == 'gradients'")["kind"])
    first, second = (Path("run/rounds") / f"{number:04d}" for number in (1, 2))
    own, later = open_tensors(first / "controls.safetensors"), open_tensors(second / "controls.safetensors")
    stored = provfl_cli.provenance.read_round("run/rounds", 2)
    started = open_tensors(second / "previous.safetensors")
    for name, moved in open_tensors(second / "corrections.safetensors").items():
        assert own[name].any()
        for slot, client in enumerate(stored.clients):
            # What the pull made of its way is its steps' rates times the part of what it kept.
            change = later[name][client] - own[name][client]
            way = stored.client_stack()[name][slot] - started[name]
            rates = float(way.double().norm() / change.double().norm())
            assert torch.allclose(moved[slot], -rates * 0.25 * own[name][client], rtol=1e-3, atol=1e-6)
    server = open_tensors(second / "next_server_state.safetensors")
    for name, value in later.items():
        assert torch.allclose(server[f"control/{name}"].float(), value.mean(0), atol=1e-5)


def refused(*overrides: str) -> str:
    with pytest.raises(InputError) as caught:
        compose.compose_jobs([*CHOSEN, *overrides])
    return str(caught.value)


@pytest.mark.slow
def test_what_does_not_go_with_client_state_is_refused_for_any_fusion(outside: Path) -> None:
    assert "under fusion=my_fusion a client also sends" in refused("injection=free_rider")


def test_a_fusion_that_does_not_state_what_it_needs_is_refused(outside: Path) -> None:
    text = FUSION.replace("(ByExamples)", "").replace("strength: float = 0.1", "strength: float = 0.1\n    shares = 1")
    (outside / "bare_fusion.py").write_text(text)
    assert "has no scale, which is asked of fusion" in refused("fusion._target_=bare_fusion.Remembering")
