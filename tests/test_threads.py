"""How many threads: one for tiny language models, which more of them only slow down."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from provfl_cli import processes
from provfl_cli.models.causal import ResponseModel
from provfl_cli.models.generation import generate
from provfl_cli.provenance import from_state_dicts, trace_responses

from .response_models import response_model, some_responses


def test_tiny_language_models_are_traced_and_asked_on_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    model = response_model("gpt2")
    inputs, asked, _ = some_responses(model)
    state = model.state_dict()
    source = from_state_dicts([{key: 1.01 * value for key, value in state.items()}], [1], state)
    seen: list[int] = []
    real = ResponseModel.forward

    def counting(self: ResponseModel, rows: Tensor, first: int = 0) -> Tensor:
        seen.append(torch.get_num_threads())
        return real(self, rows, first)

    monkeypatch.setattr(ResponseModel, "forward", counting)
    hook = model.network.register_forward_pre_hook(lambda *_: seen.append(torch.get_num_threads()))
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        trace_responses(model, inputs, source)
        generate(model, asked, 2)
        assert set(seen) == {1}
        assert torch.get_num_threads() == 2
        seen.clear()
        monkeypatch.setattr(processes, "TINY", 10)
        generate(model, asked, 1)
        assert set(seen) == {2}
    finally:
        torch.set_num_threads(before)
        hook.remove()
