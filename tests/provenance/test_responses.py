"""Responses of language models, token by token: against brute force, autograd, and the model's own logits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st
from torch import Tensor, nn

from provfl_cli.errors import InputError, RunError
from provfl_cli.models.causal import ResponseModel
from provfl_cli.provenance import ResponseScore, from_state_dicts, preset, trace, trace_responses
from provfl_cli.provenance.precision import CANCELS
from provfl_cli.provenance.response_score import token_targets
from provfl_cli.provenance.state_dicts import RoundInMemory
from provfl_cli.provenance.workers import work
from provfl_cli.responses import pack
from tests.response_models import ARCHITECTURES, PADDING, prompts, response_model, some_responses

from . import reference
from .exactness import close
from .federations import federation, settings

LLAMA, GPT2 = "llama, grouped queries", "gpt2"


@pytest.fixture
def together(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether tokens could be traced in one pass, for each batch of them that was tried."""
    went: list[bool] = []
    real = work.trace_tokens

    def tried(*arguments: Any) -> Any:
        went.append(False)
        result = real(*arguments)
        went[-1] = True
        return result

    monkeypatch.setattr(work, "trace_tokens", tried)
    return went


class Fused:
    """A model with the weights of a round of three clients, and what it answers."""

    def __init__(self, name: str, scale: float = 0.05) -> None:
        self.model: ResponseModel = response_model(name)
        self.source, self.clients = federation(self.model, clients=3, scale=scale)
        self.model.load_state_dict(dict(self.source.weights()))
        self.inputs, self.prompts, self.said = some_responses(self.model)

    def tokens(self) -> Iterator[tuple[list[int], int]]:
        """Each token of each response, and all that stands before it."""
        for prompt, said in zip(self.prompts, self.said, strict=True):
            for number, token in enumerate(said):
                yield prompt + said[:number], token


