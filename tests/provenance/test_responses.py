"""Responses of language models, token by token: against brute force, autograd, and the model's own logits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st
from torch import Tensor, nn

from provfl_cli.errors import InputError, RunError
from provfl_cli.models.causal import ResponseModel
from provfl_cli.models.generation import generate
from provfl_cli.provenance import Provenance, ResponseScore, from_state_dicts, one_pass, preset, trace, trace_responses
from provfl_cli.provenance.factors import Outer, contract
from provfl_cli.provenance.lineage import lineage_round
from provfl_cli.provenance.precision import CANCELS
from provfl_cli.provenance.response_score import token_targets
from provfl_cli.provenance.state_dicts import RoundInMemory
from provfl_cli.provenance.workers import work
from provfl_cli.responses import pack

from ..lineages import Work, chain, composed_fusion, perturbed
from ..response_models import ARCHITECTURES, PADDING, prompts, response_model, some_responses
from . import reference
from .federations import federation, settings

LLAMA, GPT2 = "llama, grouped queries", "gpt2"
PRESETS = ("provfl", "faithful", "tracefl", "equations")


@pytest.fixture
def together(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether tokens could be traced in one pass, for each batch of them that was tried."""
    went: list[bool] = []
    real = one_pass.trace_tokens

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


def close(ours: np.ndarray | Tensor | None, others: np.ndarray | Tensor | None, tolerance: float) -> None:
    """Equal but for a share of the largest."""
    assert ours is not None
    assert others is not None
    ours, others = torch.as_tensor(ours), torch.as_tensor(others)
    error = float((ours - others).abs().max() / others.abs().max())
    assert error < tolerance, f"relative error {error:.1e}"


def activation_of(name: str) -> str | None:
    """Behind which module a layer's neurons are looked at."""
    for layer, function in (("mlp.gate_proj", "mlp.act_fn"), ("mlp.c_fc", "mlp.act")):
        if name.endswith(layer):
            return name.removesuffix(layer) + function
    return None


MINMAX = replace(preset("provfl"), threshold_scale="minmax", threshold=0.3)


@pytest.mark.slow
@pytest.mark.parametrize("wanted", [*map(preset, PRESETS), MINMAX], ids=[*PRESETS, "minmax"])
@pytest.mark.parametrize("name", [LLAMA, GPT2])
def test_every_clients_layers_evaluated_at_every_position(name: str, wanted: Provenance, together: list[bool]) -> None:
    """The paper's algorithm for each token alone, with no token behind it, to a millionth."""
    fused = Fused(name)
    ours = trace_responses(fused.model, fused.inputs, fused.source, wanted)
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
                minmax=wanted.threshold_scale == "minmax",
                activation=activation_of,
                layers=reference.counted if wanted.layers != "all" else lambda module: True,
            )
        )
    expected = torch.cat(rows)
    if wanted.client_weighting == "fusion":
        expected = expected * fused.source.decomposition.example_weights
    close(ours.tokens.values, expected, 1e-6)
    alone = trace_responses(fused.model, fused.inputs[1:], fused.source, wanted)  # of one text nothing is repeated
    close(alone.tokens.values, expected[3:], 1e-6)
    assert together == [True, True]  # one forward pass for all tokens was enough
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
    kind, plain = "log_probability", settings(layer_decay=1.0)
    ours = trace_responses(model, fused.inputs, source, plain, kind)
    whole_weights = replace(plain, of="weights", client_weighting="fusion")
    weights = trace_responses(model, fused.inputs, source, whole_weights, kind)
    model.load_state_dict(dict(source.weights()))
    model.requires_grad_(True)
    names = [key for key, _ in model.named_parameters()]
    parts, whole = [], []
    for text, token in fused.tokens():
        y = model(torch.tensor(text).expand(1, 2, -1))[0, -1].log_softmax(0)[token]
        gradients = torch.autograd.grad(y, list(model.parameters()), allow_unused=True)
        used = [(key, g.double()) for key, g in zip(names, gradients, strict=True) if g is not None]
        parts.append([sum(float(((c[key] - source.before[key]) * g).sum()) for key, g in used) for c in clients])
        whole.append(sum(float((source.weights()[key] * g).sum()) for key, g in used))
    tolerance = 1e-4 if narrow else 1e-6
    close(ours.tokens.values, torch.tensor(parts), tolerance)
    covered = weights.tokens.values.sum(1) + weights.tokens.rows["previous"]
    close(covered, torch.tensor(whole), tolerance)
    assert ours.tokens.covered == 1.0, ours.tokens.uncovered
    assert float(ours.tokens.residuals.max()) < (1e-4 if narrow else 1e-9)
    assert all("norm" in layer for layer in ours.tokens.unchecked) if narrow else not ours.tokens.unchecked
    experts = "experts" in name
    assert together == ([] if experts else [True, True])  # rows of experts are mixed: each token by itself
    capped = [layer for layer in ours.tokens.masked_layers if "lm_head" in layer]
    assert not capped  # what bounds logits is no activation function


