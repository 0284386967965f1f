"""Whether what clients have sent over all rounds is traced as well, where nobody says."""

import pytest
import torch
from torch import nn

from provfl_cli.config.compose import compose_jobs, validated
from provfl_cli.federation.sharing import sharing_of
from provfl_cli.run import scope
from provfl_cli.run.scope import with_scope

from .runs import SMALL


def settled(model: nn.Module, clients: int, *overrides: str) -> str:
    ((_, composed),) = compose_jobs([*SMALL, *overrides])
    made = validated(composed)
    return with_scope(made, model, sharing_of(model, made.federation, made.model.adapter), clients).provenance.scope


@pytest.mark.parametrize("chosen", ["round", "lineage"])
def test_what_is_asked_for_stays(chosen: str) -> None:
    wide = nn.Linear(4096, 4096)
    assert settled(wide, 1000, f"provenance.scope={chosen}") == chosen


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ((), "lineage"),
        (("federation.rounds=1", "provenance.rounds=last"), "round"),  # both would be the same
        (("provenance=gradients", "provenance.scope=auto"), "round"),
        (("provenance=faithful",), "lineage"),
        (("fusion=median",), "lineage"),
    ],
)
def test_lineage_stands_beside_the_round_where_it_can_be_had(overrides: tuple[str, ...], expected: str) -> None:
    assert settled(nn.Linear(2, 2), 3, *overrides) == expected


def test_lineage_is_left_out_where_it_would_be_large(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Linear(10, 10, bias=False)  # 400 bytes: with and without weights, for each client
    monkeypatch.setattr(scope, "MOST", 2 * 3 * 400)
    assert settled(model, 3) == "lineage"
    assert settled(model, 4) == "round"
    assert settled(model, 3, "fusion=fedadam") == "round"  # the server's momentum of each as well
    assert settled(nn.Sequential(model, nn.Linear(10, 1)), 3) == "round"


def test_only_what_clients_share_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    class Headed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Linear(100, 10), nn.Linear(10, 2)

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            answer: torch.Tensor = self.head(self.body(inputs))
            return answer

    monkeypatch.setattr(scope, "MOST", 2 * 3 * 4 * 22)
    assert settled(Headed(), 3) == "round"
    assert settled(Headed(), 3, "federation.share=[head.*]") == "lineage"