class LastLogits(nn.Module):
    """Tokens `[n, T]` to the logits of the one that comes next."""

    def __init__(self, model: ResponseModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self.model.network(input_ids=tokens).logits[:, -1]
        return logits


def activation_of(name: str) -> str | None:
    """Behind which module a layer's neurons are looked at."""
    for layer, function in (("mlp.gate_proj", "mlp.act_fn"), ("mlp.c_fc", "mlp.act")):
        if name.endswith(layer):
            return name.removesuffix(layer) + function
    return None


@pytest.mark.slow
@pytest.mark.parametrize("scale", ["absolute", "minmax"])
@pytest.mark.parametrize("chosen", ["provfl", "faithful", "tracefl", "equations"])
@pytest.mark.parametrize("name", [LLAMA, GPT2])
def test_every_clients_layers_evaluated_at_every_position(
    name: str, chosen: str, scale: str, together: list[bool]
) -> None:
    """The paper's algorithm for each token alone, with no token behind it, to a millionth."""
    if scale == "minmax" and preset(chosen).threshold is None:
        pytest.skip("no threshold")
    fused = Fused(name)
    wanted = replace(
        preset(chosen), threshold_scale=scale, threshold=0.3 if scale == "minmax" else preset(chosen).threshold
    )
    ours = trace_responses(fused.model, fused.inputs, fused.source, wanted)
    named = wanted.layers != "all"
    rows = []
    for before, token in fused.tokens():
        model = LastLogits(fused.model)
        weights, previous, *clients = (
            {f"model.{key}": value for key, value in state.items()}
            for state in (fused.source.weights(), fused.source.previous(), *fused.clients)
        )
        text = torch.tensor([before])
        assert int(model(text)[0].argmax()) == token  # what brute force explains
        rows.append(
            reference.algorithm1(
                model,
                text,
                clients,
                weights,
                previous,
                of=wanted.of,
                kind=wanted.target,
                decay=wanted.layer_decay,
                threshold=wanted.threshold,
                minmax=scale == "minmax",
                activation=activation_of,
                layers=reference.counted if named else lambda module: True,
            )
        )
    expected = torch.cat(rows)
    if wanted.client_weighting == "fusion":
        expected = expected * fused.source.decomposition.example_weights
    close(ours.tokens.values, expected, 1e-6)
    assert all(together)
    assert together
    assert float(ours.tokens.residuals.max()) < 1e-9
    assert ours.response.tolist() == [0] * 3 + [1] * 5
    assert ours.position.tolist() == [0, 1, 2, 0, 1, 2, 3, 4]
    assert ours.token.tolist() == [*fused.said[0], *fused.said[1]]


@pytest.mark.slow
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_architectures_agree_with_autograd(name: str, together: list[bool]) -> None:
    """All parameters are covered, each client's part is `<W_k - W_prev, dy / dW>`, the sum `<W, dy / dW>`."""
    fused = Fused(name)
    narrow = "gemma" in name  # computes `1 + w` of its norms in float32, whatever it is given
    model = fused.model.float() if narrow else fused.model
    if narrow:
        states = [
            {key: value.float() for key, value in state.items()} for state in (fused.source.before, *fused.clients)
        ]
        before, *clients = states
        source = from_state_dicts(clients, [10, 20, 30], before)
    else:
        source, clients = fused.source, fused.clients
    plain = settings(target="log_probability", layer_decay=1.0, threshold=None) if False else settings(layer_decay=1.0)
    ours = trace_responses(model, fused.inputs, source, plain, kind="log_probability")
    weights = trace_responses(
        model,
        fused.inputs,
        source,
        settings(of="weights", client_weighting="fusion", layer_decay=1.0),
        kind="log_probability",
    )
    model.load_state_dict(dict(source.weights()))
    model.requires_grad_(True)
    names = [key for key, _ in model.named_parameters()]
    parts, whole = [], []
    for before_it, token in fused.tokens():
        y = model(torch.tensor(before_it).expand(1, 2, -1))[0, -1].log_softmax(0)[token]
        gradients = torch.autograd.grad(y, list(model.parameters()), allow_unused=True)
        used = [(key, g.double()) for key, g in zip(names, gradients, strict=True) if g is not None]
        parts.append([sum(float(((c[key] - source.before[key]) * g).sum()) for key, g in used) for c in clients])
        whole.append(sum(float((source.weights()[key] * g).sum()) for key, g in used))
    tolerance = 1e-4 if narrow else 1e-6
    close(ours.tokens.values, torch.tensor(parts), tolerance)
    covered = weights.tokens.values.sum(1) + weights.tokens.rows["previous"]
    close(torch.as_tensor(covered), torch.tensor(whole), tolerance)
    assert ours.tokens.covered == 1.0, ours.tokens.uncovered
    assert float(ours.tokens.residuals.max()) < (1e-4 if narrow else 1e-9)
    experts = "experts" in name
    assert all(together)
    assert bool(together) is not experts
    capped = [layer for layer in ours.tokens.masked_layers if "lm_head" in layer]
    assert not capped  # what bounds logits is no activation function


@pytest.mark.slow
def test_tokens_as_inputs_of_their_own_are_the_same(monkeypatch: pytest.MonkeyPatch, together: list[bool]) -> None:
    """In one pass, in parts of it because memory is short, or each token as an input: the same numbers."""
    fused = Fused(LLAMA)
    wanted = settings(threshold=0.1, target="margin")
    ours = trace_responses(fused.model, fused.inputs, fused.source, wanted)
    single = [trace_responses(fused.model, fused.inputs[i : i + 1], fused.source, wanted) for i in (0, 1)]
    monkeypatch.setattr("provfl_cli.provenance.one_pass.HELD", 1 << 40)  # a token at a time
    in_parts = trace_responses(fused.model, fused.inputs, fused.source, wanted)
    assert all(together)
    assert len(together) == 4
    monkeypatch.setattr(work, "are_tokens", lambda *arguments: False)
    apart = trace_responses(fused.model, fused.inputs, fused.source, wanted)
    for other in (in_parts, apart):
        close(torch.as_tensor(other.tokens.values), torch.as_tensor(ours.tokens.values), 1e-12)
        assert other.tokens.masked_layers == ours.tokens.masked_layers
        close(torch.as_tensor(other.tokens.outputs), torch.as_tensor(ours.tokens.outputs), 1e-6)
    close(
        torch.as_tensor(np.concatenate([each.tokens.values for each in single])),
        torch.as_tensor(ours.tokens.values),
        1e-12,
    )


@pytest.mark.slow
def test_tokens_add_up_to_their_response_and_to_a_span() -> None:
    fused = Fused(LLAMA)
    wanted = settings(target="margin")
    ours = trace_responses(fused.model, fused.inputs, fused.source, wanted)
    for span in (None, (1, 3)):
        score = ResponseScore(fused.model, "margin", span)
        whole = trace(score, fused.inputs, fused.source, replace(wanted, target="output"))
        close(torch.as_tensor(ours.summed(span)), torch.as_tensor(whole.values), 1e-9)
    assert ours.summed().shape == (2, 3)


@pytest.mark.slow
@examples(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
@given(more=st.integers(0, 6), filled=st.integers(0, 39), seed=st.integers(0, 5))
def test_padding_changes_nothing(more: int, filled: int, seed: int) -> None:
    """Whatever stands behind a response, however wide its row is, and whatever is traced beside it."""
    fused = Fused(LLAMA)
    alone = trace_responses(fused.model, fused.inputs[1:], fused.source, settings(threshold=0.0))
    asked, said = [*prompts((3 + more,), seed), fused.prompts[1]], [[5, 6, 7], fused.said[1]]
    packed = pack(asked, said, filled)
    wider = torch.full((2, 2, packed.shape[2] + more), filled)
    wider[:, 1] = -100
    wider[:, :, : packed.shape[2]] = packed
    beside = trace_responses(fused.model, wider, fused.source, settings(threshold=0.0))
    close(torch.as_tensor(beside.tokens.values[beside.response == 1]), torch.as_tensor(alone.tokens.values), 1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("name", [LLAMA, GPT2])
def test_the_traced_logits_are_those_that_tokens_were_generated_with(name: str) -> None:
    """With a cache of keys and values, one token after the other; the trace sees the whole text at once."""
    fused = Fused(name)
    generated = []
    for prompt, said in zip(fused.prompts, fused.said, strict=True):
        cache, piece = None, torch.tensor([prompt])
        for token in said:
            with torch.no_grad():
                answer = fused.model.network(input_ids=piece, past_key_values=cache, use_cache=True)
            cache, piece = answer.past_key_values, torch.tensor([[token]])
            assert int(answer.logits[0, -1].argmax()) == token
            generated.append(float(answer.logits[0, -1, token]))
    ours = trace_responses(fused.model, fused.inputs, fused.source, settings(), kind="logit")
    assert ours.tokens.outputs is not None
    np.testing.assert_allclose(ours.tokens.outputs[:, 0], generated, rtol=1e-6)


@pytest.mark.slow
def test_late_small_updates_are_traced_in_float64() -> None:
    """Float32 is too coarse for what nearly cancels: conservation holds all the same, and a note says how."""
    model: Any = response_model(LLAMA).float()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    torch.manual_seed(3)
    step = {key: torch.randn_like(value) * 1e-5 for key, value in before.items()}
    clients = [{key: value + sign * step[key] for key, value in before.items()} for sign in (1, -0.999)]
    source = from_state_dicts(clients, [1, 1], before)
    inputs, _, _ = some_responses(model)
    ours = trace_responses(model, inputs, source, "faithful")
    assert float(ours.tokens.residuals.max()) < 1e-4
    assert CANCELS in ours.tokens.notes


def test_targets_of_a_token() -> None:
    logits = torch.tensor([[1.0, 2.0, 4.0]], dtype=torch.float64)
    wanted = torch.tensor([2])
    assert float(token_targets("logit", logits, wanted)) == 4.0
    assert float(token_targets("centred", logits, wanted)) == 2.5
    probability = logits.softmax(1)[0, 2]
    torch.testing.assert_close(token_targets("log_probability", logits, wanted)[0], probability.log())
    torch.testing.assert_close(token_targets("margin", logits, wanted)[0], (probability / (1 - probability)).log())


class LooksAhead(nn.Module):
    """Each position sees the mean of all tokens, those behind it too."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(9, 4), nn.Linear(4, 9)

    def forward(self, inputs: Tensor) -> Tensor:
        states = self.embedding(inputs[:, 0])
        logits: Tensor = self.head(states + states.mean(1, keepdim=True))
        return logits


class LooksBack(LooksAhead):
    """Each position sees the sum of the tokens before it; it does not say which its last layer is."""

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.head(self.embedding(inputs[:, 0]).cumsum(1).tanh())
        return logits


def small(model: nn.Module) -> tuple[Tensor, RoundInMemory]:
    source, _ = federation(model.double(), clients=2)
    return pack([[1, 2], [3]], [[4, 5], [6, 7, 8]], PADDING), source


def test_any_module_that_looks_back_can_be_traced_and_no_other() -> None:
    torch.manual_seed(0)
    model = LooksBack()
    inputs, source = small(model)
    ours = trace_responses(model, inputs, source, settings(target="logit", layer_decay=1.0))
    assert ours.tokens.values.shape == (5, 2)
    assert float(ours.tokens.residuals.max()) < 1e-9
    other = LooksAhead()
    inputs, source = small(other)
    with pytest.raises(RunError, match="beside"):
        trace_responses(other, inputs, source, settings(target="logit"))


def test_what_cannot_be_traced_is_said_in_one_line() -> None:
    model = LooksBack()
    inputs, source = small(model)
    with pytest.raises(InputError, match="packed"):
        trace_responses(model, inputs[:, 0], source)
    with pytest.raises(InputError, match="no response"):
        trace_responses(model, torch.stack([inputs[:, 0], torch.full_like(inputs[:, 0], -100)], 1), source)
    with pytest.raises(InputError, match="target=perplexity"):
        trace_responses(model, inputs, source, kind="perplexity")
    with pytest.raises(InputError, match=r"target=output"):
        trace_responses(model, inputs, source, settings(target="output"))
    with pytest.raises(InputError, match="span"):
        ResponseScore(model, "logit", (3, 3))
