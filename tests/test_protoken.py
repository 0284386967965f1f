"""ProToken on responses, against its authors' procedure: a pass for each token, every client's modules at each."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from provfl_cli.attribution.protoken import ProToken
from provfl_cli.config.validate import provenance_preset
from provfl_cli.fusion.fedavg import FedAvg
from provfl_cli.provenance.responses import ResponseScore

from .cases import double_case
from .lineages import Work, chain, perturbed


class Speaking(nn.Module):
    """A LLaMA of three small blocks, in float64: `[n, 2, T]` to logits."""

    def __init__(self) -> None:
        super().__init__()
        small = LlamaConfig(
            vocab_size=20,
            hidden_size=8,
            intermediate_size=12,
            num_hidden_layers=3,
            num_attention_heads=2,
            num_key_value_heads=1,
            tie_word_embeddings=False,
        )
        with torch.random.fork_rng():
            torch.manual_seed(1)
            self.network: Any = LlamaForCausalLM(small).double().eval()

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.network(input_ids=inputs[:, 0], use_cache=False).logits
        return logits


def packed() -> Tensor:
    """Two responses, of three and two tokens, to prompts of two and four."""
    inputs = torch.zeros(2, 2, 7, dtype=torch.int64)
    inputs[:, 1] = -100
    inputs[0, 0, :5] = torch.tensor([3, 4, 5, 6, 7])
    inputs[0, 1, 1:4] = torch.tensor([5, 6, 7])
    inputs[1, 0, :6] = torch.tensor([8, 9, 3, 4, 10, 11])
    inputs[1, 1, 3:5] = torch.tensor([10, 11])
    return inputs


def token_by_token(stored: Any, blocks: int, gradients: bool) -> np.ndarray:
    """The published procedure."""
    whole, own = Speaking(), Speaking()
    whole.load_state_dict(dict(stored.weights()))
    names = [f"network.model.layers.{k}.mlp" for k in range(3 - blocks, 3)] + ["network.lm_head"]
    stack = stored.client_stack()
    values = np.zeros((2, len(stored.clients)))
    for row, (prompt, response) in enumerate((([3, 4], [5, 6, 7]), ([8, 9, 3, 4], [10, 11]))):
        for place, token in enumerate(response):
            taken: dict[str, tuple[Tensor, Tensor]] = {}
            hooks = []
            for name in names:

                def note(_: nn.Module, args: Any, output: Tensor, name: str = name, here: Any = taken) -> None:
                    output.retain_grad()
                    here[name] = (args[0].detach(), output)

                hooks.append(whole.get_submodule(name).register_forward_hook(note))
            logits = whole.network(torch.tensor([prompt + response[:place]])).logits
            logits[0, -1, token].backward()
            for hook in hooks:
                hook.remove()
            for client in range(len(stored.clients)):
                own.load_state_dict({name: tensor[client] for name, tensor in stack.items()})
                for name, (z, output) in taken.items():
                    weight = output.grad if gradients else torch.ones_like(output)
                    assert weight is not None
                    values[row, client] += float((own.get_submodule(name)(z) * weight).sum().detach())
    return values


@pytest.mark.parametrize("gradients", [True, False])
def test_protoken_of_a_response_is_the_sum_over_its_tokens(tmp_path: Path, gradients: bool) -> None:
    model = Speaking()

    def work(*_: Any) -> Work:
        return Work({k: (9, perturbed(model.state_dict(), 0.05, k)) for k in range(3)})

    (stored,) = chain(tmp_path, FedAvg(), model.state_dict(), work, 1)
    settings = replace(provenance_preset("provfl"), target="output")
    case = double_case(
        stored,
        ResponseScore(model, "centred"),
        inputs=packed(),
        classes=np.zeros(2, dtype=np.int64),
        numbers=np.arange(2),
        labels=np.zeros(2, dtype=np.int64),
        provenance=settings,
    )
    found = ProToken(blocks=2, gradients=gradients).attribute(case)
    assert found.values == pytest.approx(token_by_token(stored, 2, gradients), rel=1e-6)
    assert found.target == "logit"
    parts = [replace(case, model=ResponseScore(model, "centred", span)) for span in ((0, 2), (2, 9))]
    summed = sum(ProToken(blocks=2, gradients=gradients).attribute(part).values for part in parts)
    assert summed == pytest.approx(found.values, rel=1e-6)
    assert not any(module._forward_hooks for module in model.modules())