@pytest.mark.slow
def test_tokens_as_inputs_of_their_own_are_the_same(monkeypatch: pytest.MonkeyPatch, together: list[bool]) -> None:
    """In one pass, in parts of it because memory is short, or each token as an input: the same numbers."""
    fused = Fused(LLAMA)
    wanted = settings(threshold=0.1, target="margin")
    ours = trace_responses(fused.model, fused.inputs, fused.source, wanted, layer_sample=4)
    single = [trace_responses(fused.model, fused.inputs[i : i + 1], fused.source, wanted) for i in (0, 1)]
    assert together == [True] * 3
    monkeypatch.setattr(one_pass, "HELD", 1 << 40)  # a text at a time, and a token
    in_parts = trace_responses(fused.model, fused.inputs, fused.source, wanted, layer_sample=4)
    assert together[3:].count(True) > 2
    monkeypatch.setattr(work, "are_tokens", lambda *arguments: False)
    apart = trace_responses(fused.model, fused.inputs, fused.source, wanted, layer_sample=4)
    for other in (in_parts, apart):
        close(other.tokens.values, ours.tokens.values, 1e-12)
        assert other.tokens.masked_layers == ours.tokens.masked_layers
        for layer, own in zip(other.tokens.layers, ours.tokens.layers, strict=True):
            assert layer.layer == own.layer
            np.testing.assert_allclose(layer.contributions, own.contributions, rtol=1e-9, atol=1e-12)
            np.testing.assert_array_equal(layer.active, own.active)
            np.testing.assert_array_equal(layer.neurons, own.neurons)
        close(other.tokens.outputs, ours.tokens.outputs, 1e-6)
    close(
        np.concatenate([each.tokens.values for each in single]),
        ours.tokens.values,
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
        close(ours.summed(span), whole.values, 1e-6)
    assert ours.summed().shape == (2, 3)
    frame = ours.to_frame()
    assert list(frame.columns[:4]) == ["response", "position", "token", "client"]
    summed = frame.groupby(["response", "client"])["contribution"].sum().to_numpy().reshape(2, 3)
    close(summed, ours.summed(), 1e-12)
    assert frame[(frame["response"] == 1) & (frame["client"] == 2)]["token"].tolist() == fused.said[1]


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
    close(beside.tokens.values[beside.response == 1], alone.tokens.values, 1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("name", [LLAMA, GPT2])
def test_the_traced_logits_are_those_that_tokens_were_generated_with(name: str) -> None:
    """With a cache of keys and values, one token after the other; the trace sees the whole text at once."""
    fused = Fused(name)
    assert [said[:3] for said in generate(fused.model, fused.prompts, 3)] == [said[:3] for said in fused.said]
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
def test_lineage_credits_what_clients_sent_in_all_rounds(tmp_path: Path) -> None:
    model = response_model(LLAMA)
    sent: list[tuple[int, dict[str, Tensor]]] = []

    def work_of(number: int, weights: dict[str, Tensor], before: list[dict[str, Tensor]]) -> Work:
        models = {client: (10, perturbed(weights, 0.03, 7 * number + client)) for client in (0, number)}
        sent.extend(
            (client, {key: state[key] - weights[key] for key in state}) for client, (_, state) in models.items()
        )
        return Work(models)

    last = chain(tmp_path, composed_fusion("fedavg"), model.state_dict(), work_of, 2)[-1]
    model.load_state_dict(dict(last.weights()))
    inputs, asked, said = some_responses(model)
    ours = trace_responses(model, inputs, lineage_round(last), settings(client_weighting="fusion", layer_decay=1.0))
    model.requires_grad_(True)
    logits = model(torch.tensor(asked[0]).expand(1, 2, -1))[0, -1]
    token = said[0][0]
    y = logits[token] - (logits.sum() - logits[token]) / (len(logits) - 1)
    gradients = dict(zip(dict(model.named_parameters()), torch.autograd.grad(y, list(model.parameters())), strict=True))
    expected = torch.zeros(3, dtype=torch.float64)
    for client, update in sent:
        expected[client] += sum(float((0.5 * update[key] * g).sum()) for key, g in gradients.items())
    close(ours.tokens.values[:1], expected[None], 1e-6)
    assert float(ours.tokens.residuals.max()) < 1e-9


@pytest.mark.slow
@pytest.mark.parametrize("adapters", ["factors", "product"])
def test_adapters_and_the_last_layer_as_modules_to_save(
    adapters: str, monkeypatch: pytest.MonkeyPatch, together: list[bool]
) -> None:
    """Of a frozen network only adapters and the head are shared; they contract at their rank, each token's gradient."""
    model = response_model("smollm2, tied")
    wanted = peft.LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM", modules_to_save=["lm_head"])
    torch.manual_seed(1)
    model.network = peft.get_peft_model(model.network, wanted).double().eval()
    shared = {key for key, parameter in model.named_parameters() if parameter.requires_grad}
    before = {key: value + 0.1 * torch.randn_like(value) for key, value in model.state_dict().items() if key in shared}
    clients = [{key: value + 0.05 * torch.randn_like(value) for key, value in before.items()} for _ in range(3)]
    source = from_state_dicts(clients, [10, 20, 30], before)
    model.load_state_dict(dict(source.weights()), strict=False)
    inputs, asked, said = some_responses(model)
    chosen = settings(adapters=adapters, layer_decay=1.0)
    ours = trace_responses(model, inputs, source, chosen)
    assert together == [True]
    assert float(ours.tokens.residuals.max()) < 1e-9
    assert len(ours.tokens.not_shared) > 0
    monkeypatch.setattr(work, "are_tokens", lambda *arguments: False)
    apart = trace_responses(model, inputs, source, chosen)
    close(ours.tokens.values, apart.tokens.values, 1e-9)
    if adapters == "product":
        close(ours.tokens.rows["cross"], apart.tokens.rows["cross"], 1e-9)
        return
    logits = model(torch.tensor(asked[0] + said[0][:1]).expand(1, 2, -1))[0, -1]
    y = logits[said[0][1]] - (logits.sum() - logits[said[0][1]]) / (len(logits) - 1)
    parameters = {key: parameter for key, parameter in model.named_parameters() if key in shared}
    gradients = torch.autograd.grad(y, list(parameters.values()))
    expected = [
        sum(float(((c[key] - before[key]) * g).sum()) for key, g in zip(parameters, gradients, strict=True))
        for c in clients
    ]
    close(ours.tokens.values[1:2], torch.tensor([expected], dtype=torch.float64), 1e-6)


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


@pytest.mark.parametrize("stack", [2, 30])
@pytest.mark.parametrize("positions", [3, 64])
@pytest.mark.parametrize("common", ["right", "left"])
def test_what_tokens_have_in_common_is_contracted_once(common: str, positions: int, stack: int) -> None:
    """Of either side, by every client's outputs or by gradients, with positions that no token reaches: the same."""
    torch.manual_seed(0)
    shared, g = torch.randn(7, positions), torch.randn(5, 6, positions)
    g[:, :, 1] = 0
    clients = torch.randn(stack, *((6, 7) if common == "right" else (7, 6)))

    def block(rows: slice | Tensor, select: Any) -> Tensor:
        return clients[:, rows]

    expected = torch.einsum("bot,it,k" + ("oi" if common == "right" else "io") + "->bk", g, shared, clients)
    text = shared.expand(5, -1, -1)
    factor = Outer(g, text[:, None]) if common == "right" else Outer(text, g[:, None])
    close(contract(factor, block, stack), expected, 1e-5)


def test_layers_by_the_names_of_modules() -> None:
    """As ProToken chooses them; with another's layers beside them they add up to all."""
    torch.manual_seed(0)
    model = LooksBack()
    inputs, source = small(model)
    whole, head, other = (
        trace_responses(model, inputs, source, settings(layer_decay=1.0, layers=layers)).tokens.values
        for layers in ("all", ["head"], ["embedding"])
    )
    close(head + other, whole, 1e-9)
    assert np.abs(head).min() > 0
    with pytest.raises(InputError, match=r"provenance\.layers: hea "):
        trace_responses(model, inputs, source, settings(layers=["hea"]))


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
