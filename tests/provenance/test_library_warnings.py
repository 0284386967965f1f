"""Warnings of libraries that say nothing to whoever traces are not shown; the model's own are."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

from provfl_cli import cli
from provfl_cli.cli import main
from provfl_cli.library_warnings import library_warnings_ignored
from provfl_cli.provenance.tracing import trace

from .federations import federation, settings

SAID = (
    "`torch.jit.script` is deprecated. Please switch to `torch.compile` or `torch.export`.",
    "`torch.jit.script_method` is not supported in Python 3.14+ and may break.",
    "LSTM with projections is not supported with oneDNN. Using default implementation. (Triggered internally)",
    "`torch.nn.utils.weight_norm` is deprecated in favor of `torch.nn.utils.parametrizations.weight_norm`.",
)
OF_THE_MODEL = "this model was trained on other pictures"


@pytest.mark.parametrize("text", [*SAID, OF_THE_MODEL])
def test_exactly_these_are_ignored(text: str) -> None:
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        with library_warnings_ignored():
            warnings.warn(text, FutureWarning, stacklevel=1)
    assert [str(warning.message) for warning in shown] == ([OF_THE_MODEL] if text == OF_THE_MODEL else [])


def test_commands_do_not_show_them(monkeypatch: pytest.MonkeyPatch) -> None:
    def dispatched(_: object) -> int:
        warnings.warn(SAID[0], FutureWarning, stacklevel=1)
        return 0

    monkeypatch.setattr(cli, "_dispatch", dispatched)
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        assert main([]) == 0
    assert not shown


def test_a_trace_does_not_show_them() -> None:
    class Projected(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.head = nn.LSTM(3, 6, proj_size=4, batch_first=True), nn.Linear(4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            warnings.warn(OF_THE_MODEL, UserWarning, stacklevel=1)
            logits: torch.Tensor = self.head(self.first(x)[0][:, -1])
            return logits

    torch.manual_seed(0)
    model = Projected().eval()
    source, _ = federation(model)
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        trace(model, torch.randn(2, 5, 3), source, settings())
    assert {str(warning.message) for warning in shown} == {OF_THE_MODEL}
